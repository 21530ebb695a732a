//! Who runs a statement: a connection of the pool, or the caller's transaction.

use deadpool_postgres::Object;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row, Transaction};

/// A value of a statement, with its type, so that no round trip asks for it.
pub(crate) type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// One of the two, by reference.
#[derive(Clone, Copy)]
pub(crate) enum Session<'a> {
    Pooled(&'a Object),
    Caller(&'a Transaction<'a>),
}

impl Session<'_> {
    /// One round trip, but for the first time on a connection of the pool, which prepares it. The
    /// caller's connection is not known here, so its statement is sent whole.
    pub(crate) async fn rows(
        self,
        statement: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, Error> {
        match self {
            Session::Pooled(pooled) => {
                let types: Vec<Type> = values.iter().map(|(_, ty)| ty.clone()).collect();
                let prepared = pooled.prepare_typed_cached(statement, &types).await?;
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|(v, _)| *v).collect();
                pooled.query(&prepared, &values).await
            }
            Session::Caller(transaction) => transaction.query_typed(statement, values).await,
        }
    }
}
