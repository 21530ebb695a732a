//! The schema: made once, refused where it is another's, its generations opened and dropped.

use std::time::Duration;

use oncelog::cluster::{Migrate, PostgresError, PostgresStore};
use oncelog::http::{Administer as _, Answer, Backend as _, BackendError as _, ErrorKind, Holding};
use oncelog::{Fingerprint, Scope};
use tokio::task::JoinSet;

use crate::server::{Server, TTL, fresh_schema, options, rotate, shift};

const LEASE: Duration = Duration::from_secs(60);
const SCOPE: Scope<'_> = Scope { organization: "acme", method: "POST", path: "/o", key: "order" };

fn body() -> Fingerprint {
    Fingerprint::of(b"body")
}

async fn complete(store: &PostgresStore) {
    let claimed = store.claim(SCOPE, body(), LEASE).await.unwrap();
    let Answer::Granted(permit) = claimed else { panic!("it is free") };
    store.complete(&permit, &[b"response"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_processes_may_migrate_at_once_and_again() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let mut connecting = JoinSet::new();
    for _ in 0..8 {
        let (options, url) = (options(&schema).connections(2), server.url());
        connecting.spawn(async move { options.connect(&url).await });
    }
    for store in connecting.join_all().await {
        assert!(store.is_ok(), "{store:?}");
    }
    let generations = format!("SELECT count(*) FROM {schema}.generation");
    assert_eq!(server.tell(&generations).await, "1");
    options(&schema).migrate(Migrate::Never).connect(&server.url()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_missing_or_newer_is_refused() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let connect = async || {
        let connected = options(&schema).migrate(Migrate::Never).connect(&server.url()).await;
        connected.unwrap_err()
    };
    assert!(matches!(connect().await, PostgresError::Version { found: None, .. }));
    options(&schema).connect(&server.url()).await.unwrap();
    server.sql(&format!("UPDATE {schema}.store SET version = 99")).await;
    assert!(matches!(connect().await, PostgresError::Version { found: Some(99), .. }));
    let migrating = options(&schema).connect(&server.url()).await.unwrap_err();
    assert!(matches!(migrating, PostgresError::Version { found: Some(99), .. }), "{migrating}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_is_dropped_once_everything_in_it_is_past_and_not_before() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let store = options(&schema).connect(&server.url()).await.unwrap();
    complete(&store).await;
    rotate(&server, &schema).await;
    let grace = 60;
    for (seconds, held, partitions) in [
        (0, true, 0),
        (TTL.as_secs() - 30, true, 0),
        (TTL.as_secs() + grace / 2, false, 0),
        (TTL.as_secs() + grace + 30, false, 1),
    ] {
        shift(&server, &schema, seconds).await;
        let holding = store.look_up(SCOPE).await.unwrap();
        assert_eq!(matches!(holding, Some(Holding::Completed(_))), held, "{seconds}");
        let dropped = store.expire().await.unwrap();
        assert_eq!(dropped.partitions, partitions, "{seconds}");
        assert_eq!(dropped.bytes > 0, partitions > 0);
    }
    let left = format!("SELECT string_agg(generation::text, ' ') FROM {schema}.generation");
    assert_eq!(server.tell(&left).await, "2");
    complete(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_stays_for_a_completion_whose_transaction_was_open_when_it_was_past() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let store = options(&schema).connect(&server.url()).await.unwrap();
    let claimed = store.claim(SCOPE, body(), LEASE).await.unwrap();
    let Answer::Granted(permit) = claimed else { panic!("it is free") };
    rotate(&server, &schema).await;
    // Completed just before the orphan that it is by then would be past.
    shift(&server, &schema, TTL.as_secs() + 50).await;
    let mut client = server.client().await;
    let transaction = client.transaction().await.unwrap();
    store.complete_in(&transaction, &permit, &[b"response"]).await.unwrap();
    shift(&server, &schema, TTL.as_secs() + 200).await;
    let held_up = store.expire().await.unwrap_err();
    assert_eq!(held_up.kind(), ErrorKind::Unavailable, "{held_up}");
    // Nor is the scope claimed again meanwhile, whatever its committed row says.
    let claimed = store.claim(SCOPE, body(), LEASE).await.unwrap_err();
    assert_eq!(claimed.kind(), ErrorKind::Unavailable, "{claimed}");
    transaction.commit().await.unwrap();
    assert_eq!(store.expire().await.unwrap().partitions, 0);
    let claimed = store.claim(SCOPE, body(), LEASE).await.unwrap();
    assert!(matches!(claimed, Answer::Replay(_)), "{claimed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_generation_that_still_lives_is_opened_again() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let store = options(&schema).connect(&server.url()).await.unwrap();
    let claimed = store.claim(SCOPE, body(), LEASE).await.unwrap();
    let Answer::Granted(permit) = claimed else { panic!("it is free") };
    rotate(&server, &schema).await;
    shift(&server, &schema, 200).await;
    // What a process leaves that dies between its seal and its second look.
    let seal = "ADD CONSTRAINT sealed CHECK (false) NOT VALID";
    server.sql(&format!("ALTER TABLE {schema}.claim_1 {seal}")).await;
    let refused = store.complete(&permit, &[b"response"]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert_eq!(store.expire().await.unwrap().partitions, 0);
    store.complete(&permit, &[b"response"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_generation_is_opened_and_the_past_one_dropped_without_being_asked() {
    let (server, schema) = (Server::shared(), fresh_schema());
    let ttl = Duration::from_secs(60);
    let store = options(&schema).ttl(ttl).connect(&server.url()).await.unwrap();
    complete(&store).await;
    let newest = format!("SELECT max(generation) FROM {schema}.generation");
    let oldest = format!("SELECT min(generation) FROM {schema}.generation");
    shift(&server, &schema, 61).await;
    while server.tell(&newest).await == "1" {
        tokio::task::yield_now().await;
    }
    shift(&server, &schema, 300).await;
    while server.tell(&oldest).await == "1" {
        tokio::task::yield_now().await;
    }
    complete(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_made_for_an_empty_generation_never_reads_all_of_it() {
    const MORE: usize = 20;
    let (server, schema) = (Server::shared(), fresh_schema());
    let store = options(&schema).connections(1).connect(&server.url()).await.unwrap();
    complete(&store).await;
    // Now the server knows that it is tiny, and would plan for that.
    server.sql(&format!("ANALYZE {schema}.claim_1")).await;
    for number in 0..MORE {
        let key = format!("order-{number}");
        let scope = Scope { key: &key, ..SCOPE };
        let claimed = store.claim(scope, body(), LEASE).await.unwrap();
        let Answer::Granted(permit) = claimed else { panic!("it is free") };
        store.complete(&permit, &[b"response"]).await.unwrap();
    }
    drop(store);
    let counted = |what: &str| {
        format!("SELECT {what} FROM pg_stat_user_tables WHERE relid = '{schema}.claim_1'::regclass")
    };
    // A connection reports what it did when it ends.
    while server.tell(&counted("n_tup_upd")).await != (MORE + 1).to_string() {
        tokio::task::yield_now().await;
    }
    let by_index = server.tell(&counted("idx_scan")).await.parse::<usize>().unwrap();
    assert!(by_index > MORE, "{by_index} of {} updates found their row by an index", MORE + 1);
}
