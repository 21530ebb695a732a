//! What users of other idempotency layers reported, each as a test that this one does not have the
//! bug, or has what was asked for. The source is named above each test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Query;
use axum::response::IntoResponse;
use axum::routing::{any, post};
use axum::{Extension, Router, body::Body};
use bytes::Bytes;
use http::{HeaderName, Method, Response, StatusCode};
use oncelog::Scope;
use oncelog::conformance::Harness as _;
use oncelog::http::{
    Administer, Attempt, Holding, Keep, Orphans, Permission, Policy, PolicyBuilder,
};

use crate::ground::Ground;
use crate::layer::support::{
    Account, Api, Claims, Door, LEASE_OVER, Porter, Runs, TTL, door, policy, until,
};

const KEY: Scope<'_> = Scope { organization: "acme", method: "POST", path: "/", key: "k" };

fn hold() -> PolicyBuilder {
    Policy::builder(Orphans::Hold)
}

/// Waits at a door where there is one, then answers `201` and which run it was.
fn runs_at(runs: &Runs, door: Option<&Door>) -> Router {
    let (runs, door) = (runs.clone(), door.cloned());
    Router::new().fallback(any(move || async move {
        let run = runs.begin();
        if let Some(door) = door {
            door.pass().await;
        }
        (StatusCode::CREATED, [("location", "/made/1")], format!("run {run}"))
    }))
}

/// A server whose handler waits at a door.
struct Slow {
    api: Api,
    runs: Runs,
    porter: Porter,
}

async fn slow(build: PolicyBuilder) -> Slow {
    let (runs, (door, porter)) = (Runs::default(), door());
    let api = Api::with(Orphans::Hold, policy(build), runs_at(&runs, Some(&door))).await;
    Slow { api, runs, porter }
}

/// express-idempotency 32: retries got 409 for three days after a crash.
#[tokio::test]
async fn r01_a_claim_left_by_a_crash_blocks_nobody_at_reopen() {
    let mut before = slow(hold()).await;
    let lost = before.api.post("/").key("k").spawn();
    before.porter.met().await;
    lost.abort();
    // Where the store knows of the crash, not a millisecond passes.
    let api = before.api.crash(Orphans::Rerun, runs_at(&before.runs, None)).await;
    assert_eq!(api.post("/").key("k").send().await.text(), "run 2");
}

/// actor-ts 984: one ttl for lock and record; a throw after the side effect ran it again.
#[tokio::test]
async fn r02_a_failure_after_the_effect_is_not_run_again_and_not_stored() {
    let runs = Runs::default();
    let counted = runs.clone();
    let fails = move |Extension(attempt): Extension<Attempt>| async move {
        counted.begin();
        attempt.operation();
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let api = Api::start(Orphans::Hold, Router::new().route("/", post(fails))).await;
    assert_eq!(api.post("/").key("k").send().await.status, 500);
    assert_eq!(api.post("/").key("k").send().await.code(), "idempotency_outcome_unknown");
    let orphaned = matches!(api.holds(KEY).await, Some(Holding::Orphaned(_)));
    assert!(orphaned && runs.count() == 1);
}

/// actor-ts 1082, Truxify 4623: slow A released B's claim, and C ran beside B.
#[tokio::test]
async fn r03_a_late_release_frees_nobody_elses_claim() {
    let mut server = slow(Policy::builder(Orphans::Rerun).wait(Duration::ZERO)).await;
    let slow = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    server.api.pass(LEASE_OVER).await;
    let next = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    // The first handler is dropped without an outcome, and says nothing for the second.
    slow.abort();
    let third = server.api.post("/").key("k").send().await;
    assert_eq!(third.code(), "idempotency_in_progress");
    server.porter.let_through();
    server.porter.let_through();
    assert_eq!((next.await.unwrap().status.as_u16(), server.runs.count()), (201, 2));
}

/// powertools-lambda-typescript 5675: a rejected duplicate deleted the owner's record.
#[tokio::test]
async fn r04_a_rejected_duplicate_leaves_the_owners_claim() {
    let mut server = slow(hold().wait(Duration::ZERO)).await;
    let owner = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    for body in ["", "another", "", "another"] {
        assert!(!server.api.post("/").key("k").body(body).send().await.status.is_success());
    }
    assert!(matches!(server.api.holds(KEY).await, Some(Holding::InProgress(_))));
    server.porter.let_through();
    owner.await.unwrap();
    assert!(server.api.post("/").key("k").send().await.is_replay());
}

/// powertools-lambda-python 8049: no run again after a time limit where money moves.
#[tokio::test]
async fn r06_a_route_may_never_run_again_whatever_time_passes() {
    let mut server = slow(hold()).await;
    let owner = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    for hours in [1, 24, 24 * 20] {
        server.api.pass(Duration::from_secs(hours * 3600)).await;
        let held = server.api.post("/").key("k").send().await;
        assert_eq!(held.code(), "idempotency_outcome_unknown");
    }
    assert_eq!(server.runs.count(), 1);
    server.porter.let_through();
    assert_eq!(owner.await.unwrap().status, 201, "late, but nobody took over");
    assert!(server.api.post("/").key("k").send().await.is_replay());
}

/// powertools-lambda-python 2490: wait for the run instead of an exception.
#[tokio::test]
async fn r07_a_retry_waits_and_is_woken_by_the_completion() {
    let mut server = slow(hold().wait(Duration::from_secs(60))).await;
    let owner = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    let waits = server.api.post("/").key("k").spawn();
    until("it waits", || server.api.layer.waiting() == 1).await;
    server.porter.let_through();
    owner.await.unwrap();
    assert!(waits.await.unwrap().is_replay());
}

/// ietf-wg-httpapi/idempotency 42 and 11: 422 collides with validation, and a running request
/// needs a code of its own.
#[tokio::test]
async fn r08_a_mismatch_a_running_request_and_validation_are_told_apart() {
    let mut server = slow(hold().wait(Duration::ZERO)).await;
    let owner = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    let running = server.api.post("/").key("k").send().await;
    let mismatch = server.api.post("/").key("k").body("another").send().await;
    let told = |reply: &crate::layer::support::Reply| (reply.status.as_u16(), reply.is_retryable());
    assert_eq!((told(&running), told(&mismatch)), ((429, true), (409, false)));
    assert_ne!(running.code(), mismatch.code());
    server.porter.let_through();
    owner.await.unwrap();
}

/// ietf-wg-httpapi/idempotency 46, IdempotentAPI 85: mark replayed responses.
#[tokio::test]
async fn r09_replays_are_marked_and_first_answers_are_not() {
    let api = Api::start(Orphans::Hold, runs_at(&Runs::default(), None)).await;
    let first = api.post("/").key("k").send().await;
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(api.post("/").key("k").send().await.header("idempotent-replayed"), Some("true"));
}

/// ietf-wg-httpapi/idempotency 35 and 49: tell the retention, define what follows expiry.
#[tokio::test]
async fn r10_the_retention_is_told_and_after_it_the_request_is_new() {
    let build = hold().expiry_header(HeaderName::from_static("x-key-expires"));
    let server = slow(build).await;
    server.porter.let_through();
    let first = server.api.post("/").key("k").send().await;
    let Some(Holding::Completed(kept)) = server.api.holds(KEY).await else { panic!("it ran") };
    assert_eq!(kept.expires_at.duration_since(kept.completed_at).unwrap(), TTL);
    let expires = httpdate::fmt_http_date(kept.expires_at);
    assert_eq!(first.header("x-key-expires"), Some(&*expires));
    server.api.pass(TTL).await;
    server.porter.let_through();
    let new = server.api.post("/").key("k").send().await;
    assert_eq!((new.text(), new.is_replay()), ("run 2", false));
}

/// ietf-wg-httpapi/idempotency 48 and 51: the stored answer, not the state of today; a signal that
/// a machine can read.
#[tokio::test]
async fn r11_the_stored_answer_is_replayed_although_the_record_changed() {
    let name = Arc::new(Mutex::new("Avery".to_owned()));
    let (read, written) = (Arc::clone(&name), Arc::clone(&name));
    let router = Router::new()
        .route("/", post(move || async move { read.lock().unwrap().clone() }))
        .route("/rename", post(move |new: String| async move { *written.lock().unwrap() = new }));
    let api = Api::start(Orphans::Hold, router).await;
    api.post("/").key("k").send().await;
    api.post("/rename").key("r").body("Robin").send().await;
    assert_eq!(api.post("/").key("k").send().await.text(), "Avery");
    assert!(!api.post("/").key("k").body("another").send().await.is_retryable());
}

/// diom 481, 1366, 391: fields in the place of a bare key, status and headers in the record, its
/// time, and an id for tracing.
#[tokio::test]
async fn r12_a_record_has_separate_fields_a_time_an_id_status_and_headers() {
    let server = slow(hold()).await;
    server.porter.let_through();
    server.api.post("/").key("k").send().await;
    let held = server.api.holds(KEY).await;
    let Some(Holding::Completed(completed)) = held else { panic!("{held:?}") };
    assert_eq!(completed.expires_at.duration_since(completed.completed_at).unwrap(), TTL);
    assert_eq!(completed.attempt, 1);
    assert_eq!(completed.operation.to_string().len(), 36);
    let response = completed.response.unwrap();
    assert_eq!(response[2..4], 201u16.to_le_bytes());
    assert!(response.windows(7).any(|window| window == b"/made/1"));
    for other in [
        Scope { organization: "acmePOST", ..KEY },
        Scope { method: "PUT", ..KEY },
        Scope { path: "/k", ..KEY },
        Scope { key: "K", ..KEY },
    ] {
        assert_eq!(server.api.holds(other).await, None);
    }
}

/// caura 1629, dotnet-starter-kit 1333: a client that hung up cancelled the record of a write that
/// had committed.
#[tokio::test]
async fn r13_a_disconnect_cancels_neither_handler_nor_record() {
    let mut server = slow(hold()).await;
    let client = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    client.abort();
    client.await.unwrap_err();
    server.porter.let_through();
    server.api.completed(KEY).await;
    assert_eq!(server.api.post("/").key("k").send().await.text(), "run 1");
}

/// fiber 4287, granit-dotnet 1151: a response that was not kept ran the effect again.
#[tokio::test]
async fn r14_an_oversized_response_leaves_its_mark_and_secrets_of_the_moment_are_dropped() {
    let runs = Runs::default();
    let counted = runs.clone();
    let large = move || async move {
        counted.begin();
        ([("set-cookie", "session=1"), ("www-authenticate", "Basic")], vec![0u8; 2 << 20])
    };
    let router = Router::new().route("/", post(large));
    let api = Api::start(Orphans::Rerun, router).await;
    assert_eq!(api.post("/").key("k").send().await.body.len(), 2 << 20);
    for _ in 0..3 {
        let retry = api.post("/").key("k").send().await;
        assert_eq!(retry.code(), "idempotency_response_not_stored");
        assert!(!retry.headers.contains_key("set-cookie"));
    }
    assert_eq!(runs.count(), 1);
    assert_eq!(api.post("/").key(&"k".repeat(256)).send().await.status, 400, "keys are capped");
}

/// fiber 4693, actor-ts 1308: header lines split at commas; streamed bodies replayed as `{}`.
#[tokio::test]
async fn r15_header_lines_stay_whole_and_streamed_bodies_come_back() {
    struct Stream(std::vec::IntoIter<&'static [u8]>);
    impl http_body::Body for Stream {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            let piece = self.0.next().map(Bytes::from_static);
            std::task::Poll::Ready(piece.map(|piece| Ok(http_body::Frame::data(piece))))
        }
    }
    let stream = || async {
        let pieces: Vec<&'static [u8]> = vec![b"{\"a\":", b"", b"1}"];
        let mut response = Response::new(Body::new(Stream(pieces.into_iter())));
        let lines = ["</a,b>; rel=x, </c>; rel=y", "</d>; rel=z"];
        for line in lines {
            response.headers_mut().append("link", line.parse().unwrap());
        }
        response
    };
    let api = Api::start(Orphans::Hold, Router::new().route("/", post(stream))).await;
    let first = api.post("/").key("k").send().await;
    let retry = api.post("/").key("k").send().await;
    assert_eq!((first.text(), retry.text()), ("{\"a\":1}", "{\"a\":1}"));
    let lines: Vec<_> = retry.headers.get_all("link").iter().collect();
    assert_eq!(lines, ["</a,b>; rel=x, </c>; rel=y", "</d>; rel=z"]);
}

/// concerns_on_rails 47: a replayed 201 lost its Location.
#[tokio::test]
async fn r16_a_replayed_201_keeps_its_location() {
    let api = Api::start(Orphans::Hold, runs_at(&Runs::default(), None)).await;
    api.post("/").key("k").send().await;
    let retry = api.post("/").key("k").send().await;
    assert_eq!((retry.status.as_u16(), retry.header("location")), (201, Some("/made/1")));
}

/// idempot-js 182 and 183: a claim in flight was overwritten; a mismatch has to win over it.
#[tokio::test]
async fn r17_a_claim_in_flight_is_never_overwritten_and_a_mismatch_wins() {
    let mut server = slow(hold()).await;
    let owner = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    let mismatch = server.api.post("/").key("k").body("another").send().await;
    assert_eq!(mismatch.code(), "idempotency_conflict", "at once, without waiting");
    server.porter.let_through();
    assert_eq!(owner.await.unwrap().text(), "run 1");
    assert_eq!(server.api.post("/").key("k").send().await.text(), "run 1");
}

/// facility 196: `?dry=1` replayed the real run.
#[tokio::test]
async fn r18_a_dry_run_is_another_request() {
    let answer = |Query(query): Query<std::collections::HashMap<String, String>>| async move {
        if query.contains_key("dry") { "would" } else { "did" }
    };
    let api = Api::start(Orphans::Hold, Router::new().route("/", post(answer))).await;
    assert_eq!(api.post("/").key("k").send().await.text(), "did");
    assert_eq!(api.post("/?dry=1").key("k").send().await.code(), "idempotency_conflict");
}

/// titen 37, devlink 1200, idempotent 217: another user's or route's answer.
#[tokio::test]
async fn r19_a_key_is_bound_to_method_path_organization_and_principal() {
    let build = hold().principal(|parts| Some(parts.extensions.get::<Account>()?.user.clone()));
    let api = Api::with(Orphans::Hold, policy(build), runs_at(&Runs::default(), None)).await;
    let first = api.post("/a").bearer("acme/avery").key("k").send().await;
    for other in [
        api.send(Method::PUT, "/a").bearer("acme/avery").key("k"),
        api.post("/b").bearer("acme/avery").key("k"),
        api.post("/a").bearer("globex/avery").key("k"),
        api.post("/a").bearer("acme/robin").key("k"),
    ] {
        let reply = other.send().await;
        assert!(!reply.is_replay() && reply.body != first.body, "{reply:?}");
    }
}

/// margince 5315, adcp 2842: a replay after the right was revoked; a conflict that echoed.
#[tokio::test]
async fn r20_a_revoked_right_and_a_conflict_show_nothing_of_the_first_answer() {
    let revoked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&revoked);
    let build = hold().authorize_replay(move |_, _| {
        let revoked = asked.load(Ordering::SeqCst);
        async move { if revoked { Permission::Refused } else { Permission::Granted } }
    });
    let secret = || async { ([("location", "/secret/1")], "a secret") };
    let router = Router::new().route("/", post(secret));
    let api = Api::with(Orphans::Hold, policy(build), router).await;
    api.post("/").key("k").send().await;
    assert!(api.post("/").key("k").send().await.is_replay());
    revoked.store(true, Ordering::SeqCst);
    let refused = api.post("/").key("k").send().await;
    let conflict = api.post("/").key("k").body("another").send().await;
    assert_eq!((refused.status.as_u16(), conflict.status.as_u16()), (403, 409));
    for reply in [refused, conflict] {
        assert!(!format!("{reply:?}").contains("secret"), "{reply:?}");
    }
}

/// idempotency4j 49, stowleaf 27: secrets in stored bodies; an id in the place of the body.
#[tokio::test]
async fn r21_a_route_may_keep_bodies_out_of_the_store_and_still_say_where_the_result_is() {
    let answer = || async { ([("location", "/cards/1")], "number 4111-1111-1111-1111") };
    let router = Router::new().route("/", post(answer));
    let api = Api::with(Orphans::Hold, policy(hold().keep(Keep::Head)), router).await;
    let first = api.post("/").key("k").send().await;
    assert!(first.text().starts_with("number"));
    let retry = api.post("/").key("k").send().await;
    assert_eq!(retry.code(), "idempotency_response_not_stored");
    assert_eq!(retry.header("location"), Some("/cards/1"));
    let Some(Holding::Completed(kept)) = api.holds(KEY).await else { panic!("it ran") };
    let kept = kept.response.expect("its head is kept");
    let has = |sought: &[u8]| kept.windows(sought.len()).any(|window| window == sought);
    assert!(has(b"/cards/1") && !has(b"4111-1111"));
}

/// YieldVault-RWA 457 and 466, hono-idempotency 59, idempotent 141: inspect keys.
#[tokio::test]
async fn r22_keys_can_be_inspected_and_erased() {
    let mut server = slow(hold().wait(Duration::ZERO)).await;
    let owner = server.api.post("/").key("k").spawn();
    server.porter.met().await;
    let held = server.api.holds(KEY).await;
    let Some(Holding::InProgress(running)) = held else { panic!("{held:?}") };
    assert_eq!(running.attempt, 1);
    server.api.post("/").key("k").send().await;
    server.api.post("/").key("k").body("another").send().await;
    server.porter.let_through();
    owner.await.unwrap();
    server.api.post("/").key("k").send().await;
    let store = &server.api.store;
    assert!(Administer::forget(store, KEY).await.unwrap(), "one key can be erased");
    assert_eq!(server.api.holds(KEY).await, None);
    server.porter.let_through();
    server.api.post("/").key("k").send().await;
    assert_eq!(Administer::forget_organization(store, "acme").await.unwrap(), 1);
    assert_eq!(server.api.holds(KEY).await, None);
}

/// powertools-lambda-typescript 2048: the server's own code sees the record on a mismatch.
#[tokio::test]
async fn r25_the_server_can_look_up_the_record_that_a_mismatch_met() {
    let slot: Arc<Mutex<Option<Claims>>> = Arc::default();
    let found = Arc::clone(&slot);
    let recover = axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
        let found = Arc::clone(&found);
        async move {
            let response = next.run(request).await;
            let store = found.lock().unwrap().clone().unwrap();
            match store.look_up(KEY).await.unwrap() {
                Some(Holding::Completed(first)) if response.status() == StatusCode::CONFLICT => {
                    let operation = first.operation.to_string();
                    (StatusCode::CONFLICT, [("x-first-operation", operation)]).into_response()
                }
                _ => response,
            }
        }
    });
    let ground = Ground::new();
    let store = ground.fresh(TTL).await;
    *slot.lock().unwrap() = Some(store.clone());
    let layer = oncelog::http::IdempotencyLayer::new(
        store.clone(),
        oncelog::http::Organization::of(|_| Some("acme".into())),
        Orphans::Hold,
    );
    let router = runs_at(&Runs::default(), None).layer(layer).layer(recover);
    let address = crate::layer::support::serve(router).await;
    let send = || crate::layer::support::Send::new(address, Method::POST, "/").key("k");
    send().send().await;
    let conflict = send().body("another").send().await;
    let held = store.look_up(KEY).await.unwrap();
    let Some(Holding::Completed(first)) = held else { panic!("{held:?}") };
    let operation = first.operation.to_string();
    assert_eq!(conflict.header("x-first-operation"), Some(&*operation));
}
