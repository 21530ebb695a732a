//! Callers that send one request after the other, and what it takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::common::{Latencies, mix};

pub(crate) const PATH: &str = "/public/v1/contacts";
pub(crate) const ANSWER: &str =
    r#"{"data":{"id":1,"email":"avery@example.com","first_name":"Avery"}}"#;
const BODY: &str = r#"{"first_name":"Avery","last_name":"Stone","email":"avery@example.com"}"#;
/// The keys that are completed before anything is measured, and replayed.
const COMPLETED: u64 = 1_000;

/// Which keys the requests have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    None,
    Fresh,
    Completed,
}

impl Keys {
    fn next(self) -> Option<String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: each number is taken once, and orders nothing.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        match self {
            Keys::None => None,
            Keys::Fresh => Some(format!("fresh-{number:016}")),
            Keys::Completed => Some(completed(mix(number) % COMPLETED)),
        }
    }
}

fn completed(number: u64) -> String {
    format!("completed-{number:012}")
}

/// What so many callers got through.
pub(crate) struct Driven {
    pub(crate) latencies: Latencies,
    pub(crate) took: Duration,
    /// CPU time of this process, all its threads.
    pub(crate) cpu: Duration,
}

pub(crate) async fn drive(api: &Router, keys: Keys, callers: u64, time: Duration) -> Driven {
    let (begun, cpu) = (Instant::now(), cpu_time());
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let api = api.clone();
        tasks.spawn(async move {
            let mut latencies = Latencies::new();
            while begun.elapsed() < time {
                let key = keys.next();
                let sent = Instant::now();
                let replayed = send(&api, key).await;
                latencies.add(sent.elapsed());
                assert_eq!(replayed, keys == Keys::Completed);
                if callers > 1 {
                    // Where a store answers without a wait, the others get their turn.
                    tokio::task::yield_now().await;
                }
            }
            latencies
        });
    }
    let mut latencies = Latencies::new();
    tasks.join_all().await.iter().for_each(|one| latencies.merge(one));
    Driven { latencies, took: begun.elapsed(), cpu: cpu_time() - cpu }
}

/// Completes the keys that are replayed.
pub(crate) async fn complete(api: &Router) {
    for number in 0..COMPLETED {
        assert!(!send(api, Some(completed(number))).await, "it is a fresh store");
    }
}

/// Sends one request, reads its answer whole, and tells whether it was a replay.
async fn send(api: &Router, key: Option<String>) -> bool {
    let mut request = Request::post(PATH).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let answer = api.clone().oneshot(request.body(Body::from(BODY)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let replayed = answer.headers().contains_key("idempotent-replayed");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), ANSWER);
    replayed
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().expect("a time that was taken is positive")
}
