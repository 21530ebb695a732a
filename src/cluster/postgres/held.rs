//! A row of the table, as an answer of the trait.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::wire::Uuid;
use crate::engine::outcome::{ConflictState, OrphanCause};
use crate::http::backend::{Answer, Completed, Conflicting, Holding, Orphaned, Running};
use crate::scope::{Fingerprint, OperationId, Token};

/// When a waiting caller should ask again at the latest, whatever is left of the lease.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

pub(crate) const RUNNING: i16 = 0;
pub(crate) const COMPLETED: i16 = 1;
pub(crate) const GIVEN_UP: i16 = 2;
/// Completed as well, but not by its attempt, whose own completion comes too late.
const RESOLVED: i16 = 3;

/// What a scope holds at the time of the statement.
pub(crate) struct Held {
    pub(crate) token: Token,
    pub(crate) operation: OperationId,
    pub(crate) attempt: u32,
    pub(crate) generation: i32,
    pub(crate) claimed_at: SystemTime,
    pub(crate) completed_at: Option<SystemTime>,
    pub(crate) expires_at: SystemTime,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) checkpoint: Option<Bytes>,
    pub(crate) response: Option<Bytes>,
    pub(crate) cause: Option<OrphanCause>,
    state: i16,
    lease_left: Duration,
}

impl Held {
    /// Reads the columns of `statements.rs`.
    pub(crate) fn read(row: &Row) -> Result<Held, PostgresError> {
        let (now, lease_until): (SystemTime, SystemTime) = (column(row, 12)?, column(row, 7)?);
        let lease_left = lease_until.duration_since(now).unwrap_or_default();
        let state = column(row, 8)?;
        let cause = match state {
            GIVEN_UP => Some(OrphanCause::Failed),
            RUNNING if lease_left.is_zero() => Some(OrphanCause::LeaseLapsed),
            RUNNING | COMPLETED | RESOLVED => None,
            _ => return Err(PostgresError::Corrupt { what: "its state is none" }),
        };
        Ok(Held {
            token: token(row, 0)?,
            operation: OperationId::from_bytes(column::<Uuid>(row, 1)?.0),
            attempt: u32::try_from(column::<i32>(row, 2)?)
                .map_err(|_| PostgresError::Corrupt { what: "its attempt is negative" })?,
            generation: column(row, 3)?,
            claimed_at: column(row, 4)?,
            completed_at: column(row, 5)?,
            expires_at: column(row, 6)?,
            fingerprint: Fingerprint::from_bytes(column::<Uuid>(row, 9)?.0),
            checkpoint: column::<Option<&[u8]>>(row, 10)?.map(Bytes::copy_from_slice),
            response: column::<Option<&[u8]>>(row, 11)?.map(Bytes::copy_from_slice),
            cause,
            state,
            lease_left,
        })
    }

    /// What a claim with this fingerprint is answered: a conflict before anything else.
    pub(crate) fn answer<P>(self, fingerprint: Fingerprint) -> Result<Answer<P>, PostgresError> {
        if self.fingerprint != fingerprint {
            let state = match (self.state, self.cause) {
                (COMPLETED | RESOLVED, _) => ConflictState::Completed,
                (_, None) => ConflictState::InProgress,
                (_, Some(_)) => ConflictState::Orphaned,
            };
            let (claimed_at, operation) = (self.claimed_at, self.operation);
            return Ok(Answer::Conflict(Conflicting { claimed_at, state, operation }));
        }
        Ok(match self.holding()? {
            Holding::InProgress(running) => Answer::InProgress(running),
            Holding::Completed(completed) => Answer::Replay(completed),
            Holding::Orphaned(orphan) => Answer::Orphaned(orphan),
        })
    }

    pub(crate) fn holding(self) -> Result<Holding, PostgresError> {
        if matches!(self.state, COMPLETED | RESOLVED) {
            return self.completed().map(Holding::Completed);
        }
        Ok(match self.cause {
            Some(cause) => Holding::Orphaned(self.orphaned(cause)),
            None => Holding::InProgress(Running {
                claimed_at: self.claimed_at,
                retry_after: self.lease_left.min(RETRY_AFTER_MAX),
                token: self.token,
                operation: self.operation,
                attempt: self.attempt,
            }),
        })
    }

    pub(crate) fn completed(self) -> Result<Completed, PostgresError> {
        let completed_at = self.completed_at;
        Ok(Completed {
            response: self.response,
            completed_at: completed_at
                .ok_or(PostgresError::Corrupt { what: "it completed at no time" })?,
            expires_at: self.expires_at,
            token: self.token,
            operation: self.operation,
            attempt: self.attempt,
        })
    }

    pub(crate) fn orphaned(self, cause: OrphanCause) -> Orphaned {
        Orphaned {
            operation: self.operation,
            token: self.token,
            attempt: self.attempt,
            cause,
            claimed_at: self.claimed_at,
            checkpoint: self.checkpoint,
        }
    }
}

/// A column of a row that the store wrote.
pub(crate) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, PostgresError> {
    row.try_get(at).map_err(|_| PostgresError::Corrupt { what: "a column has another type" })
}

/// A column that holds a token.
pub(crate) fn token(row: &Row, at: usize) -> Result<Token, PostgresError> {
    let token = u64::try_from(column::<i64>(row, at)?);
    token.map(Token::new).map_err(|_| PostgresError::Corrupt { what: "its token is negative" })
}

/// A token as PostgreSQL keeps it.
pub(crate) fn bigint(token: Token) -> Result<i64, PostgresError> {
    i64::try_from(token.get())
        .map_err(|_| PostgresError::Invalid { what: "a token is a number below 2^63" })
}
