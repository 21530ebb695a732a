//! The schema of a store: its name, its version, and how it comes to be there.

use std::sync::Arc;

use deadpool_postgres::Object;
use tokio_postgres::error::SqlState;

use crate::cluster::postgres::error::PostgresError;

/// The version that this crate makes and knows.
pub(crate) const VERSION: i32 = 1;

/// Leaves room in PostgreSQL's 63 bytes for what is derived from it.
const NAME_BYTES_MAX: usize = 48;

/// The name of a schema, which needs no escaping within double or single quotes.
#[derive(Clone, Debug)]
pub(crate) struct SchemaName(Arc<str>);

impl SchemaName {
    pub(crate) fn new(name: &str) -> Result<SchemaName, PostgresError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if !begins || !name.bytes().all(plain) || name.len() > NAME_BYTES_MAX {
            let what = "a schema is named by at most 48 letters, digits and underscores";
            return Err(PostgresError::Invalid { what });
        }
        Ok(SchemaName(name.into()))
    }

    /// A text of SQL in which `{schema}` stands for the name.
    pub(crate) fn fill(&self, sql: &str) -> String {
        sql.replace("{schema}", &self.0)
    }
}

/// Makes the schema where it is not there. Any number of processes may do so at once.
pub(crate) async fn migrate(
    connection: &mut Object,
    schema: &SchemaName,
) -> Result<(), PostgresError> {
    let failed = |error| PostgresError::of("migrating the schema", error);
    let transaction = connection.transaction().await.map_err(failed)?;
    // Others wait here for as long as it takes, and find the work done.
    let lock = "SET LOCAL lock_timeout = 0; \
        SELECT pg_advisory_xact_lock(hashtextextended('{schema}.migrate', 0))";
    transaction.batch_execute(&schema.fill(lock)).await.map_err(failed)?;
    let there = "SELECT to_regclass('\"{schema}\".store') IS NOT NULL";
    let there = transaction.query_one(&schema.fill(there), &[]).await.map_err(failed)?;
    if !there.get::<_, bool>(0) {
        let create = "CREATE SCHEMA IF NOT EXISTS \"{schema}\"";
        transaction.batch_execute(&schema.fill(create)).await.map_err(failed)?;
        let tables = schema.fill(include_str!("schema.sql"));
        transaction.batch_execute(&tables).await.map_err(failed)?;
        let open = schema.fill("SELECT \"{schema}\".rotate(NULL)");
        transaction.batch_execute(&open).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// Refuses a schema that is not there, or that a newer version of this crate has changed.
pub(crate) async fn check(connection: &Object, schema: &SchemaName) -> Result<(), PostgresError> {
    let version = schema.fill("SELECT version FROM \"{schema}\".store");
    let found = match connection.query_opt(&version, &[]).await {
        Ok(row) => row.map(|row| row.get(0)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => None,
        Err(error) => return Err(PostgresError::of("reading the version of the schema", error)),
    };
    if found == Some(VERSION) {
        return Ok(());
    }
    Err(PostgresError::Version { found, known: VERSION })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_need_escaping_is_refused() {
        for name in ["", "1a", "a b", "a\"b", "a'b", "\u{e4}", &"a".repeat(49)] {
            assert!(SchemaName::new(name).is_err(), "{name}");
        }
        for name in ["oncelog", "_a1", "A", &"a".repeat(48)] {
            assert!(SchemaName::new(name).is_ok(), "{name}");
        }
    }
}
