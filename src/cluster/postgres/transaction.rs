//! Claim and completion inside the caller's own transaction.

use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use crate::cluster::postgres::claims::{Told, Wanted, is_out_of_date};
use crate::cluster::postgres::deeds::{completed, joined};
use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::held::{bigint, column};
use crate::cluster::postgres::permit::PostgresPermit;
use crate::cluster::postgres::session::{Session, Value};
use crate::cluster::postgres::store::PostgresStore;
use crate::cluster::postgres::wire::{Interval, Uuid};
use crate::http::backend::{Answer, Completed};
use crate::scope::{Fingerprint, Scope};

/// How often a claim starts again when what it meets is gone by the time it looks.
const ATTEMPTS_MAX: usize = 4;

const ISOLATION: PostgresError =
    PostgresError::Invalid { what: "the transaction is not at the isolation level read committed" };

impl PostgresStore {
    /// Claims a scope in the caller's transaction: the claim is there when that commits, together
    /// with whatever else it did, and never was when it rolls back.
    ///
    /// The transaction is one of the database that the store lies in, at the isolation level
    /// `READ COMMITTED`: an older snapshot could miss a claim that was committed since. Until it
    /// ends, another claim of the same scope waits on the server, at most for its `lock_timeout`
    /// (1 s on the store's own connections), and is then answered `Unavailable`. The lease begins
    /// at this call; a transaction needs none, a claim that is committed without its completion
    /// does.
    ///
    /// One round trip where the scope is free.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use oncelog::cluster::PostgresStore;
    /// # use oncelog::http::Answer;
    /// # use oncelog::{Fingerprint, Scope};
    /// # async fn pay(store: PostgresStore, client: &mut tokio_postgres::Client, body: &[u8])
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/pay", key: "1" };
    /// let lease = Duration::from_secs(60);
    /// let transaction = client.transaction().await?;
    /// match store.claim_in(&transaction, scope, Fingerprint::of(body), lease).await? {
    ///     Answer::Granted(permit) => {
    ///         transaction.execute("UPDATE account SET balance = balance - 100", &[]).await?;
    ///         store.complete_in(&transaction, &permit, &[b"201 paid"]).await?;
    ///         transaction.commit().await?;
    ///     }
    ///     Answer::Replay(completed) => println!("it ran: {:?}", completed.response),
    ///     other => println!("not now: {other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Invalid` at another isolation level; otherwise as a claim. After `Unavailable` the
    /// transaction is to be rolled back and begun anew.
    pub async fn claim_in(
        &self,
        transaction: &Transaction<'_>,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Told {
        let wanted = Wanted::new(scope, fingerprint, lease)?;
        let (shared, session) = (&self.shared, Session::Caller(transaction));
        for _ in 0..ATTEMPTS_MAX {
            let view = shared.view().await?;
            match wanted.insert(session, &view.claim_in, shared.ttl).await {
                Ok(Some(row)) => return wanted.permit(&view, &row).map(Answer::Granted),
                Ok(None) => check_isolation(session).await?,
                Err(error) => {
                    if is_out_of_date(&error) {
                        // The transaction is lost; the next one is not.
                        shared.refresh().await?;
                    }
                    return Err(PostgresError::of("claiming in a transaction", error));
                }
            }
            if let Some(held) = shared.look(session, &wanted.digest).await? {
                return held.answer(fingerprint);
            }
            shared.clear(session, &wanted.digest).await?;
        }
        Err(PostgresError::Unavailable {
            context: "claiming a scope that others claim and release",
            source: std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ResourceBusy)),
        })
    }

    /// Completes an attempt in the caller's transaction: the response can be replayed when that
    /// commits, together with whatever else it did. The permit may be one of
    /// [`PostgresStore::claim_in`] in the same transaction, or of an earlier claim.
    ///
    /// `completed_at` is the time of this call, not of the commit. Callers of this process that
    /// wait for the attempt find the completion by asking, within 100 ms.
    ///
    /// # Errors
    /// `Superseded` where the attempt is no longer the current one: the effect must not be
    /// committed. `Invalid` at another isolation level than `READ COMMITTED`. `Unavailable` as
    /// for any statement. In each case the transaction is to be rolled back.
    pub async fn complete_in(
        &self,
        transaction: &Transaction<'_>,
        permit: &PostgresPermit,
        parts: &[&[u8]],
    ) -> Result<Completed, PostgresError> {
        let (shared, session) = (&self.shared, Session::Caller(transaction));
        let (digest, token) = (&permit.digest[..], bigint(permit.token)?);
        let operation = Uuid(permit.operation.to_bytes());
        let (ttl, response) = (Interval(shared.ttl), joined(parts));
        let body = response.as_deref();
        let values: [Value<'_>; 5] = [
            (&digest, Type::BYTEA),
            (&token, Type::INT8),
            (&operation, Type::UUID),
            (&ttl, Type::INTERVAL),
            (&body, Type::BYTEA),
        ];
        let failed = |error| PostgresError::of("completing in a transaction", error);
        let rows = session.rows(&permit.leaf.complete_in, &values).await.map_err(failed)?;
        if let Some(row) = rows.first() {
            return completed(permit, response, row);
        }
        check_isolation(session).await?;
        let again = session.rows(&permit.leaf.completed, &values[..3]).await.map_err(failed)?;
        let row = again.first().ok_or(PostgresError::Superseded)?;
        completed(permit, response, row)
    }
}

/// Tells a transaction that sees too little from a scope that is taken.
async fn check_isolation(session: Session<'_>) -> Result<(), PostgresError> {
    let rows = session.rows("SELECT current_setting('transaction_isolation')", &[]).await;
    let rows = rows.map_err(|error| PostgresError::of("reading the isolation level", error))?;
    let level: Option<&str> = rows.first().map(|row| column(row, 0)).transpose()?;
    if level == Some("read committed") { Ok(()) } else { Err(ISOLATION) }
}
