//! What an operator asks of the store.

use bytes::Bytes;
use tokio_postgres::types::Type;

use crate::cluster::postgres::deeds::RESPONSE_BYTES_MAX;
use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::held::{Held, bigint, column};
use crate::cluster::postgres::session::Value;
use crate::cluster::postgres::store::PostgresStore;
use crate::cluster::postgres::wire::Interval;
use crate::http::backend::{Administer, Completed, Holding, Unresolved};
use crate::scope::{Scope, Token, decode};

impl Administer for PostgresStore {
    async fn look_up(&self, scope: Scope<'_>) -> Result<Option<Holding>, PostgresError> {
        scope.check()?;
        let (shared, digest) = (&self.shared, scope.digest());
        let digest = &digest[..];
        let values: [Value<'_>; 1] = [(&digest, Type::BYTEA)];
        let rows = shared.rows("looking a scope up", &shared.statements.look, &values).await?;
        rows.first().map(|row| Held::read(row)?.holding()).transpose()
    }

    async fn unresolved(
        &self,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, PostgresError> {
        let after = after.map_or(Ok(0), bigint)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values: [Value<'_>; 2] = [(&after, Type::INT8), (&limit, Type::INT8)];
        let statement = &self.shared.statements.unresolved;
        let rows = self.shared.rows("listing orphans", statement, &values).await?;
        let orphan = |row| {
            let held = Held::read(row)?;
            let scope = decode(column(row, 13)?);
            let scope = scope.ok_or(PostgresError::Corrupt { what: "its scope is none" })?;
            let cause = held.cause.ok_or(PostgresError::Corrupt { what: "it is no orphan" })?;
            Ok(Unresolved {
                organization: scope.organization.to_owned(),
                method: scope.method.to_owned(),
                path: scope.path.to_owned(),
                key: scope.key.to_owned(),
                fingerprint: held.fingerprint,
                orphan: held.orphaned(cause),
            })
        };
        rows.iter().map(orphan).collect()
    }

    async fn resolve(
        &self,
        scope: Scope<'_>,
        seen: Token,
        response: &[u8],
    ) -> Result<Completed, PostgresError> {
        scope.check()?;
        let (shared, digest, seen) = (&self.shared, scope.digest(), bigint(seen)?);
        let (digest, ttl) = (&digest[..], Interval(shared.ttl));
        let body = (response.len() <= RESPONSE_BYTES_MAX).then_some(response);
        let values: [Value<'_>; 4] = [
            (&digest, Type::BYTEA),
            (&seen, Type::INT8),
            (&ttl, Type::INTERVAL),
            (&body, Type::BYTEA),
        ];
        let rows = shared.rows("resolving an orphan", &shared.statements.resolve, &values).await?;
        let row = rows.first().ok_or(PostgresError::Superseded)?;
        let completed = Held::read(row)?.completed()?;
        shared.waiters.wake(&scope.digest());
        Ok(Completed { response: body.map(Bytes::copy_from_slice), ..completed })
    }

    /// The row is gone for every reader; its bytes are overwritten when PostgreSQL vacuums the
    /// table, and stay in archived WAL and backups as long as those are kept.
    async fn forget(&self, scope: Scope<'_>) -> Result<bool, PostgresError> {
        scope.check()?;
        let (shared, digest) = (&self.shared, scope.digest());
        let digest = &digest[..];
        let values: [Value<'_>; 1] = [(&digest, Type::BYTEA)];
        let rows = shared.rows("forgetting a scope", &shared.statements.forget, &values).await?;
        rows.iter().try_fold(false, |any, row| Ok(any | column::<bool>(row, 0)?))
    }

    /// Reads the whole table.
    async fn forget_organization(&self, organization: &str) -> Result<u64, PostgresError> {
        // The prefix that every scope of the organization begins with, up to its length.
        let scope = Scope { organization, method: "-", path: "-", key: "-" };
        scope.check()?;
        let encoded = scope.encode();
        let (length, name) = (&encoded[..2], organization.as_bytes());
        let bytes = i32::try_from(name.len())
            .map_err(|_| PostgresError::Invalid { what: "an organization of 2 GiB" })?;
        let values: [Value<'_>; 3] =
            [(&length, Type::BYTEA), (&bytes, Type::INT4), (&name, Type::BYTEA)];
        let statement = &self.shared.statements.forget_organization;
        let rows = self.shared.rows("forgetting an organization", statement, &values).await?;
        let gone: i64 = rows.first().map_or(Ok(0), |row| column(row, 0))?;
        Ok(u64::try_from(gone).unwrap_or_default())
    }

    async fn release_orphan(&self, scope: Scope<'_>, seen: Token) -> Result<(), PostgresError> {
        scope.check()?;
        let (shared, digest, seen) = (&self.shared, scope.digest(), bigint(seen)?);
        let digest = &digest[..];
        let values: [Value<'_>; 2] = [(&digest, Type::BYTEA), (&seen, Type::INT8)];
        let statement = &shared.statements.release_orphan;
        let rows = shared.rows("releasing an orphan", statement, &values).await?;
        rows.first().ok_or(PostgresError::Superseded)?;
        shared.waiters.wake(&scope.digest());
        Ok(())
    }
}
