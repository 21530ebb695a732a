//! Where claims live: the trait that the layer is generic over, and the values that it speaks in.
//!
//! Nothing here blocks, names a disk, compares the clocks of two machines, or relies on a drop
//! reaching the store, so that a distributed engine fits behind it as well as the embedded one.

use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::engine::outcome::{ConflictState, OrphanCause};
use crate::scope::{Fingerprint, OperationId, Scope, Token};

/// A store of claims. [`Store`](crate::Store) is one; `oncelog::http::AnyBackend` holds one that is
/// chosen at run time.
///
/// The rules of the crate hold for every backend: one winner a scope; a conflict before anything
/// else; durable, as far as [`Backend::promises`] goes, before it is acknowledged; fenced by token.
/// A future of [`Backend::claim`], [`Backend::claim_after`] or [`Backend::take_over`] that is
/// dropped before it yields leaves no running claim behind.
pub trait Backend: Clone + Send + Sync + 'static {
    /// The facts of one attempt, and the right to end it. Dropping it need not reach the store: the
    /// claim is an orphan at once, or when its lease is over.
    type Permit: BackendPermit;

    /// What goes wrong.
    type Error: BackendError;

    /// What this store keeps, and what it cannot. Constant.
    fn promises(&self) -> Promises;

    /// Claims a scope: one round trip, which never waits for a running operation and never runs
    /// an orphan again. `lease` is how long the claim may stay silent; a store with one lease for
    /// all claims says so in [`BackendPermit::lease`].
    fn claim(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> impl Future<Output = Result<Answer<Self::Permit>, Self::Error>> + Send;

    /// [`Backend::claim`], once the attempt `seen` has ended. It may look early and answer
    /// [`Answer::InProgress`] again, but never without having waited. The caller bounds the time.
    ///
    /// A completion lets every waiting caller go on, a release at least one.
    fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> impl Future<Output = Result<Answer<Self::Permit>, Self::Error>> + Send;

    /// Replaces the orphaned attempt `seen`: the same operation, the next attempt, a new token. One
    /// caller wins; the others get what the scope holds by then, or `Superseded` where it is free.
    fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> impl Future<Output = Result<Answer<Self::Permit>, Self::Error>> + Send;

    /// Ends the operation with its response, given in parts and stored as one value. It may be
    /// asked for again: an acknowledgement that was lost on the way is given once more.
    fn complete(
        &self,
        permit: &Self::Permit,
        parts: &[&[u8]],
    ) -> impl Future<Output = Result<Completed, Self::Error>> + Send;

    /// Ends the attempt, which is known to have had no effect: the scope is as if never claimed.
    fn release(
        &self,
        permit: &Self::Permit,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Ends the attempt with an unknown outcome: an orphan, cause `Failed`.
    fn give_up(
        &self,
        permit: &Self::Permit,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The same from a drop: it must not block, and may be lost.
    fn give_up_soon(&self, permit: &Self::Permit);

    /// Extends the lease from now on.
    fn renew(
        &self,
        permit: &Self::Permit,
        lease: Duration,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Saves a recovery point that a later attempt gets to see, durable when it returns.
    fn save_checkpoint(
        &self,
        permit: &Self::Permit,
        checkpoint: &[u8],
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What an operator asks of a store, apart from the requests.
pub trait Administer: Backend {
    /// What a scope holds; never claims it.
    fn look_up(
        &self,
        scope: Scope<'_>,
    ) -> impl Future<Output = Result<Option<Holding>, Self::Error>> + Send;

    /// At most `limit` orphans with their scopes, in the order of their tokens, after `after`.
    fn unresolved(
        &self,
        after: Option<Token>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Unresolved>, Self::Error>> + Send;

    /// Ends the orphaned attempt `seen` with a response found elsewhere: it did run.
    fn resolve(
        &self,
        scope: Scope<'_>,
        seen: Token,
        response: &[u8],
    ) -> impl Future<Output = Result<Completed, Self::Error>> + Send;

    /// Erases what a scope holds; gone for good when it returns. `false` for an open claim, which
    /// is kept, and for a free scope.
    fn forget(&self, scope: Scope<'_>) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// The same for everything of an organization that had ended; how many responses there were.
    fn forget_organization(
        &self,
        organization: &str,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Frees the scope of the orphaned attempt `seen`: it did not run, and a fence keeps every
    /// attempt from committing late.
    fn release_orphan(
        &self,
        scope: Scope<'_>,
        seen: Token,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// The facts of one attempt.
pub trait BackendPermit: Send + Sync + 'static {
    /// The operation: the same for every attempt of a claim, never issued twice.
    fn operation(&self) -> OperationId;
    /// The fencing token of this attempt.
    fn token(&self) -> Token;
    /// The number of this attempt, counted from 1.
    fn attempt(&self) -> u32;
    /// Why the attempt before this one ended; `None` on the first.
    fn cause(&self) -> Option<OrphanCause>;
    /// What an earlier attempt saved last.
    fn checkpoint(&self) -> Option<&[u8]>;
    /// How long the claim may stay silent.
    fn lease(&self) -> Duration;
}

/// What goes wrong in a store of claims, in the words that the layer acts on.
pub trait BackendError: std::error::Error + Send + Sync + 'static {
    /// What the layer should make of it.
    fn kind(&self) -> ErrorKind;
}

/// What the layer makes of an error.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No room for another claim; what was granted goes on.
    Full,
    /// No answer. A write may have arrived or not.
    Unavailable,
    /// The attempt is no longer the current one of its scope.
    Superseded,
    /// The scope or the checkpoint is over its limit.
    TooLarge,
    /// The call is not allowed in this state.
    Invalid,
    /// What was durable does not verify.
    Corrupt,
}

/// What a claim is answered.
#[derive(Debug)]
pub enum Answer<P> {
    /// Run the operation.
    Granted(P),
    /// It ran: here is what it left.
    Replay(Completed),
    /// Somebody runs it now.
    InProgress(Running),
    /// The scope was used with a different request.
    Conflict(Conflicting),
    /// An earlier attempt vanished, and whether it had an effect is unknown.
    Orphaned(Orphaned),
}

/// What a completed operation left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The response; `None` where the store had to leave it out.
    pub response: Option<Bytes>,
    /// When the operation completed, in the store's time.
    pub completed_at: SystemTime,
    /// From this instant on, in the store's time, the response is absent.
    pub expires_at: SystemTime,
    /// The attempt that completed.
    pub token: Token,
    /// The operation.
    pub operation: OperationId,
    /// The number of the attempt that completed.
    pub attempt: u32,
}

/// An attempt that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// When the operation was first claimed.
    pub claimed_at: SystemTime,
    /// When to ask again: never beyond what is left of the lease.
    pub retry_after: Duration,
    /// The attempt.
    pub token: Token,
    /// The operation.
    pub operation: OperationId,
    /// The number of the attempt.
    pub attempt: u32,
}

/// The operation that a request conflicts with. Nothing of the first request is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflicting {
    /// When the operation was first claimed.
    pub claimed_at: SystemTime,
    /// In which state it is.
    pub state: ConflictState,
    /// The operation.
    pub operation: OperationId,
}

/// An attempt whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphaned {
    /// The operation.
    pub operation: OperationId,
    /// Its last attempt.
    pub token: Token,
    /// The number of that attempt.
    pub attempt: u32,
    /// Why it is an orphan.
    pub cause: OrphanCause,
    /// When the operation was first claimed.
    pub claimed_at: SystemTime,
    /// What its attempts saved last.
    pub checkpoint: Option<Bytes>,
}

/// An orphan with its scope, for whoever resolves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Whose key it is.
    pub organization: String,
    /// The method of the request.
    pub method: String,
    /// The path of the request line.
    pub path: String,
    /// The client's key.
    pub key: String,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// The attempt.
    pub orphan: Orphaned,
}

/// What a scope holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Somebody runs the operation now.
    InProgress(Running),
    /// It ran.
    Completed(Completed),
    /// Its outcome is unknown.
    Orphaned(Orphaned),
}

/// What a store keeps and what it cannot.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// When a claim becomes an orphan whose process died.
    pub orphans: OrphansShow,
    /// Among which attempts tokens are ordered.
    pub tokens: TokensOrder,
    /// What an acknowledged claim or completion survives.
    pub survives: Survives,
    /// Whether a response may vanish before it expires.
    pub evicts: Evicts,
    /// The largest response that is stored.
    pub response_bytes_max: u64,
}

impl Promises {
    /// The promises of a store that keeps responses of at most this many bytes: everything else
    /// as little as a store may promise.
    pub const fn weakest(response_bytes_max: u64) -> Promises {
        Promises {
            orphans: OrphansShow::ByLease,
            tokens: TokensOrder::OneScope,
            survives: Survives::Nothing,
            evicts: Evicts::UnderPressure,
            response_bytes_max,
        }
    }
}

/// When a claim becomes an orphan whose process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphansShow {
    /// When the store is open again.
    AtOnce,
    /// When the lease of the claim is over.
    ByLease,
}

/// Among which attempts tokens are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensOrder {
    /// All attempts of the store.
    WholeStore,
    /// The attempts of one scope, also across a release.
    OneScope,
}

/// What an acknowledgement survives, from little to much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Survives {
    /// Nothing: it is in memory.
    Nothing,
    /// The death of the process.
    ProcessDeath,
    /// A power cut.
    PowerLoss,
    /// The loss of a machine.
    MachineLoss,
}

/// Whether a response may vanish before it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicts {
    /// Never: a full store refuses new claims.
    Never,
    /// When memory is short, which can run an operation twice.
    UnderPressure,
}
