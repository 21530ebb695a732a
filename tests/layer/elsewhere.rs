//! Where the layer stands: in a plain hyper server, inside of a time limit, in a router of another
//! kind, and before a client that is slow to send.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use oncelog::Scope;
use oncelog::conformance::Harness as _;
use oncelog::http::{IdempotencyLayer, Organization, Orphans, Policy, RequestBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::timeout::TimeoutLayer;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::ground::Ground;
use crate::layer::support::{Api, Layer, Runs, Send, TTL, door, until};

async fn layer(ground: &Ground) -> Layer {
    IdempotencyLayer::new(ground.fresh(TTL).await, Organization::single(), Orphans::Hold)
}

#[tokio::test]
async fn a_plain_hyper_server_needs_no_framework() {
    let (ground, runs) = (Ground::new(), Runs::default());
    let counted = runs.clone();
    let handler = service_fn(move |request: Request<RequestBody<Incoming>>| {
        let runs = counted.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let text = format!("run {} of {} bytes", runs.begin(), body.len());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        }
    });
    let service = layer(&ground).await.layer(handler);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            let each = hyper::service::service_fn(move |request| service.clone().oneshot(request));
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), each));
        }
    });
    let request = Send::new(address, Method::POST, "/").key("k").body("body");
    let first = request.clone().send().await;
    let retry = request.clone().send().await;
    assert_eq!((first.text(), first.is_replay()), ("run 1 of 4 bytes", false));
    assert_eq!((retry.text(), retry.is_replay()), ("run 1 of 4 bytes", true));
    assert_eq!(request.body("another").send().await.code(), "idempotency_conflict");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_time_limit_outside_of_the_layer_lets_the_run_finish() {
    let (ground, runs) = (Ground::new(), Runs::default());
    let (door, mut porter) = door();
    let counted = runs.clone();
    let handler = service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        let (runs, door) = (counted.clone(), door.clone());
        async move {
            let run = runs.begin();
            door.pass().await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(format!("run {run}")))))
        }
    });
    let layer = layer(&ground).await;
    let service = TimeoutLayer::new(Duration::from_secs(2)).layer(layer.layer(handler));
    let request = || Request::post("/").header("idempotency-key", "k").body(Full::default());
    let first = tokio::spawn(service.clone().oneshot(request().unwrap()));
    // Long before the limit, whatever store was asked for the claim.
    porter.met().await;
    let elapsed = first.await.unwrap().unwrap_err();
    assert!(elapsed.is::<tower::timeout::error::Elapsed>(), "{elapsed}");
    assert_eq!(layer.running(), 1, "it goes on");
    porter.let_through();
    until("it ends", || layer.running() == 0).await;
    let retry = service.oneshot(request().unwrap()).await.unwrap();
    assert_eq!(retry.headers()["idempotent-replayed"], "true");
    assert_eq!(retry.into_body().collect().await.unwrap().to_bytes(), "run 1");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn where_a_router_strips_prefixes_the_original_address_is_asked_for() {
    let runs = Runs::default();
    let counted = runs.clone();
    let router = Router::new().route("/", post(move || async move { counted.begin().to_string() }));
    let set_up = |layer: Layer| {
        layer.original_uri(|parts| {
            parts.headers.get("x-original")?.to_str().ok()?.parse::<Uri>().ok()
        })
    };
    let api = Api::with(Orphans::Hold, set_up, router).await;
    let from = |path: &str| api.post("/").key("k").header("x-original", path);
    for path in ["/v1/", "/v2/"] {
        assert!(!from(path).send().await.is_replay(), "{path}");
        assert!(from(path).send().await.is_replay(), "{path}");
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_body_that_is_slow_to_arrive_is_408_and_never_claims() {
    let policy = Policy::builder(Orphans::Hold).request_time_max(Duration::from_millis(30));
    let policy = policy.build().unwrap();
    let router = Router::new().route("/", post(|| async {}));
    let api = Api::with(Orphans::Hold, |layer| layer.policy(policy), router).await;
    let half = "POST / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer acme\r\nidempotency-key: k\r\n\
                content-length: 10\r\n\r\nhalf";
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    stream.write_all(half.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("idempotency_request_incomplete"), "{answer}");
    let scope = Scope { organization: "acme", method: "POST", path: "/", key: "k" };
    assert_eq!(api.holds(scope).await, None);
}
