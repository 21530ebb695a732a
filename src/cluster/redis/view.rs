//! What a record and the time left of its key say, in the words of the layer.
//!
//! `ttl - left` is how long the key has lived since its time to live was last set: by the claim, a
//! take-over, a renewal, a checkpoint. Only the server's clock is in it, and both are read at one
//! instant. A completion expires `ttl` after it was made, which says when that was.

use std::time::{Duration, SystemTime};

use crate::clock::{Clock, SystemClock, from_ms};
use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::record::{LEFT_OUT, RESOLVED, Record, State};
use crate::engine::outcome::{ConflictState, OrphanCause};
use crate::http::backend::{
    Answer, Completed, Conflicting, Holding, Orphaned, Running, Unresolved,
};
use crate::scope::{self, Fingerprint};

/// A record, and how long its key has lived since its time to live was set.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) record: Record,
    /// 0 where a completion was read, which has no use for it.
    pub(crate) lived_ms: u64,
    /// By the server's clock.
    pub(crate) expires_ms: u64,
}

/// A key that is there, or not.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    Free,
    By(View),
}

impl View {
    pub(crate) fn new(record: Record, left_ms: u64, expires_ms: u64) -> View {
        let lived_ms = record.head.ttl_ms.saturating_sub(left_ms);
        View { record, lived_ms, expires_ms }
    }

    pub(crate) fn is_released(&self) -> bool {
        self.record.head.state == State::Released
    }

    /// Why it is an orphan, where it is one.
    pub(crate) fn orphaned_by(&self) -> Option<OrphanCause> {
        match self.record.head.state {
            State::GivenUp => Some(OrphanCause::Failed),
            State::Running if self.lived_ms >= self.record.head.lease_ms => {
                Some(OrphanCause::LeaseLapsed)
            }
            State::Running | State::Completed | State::Released => None,
        }
    }

    fn claimed_at(&self) -> SystemTime {
        let head = &self.record.head;
        if head.state == State::Completed {
            return from_ms(self.completed_ms().saturating_sub(head.age_ms));
        }
        let age = Duration::from_millis(head.age_ms + self.lived_ms);
        SystemClock.wall().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// What a claim is answered; the scope is not free.
    pub(crate) fn answer<P>(&self, fingerprint: Fingerprint) -> Answer<P> {
        if self.record.head.fingerprint != fingerprint {
            return Answer::Conflict(Conflicting {
                claimed_at: self.claimed_at(),
                state: match (self.record.head.state, self.orphaned_by()) {
                    (State::Completed, _) => ConflictState::Completed,
                    (_, Some(_)) => ConflictState::Orphaned,
                    (_, None) => ConflictState::InProgress,
                },
                operation: self.record.head.operation,
            });
        }
        match self.holding() {
            Holding::Completed(completed) => Answer::Replay(completed),
            Holding::Orphaned(orphaned) => Answer::Orphaned(orphaned),
            Holding::InProgress(running) => Answer::InProgress(running),
        }
    }

    pub(crate) fn holding(&self) -> Holding {
        match (self.record.head.state, self.orphaned_by()) {
            (State::Completed, _) => Holding::Completed(self.completed()),
            (_, Some(cause)) => Holding::Orphaned(self.orphaned(cause)),
            (_, None) => Holding::InProgress(self.running()),
        }
    }

    /// Whether an operator completed it.
    pub(crate) fn is_resolved(&self) -> bool {
        self.record.head.flags & RESOLVED != 0
    }

    fn completed_ms(&self) -> u64 {
        self.expires_ms.saturating_sub(self.record.head.ttl_ms)
    }

    pub(crate) fn completed(&self) -> Completed {
        let Record { head, response, .. } = &self.record;
        Completed {
            response: (head.flags & LEFT_OUT == 0).then(|| response.clone()),
            completed_at: from_ms(self.completed_ms()),
            expires_at: from_ms(self.expires_ms),
            token: head.token,
            operation: head.operation,
            attempt: head.attempt,
        }
    }

    fn running(&self) -> Running {
        let head = &self.record.head;
        Running {
            claimed_at: self.claimed_at(),
            retry_after: Duration::from_millis(head.lease_ms.saturating_sub(self.lived_ms)),
            token: head.token,
            operation: head.operation,
            attempt: head.attempt,
        }
    }

    fn orphaned(&self, cause: OrphanCause) -> Orphaned {
        let Record { head, checkpoint, .. } = &self.record;
        Orphaned {
            operation: head.operation,
            token: head.token,
            attempt: head.attempt,
            cause,
            claimed_at: self.claimed_at(),
            checkpoint: (!checkpoint.is_empty()).then(|| checkpoint.clone()),
        }
    }

    /// The orphan with its scope; `None` where it is none.
    pub(crate) fn unresolved(&self) -> Result<Option<Unresolved>, RedisError> {
        let Some(cause) = self.orphaned_by() else { return Ok(None) };
        let scope = scope::decode(&self.record.scope)
            .ok_or(RedisError::Corrupt { what: "a record names no scope" })?;
        Ok(Some(Unresolved {
            organization: scope.organization.to_owned(),
            method: scope.method.to_owned(),
            path: scope.path.to_owned(),
            key: scope.key.to_owned(),
            fingerprint: self.record.head.fingerprint,
            orphan: self.orphaned(cause),
        }))
    }
}
