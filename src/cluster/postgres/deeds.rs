//! What the holder of a permit does with it. Each compares operation, token and state, so that an
//! attempt that was superseded changes no row, and is told so.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::held::{bigint, column};
use crate::cluster::postgres::permit::PostgresPermit;
use crate::cluster::postgres::session::Value;
use crate::cluster::postgres::store::Shared;
use crate::cluster::postgres::wire::{Interval, Uuid};
use crate::http::backend::Completed;

/// A response past this many bytes is left out of its completion.
pub(crate) const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// The largest recovery point.
const CHECKPOINT_BYTES_MAX: usize = 64 << 10;

/// The response of these parts, if it is not too large to keep.
pub(crate) fn joined(parts: &[&[u8]]) -> Option<Bytes> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    (bytes <= RESPONSE_BYTES_MAX).then(|| Bytes::from(parts.concat()))
}

impl Shared {
    /// A statement on the attempt's own row, with what it takes beside the attempt's name.
    async fn change(
        &self,
        context: &'static str,
        statement: &str,
        permit: &PostgresPermit,
        values: &[Value<'_>],
    ) -> Result<Option<Row>, PostgresError> {
        let (digest, token) = (&permit.digest[..], bigint(permit.token)?);
        let operation = Uuid(permit.operation.to_bytes());
        let mut all: Vec<Value<'_>> =
            vec![(&digest, Type::BYTEA), (&token, Type::INT8), (&operation, Type::UUID)];
        all.extend_from_slice(values);
        match self.rows(context, statement, &all).await {
            Ok(mut rows) => Ok(rows.pop()),
            // A generation is dropped once everything in it is past.
            Err(error) if has_code(&error, &SqlState::UNDEFINED_TABLE) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn complete(
        &self,
        permit: &PostgresPermit,
        parts: &[&[u8]],
    ) -> Result<Completed, PostgresError> {
        let response = joined(parts);
        match self.complete_with(permit, response).await {
            // That it ran is worth more than what it said, and takes less room.
            Err(PostgresError::Full { .. }) => self.complete_with(permit, None).await,
            told => told,
        }
    }

    async fn complete_with(
        &self,
        permit: &PostgresPermit,
        response: Option<Bytes>,
    ) -> Result<Completed, PostgresError> {
        let (ttl, body) = (Interval(self.ttl), response.as_deref());
        let values: [Value<'_>; 2] = [(&ttl, Type::INTERVAL), (&body, Type::BYTEA)];
        let ended = self.change("completing", &permit.leaf.complete, permit, &values).await?;
        let ended = match ended {
            Some(row) => Some(row),
            // Its acknowledgement may have been lost, and is given once more.
            None => self.change("completing", &permit.leaf.completed, permit, &[]).await?,
        };
        let row = ended.ok_or(PostgresError::Superseded)?;
        self.waiters.wake(&permit.digest);
        completed(permit, response, &row)
    }

    pub(crate) async fn release(&self, permit: &PostgresPermit) -> Result<(), PostgresError> {
        let released = self.change("releasing", &permit.leaf.release, permit, &[]).await?;
        released.ok_or(PostgresError::Superseded)?;
        self.waiters.wake(&permit.digest);
        Ok(())
    }

    pub(crate) async fn give_up(&self, permit: &PostgresPermit) -> Result<(), PostgresError> {
        let ttl = Interval(self.ttl);
        let values: [Value<'_>; 1] = [(&ttl, Type::INTERVAL)];
        let given_up = self.change("giving up", &permit.leaf.give_up, permit, &values).await?;
        given_up.ok_or(PostgresError::Superseded)?;
        self.waiters.wake(&permit.digest);
        Ok(())
    }

    pub(crate) async fn renew(
        &self,
        permit: &PostgresPermit,
        lease: Duration,
    ) -> Result<(), PostgresError> {
        let (lease, ttl) = (Interval(lease), Interval(self.ttl));
        let values: [Value<'_>; 2] = [(&lease, Type::INTERVAL), (&ttl, Type::INTERVAL)];
        let renewed = self.change("renewing a lease", &permit.leaf.renew, permit, &values).await?;
        renewed.map(drop).ok_or(PostgresError::Superseded)
    }

    pub(crate) async fn save_checkpoint(
        &self,
        permit: &PostgresPermit,
        checkpoint: &[u8],
    ) -> Result<(), PostgresError> {
        if checkpoint.len() > CHECKPOINT_BYTES_MAX {
            return Err(PostgresError::TooLarge {
                what: "checkpoint",
                bytes: checkpoint.len() as u64,
                limit: CHECKPOINT_BYTES_MAX as u64,
            });
        }
        let values: [Value<'_>; 1] = [(&checkpoint, Type::BYTEA)];
        let statement = &permit.leaf.save_checkpoint;
        let saved = self.change("saving a checkpoint", statement, permit, &values).await?;
        saved.map(drop).ok_or(PostgresError::Superseded)
    }
}

/// What a completion left, by its row: a response that was left out then is not there now.
pub(crate) fn completed(
    permit: &PostgresPermit,
    response: Option<Bytes>,
    row: &Row,
) -> Result<Completed, PostgresError> {
    let (completed_at, expires_at) = (column(row, 0)?, column(row, 1)?);
    let response = if column(row, 2)? { response } else { None };
    let (token, operation, attempt) = (permit.token, permit.operation, permit.attempt);
    Ok(Completed { response, completed_at, expires_at, token, operation, attempt })
}

/// Whether the server refused a statement with this code.
pub(crate) fn has_code(error: &PostgresError, code: &SqlState) -> bool {
    let PostgresError::Unavailable { source, .. } = error else { return false };
    let refused = source.downcast_ref::<tokio_postgres::Error>();
    refused.and_then(tokio_postgres::Error::code) == Some(code)
}
