//! Every row of the contract's table: what a request is answered, by default and by the preset of
//! the IETF draft.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing::{any, post};
use axum::{Extension, body::Body};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use oncelog::http::{
    Administer, Attempt, Failures, Holding, KeyPresence, NoEffect, Orphans, Policy, Testimony,
};
use oncelog::{OrphanCause, Scope};
use tokio::sync::mpsc;

use crate::layer::support::{Api, Door, LEASE_OVER, Runs, door, encoded, policy, until};

/// Answers with the status in the path, and says which run it was.
fn statuses(runs: &Runs) -> Router {
    let runs = runs.clone();
    let answer = move |Path(status): Path<u16>| async move {
        let run = runs.begin();
        let status = StatusCode::from_u16(status).unwrap();
        (status, [("location", "/made/1")], format!("run {run}"))
    };
    Router::new().route("/status/{status}", any(answer))
}

/// Waits at a door, then answers `201` and which run it was.
fn slow(runs: &Runs, door: &Door) -> Router {
    let (runs, door) = (runs.clone(), door.clone());
    let answer = move || async move {
        let run = runs.begin();
        door.pass().await;
        (StatusCode::CREATED, format!("run {run}"))
    };
    Router::new().route("/slow", post(answer))
}

const SLOW: Scope<'_> = Scope { organization: "acme", method: "POST", path: "/slow", key: "k" };

#[tokio::test]
async fn no_key_passes_through_and_is_400_where_a_route_requires_one() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Hold, statuses(&runs)).await;
    assert_eq!(api.post("/status/201").send().await.status, 201);
    assert_eq!(runs.count(), 1);

    let required = Policy::builder(Orphans::Hold).key_presence(KeyPresence::Required);
    for required in [required, Policy::ietf(Orphans::Hold)] {
        let api = Api::with(Orphans::Hold, policy(required), statuses(&runs)).await;
        let refused = api.post("/status/201").send().await;
        assert_eq!((refused.status.as_u16(), &*refused.code()), (400, "idempotency_key_missing"));
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn a_malformed_key_and_two_header_lines_are_400() {
    let runs = Runs::default();
    for preset in [Policy::builder(Orphans::Hold), Policy::ietf(Orphans::Hold)] {
        let api = Api::with(Orphans::Hold, policy(preset), statuses(&runs)).await;
        let request = api.post("/status/201");
        let long = "k".repeat(256);
        let malformed =
            ["", "a b", "\"open", "caf\u{e9}", &long].map(|key| request.clone().key(key));
        for request in malformed.into_iter().chain([request.clone().key("a").key("a")]) {
            let refused = request.send().await;
            assert_eq!(refused.status, 400);
            assert_eq!(refused.code(), "idempotency_key_invalid");
            assert!(!refused.is_retryable());
        }
    }
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn a_success_is_stored_then_sent_without_marker() {
    for status in [200, 201, 202, 204, 301, 302, 303] {
        let runs = Runs::default();
        let api = Api::start(Orphans::Hold, statuses(&runs)).await;
        let request = api.post(&format!("/status/{status}")).key("k");
        let first = request.clone().send().await;
        assert_eq!(first.status, status);
        assert!(!first.headers.contains_key("idempotent-replayed"));
        let path = format!("/status/{status}");
        let scope = Scope { organization: "acme", method: "POST", path: &path, key: "k" };
        assert!(matches!(api.holds(scope).await, Some(Holding::Completed(_))));
        let retry = request.send().await;
        assert!(retry.is_replay());
        retry.assert_same(&first);
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn the_ietf_preset_stores_errors_too_as_an_option() {
    let runs = Runs::default();
    let stored = Policy::ietf(Orphans::Hold).failures(Failures::Stored);
    let api = Api::with(Orphans::Hold, policy(stored), statuses(&runs)).await;
    for status in [422, 500] {
        let request = api.post(&format!("/status/{status}")).key("k");
        let first = request.clone().send().await;
        let retry = request.send().await;
        assert!(retry.is_replay());
        retry.assert_same(&first);
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_retry_gets_the_stored_status_headers_and_bytes_and_the_original_date() {
    let answer = || async {
        let link = [("link", "</a>; rel=a"), ("link", "</b>; rel=b"), ("etag", "\"1\"")];
        (
            StatusCode::CREATED,
            axum::response::AppendHeaders(link),
            Bytes::from_static(b"\0\xff\x1f"),
        )
    };
    let router = Router::new().route("/", post(answer));
    let api = Api::start(Orphans::Hold, router).await;
    let first = api.post("/").key("k").send().await;
    api.pass(Duration::from_secs(3600)).await;
    let retry = api.post("/").key("k").send().await;
    retry.assert_same(&first);
    assert_eq!(retry.headers.get_all("link").iter().count(), 2, "two lines stay two");
    assert_eq!(retry.header("idempotent-replayed"), Some("true"));
    let scope = Scope { organization: "acme", method: "POST", path: "/", key: "k" };
    let Some(Holding::Completed(completed)) = api.holds(scope).await else { panic!("it ran") };
    let date = httpdate::fmt_http_date(completed.completed_at);
    assert_eq!(retry.header("idempotency-original-date"), Some(&*date));
}

#[tokio::test]
async fn a_retry_with_another_body_is_409_or_422_by_the_draft() {
    let presets = [(Policy::builder(Orphans::Hold), 409), (Policy::ietf(Orphans::Hold), 422)];
    for (preset, status) in presets {
        let runs = Runs::default();
        let api = Api::with(Orphans::Hold, policy(preset), statuses(&runs)).await;
        api.post("/status/201").key("k").body("one").send().await;
        let conflict = api.post("/status/201").key("k").body("two").send().await;
        assert_eq!(conflict.status, status);
        assert_eq!(conflict.code(), "idempotency_conflict");
        assert!(!conflict.headers.contains_key("retry-after"));
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn a_retry_while_running_waits_for_the_first() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let api = Api::start(Orphans::Hold, slow(&runs, &door)).await;
    let first = api.post("/slow").key("k").spawn();
    porter.met().await;
    let retry = api.post("/slow").key("k").spawn();
    until("the retry waits", || api.layer.waiting() == 1).await;
    porter.let_through();
    let (first, retry) = (first.await.unwrap(), retry.await.unwrap());
    assert!(!first.is_replay() && retry.is_replay());
    retry.assert_same(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_retry_that_waited_in_vain_is_429_with_retry_after() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let short = Policy::builder(Orphans::Hold).wait(Duration::from_millis(20));
    let api = Api::with(Orphans::Hold, policy(short), slow(&runs, &door)).await;
    let first = api.post("/slow").key("k").spawn();
    porter.met().await;
    let retry = api.post("/slow").key("k").send().await;
    assert_eq!((retry.status.as_u16(), &*retry.code()), (429, "idempotency_in_progress"));
    assert!(retry.is_retryable());
    let after: u64 = retry.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "never beyond the lease: {after}");
    porter.let_through();
    assert_eq!(first.await.unwrap().status, 201);
}

#[tokio::test]
async fn the_draft_answers_a_retry_while_running_409_at_once() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let preset = policy(Policy::ietf(Orphans::Hold));
    let api = Api::with(Orphans::Hold, preset, slow(&runs, &door)).await;
    let first = api.post("/slow").key("k").spawn();
    porter.met().await;
    let retry = api.post("/slow").key("k").send().await;
    assert_eq!((retry.status.as_u16(), &*retry.code()), (409, "idempotency_in_progress"));
    // A mismatch wins over a running request.
    let conflict = api.post("/slow").key("k").body("another").send().await;
    assert_eq!((conflict.status.as_u16(), &*conflict.code()), (422, "idempotency_conflict"));
    porter.let_through();
    first.await.unwrap();
}

#[tokio::test]
async fn a_4xx_but_408_of_the_first_attempt_is_released_and_the_retry_runs_again() {
    for status in [307, 308, 400, 401, 404, 409, 422, 429] {
        let runs = Runs::default();
        let api = Api::start(Orphans::Hold, statuses(&runs)).await;
        let request = api.post(&format!("/status/{status}")).key("k");
        for run in 1..=2 {
            let reply = request.clone().send().await;
            assert_eq!((reply.status.as_u16(), reply.text()), (status, &*format!("run {run}")));
            assert!(!reply.is_replay());
        }
        assert_eq!(api.orphans().await, []);
    }
}

#[tokio::test]
async fn a_handler_that_says_no_effect_is_released_whatever_its_status() {
    let runs = Runs::default();
    let (said, counted) = (runs.clone(), runs.clone());
    let by_response = move |Extension(attempt): Extension<Attempt>| async move {
        said.begin();
        attempt.operation();
        let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
        response.extensions_mut().insert(NoEffect);
        response
    };
    let by_attempt = move |Extension(attempt): Extension<Attempt>| async move {
        counted.begin();
        attempt.token();
        attempt.no_effect();
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let router =
        Router::new().route("/response", post(by_response)).route("/attempt", post(by_attempt));
    let api = Api::start(Orphans::Hold, router).await;
    for (path, status) in [("/response", 503), ("/attempt", 500)] {
        for _ in 0..2 {
            assert_eq!(api.post(path).key("k").send().await.status, status);
        }
        let scope = Scope { organization: "acme", method: "POST", path, key: "k" };
        assert!(api.holds(scope).await.is_none());
    }
    assert_eq!(runs.count(), 4);
}

/// Fails as the path says, having asked for its operation id where the path says so too.
fn failing(runs: &Runs) -> Router {
    let runs = runs.clone();
    let fail = move |Path((how, asks)): Path<(String, String)>, attempt: Extension<Attempt>| {
        let run = runs.begin();
        async move {
            if asks == "asks" {
                attempt.operation();
            }
            match &*how {
                "panics" => panic!("a handler that fails on purpose"),
                "hangs" => std::future::pending().await,
                status => StatusCode::from_u16(status.parse().unwrap()).unwrap(),
            }
            .into_response()
            .map(|_| Body::from(format!("run {run}")))
        }
    };
    Router::new().route("/{how}/{asks}", post(fail))
}

const DOUBTFUL: [(&str, u16); 6] =
    [("500", 500), ("503", 503), ("408", 408), ("304", 304), ("panics", 500), ("hangs", 504)];

#[tokio::test]
async fn a_failure_in_doubt_is_released_if_the_handler_never_asked_for_its_operation_id() {
    for (how, status) in DOUBTFUL {
        let runs = Runs::default();
        let limit = Policy::builder(Orphans::Hold).run_limit(Duration::from_millis(50));
        let api = Api::with(Orphans::Hold, policy(limit), failing(&runs)).await;
        let path = format!("/{how}/silent");
        let failed = api.post(&path).key("k").send().await;
        assert_eq!(failed.status, status, "{how}");
        let scope = Scope { organization: "acme", method: "POST", path: &path, key: "k" };
        assert!(api.holds(scope).await.is_none(), "{how}");
        api.post(&path).key("k").send().await;
        assert_eq!(runs.count(), 2, "{how}");
    }
}

#[tokio::test]
async fn a_failure_in_doubt_is_an_orphan_with_cause_failed_if_the_handler_asked() {
    for (how, status) in DOUBTFUL {
        let runs = Runs::default();
        let limit = Policy::builder(Orphans::Hold).run_limit(Duration::from_millis(50));
        let api = Api::with(Orphans::Hold, policy(limit), failing(&runs)).await;
        let path = format!("/{how}/asks");
        assert_eq!(api.post(&path).key("k").send().await.status, status, "{how}");
        let orphans = api.orphans().await;
        assert_eq!(orphans.len(), 1, "{how}");
        assert_eq!(orphans[0].orphan.cause, OrphanCause::Failed);
        let held = api.post(&path).key("k").send().await;
        assert_eq!((held.status.as_u16(), &*held.code()), (503, "idempotency_outcome_unknown"));
        assert_eq!(runs.count(), 1, "{how}");
    }
}

#[tokio::test]
async fn any_failure_of_a_later_attempt_is_in_doubt_and_keeps_its_operation_id() {
    let (told, mut tells) = mpsc::unbounded_channel();
    let fail = move |Extension(attempt): Extension<Attempt>| async move {
        told.send((attempt.attempt(), attempt.operation(), attempt.cause())).unwrap();
        if attempt.attempt() == 1 { StatusCode::BAD_GATEWAY } else { StatusCode::NOT_FOUND }
    };
    let api = Api::start(Orphans::Rerun, Router::new().route("/", post(fail))).await;
    for status in [502, 404, 404] {
        assert_eq!(api.post("/").key("k").send().await.status, status);
        assert_eq!(api.orphans().await.len(), 1, "a 404 of a later attempt frees nothing");
    }
    let mut attempts = Vec::new();
    while let Ok(attempt) = tells.try_recv() {
        attempts.push(attempt);
    }
    let operation = attempts[0].1;
    let failed = Some(OrphanCause::Failed);
    assert_eq!(attempts, [(1, operation, None), (2, operation, failed), (3, operation, failed)]);
}

/// A witness that answers from a list, and tells what it was asked.
fn witness(
    answers: Vec<Result<Testimony, &'static str>>,
) -> (Orphans, mpsc::UnboundedReceiver<(u64, u64, u32)>) {
    let (asked, asks) = mpsc::unbounded_channel();
    let answers = std::sync::Mutex::new(answers.into_iter());
    let orphans = Orphans::witness(move |question| {
        asked.send((question.token.get(), question.fence, question.attempt)).unwrap();
        let answer = answers.lock().unwrap().next().expect("asked too often");
        async move { answer.map_err(Into::into) }
    });
    (orphans, asks)
}

#[tokio::test]
async fn a_failure_in_doubt_asks_the_witness_at_once_with_the_same_permit() {
    let runs = Runs::default();
    let happened = Testimony::Happened(encoded(202, b"saved"));
    let (orphans, mut asks) = witness(vec![Ok(happened)]);
    let api = Api::start(orphans, failing(&runs)).await;
    let reply = api.post("/500/asks").key("k").send().await;
    assert_eq!((reply.status.as_u16(), reply.text()), (202, "saved"), "it did happen");
    assert!(!reply.is_replay());
    let (token, fence, attempt) = asks.try_recv().unwrap();
    assert_eq!((token, attempt), (fence, 1), "this attempt is fenced too");
    let retry = api.post("/500/asks").key("k").send().await;
    assert!(retry.is_replay());
    assert_eq!((retry.text(), runs.count()), ("saved", 1));
}

#[tokio::test]
async fn a_failure_that_the_witness_denies_frees_the_key() {
    let runs = Runs::default();
    let (orphans, _asks) = witness(vec![Ok(Testimony::DidNotHappen); 2]);
    let api = Api::start(orphans, failing(&runs)).await;
    for run in 1..=2 {
        let reply = api.post("/500/asks").key("k").send().await;
        assert_eq!((reply.status.as_u16(), reply.text()), (500, &*format!("run {run}")));
        assert_eq!(api.orphans().await, []);
    }
}

#[tokio::test]
async fn a_failure_of_which_the_witness_knows_nothing_is_an_orphan_until_it_does() {
    let runs = Runs::default();
    let denied = Ok(Testimony::DidNotHappen);
    let (orphans, mut asks) =
        witness(vec![Err("no answer"), Err("still none"), denied, Err("none again")]);
    let api = Api::start(orphans, failing(&runs)).await;
    assert_eq!(api.post("/500/asks").key("k").send().await.status, 500);
    assert_eq!(api.orphans().await[0].orphan.cause, OrphanCause::Failed);
    let unknown = api.post("/500/asks").key("k").send().await;
    assert_eq!((unknown.status.as_u16(), &*unknown.code()), (503, "idempotency_outcome_unknown"));
    assert_eq!(runs.count(), 1, "it does not run while nobody knows");
    assert_eq!(api.post("/500/asks").key("k").send().await.status, 500);
    assert_eq!(runs.count(), 2, "it runs once the witness says that it did not happen");
    let _first = asks.try_recv().unwrap();
    let (token, fence, attempt) = asks.try_recv().unwrap();
    assert_eq!(
        (token - 1, attempt),
        (fence, 2),
        "before a run only the attempts before are fenced"
    );
}

/// A server after one that died while a request ran.
async fn crashed(runs: &Runs, orphans: Orphans) -> Api {
    // The run that was lost stays at its door, and says nothing any more.
    let (never, mut lost) = door();
    let before = Api::start(Orphans::Hold, slow(runs, &never)).await;
    let client = before.post("/slow").key("k").spawn();
    lost.met().await;
    client.abort();
    let (door, porter) = door();
    porter.let_through();
    before.crash(orphans, slow(runs, &door)).await
}

#[tokio::test]
async fn an_orphan_runs_again_where_the_route_says_rerun() {
    let runs = Runs::default();
    let api = crashed(&runs, Orphans::Rerun).await;
    let retry = api.post("/slow").key("k").send().await;
    assert_eq!((retry.status.as_u16(), retry.text()), (201, "run 2"), "at least once");
    assert!(api.post("/slow").key("k").send().await.is_replay());
}

#[tokio::test]
async fn an_orphan_is_held_until_resolved_where_the_route_says_hold() {
    let runs = Runs::default();
    let api = crashed(&runs, Orphans::Hold).await;
    let held = api.post("/slow").key("k").send().await;
    assert_eq!((held.status.as_u16(), &*held.code()), (503, "idempotency_outcome_unknown"));
    assert!(held.is_retryable() && held.headers.contains_key("retry-after"));
    let conflict = api.post("/slow").key("k").body("another").send().await;
    assert_eq!(conflict.code(), "idempotency_conflict");
    let token = api.orphans().await[0].orphan.token;
    let found = encoded(202, b"found by hand");
    Administer::resolve(&api.store, SLOW, token, &found).await.unwrap();
    let retry = api.post("/slow").key("k").send().await;
    assert_eq!((retry.status.as_u16(), retry.text()), (202, "found by hand"));
    assert!(retry.is_replay());
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_orphan_is_settled_by_the_witness_where_the_route_has_one() {
    let runs = Runs::default();
    let (orphans, _asks) = witness(vec![Ok(Testimony::Happened(encoded(202, b"saved")))]);
    let api = crashed(&runs, orphans).await;
    for _ in 0..2 {
        let retry = api.post("/slow").key("k").send().await;
        assert_eq!((retry.status.as_u16(), retry.text()), (202, "saved"));
        assert!(retry.is_replay(), "an earlier request made it");
    }
    assert_eq!(runs.count(), 1);

    let runs = Runs::default();
    let (orphans, _asks) = witness(vec![Ok(Testimony::DidNotHappen)]);
    let api = crashed(&runs, orphans).await;
    assert_eq!(api.post("/slow").key("k").send().await.text(), "run 2");
}

#[tokio::test]
async fn a_response_too_large_is_sent_and_a_retry_learns_that_it_ran() {
    let runs = Runs::default();
    let counted = runs.clone();
    let large = move || async move {
        counted.begin();
        (StatusCode::CREATED, [("location", "/reports/1")], vec![b'x'; 100_000])
    };
    let small = Policy::builder(Orphans::Rerun).response_bytes_max(10_000);
    let router = Router::new().route("/", post(large));
    let api = Api::with(Orphans::Rerun, policy(small), router).await;
    let first = api.post("/").key("k").send().await;
    assert_eq!((first.status.as_u16(), first.body.len()), (201, 100_000));
    let retry = api.post("/").key("k").send().await;
    let problem = retry.problem();
    assert_eq!(retry.status, 409);
    assert_eq!(problem["code"], "idempotency_response_not_stored");
    assert_eq!(problem["retryable"], false);
    assert_eq!(
        (&problem["original_status"], &problem["location"]),
        (&201.into(), &"/reports/1".into())
    );
    assert_eq!(retry.header("location"), Some("/reports/1"));
    assert_eq!(runs.count(), 1, "never a second run");
}

#[tokio::test]
async fn an_endless_response_passes_through_once_it_is_durable_that_it_ran() {
    let (pieces, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
    let stream = move || async move {
        let receiver = receiver.lock_owned().await;
        Response::new(Body::new(Pieces(receiver)))
    };
    let quick = Policy::builder(Orphans::Hold).response_time_max(Duration::from_millis(30));
    let router = Router::new().route("/", post(stream));
    let api = Api::with(Orphans::Hold, policy(quick), router).await;
    let first = api.post("/").key("k").spawn();
    pieces.send(Bytes::from_static(b"tick ")).await.unwrap();
    let scope = Scope { organization: "acme", method: "POST", path: "/", key: "k" };
    api.completed(scope).await;
    let retry = api.post("/").key("k").send().await;
    assert_eq!(retry.code(), "idempotency_response_not_stored");
    pieces.send(Bytes::from_static(b"tock")).await.unwrap();
    drop(pieces);
    assert_eq!(first.await.unwrap().text(), "tick tock");
}

/// A body that lasts as long as its sender.
struct Pieces(tokio::sync::OwnedMutexGuard<mpsc::Receiver<Bytes>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_never_taken_for_a_whole_one() {
    let runs = Runs::default();
    let counted = runs.clone();
    let broken = move || async move {
        counted.begin();
        let stream = axum::body::Body::from("half").map_frame(|frame| frame);
        let failing = stream.boxed_unsync();
        let chained = Broken(Some(failing));
        (StatusCode::CREATED, [("location", "/made/1")], Body::new(chained))
    };
    let api = Api::start(Orphans::Rerun, Router::new().route("/", post(broken))).await;
    for _ in 0..2 {
        let reply = api.post("/").key("k").send().await;
        assert_eq!(reply.code(), "idempotency_response_not_stored");
        assert_eq!(reply.header("location"), Some("/made/1"));
    }
    assert_eq!(runs.count(), 1);
}

type Unsync = http_body_util::combinators::UnsyncBoxBody<Bytes, axum::Error>;

/// A body that fails after its first piece.
struct Broken(Option<Unsync>);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        match self.0.as_mut() {
            Some(body) => {
                let frame = std::pin::Pin::new(body).poll_frame(cx);
                self.0 = None;
                frame
            }
            None => std::task::Poll::Ready(Some(Err(axum::Error::new("the source went away")))),
        }
    }
}

#[tokio::test]
async fn handler_and_record_finish_although_the_client_hangs_up() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let api = Api::start(Orphans::Hold, slow(&runs, &door)).await;
    let client = api.post("/slow").key("k").spawn();
    porter.met().await;
    client.abort();
    assert!(client.await.is_err());
    assert_eq!(api.layer.running(), 1);
    porter.let_through();
    until("the run ends", || api.layer.running() == 0).await;
    assert!(matches!(api.holds(SLOW).await, Some(Holding::Completed(_))));
    assert_eq!(api.post("/slow").key("k").send().await.text(), "run 1");
}

#[tokio::test]
async fn drain_waits_for_what_runs_and_counts_what_is_left() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let api = Api::start(Orphans::Hold, slow(&runs, &door)).await;
    let finishes = api.post("/slow").key("finishes").spawn();
    porter.met().await;
    let hangs = api.post("/slow").key("hangs").spawn();
    porter.met().await;
    finishes.abort();
    let layer = api.layer.clone();
    let draining = tokio::spawn(async move { layer.drain(Duration::from_millis(300)).await });
    porter.let_through();
    let drained = draining.await.unwrap();
    assert_eq!((drained.finished, drained.left), (1, 1));
    // What would run is refused from then on; what is stored is still replayed.
    let late = api.post("/slow").key("late").send().await;
    assert_eq!((late.status.as_u16(), &*late.code()), (503, "idempotency_unavailable"));
    let late = Scope { key: "late", ..SLOW };
    assert!(api.holds(late).await.is_none(), "its claim was undone");
    assert!(api.post("/slow").key("finishes").send().await.is_replay());
    hangs.abort();
}

#[tokio::test]
async fn an_attempt_superseded_at_completion_is_answered_what_the_winner_stored() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let api = Api::start(Orphans::Hold, slow(&runs, &door)).await;
    let first = api.post("/slow").key("k").spawn();
    porter.met().await;
    api.pass(LEASE_OVER).await;
    let Some(Holding::Orphaned(orphan)) = api.holds(SLOW).await else {
        panic!("its lease is over")
    };
    assert_eq!(orphan.cause, OrphanCause::LeaseLapsed);
    let winner = encoded(202, b"the winner's");
    Administer::resolve(&api.store, SLOW, orphan.token, &winner).await.unwrap();
    porter.let_through();
    let first = first.await.unwrap();
    assert_eq!((first.status.as_u16(), first.text()), (202, "the winner's"));
}
