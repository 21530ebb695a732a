//! What a claim comes to, and the two values that can end an operation: the permit of the winner,
//! and the orphan of an attempt that vanished. Outcomes are values, not errors.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::from_ms;
use crate::engine::Engine;
use crate::engine::admit::{Admitted, Caller, Grant};
use crate::engine::finish::By;
use crate::engine::outcome::{Answer, Conflict, InProgress, OrphanCause, OrphanInfo, Stored};
use crate::engine::ticket::Ticket;
use crate::error::Result;
use crate::future::{ClaimFuture, CompleteFuture, EndFuture};
use crate::log::OpenClaim;
use crate::scope::{self, Fingerprint, OperationId, Scope, Token};

/// The outcome of a claim. Exhaustive: a server has an answer for each.
#[must_use = "a permit that is dropped leaves an orphan behind"]
#[derive(Debug)]
pub enum Claim {
    /// Run the operation, then complete, release or give up.
    Granted(Permit),
    /// It ran: here is its response.
    Replay(Stored),
    /// Somebody runs it now.
    InProgress(InProgress),
    /// The scope was used with a different request.
    Conflict(Conflict),
    /// An earlier attempt vanished, and whether it had an effect is unknown. Only under
    /// [`OrphanPolicy::Report`](crate::OrphanPolicy::Report).
    Orphaned(Orphan),
}

impl Claim {
    /// A stable name for logs and metrics: `granted`, `replay`, `in_progress`, `conflict` or
    /// `orphaned`.
    pub fn kind(&self) -> &'static str {
        match self {
            Claim::Granted(_) => "granted",
            Claim::Replay(_) => "replay",
            Claim::InProgress(_) => "in_progress",
            Claim::Conflict(_) => "conflict",
            Claim::Orphaned(_) => "orphaned",
        }
    }

    pub(crate) fn of_answer(engine: &Arc<Engine>, answer: Answer) -> Claim {
        match answer {
            Answer::Replay(stored) => Claim::Replay(stored),
            Answer::InProgress(running) => Claim::InProgress(running),
            Answer::Conflict(conflict) => Claim::Conflict(conflict),
            Answer::Orphaned(open) => Claim::Orphaned(Orphan::new(engine, open)),
        }
    }

    /// Waits until a grant is durable.
    pub(crate) fn settle(engine: &Arc<Engine>, admitted: Admitted) -> Result<Claim> {
        match admitted {
            Admitted::Answer(answer) => Ok(Claim::of_answer(engine, answer)),
            Admitted::Granted(grant) => Ok(Claim::Granted(Permit::new(engine, grant))),
            Admitted::Staged(grant, staged) => {
                engine.settle(staged)?;
                Ok(Claim::Granted(Permit::new(engine, grant)))
            }
        }
    }
}

/// The right to run an operation, held by one caller; the only way to complete, release or give
/// up. Dropping it leaves an orphan at once, never a free scope: the operation may have run.
#[must_use = "a permit that is dropped leaves an orphan behind"]
pub struct Permit {
    engine: Arc<Engine>,
    open: OpenClaim,
    hash: u64,
}

impl Permit {
    pub(crate) fn new(engine: &Arc<Engine>, grant: Grant) -> Permit {
        Permit { engine: Arc::clone(engine), open: grant.open, hash: grant.hash }
    }

    /// The fencing token of this attempt.
    pub fn token(&self) -> Token {
        self.open.facts.token
    }

    /// The number of this attempt, counted from 1; it stays at 65,535 once there.
    pub fn attempt(&self) -> u32 {
        u32::from(self.open.facts.attempt)
    }

    /// The operation: the same for every attempt of this claim.
    pub fn operation(&self) -> OperationId {
        self.open.facts.operation
    }

    /// Why the attempt before this one ended; `None` on the first.
    pub fn cause(&self) -> Option<OrphanCause> {
        OrphanCause::of(self.open.facts.cause)
    }

    /// What an earlier attempt saved last.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.open.checkpoint.as_deref()
    }

    /// The scope that is claimed.
    pub fn scope(&self) -> Scope<'_> {
        scope::decode(&self.open.facts.scope).expect("the scope of a claim was checked")
    }

    /// The fingerprint of the request.
    pub fn fingerprint(&self) -> Fingerprint {
        self.open.facts.fingerprint
    }

    /// When the operation was first claimed, in store time.
    pub fn claimed_at(&self) -> SystemTime {
        from_ms(self.open.facts.claimed_ms)
    }

    /// Saves a recovery point of at most 65,536 bytes, which a later attempt gets to see. It takes
    /// the place of the one before.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// permit.save_checkpoint(b"charged: ch_123")?;
    /// drop(permit);
    /// let orphan = store.orphan(scope)?.expect("its permit was dropped");
    /// let Claim::Granted(second) = orphan.take_over()? else { unreachable!() };
    /// assert_eq!(second.checkpoint(), Some(&b"charged: ch_123"[..]));
    /// assert_eq!(second.attempt(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `TooLarge`; `Full` where the open claims together would take too much room; `Superseded`
    /// where the attempt is no longer the current one; `Poisoned`, `Io`, `Closed`.
    pub fn save_checkpoint(&self, checkpoint: &[u8]) -> Result<()> {
        let facts = &self.open.facts;
        let saved = self.engine.save_checkpoint(self.hash, facts, checkpoint, None)?;
        self.engine.finish(saved)
    }

    /// [`Permit::save_checkpoint`] as a future; staged at the call.
    pub fn save_checkpoint_async(&self, checkpoint: &[u8]) -> EndFuture {
        let ticket = Arc::default();
        let facts = &self.open.facts;
        let saved = self.engine.save_checkpoint(self.hash, facts, checkpoint, Some(&ticket));
        EndFuture::new(&self.engine, saved, ticket)
    }

    /// How long the claim may stay silent before it counts as an orphan.
    pub fn lease(&self) -> Duration {
        self.engine.config.lease
    }

    /// Extends the lease by its whole length from now. No I/O. A lapsed lease that nobody took
    /// over is revived.
    ///
    /// # Errors
    /// `Superseded` where the attempt is no longer the current one; `Closed`.
    pub fn renew(&self) -> Result<()> {
        self.engine.renew(self.hash, self.token())
    }

    /// Ends the operation with its response, which every retry will get. When this returns the
    /// response is as durable as [`Durability`](crate::Durability) says.
    ///
    /// That the operation ran is never thrown away: a response that is too large, or for which
    /// there is no room, is left out, and [`Stored::kept`] says so.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// let stored = permit.complete(b"201 created")?;
    /// assert_eq!(stored.bytes(), Some(&b"201 created"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Superseded` where the attempt is no longer the current one; `Poisoned`, `Io`, `Closed`:
    /// whether the completion is durable is then known at the next open.
    pub fn complete(self, response: &[u8]) -> Result<Stored> {
        self.complete_parts(&[response])
    }

    /// [`Permit::complete`] as a future; staged at the call. Dropping it stops the waiting, not
    /// the deed.
    pub fn complete_async(self, response: &[u8]) -> CompleteFuture {
        self.complete_parts_async(&[response])
    }

    /// [`Permit::complete`] with a response in parts, stored as one value.
    ///
    /// # Errors
    /// As [`Permit::complete`].
    pub fn complete_parts(self, parts: &[&[u8]]) -> Result<Stored> {
        complete(&self.engine, self.hash, &self.open, By::Permit, Some(parts))
    }

    /// [`Permit::complete_parts`] as a future; staged at the call.
    pub fn complete_parts_async(self, parts: &[&[u8]]) -> CompleteFuture {
        complete_later(&self.engine, self.hash, &self.open, By::Permit, Some(parts))
    }

    /// Ends the operation without keeping its response: "it ran".
    ///
    /// # Errors
    /// As [`Permit::complete`].
    pub fn complete_without_response(self) -> Result<Stored> {
        complete(&self.engine, self.hash, &self.open, By::Permit, None)
    }

    /// [`Permit::complete_without_response`] as a future; staged at the call.
    pub fn complete_without_response_async(self) -> CompleteFuture {
        complete_later(&self.engine, self.hash, &self.open, By::Permit, None)
    }

    /// Ends an attempt that is known to have had no effect: the scope is as if never claimed.
    ///
    /// # Errors
    /// `Superseded`, `Poisoned`, `Io`, `Closed`.
    pub fn release(self) -> Result<()> {
        let released = self.engine.release(self.hash, &self.open.facts, By::Permit, None)?;
        self.engine.finish(released)
    }

    /// [`Permit::release`] as a future; staged at the call.
    pub fn release_async(self) -> EndFuture {
        let ticket = Arc::default();
        let facts = &self.open.facts;
        let released = self.engine.release(self.hash, facts, By::Permit, Some(&ticket));
        EndFuture::new(&self.engine, released, ticket)
    }

    /// Ends an attempt whose outcome is unknown: an orphan now, with cause
    /// [`OrphanCause::Failed`], which is kept across a restart.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// permit.give_up()?;
    /// let Claim::Orphaned(orphan) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// assert_eq!(orphan.info().cause(), oncelog::OrphanCause::Failed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Superseded`, `Poisoned`, `Io`, `Closed`.
    pub fn give_up(self) -> Result<()> {
        let given_up = self.engine.give_up(self.hash, &self.open.facts, None)?;
        self.engine.finish(given_up)
    }

    /// [`Permit::give_up`] as a future; staged at the call.
    pub fn give_up_async(self) -> EndFuture {
        let ticket = Arc::default();
        let given_up = self.engine.give_up(self.hash, &self.open.facts, Some(&ticket));
        EndFuture::new(&self.engine, given_up, ticket)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.engine.dropped(self.hash, self.open.facts.token);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("scope", &self.scope())
            .field("token", &self.token())
            .field("operation", &self.operation())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// A claim whose permit is gone without an outcome. It names one attempt: once that attempt was
/// taken over, resolved or released, every call answers [`Error::Superseded`](crate::Error) or
/// what the scope holds by then.
pub struct Orphan {
    engine: Arc<Engine>,
    info: OrphanInfo,
    hash: u64,
}

impl Orphan {
    pub(crate) fn new(engine: &Arc<Engine>, open: OpenClaim) -> Orphan {
        let hash = engine.hash_of(&open.facts);
        Orphan { engine: Arc::clone(engine), info: OrphanInfo { open }, hash }
    }

    /// What is known about it.
    pub fn info(&self) -> &OrphanInfo {
        &self.info
    }

    /// Starts the next attempt: the same operation id, attempt + 1, a new token. One caller wins,
    /// the others see the operation in progress. The attempt before gets `Superseded` from then on.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// let (operation, token) = (permit.operation(), permit.token());
    /// permit.give_up()?;
    /// let orphan = store.orphan(scope)?.expect("it was given up");
    /// let Claim::Granted(second) = orphan.take_over()? else { unreachable!() };
    /// assert_eq!(second.operation(), operation);
    /// assert!(second.token() > token);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Superseded` where the scope was released meanwhile; else as
    /// [`Store::claim`](crate::Store::claim).
    pub fn take_over(self) -> Result<Claim> {
        let caller = Caller::BLOCKING;
        let admitted = self.engine.take_over(&self.info.open, &caller)?;
        Claim::settle(&self.engine, admitted)
    }

    /// [`Orphan::take_over`] as a future.
    pub fn take_over_async(self) -> ClaimFuture {
        ClaimFuture::take_over(&self.engine, self.info.open, self.hash)
    }

    /// Ends the operation with a response found elsewhere: it did run.
    ///
    /// # Errors
    /// As [`Permit::complete`].
    pub fn resolve(self, response: &[u8]) -> Result<Stored> {
        complete(&self.engine, self.hash, &self.info.open, By::Orphan, Some(&[response]))
    }

    /// [`Orphan::resolve`] as a future; staged at the call.
    pub fn resolve_async(self, response: &[u8]) -> CompleteFuture {
        complete_later(&self.engine, self.hash, &self.info.open, By::Orphan, Some(&[response]))
    }

    /// Frees the scope: the operation did not run, and never will. Safe only after a fence that
    /// keeps every attempt from committing late.
    ///
    /// # Errors
    /// `Invalid` while the permit of the lapsed attempt lives in this process; `Superseded`,
    /// `Poisoned`, `Io`, `Closed`.
    pub fn release(self) -> Result<()> {
        let facts = &self.info.open.facts;
        let released = self.engine.release(self.hash, facts, By::Orphan, None)?;
        self.engine.finish(released)
    }

    /// [`Orphan::release`] as a future; staged at the call.
    pub fn release_async(self) -> EndFuture {
        let ticket = Arc::default();
        let facts = &self.info.open.facts;
        let released = self.engine.release(self.hash, facts, By::Orphan, Some(&ticket));
        EndFuture::new(&self.engine, released, ticket)
    }
}

impl fmt::Debug for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Orphan").field(&self.info).finish()
    }
}

fn complete(
    engine: &Arc<Engine>,
    hash: u64,
    open: &OpenClaim,
    by: By,
    parts: Option<&[&[u8]]>,
) -> Result<Stored> {
    let completed = engine.complete(hash, &open.facts, by, parts, None)?;
    engine.finish(completed)
}

fn complete_later(
    engine: &Arc<Engine>,
    hash: u64,
    open: &OpenClaim,
    by: By,
    parts: Option<&[&[u8]]>,
) -> CompleteFuture {
    let ticket = Arc::<Ticket>::default();
    let completed = engine.complete(hash, &open.facts, by, parts, Some(&ticket));
    CompleteFuture::new(engine, completed, ticket)
}
