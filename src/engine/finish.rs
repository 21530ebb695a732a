//! How an attempt ends: completed, released, given up, dropped, or resolved by somebody else.
//! Every step works only while the attempt is the current one of its scope.

use std::sync::Arc;

use crate::clock::MS_MAX;
use crate::engine::inflight::{Entry, State};
use crate::engine::outcome::{Keyed, Stored};
use crate::engine::ticket::Ticket;
use crate::engine::{Act, Deed, Engine};
use crate::error::{Error, Result};
use crate::format::record::{Body, CHECKPOINT_BYTES_MAX, Complete, Ended, Freed};
use crate::log::writer::{NewComplete, Staged, Wait};
use crate::log::{Facts, OpenClaim};
use crate::scope::Token;
use crate::time::Reading;

/// In whose name an attempt is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Its permit.
    Permit,
    /// Whoever found the orphan.
    Orphan,
}

/// An attempt that is being ended.
#[derive(Clone, Copy)]
struct Ending<'a> {
    hash: u64,
    facts: &'a Facts,
    by: By,
}

/// A record that was staged and what its caller gets once it is durable.
pub(crate) struct Finishing<T> {
    staged: Staged<Deed>,
    pub(crate) value: T,
}

impl Engine {
    /// Waits until the end of an attempt is durable.
    pub(crate) fn finish<T>(&self, finishing: Finishing<T>) -> Result<T> {
        self.settle(finishing.staged)?;
        Ok(finishing.value)
    }

    /// The same for a future, which is told through the ticket.
    pub(crate) fn finish_later<T>(&self, finishing: Finishing<T>) -> T {
        self.settle_later(finishing.staged);
        finishing.value
    }

    /// The entry of an attempt, if it may still be ended in this name.
    fn endable<'a>(
        &self,
        entry: Option<&'a mut Entry>,
        by: By,
        now: Reading,
    ) -> Result<&'a mut Entry> {
        let entry = entry.ok_or(Error::Superseded)?;
        self.lapse(entry, now);
        let endable = match (entry.state, by) {
            (State::Open, By::Permit) => entry.permit,
            (State::Open, By::Orphan) => entry.is_orphan(),
            (State::Staged | State::Ending, _) => false,
        };
        if endable { Ok(entry) } else { Err(Error::Superseded) }
    }

    /// Stages the completion of an attempt. A response that is too large, or for which there is
    /// no room, is left out: that the operation ran is stored all the same.
    pub(crate) fn complete(
        &self,
        hash: u64,
        facts: &Facts,
        by: By,
        response: Option<&[&[u8]]>,
        ticket: Option<&Arc<Ticket>>,
    ) -> Result<Finishing<Stored>> {
        self.check_closed()?;
        let bytes: usize = response.map_or(0, |parts| parts.iter().map(|part| part.len()).sum());
        let limit = usize::try_from(self.config.response_bytes_max()).unwrap_or(usize::MAX);
        let body = match response {
            None => Body::Omitted,
            Some(_) if bytes > limit => Body::TooLarge,
            Some(_) => Body::Whole,
        };
        let parts = response.filter(|_| body == Body::Whole).unwrap_or(&[]);
        let now = self.now();
        let mut stored = Stored {
            bytes: Stored::join(parts),
            body,
            claimed_ms: facts.claimed_ms,
            completed_ms: now.now_ms,
            expires_ms: now.latest_ms.saturating_add(self.config.ttl_ms()).min(MS_MAX),
            token: facts.token,
            operation: facts.operation,
            fingerprint: facts.fingerprint,
            attempt: facts.attempt,
        };
        let mut shard = self.shard(hash).lock();
        let entry = self.endable(shard.inflight.current(hash, facts.token), by, now)?;
        let ending = Ending { hash, facts, by };
        let staged = match self.stage_complete(ending, &stored, parts, ticket, now) {
            Err(Error::Full { .. }) if body == Body::Whole => {
                (stored.body, stored.bytes) = (Body::NoRoom, Stored::join(&[]));
                self.stage_complete(ending, &stored, &[], ticket, now).map_err(no_room)?
            }
            staged => staged.map_err(no_room)?,
        };
        entry.state = State::Ending;
        if by == By::Orphan {
            self.counters.orphans_resolved.add(1);
            self.counters.orphan_ended_ms.raise(now.now_ms);
        }
        Ok(Finishing { staged, value: stored })
    }

    fn stage_complete(
        &self,
        Ending { hash, facts, by }: Ending<'_>,
        stored: &Stored,
        parts: &[&[u8]],
        ticket: Option<&Arc<Ticket>>,
        now: Reading,
    ) -> Result<Staged<Deed>> {
        let ran_ms = stored.completed_ms.saturating_sub(facts.claimed_ms);
        let complete = Complete {
            token: facts.token,
            expires_ms: stored.expires_ms,
            ran_ms: u32::try_from(ran_ms).unwrap_or(u32::MAX),
            operation: facts.operation,
            fingerprint: facts.fingerprint,
            scope: &facts.scope,
            body: stored.body,
            resolved: by == By::Orphan,
            response: &[],
        };
        let (token, staged_at) = (facts.token, now.monotonic);
        let ticket = ticket.cloned();
        let wait = wait_of(ticket.as_ref());
        let deed = |location| Deed { hash, token, act: Act::Complete(location), ticket, staged_at };
        let new = NewComplete { complete, attempt: facts.attempt, parts, hash };
        self.log.stage_complete(&new, now, wait, deed)
    }

    /// Stages the release of an attempt.
    pub(crate) fn release(
        &self,
        hash: u64,
        facts: &Facts,
        by: By,
        ticket: Option<&Arc<Ticket>>,
    ) -> Result<Finishing<()>> {
        self.check_closed()?;
        let now = self.now();
        let mut shard = self.shard(hash).lock();
        let entry = self.endable(shard.inflight.current(hash, facts.token), by, now)?;
        if by == By::Orphan && entry.permit {
            let what = "the permit of the lapsed attempt lives in this process";
            return Err(Error::Invalid { what });
        }
        let token = facts.token;
        let (deed_ticket, staged_at) = (ticket.cloned(), now.monotonic);
        let deed = Deed { hash, token, act: Act::Release, ticket: deed_ticket, staged_at };
        let wait = wait_of(ticket);
        let freed = if by == By::Orphan { Freed::Resolved } else { Freed::NoEffect };
        let staged = self.log.stage_release(facts, freed, now, wait, deed);
        let staged = staged.map_err(no_room)?;
        entry.state = State::Ending;
        if by == By::Orphan {
            self.counters.orphans_released.add(1);
            self.counters.orphan_ended_ms.raise(now.now_ms);
        }
        Ok(Finishing { staged, value: () })
    }

    /// Undoes a grant whose future went away before it yielded: nobody ran this attempt. A first
    /// one is released; a later one leaves the orphan that it took over, cause and all.
    pub(crate) fn release_unrun(&self, hash: u64, token: Token) {
        let facts = {
            let mut shard = self.shard(hash).lock();
            shard.inflight.current(hash, token).map(|entry| Arc::clone(&entry.open.facts))
        };
        let Some(facts) = facts else { return };
        if facts.attempt > 1 {
            return self.orphaned(hash, token, facts.cause);
        }
        // The ticket makes it an async caller's record: nobody waits here, so nobody could lead.
        match self.release(hash, &facts, By::Permit, Some(&Arc::default())) {
            Ok(finishing) => self.finish_later(finishing),
            // It stays claimed, and becomes an orphan: the safe side.
            Err(_) => self.dropped(hash, token),
        }
    }

    /// Stages that an attempt was given up: an orphan once that is durable.
    pub(crate) fn give_up(
        &self,
        hash: u64,
        facts: &Facts,
        ticket: Option<&Arc<Ticket>>,
    ) -> Result<Finishing<()>> {
        self.check_closed()?;
        let now = self.now();
        let mut shard = self.shard(hash).lock();
        let entry = self.endable(shard.inflight.current(hash, facts.token), By::Permit, now)?;
        let open = OpenClaim { ended: Ended::Failed, ..entry.open.clone() };
        let staged = self.stage_progress(hash, open, None, ticket, now).map_err(no_room)?;
        entry.open.ended = Ended::Failed;
        entry.alive_ms = now.latest_ms;
        entry.permit = false;
        entry.state = State::Ending;
        self.count_orphaned(Ended::Failed);
        Ok(Finishing { staged, value: () })
    }

    /// Stages a checkpoint of an attempt.
    pub(crate) fn save_checkpoint(
        &self,
        hash: u64,
        facts: &Facts,
        checkpoint: &[u8],
        ticket: Option<&Arc<Ticket>>,
    ) -> Result<Finishing<()>> {
        self.check_closed()?;
        if checkpoint.len() > CHECKPOINT_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "checkpoint",
                bytes: checkpoint.len() as u64,
                limit: CHECKPOINT_BYTES_MAX as u64,
            });
        }
        let now = self.now();
        let mut shard = self.shard(hash).lock();
        let entry = self.endable(shard.inflight.current(hash, facts.token), By::Permit, now)?;
        let saved = Some(Arc::from(checkpoint));
        let open = OpenClaim { checkpoint: saved, ended: Ended::No, ..entry.open.clone() };
        let staged = self.stage_progress(hash, open, Some(checkpoint), ticket, now)?;
        Ok(Finishing { staged, value: () })
    }

    fn stage_progress(
        &self,
        hash: u64,
        open: OpenClaim,
        saved: Option<&[u8]>,
        ticket: Option<&Arc<Ticket>>,
        now: Reading,
    ) -> Result<Staged<Deed>> {
        let token = open.facts.token;
        let checkpoint = if saved.is_some() { open.checkpoint.clone() } else { None };
        let (ended, staged_at, ticket) = (open.ended, now.monotonic, ticket.cloned());
        let wait = wait_of(ticket.as_ref());
        let deed = |lsn| {
            let act = Act::Progress { ended, checkpoint, lsn };
            Deed { hash, token, act, ticket, staged_at }
        };
        self.log.stage_progress(open, saved, now, wait, deed)
    }

    /// Extends the lease of an attempt; no I/O.
    pub(crate) fn renew(&self, hash: u64, token: Token) -> Result<()> {
        self.check_closed()?;
        let now = self.now();
        let mut shard = self.shard(hash).lock();
        let entry = self.endable(shard.inflight.current(hash, token), By::Permit, now)?;
        entry.open.ended = Ended::No;
        entry.alive_ms = now.latest_ms;
        entry.deadline = now.monotonic + self.config.lease;
        Ok(())
    }

    /// The permit of an attempt is gone: an orphan at once, without I/O.
    pub(crate) fn dropped(&self, hash: u64, token: Token) {
        self.orphaned(hash, token, Ended::Dropped);
    }

    fn orphaned(&self, hash: u64, token: Token, ended: Ended) {
        let signals = {
            let mut shard = self.shard(hash).lock();
            let Some(entry) = shard.inflight.current(hash, token) else { return };
            if !std::mem::take(&mut entry.permit) {
                return;
            }
            entry.alive_ms = self.now().latest_ms;
            if entry.state != State::Open {
                return;
            }
            if entry.open.ended == Ended::No {
                entry.open.ended = ended;
                self.count_orphaned(ended);
            }
            shard.inflight.all_waiting(hash)
        };
        signals.iter().for_each(|signal| signal.fire());
    }

    /// The orphan of a scope, if it is one.
    pub(crate) fn orphan(&self, keyed: &Keyed) -> Result<Option<OpenClaim>> {
        self.check_closed()?;
        let now = self.now();
        let mut shard = self.shard(keyed.hash).lock();
        let Some(entry) = shard.inflight.find(keyed.hash, &keyed.encoded) else {
            drop(shard);
            // Not "no orphan" of a scope that may have been in what was lost.
            if self.quarantine.check_absent(now.now_ms).is_err() {
                self.look_up(keyed)?;
            }
            return Ok(None);
        };
        self.lapse(entry, now);
        let is_live = entry.is_orphan() && (entry.permit || !self.is_expired(entry, now));
        Ok(is_live.then(|| entry.open.clone()))
    }

    /// The hash of a claim's scope.
    pub(crate) fn hash_of(&self, facts: &Facts) -> u64 {
        self.hash_key.hash(&facts.scope)
    }
}

/// `Full` is for those who can come back later. Whoever ends an attempt cannot: the claim stays,
/// as an orphan, and the device's answer says why.
fn no_room(error: Error) -> Error {
    match error {
        Error::Full { .. } => Error::io("end a claim")(std::io::ErrorKind::StorageFull.into()),
        error => error,
    }
}

fn wait_of(ticket: Option<&Arc<Ticket>>) -> Wait {
    if ticket.is_some() { Wait::Async } else { Wait::Blocking }
}
