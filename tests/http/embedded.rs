//! What only the embedded store can show: how often it woke and counted, what lies on its disk, a
//! clock that jumps, and what comes of a store that is closed, or full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Path;
use axum::routing::{any, post};
use http::StatusCode;
use oncelog::http::{Keep, Orphans, Policy, PolicyBuilder, Testimony};
use oncelog::{Claim, Durability, Fingerprint, Scope, Store};

use crate::ground::{Ground, options};
use crate::layer::support::{Api, Door, Layer, Runs, TTL, door, encoded, failing, policy, until};

fn hold() -> PolicyBuilder {
    Policy::builder(Orphans::Hold)
}

/// Serves a router behind a layer on a store that the test opened.
async fn on(
    store: Store,
    orphans: Orphans,
    set_up: impl FnOnce(Layer) -> Layer,
    router: Router,
) -> Api {
    Api::on((Arc::new(Ground::new()), store), orphans, set_up, router).await
}

/// Answers with the status in the path.
fn statuses(runs: &Runs) -> Router {
    let runs = runs.clone();
    let answer = move |Path(status): Path<u16>| async move {
        runs.begin();
        StatusCode::from_u16(status).unwrap()
    };
    Router::new().route("/status/{status}", any(answer))
}

/// Waits at a door, then answers which run it was.
fn slow(runs: &Runs, door: &Door) -> Router {
    slow_and(runs, door, |_| StatusCode::CREATED)
}

/// The same with a status that each run chooses.
fn slow_and(runs: &Runs, door: &Door, status: fn(u64) -> StatusCode) -> Router {
    let (runs, door) = (runs.clone(), door.clone());
    Router::new().fallback(any(move || async move {
        let run = runs.begin();
        door.pass().await;
        (status(run), format!("run {run}"))
    }))
}

fn first_conflicts(run: u64) -> StatusCode {
    if run == 1 { StatusCode::CONFLICT } else { StatusCode::CREATED }
}

#[tokio::test]
async fn the_lease_of_a_slow_handler_is_renewed_and_a_retry_sees_it_in_progress() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let dir = tempfile::tempdir().unwrap();
    let store = options().lease(Duration::from_millis(300)).open(dir.path()).unwrap();
    let rerun = Policy::builder(Orphans::Rerun).wait(Duration::from_millis(1000));
    let api = on(store, Orphans::Rerun, policy(rerun), slow(&runs, &door)).await;
    let first = api.post("/slow").key("k").spawn();
    porter.met().await;
    // It waits for more than three leases: a lapsed one would have been taken over.
    let retry = api.post("/slow").key("k").send().await;
    assert_eq!(retry.code(), "idempotency_in_progress");
    assert_eq!(retry.header("retry-after"), Some("1"));
    porter.let_through();
    assert_eq!(first.await.unwrap().text(), "run 1");
    assert_eq!((runs.count(), api.store.stats().orphaned_lease_lapsed), (1, 0));
}

#[tokio::test]
async fn a_broken_store_is_503_and_the_handler_does_not_run() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Rerun, statuses(&runs)).await;
    api.store.clone().close().unwrap();
    let refused = api.post("/status/201").key("k").send().await;
    assert_eq!((refused.status.as_u16(), &*refused.code()), (503, "idempotency_unavailable"));
    assert!(refused.is_retryable() && refused.headers.contains_key("retry-after"));
    assert_eq!(runs.count(), 0);
    assert_eq!(api.post("/status/201").send().await.status, 201, "no key needs no store");
}

#[tokio::test]
async fn a_completion_that_the_store_does_not_take_leaves_the_answer_and_an_orphan() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let api = on(store, Orphans::Hold, |layer| layer, slow(&runs, &door)).await;
    let first = api.post("/slow").key("k").spawn();
    porter.met().await;
    api.store.clone().close().unwrap();
    porter.let_through();
    assert_eq!(first.await.unwrap().text(), "run 1", "the effect has happened");
    let store = options().open(dir.path()).unwrap();
    assert_eq!(store.unresolved().unwrap().len(), 1);
    let api = on(store, Orphans::Hold, |layer| layer, slow(&runs, &door)).await;
    let held = api.post("/slow").key("k").send().await;
    assert_eq!(held.code(), "idempotency_outcome_unknown", "and never runs again by itself");
}

#[tokio::test]
async fn a_full_store_is_503_while_replays_go_on() {
    let runs = Runs::default();
    let dir = tempfile::tempdir().unwrap();
    let buffered = Durability::Buffered { sync_every: Duration::from_secs(10) };
    let store =
        Store::options().segment_bytes(64 << 10).durability(buffered).open(dir.path()).unwrap();
    let api = on(store, Orphans::Hold, |layer| layer, statuses(&runs)).await;
    api.post("/status/201").key("k").send().await;
    let mut permits = Vec::new();
    for path_bytes in [3000, 300, 30, 1] {
        let path = "p".repeat(path_bytes);
        loop {
            let key = permits.len().to_string();
            let scope = Scope { organization: "acme", method: "POST", path: &path, key: &key };
            match api.store.claim(scope, Fingerprint::of(b"")) {
                Ok(Claim::Granted(permit)) => permits.push(permit),
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    break;
                }
            }
        }
    }
    let refused = api.post("/status/201").key(&"k".repeat(255)).send().await;
    assert_eq!((refused.status.as_u16(), &*refused.code()), (503, "idempotency_unavailable"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(runs.count(), 1, "the handler does not run");
    assert!(api.post("/status/201").key("k").send().await.is_replay());
}

#[tokio::test]
async fn a_release_wakes_exactly_one_waiter_and_a_completion_all() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let api = Api::start(Orphans::Hold, slow_and(&runs, &door, first_conflicts)).await;
    let first = api.post("/").key("k").spawn();
    porter.met().await;
    let waiting: Vec<_> = (0..20).map(|_| api.post("/").key("k").spawn()).collect();
    // Each asks once, and once more to be woken.
    until("twenty wait", || api.store.stats().waits >= 40).await;

    porter.let_through();
    assert_eq!(first.await.unwrap().status, 409);
    porter.met().await;
    assert_eq!(runs.count(), 2, "one of them runs");
    assert_eq!(api.store.stats().waits, 40, "the others were not woken to look");
    porter.let_through();
    let mut replayed = 0;
    for reply in waiting {
        let reply = reply.await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.text()), (201, "run 2"));
        replayed += u32::from(reply.is_replay());
    }
    assert_eq!((replayed, runs.count()), (19, 2));
}

#[tokio::test]
async fn what_the_witness_has_is_marked_as_a_replay_where_it_cannot_be_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let (closing, asked) = (store.clone(), AtomicBool::new(false));
    let witness = Orphans::witness(move |_| {
        let knows = asked.swap(true, Ordering::SeqCst);
        if knows {
            closing.clone().close().unwrap();
        }
        let saved = knows.then(|| Testimony::Happened(encoded(202, b"saved")));
        async move { saved.ok_or_else(|| "not yet".into()) }
    });
    let api = on(store, witness, |layer| layer, failing()).await;
    assert_eq!(api.post("/").key("k").send().await.status, 500);
    let found = api.post("/").key("k").send().await;
    assert_eq!((found.text(), found.is_replay()), ("saved", true));
    assert_eq!(found.header("idempotency-original-date"), None, "no record says when");
}

/// powertools-lambda-python 8386, -typescript 5678: a live claim was taken for an orphan.
#[tokio::test]
async fn r05_a_claim_is_no_orphan_while_its_handler_lives() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let dir = tempfile::tempdir().unwrap();
    let store = options().lease(Duration::from_millis(200)).open(dir.path()).unwrap();
    let build = policy(Policy::builder(Orphans::Rerun).wait(Duration::from_millis(600)));
    let api = on(store, Orphans::Rerun, build, slow(&runs, &door)).await;
    let owner = api.post("/").key("k").spawn();
    porter.met().await;
    // It waits for three leases.
    assert_eq!(api.post("/").key("k").send().await.code(), "idempotency_in_progress");
    assert_eq!((runs.count(), api.store.stats().orphans), (1, 0));
    porter.let_through();
    owner.await.unwrap();
}

/// idempotency4j 49, stowleaf 27: secrets in stored bodies; an id in the place of the body.
#[tokio::test]
async fn r21_a_route_may_keep_bodies_off_the_disk_and_still_say_where_the_result_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let answer = || async { ([("location", "/cards/1")], "number 4111-1111-1111-1111") };
    let router = Router::new().route("/", post(answer));
    let api = on(store, Orphans::Hold, policy(hold().keep(Keep::Head)), router).await;
    let first = api.post("/").key("k").body("cvc=123456789").send().await;
    assert!(first.text().starts_with("number"));
    let retry = api.post("/").key("k").body("cvc=123456789").send().await;
    assert_eq!(retry.code(), "idempotency_response_not_stored");
    assert_eq!(retry.header("location"), Some("/cards/1"));
    api.store.close().unwrap();
    assert!(at_rest(dir.path(), b"/cards/1"), "the search finds what is there");
    for secret in [&b"4111-1111"[..], b"cvc=123456789"] {
        assert!(!at_rest(dir.path(), secret));
    }
}

/// Truxify 6683, Soter 944, idempot-js 98: growth without bound; expired but present.
#[tokio::test]
async fn r23_what_is_expired_is_absent_at_once_and_purged_by_whole_files() {
    let (runs, (door, porter)) = (Runs::default(), door());
    let api = Api::start(Orphans::Hold, slow(&runs, &door)).await;
    for number in 0..50 {
        porter.let_through();
        api.post("/").key(&number.to_string()).send().await;
    }
    api.pass(TTL).await;
    porter.let_through();
    assert!(!api.post("/").key("7").send().await.is_replay(), "present, and absent");
    api.pass(Duration::from_secs(24 * 3600)).await;
    assert!(api.store.expire().unwrap().segments >= 1);
    assert_eq!(api.store.stats().responses, 1);
}

/// Trellis 695, iceberg 14196: `Retry-After` of a clock that runs ahead.
#[tokio::test]
async fn r24_retry_after_is_true_although_the_wall_clock_jumps() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let build = policy(hold().wait(Duration::ZERO));
    let api = Api::with(Orphans::Hold, build, slow(&runs, &door)).await;
    let owner = api.post("/").key("k").spawn();
    porter.met().await;
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    for wall in [SystemTime::UNIX_EPOCH + century, SystemTime::UNIX_EPOCH] {
        api.ground.clock.set_wall(wall);
        let running = api.post("/").key("k").send().await;
        let after: u64 = running.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{after}");
    }
    porter.let_through();
    owner.await.unwrap();
}

#[expect(clippy::disallowed_methods, reason = "what lies on the disk is what is asked")]
fn at_rest(dir: &std::path::Path, sought: &[u8]) -> bool {
    let files = std::fs::read_dir(dir).unwrap();
    files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .any(|bytes| bytes.windows(sought.len()).any(|window| window == sought))
}

/// YieldVault-RWA 457 and 466, hono-idempotency 59, idempotent 141: counters.
#[tokio::test]
async fn r22_answers_are_counted() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let build = policy(hold().wait(Duration::ZERO));
    let api = Api::with(Orphans::Hold, build, slow(&runs, &door)).await;
    let owner = api.post("/").key("k").spawn();
    porter.met().await;
    api.post("/").key("k").send().await;
    api.post("/").key("k").body("another").send().await;
    porter.let_through();
    owner.await.unwrap();
    api.post("/").key("k").send().await;
    let stats = api.store.stats();
    assert_eq!((stats.granted, stats.waits, stats.conflicts, stats.replayed), (1, 1, 1, 1));
}
