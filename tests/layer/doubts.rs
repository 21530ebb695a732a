//! Who sees an answer, and what frees a key, where more than one attempt or caller has a part.

use std::future::Ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use oncelog::http::{Administer, Attempt, Orphans, Permission, Policy, Testimony};
use oncelog::{OrphanCause, Scope};

use crate::layer::support::{Account, Api, LEASE_OVER, door, encoded, failing, policy};

const KEY: Scope<'_> = Scope { organization: "acme", method: "POST", path: "/", key: "k" };

#[tokio::test]
async fn what_the_witness_has_is_shown_only_to_who_may_see_a_replay() {
    let knows = AtomicBool::new(false);
    let orphans = Orphans::witness(move |_| {
        let knew = knows.swap(true, Ordering::SeqCst);
        async move {
            let saved = knew.then(|| Testimony::Happened(encoded(202, b"saved")));
            saved.ok_or_else(|| "not yet".into())
        }
    });
    let build = Policy::builder(orphans.clone()).authorize_replay(|parts, _| {
        let user = parts.extensions.get::<Account>().map(|account| account.user.clone());
        let revoked = user.as_deref() == Some("revoked");
        async move { if revoked { Permission::Refused } else { Permission::Granted } }
    });
    let api = Api::with(orphans, policy(build), failing()).await;
    let request = |user| api.post("/").bearer(user).key("k");
    assert_eq!(request("acme/avery").send().await.status, 500);
    // It takes the orphan over, and the witness has the answer by now.
    let refused = request("acme/revoked").send().await;
    assert_eq!((refused.status.as_u16(), &*refused.code()), (403, "idempotency_replay_refused"));
    let replay = request("acme/avery").send().await;
    assert_eq!((replay.text(), replay.is_replay()), ("saved", true), "it was recorded");
}

/// A witness that does not know at first, then has an answer; by then, it does this.
fn knows_later(then: impl Fn() + Send + Sync + 'static) -> Orphans {
    let asked = AtomicBool::new(false);
    Orphans::witness(move |_| {
        let knows = asked.swap(true, Ordering::SeqCst);
        if knows {
            then();
        }
        let saved = knows.then(|| Testimony::Happened(encoded(202, b"saved")));
        async move { saved.ok_or_else(|| "not yet".into()) }
    })
}

#[tokio::test]
async fn what_the_witness_has_of_an_earlier_attempt_is_marked_as_a_replay() {
    let api = Api::start(knows_later(|| ()), failing()).await;
    assert_eq!(api.post("/").key("k").send().await.status, 500);
    let found = api.post("/").key("k").send().await;
    assert_eq!((found.text(), found.is_replay()), ("saved", true));
    assert!(found.header("idempotency-original-date").is_some());
}

#[tokio::test]
async fn what_the_witness_has_of_this_attempt_is_its_first_answer() {
    let orphans = Orphans::witness(|_| async { Ok(Testimony::Happened(encoded(202, b"saved"))) });
    let api = Api::start(orphans, failing()).await;
    let first = api.post("/").key("k").send().await;
    assert_eq!((first.text(), first.is_replay()), ("saved", false));
}

#[tokio::test]
async fn what_a_winner_stored_is_shown_only_to_who_may_see_a_replay() {
    let revoked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&revoked);
    let build = Policy::builder(Orphans::Hold).authorize_replay(move |_, _| {
        let revoked = asked.load(Ordering::SeqCst);
        async move { if revoked { Permission::Refused } else { Permission::Granted } }
    });
    let (door, mut porter) = door();
    let slow = move || async move { door.pass().await };
    let router = Router::new().route("/", post(slow));
    let api = Api::with(Orphans::Hold, policy(build), router).await;
    let superseded = api.post("/").key("k").spawn();
    porter.met().await;
    api.pass(LEASE_OVER).await;
    let token = api.orphans().await[0].orphan.token;
    let winner = encoded(202, b"the winner's");
    Administer::resolve(&api.store, KEY, token, &winner).await.unwrap();
    revoked.store(true, Ordering::SeqCst);
    porter.let_through();
    assert_eq!(superseded.await.unwrap().code(), "idempotency_replay_refused");
}

#[tokio::test]
async fn a_handler_cut_off_while_its_work_goes_on_does_not_free_the_key() {
    let (door, mut porter) = door();
    // What it started asks for the operation id later.
    let hands_on = move |Extension(attempt): Extension<Attempt>| async move {
        let work = async move {
            door.pass().await;
            attempt.operation();
        };
        tokio::spawn(work).await.unwrap();
    };
    let build = Policy::builder(Orphans::Hold).run_limit(Duration::from_millis(50));
    let router = Router::new().route("/", post(hands_on));
    let api = Api::with(Orphans::Hold, policy(build), router).await;
    assert_eq!(api.post("/").key("k").send().await.code(), "idempotency_run_timed_out");
    porter.met().await;
    let held = api.post("/").key("k").send().await;
    assert_eq!(held.code(), "idempotency_outcome_unknown", "it may have an effect yet");
    porter.let_through();
}

#[tokio::test]
async fn a_witness_that_panics_at_once_does_not_know() {
    type Said = Result<Testimony, Box<dyn std::error::Error + Send + Sync>>;
    let orphans =
        Orphans::witness(|_| -> Ready<Said> { panic!("a witness that fails on purpose") });
    let api = Api::start(orphans, failing()).await;
    assert_eq!(api.post("/").key("k").send().await.status, 500, "the handler's own answer");
    assert_eq!(api.orphans().await[0].orphan.cause, OrphanCause::Failed);
}

/// A body that breaks off.
struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        std::task::Poll::Ready(Some(Err(axum::Error::new("the source went away"))))
    }
}

#[tokio::test]
async fn a_grpc_response_that_breaks_off_before_its_status_is_in_doubt() {
    let breaks = |Extension(attempt): Extension<Attempt>| async move {
        attempt.operation();
        http::Response::new(axum::body::Body::new(Broken))
    };
    let router = Router::new().route("/", post(breaks));
    let api = Api::with(Orphans::Hold, policy(Policy::grpc(Orphans::Hold)), router).await;
    let failed = api.post("/").key("k").send().await;
    assert_eq!(failed.header("grpc-status"), Some("13"));
    assert_eq!(failed.header("idempotency-code"), Some("idempotency_run_failed"));
    assert_eq!(api.orphans().await[0].orphan.cause, OrphanCause::Failed);
    let held = api.post("/").key("k").send().await;
    assert_eq!(held.header("idempotency-code"), Some("idempotency_outcome_unknown"));
}
