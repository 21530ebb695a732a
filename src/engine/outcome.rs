//! What callers are told about a scope: plain values, owned, without a handle on the store.

use std::fmt;
use std::ops::{Deref, Range};
use std::time::{Duration, SystemTime};

use crate::clock::from_ms;
use crate::error::Error;
use crate::format::record::{Body, Ended, Record};
use crate::log::OpenClaim;
use crate::log::segments;
use crate::scope::{self, Fingerprint, OperationId, Scope, Token};

/// Whether the response of a completed operation was kept.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The response was stored.
    Whole,
    /// The caller completed without a response.
    Omitted,
    /// The response was larger than `response_bytes_max`.
    TooLarge,
    /// There was no room for the response.
    NoRoom,
}

/// The bytes of a stored response, owned; one allocation.
#[derive(Clone)]
pub struct StoredBytes {
    record: Vec<u8>,
    range: Range<usize>,
}

impl Deref for StoredBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.record[self.range.clone()]
    }
}

impl PartialEq for StoredBytes {
    fn eq(&self, other: &StoredBytes) -> bool {
        **self == **other
    }
}

impl Eq for StoredBytes {}

impl AsRef<[u8]> for StoredBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<StoredBytes> for Vec<u8> {
    fn from(mut stored: StoredBytes) -> Vec<u8> {
        stored.record.truncate(stored.range.end);
        stored.record.drain(..stored.range.start);
        stored.record
    }
}

impl fmt::Debug for StoredBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredBytes({} bytes)", self.len())
    }
}

/// A completed operation: its response, if it was kept, and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub(crate) bytes: StoredBytes,
    pub(crate) body: Body,
    pub(crate) claimed_ms: u64,
    pub(crate) completed_ms: u64,
    pub(crate) expires_ms: u64,
    pub(crate) token: Token,
    pub(crate) operation: OperationId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) attempt: u16,
}

impl Stored {
    /// The response; `None` where it was not kept, as [`Stored::kept`] says.
    pub fn bytes(&self) -> Option<&[u8]> {
        (self.body == Body::Whole).then_some(&*self.bytes)
    }

    /// The response, owned.
    pub fn into_bytes(self) -> Option<StoredBytes> {
        (self.body == Body::Whole).then_some(self.bytes)
    }

    /// Whether the response was kept, and why not.
    pub fn kept(&self) -> Kept {
        match self.body {
            Body::Whole => Kept::Whole,
            Body::Omitted => Kept::Omitted,
            Body::TooLarge => Kept::TooLarge,
            Body::NoRoom => Kept::NoRoom,
        }
    }

    /// When the operation completed, in store time.
    pub fn completed_at(&self) -> SystemTime {
        from_ms(self.completed_ms)
    }

    /// From this instant on, in store time, the response is absent.
    pub fn expires_at(&self) -> SystemTime {
        from_ms(self.expires_ms)
    }

    /// The fencing token of the attempt that completed.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The operation that completed.
    pub fn operation(&self) -> OperationId {
        self.operation
    }

    /// The fingerprint of its request.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The number of the attempt that completed, counted from 1.
    pub fn attempt(&self) -> u32 {
        u32::from(self.attempt)
    }

    /// The response that a record holds, if it belongs to the scope.
    pub(crate) fn of_record(stored: segments::Stored, scope: &[u8]) -> Option<Stored> {
        let Ok(Record::Complete(complete)) = stored.record() else { return None };
        if complete.scope != scope {
            return None;
        }
        let completed_ms = stored.header.time_ms;
        Some(Stored {
            body: complete.body,
            claimed_ms: completed_ms.saturating_sub(u64::from(complete.ran_ms)),
            completed_ms,
            expires_ms: complete.expires_ms,
            token: complete.token,
            operation: complete.operation,
            fingerprint: complete.fingerprint,
            attempt: stored.header.attempt,
            bytes: StoredBytes { range: stored.header.value_range(), record: stored.bytes },
        })
    }

    /// The parts of a response as one value.
    pub(crate) fn join(parts: &[&[u8]]) -> StoredBytes {
        let record = parts.concat();
        StoredBytes { range: 0..record.len(), record }
    }
}

/// Somebody runs the operation now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InProgress {
    pub(crate) claimed_ms: u64,
    pub(crate) retry_after: Duration,
    pub(crate) token: Token,
    pub(crate) operation: OperationId,
    pub(crate) attempt: u16,
}

impl InProgress {
    /// When the operation was first claimed, in store time.
    pub fn claimed_at(&self) -> SystemTime {
        from_ms(self.claimed_ms)
    }

    /// When to ask again: never beyond what is left of the lease.
    pub fn retry_after(&self) -> Duration {
        self.retry_after
    }

    /// The fencing token of the running attempt.
    pub fn token(&self) -> Token {
        self.token
    }

    /// The operation that runs.
    pub fn operation(&self) -> OperationId {
        self.operation
    }

    /// The number of the running attempt, counted from 1.
    pub fn attempt(&self) -> u32 {
        u32::from(self.attempt)
    }
}

/// In which state the operation is that a request conflicts with.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictState {
    /// It runs.
    InProgress,
    /// It completed.
    Completed,
    /// Its outcome is unknown.
    Orphaned,
}

/// The scope was used with another fingerprint. Nothing of the first request is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub(crate) claimed_ms: u64,
    pub(crate) state: ConflictState,
    pub(crate) operation: OperationId,
}

impl Conflict {
    /// When the first operation was claimed, in store time.
    pub fn claimed_at(&self) -> SystemTime {
        from_ms(self.claimed_ms)
    }

    /// In which state the first operation is.
    pub fn state(&self) -> ConflictState {
        self.state
    }

    /// The first operation.
    pub fn operation(&self) -> OperationId {
        self.operation
    }
}

/// Why an attempt ended without completing or releasing.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrphanCause {
    /// Its process died, or the store was closed.
    Crash,
    /// Its permit was dropped.
    Dropped,
    /// Its lease lapsed.
    LeaseLapsed,
    /// It was given up.
    Failed,
}

impl OrphanCause {
    pub(crate) fn of(ended: Ended) -> Option<OrphanCause> {
        match ended {
            Ended::No => None,
            Ended::Crash => Some(OrphanCause::Crash),
            Ended::Dropped => Some(OrphanCause::Dropped),
            Ended::LeaseLapsed => Some(OrphanCause::LeaseLapsed),
            Ended::Failed => Some(OrphanCause::Failed),
        }
    }
}

/// A claim whose permit is gone and whose outcome is unknown.
#[derive(Clone)]
pub struct OrphanInfo {
    pub(crate) open: OpenClaim,
}

impl OrphanInfo {
    /// Its scope.
    pub fn scope(&self) -> Scope<'_> {
        scope::decode(&self.open.facts.scope).expect("the scope of a claim was checked")
    }

    /// The organization of its scope.
    pub fn organization(&self) -> &str {
        self.scope().organization
    }

    /// The method of its scope.
    pub fn method(&self) -> &str {
        self.scope().method
    }

    /// The path of its scope.
    pub fn path(&self) -> &str {
        self.scope().path
    }

    /// The key of its scope.
    pub fn key(&self) -> &str {
        self.scope().key
    }

    /// The fingerprint of its request.
    pub fn fingerprint(&self) -> Fingerprint {
        self.open.facts.fingerprint
    }

    /// Why it is an orphan.
    pub fn cause(&self) -> OrphanCause {
        OrphanCause::of(self.open.ended).unwrap_or(OrphanCause::Crash)
    }

    /// When the operation was first claimed, in store time.
    pub fn claimed_at(&self) -> SystemTime {
        from_ms(self.open.facts.claimed_ms)
    }

    /// The number of its last attempt, counted from 1.
    pub fn attempt(&self) -> u32 {
        u32::from(self.open.facts.attempt)
    }

    /// What its attempts saved last.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.open.checkpoint.as_deref()
    }

    /// The fencing token of its last attempt.
    pub fn token(&self) -> Token {
        self.open.facts.token
    }

    /// The operation.
    pub fn operation(&self) -> OperationId {
        self.open.facts.operation
    }
}

impl fmt::Debug for OrphanInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrphanInfo")
            .field("scope", &self.scope())
            .field("cause", &self.cause())
            .field("attempt", &self.attempt())
            .field("token", &self.token())
            .field("operation", &self.operation())
            .finish_non_exhaustive()
    }
}

/// What a scope holds, from [`Store::lookup`](crate::Store::lookup).
#[derive(Clone, Debug)]
pub enum Status {
    /// Somebody runs the operation now.
    InProgress(InProgress),
    /// It ran.
    Completed(Stored),
    /// Its outcome is unknown.
    Orphaned(OrphanInfo),
}

/// What is known of a scope with this fingerprint, short of a grant.
#[derive(Debug)]
pub(crate) enum Answer {
    Replay(Stored),
    InProgress(InProgress),
    Conflict(Conflict),
    Orphaned(OpenClaim),
}

/// The encoded form of a checked scope, and its hash.
pub(crate) struct Keyed {
    pub(crate) encoded: scope::Encoded,
    pub(crate) hash: u64,
}

impl Keyed {
    pub(crate) fn new(scope: Scope<'_>, key: &scope::HashKey) -> Result<Keyed, Error> {
        scope.check()?;
        let encoded = scope.encode();
        let hash = key.hash(&encoded);
        Ok(Keyed { encoded, hash })
    }
}
