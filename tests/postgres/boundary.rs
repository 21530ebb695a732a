//! One scope, two generations: it is claimed once, whoever is late.

use std::sync::Arc;
use std::time::Duration;

use oncelog::cluster::PostgresStore;
use oncelog::http::{Answer, Backend as _};
use oncelog::{Fingerprint, Scope};
use tokio::task::JoinSet;

use crate::server::{Server, fresh_schema, options, rotate};

const LEASE: Duration = Duration::from_secs(60);

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/orders", key }
}

fn body() -> Fingerprint {
    Fingerprint::of(b"body")
}

async fn connect(server: &Server, schema: &str) -> PostgresStore {
    options(schema).connect(&server.url()).await.unwrap()
}

async fn is_granted(store: &PostgresStore, key: &str) -> bool {
    matches!(store.claim(scope(key), body(), LEASE).await.unwrap(), Answer::Granted(_))
}

/// How often a scope is granted to a store that knows the newest generation, in a transaction that
/// is still open, and to one that does not.
async fn grants_to_the_late(server: &Server, schema: &str, fault: &str) -> usize {
    let late = connect(server, schema).await;
    assert!(is_granted(&late, "so that it knows where claims go").await);
    rotate(server, schema).await;
    server.sql(fault).await;
    let early = connect(server, schema).await;
    let mut client = server.client().await;
    let transaction = client.transaction().await.unwrap();
    let first = early.claim_in(&transaction, scope("order"), body(), LEASE).await;
    let first = matches!(first, Ok(Answer::Granted(_)));
    let second = tokio::spawn(async move { is_granted(&late, "order").await });
    if fault.is_empty() {
        // It was refused, and waits in the newest generation for the transaction.
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                     AND query LIKE '%claim_2%'";
        while server.tell(waits).await == "0" && !second.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    let second = if fault.is_empty() {
        transaction.commit().await.unwrap();
        second.await.unwrap()
    } else {
        let second = second.await.unwrap();
        transaction.commit().await.unwrap();
        second
    };
    usize::from(first) + usize::from(second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_for_a_closed_generation_is_refused_and_made_in_the_open_one() {
    let (server, schema) = (Server::shared(), fresh_schema());
    assert_eq!(grants_to_the_late(&server, &schema, "").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_trigger_of_closed_generations_two_are_granted() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let fault = format!("DROP TRIGGER closed ON {schema}.claim_1");
    assert_eq!(grants_to_the_late(&server, &schema, &fault).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_is_not_closed_while_a_claim_in_it_is_uncommitted() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let store = connect(&server, &schema).await;
    let mut client = server.client().await;
    let transaction = client.transaction().await.unwrap();
    let claimed = store.claim_in(&transaction, scope("order"), body(), LEASE).await.unwrap();
    assert!(matches!(claimed, Answer::Granted(_)));
    let other = server.client().await;
    let rotate_now = format!("SET lock_timeout = '50ms'; SELECT {schema}.rotate(1)");
    let refused = other.batch_execute(&rotate_now).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03", "{refused}");
    transaction.commit().await.unwrap();
    other.batch_execute(&rotate_now).await.unwrap();
    // Neither who knows the new generation nor who does not is granted it again.
    assert!(!is_granted(&store, "order").await);
    assert!(!is_granted(&connect(&server, &schema).await, "order").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scope_is_granted_once_while_generations_change() {
    const ROUNDS: usize = 20;
    let (server, schema) = (Server::shared(), fresh_schema());
    let stores = [connect(&server, &schema).await, connect(&server, &schema).await];
    let turning = {
        let (server, schema) = (Arc::clone(&server), schema.clone());
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                rotate(&server, &schema).await;
            }
        })
    };
    let (mut round, mut rounds_after) = (0, 0);
    while rounds_after < 5 {
        rounds_after += usize::from(turning.is_finished());
        round += 1;
        let mut callers = JoinSet::new();
        for caller in 0..12 {
            let store = stores[caller % 2].clone();
            callers.spawn(async move { is_granted(&store, &format!("order-{round}")).await });
        }
        let granted = callers.join_all().await.into_iter().filter(|granted| *granted).count();
        assert_eq!(granted, 1, "round {round}");
    }
    turning.await.unwrap();
    let generations = format!("SELECT count(*) FROM {schema}.generation");
    assert_eq!(server.tell(&generations).await, (ROUNDS + 1).to_string());
}
