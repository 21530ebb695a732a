//! Claim and completion in the caller's own transaction: with its effect, or not at all.

use std::sync::Arc;
use std::time::Duration;

use oncelog::cluster::{PostgresError, PostgresPermit, PostgresStore};
use oncelog::http::{Answer, Backend as _, BackendError as _, BackendPermit as _, ErrorKind};
use oncelog::{Fingerprint, Scope};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::server::{Server, fresh_schema, options};

const LEASE: Duration = Duration::from_secs(60);
const SCOPE: Scope<'_> =
    Scope { organization: "acme", method: "POST", path: "/payments", key: "payment-1" };

struct Shop {
    server: Arc<Server>,
    store: PostgresStore,
    schema: String,
    client: Client,
}

impl Shop {
    async fn open() -> Shop {
        let (server, schema) = (Server::shared(), fresh_schema());
        let store = options(&schema).connect(&server.url()).await.unwrap();
        let client = server.client().await;
        client.batch_execute(&format!("CREATE TABLE {schema}.payment (id int)")).await.unwrap();
        Shop { server, store, schema, client }
    }

    async fn payments(&self) -> String {
        self.server.tell(&format!("SELECT count(*) FROM {}.payment", self.schema)).await
    }

    async fn claim(&self) -> Result<Answer<PostgresPermit>, PostgresError> {
        self.store.claim(SCOPE, body(), LEASE).await
    }
}

fn body() -> Fingerprint {
    Fingerprint::of(b"body")
}

async fn claim_in(store: &PostgresStore, transaction: &Transaction<'_>) -> PostgresPermit {
    match store.claim_in(transaction, SCOPE, body(), LEASE).await.unwrap() {
        Answer::Granted(permit) => permit,
        other => panic!("a free scope was {other:?}"),
    }
}

/// The effect and both ends of its claim, in a transaction that is still open.
async fn pay<'a>(
    store: &PostgresStore,
    schema: &str,
    client: &'a mut Client,
) -> (Transaction<'a>, PostgresPermit) {
    let transaction = client.transaction().await.unwrap();
    let permit = claim_in(store, &transaction).await;
    transaction.batch_execute(&format!("INSERT INTO {schema}.payment VALUES (1)")).await.unwrap();
    let completed = store.complete_in(&transaction, &permit, &[b"paid ", b"1"]).await.unwrap();
    assert_eq!(completed.response.as_deref(), Some(&b"paid 1"[..]));
    (transaction, permit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effect_claim_and_completion_commit_together() {
    let mut shop = Shop::open().await;
    let (transaction, permit) = pay(&shop.store, &shop.schema, &mut shop.client).await;
    transaction.commit().await.unwrap();
    assert_eq!(shop.payments().await, "1");
    match shop.claim().await.unwrap() {
        Answer::Replay(completed) => {
            assert_eq!(completed.response.as_deref(), Some(&b"paid 1"[..]));
            assert_eq!(completed.operation, permit.operation());
        }
        other => panic!("after the commit it was {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_frees_the_scope_as_if_nothing_had_happened() {
    let mut shop = Shop::open().await;
    let (transaction, permit) = pay(&shop.store, &shop.schema, &mut shop.client).await;
    transaction.rollback().await.unwrap();
    assert_eq!(shop.payments().await, "0");
    let late = shop.store.complete(&permit, &[b"late"]).await;
    assert!(matches!(late, Err(PostgresError::Superseded)), "{late:?}");
    assert!(matches!(shop.claim().await.unwrap(), Answer::Granted(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_before_the_commit_takes_effect_and_claim_with_it() {
    let mut shop = Shop::open().await;
    let (transaction, _) = pay(&shop.store, &shop.schema, &mut shop.client).await;
    let pid = transaction.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    let pid: i32 = pid.get(0);
    shop.server.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)")).await;
    assert!(transaction.commit().await.is_err());
    assert_eq!(shop.payments().await, "0");
    assert!(matches!(shop.claim().await.unwrap(), Answer::Granted(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_meanwhile_waits_for_the_commit_and_gets_its_response() {
    let mut shop = Shop::open().await;
    let store = shop.store.clone();
    let (transaction, _) = pay(&shop.store, &shop.schema, &mut shop.client).await;
    let retry = tokio::spawn(async move { store.claim(SCOPE, body(), LEASE).await });
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
         AND query LIKE '%{}%'",
        shop.schema
    );
    while shop.server.tell(&waits).await == "0" {
        assert!(!retry.is_finished(), "{:?}", retry.await);
    }
    transaction.commit().await.unwrap();
    let told = retry.await.unwrap();
    assert!(matches!(told, Ok(Answer::Replay(_))), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_waits_too_long_is_unavailable_and_claims_nothing() {
    let mut shop = Shop::open().await;
    let store = shop.store.clone();
    let (transaction, _) = pay(&shop.store, &shop.schema, &mut shop.client).await;
    let told = store.claim(SCOPE, body(), LEASE).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Unavailable, "{told}");
    transaction.commit().await.unwrap();
    assert_eq!(shop.payments().await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_with_an_old_snapshot_is_refused() {
    let mut shop = Shop::open().await;
    let Answer::Granted(permit) = shop.claim().await.unwrap() else { panic!("it is free") };
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let begun = shop.client.build_transaction().isolation_level(level).start().await.unwrap();
        let scope = Scope { key: "payment-2", ..SCOPE };
        let claimed = shop.store.claim_in(&begun, scope, body(), LEASE).await;
        assert!(matches!(claimed, Err(PostgresError::Invalid { .. })), "{claimed:?}");
        let completed = shop.store.complete_in(&begun, &permit, &[b"paid"]).await;
        assert!(matches!(completed, Err(PostgresError::Invalid { .. })), "{completed:?}");
        begun.rollback().await.unwrap();
    }
    shop.store.complete(&permit, &[b"paid"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_claim_is_completed_in_a_transaction_unless_it_was_superseded() {
    let mut shop = Shop::open().await;
    let Answer::Granted(first) = shop.claim().await.unwrap() else { panic!("it is free") };
    shop.store.give_up(&first).await.unwrap();
    let taken = shop.store.take_over(SCOPE, body(), first.token(), LEASE).await.unwrap();
    let Answer::Granted(second) = taken else { panic!("it is an orphan") };
    let transaction = shop.client.transaction().await.unwrap();
    let late = shop.store.complete_in(&transaction, &first, &[b"late"]).await;
    assert!(matches!(late, Err(PostgresError::Superseded)), "{late:?}");
    shop.store.complete_in(&transaction, &second, &[b"paid"]).await.unwrap();
    // The same transaction may ask again.
    shop.store.complete_in(&transaction, &second, &[b"paid"]).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(matches!(shop.claim().await.unwrap(), Answer::Replay(_)));
}
