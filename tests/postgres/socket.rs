//! The HTTP layer on the store, over a real socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::post;
use http::StatusCode;
use oncelog::http::{IdempotencyLayer, Organization, Orphans};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::server::{Server, fresh_schema, options};

/// An API behind the layer, and how often its handler ran.
struct Api {
    address: SocketAddr,
    runs: Arc<AtomicU64>,
    _server: Arc<Server>,
}

impl Api {
    async fn start() -> Api {
        let (server, schema) = (Server::shared(), fresh_schema());
        let store = options(&schema).connect(&server.url()).await.unwrap();
        let layer = IdempotencyLayer::new(store, Organization::single(), Orphans::Hold);
        let runs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&runs);
        let handler = move |body: String| async move {
            let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
            match &*body {
                "fail" => (StatusCode::INTERNAL_SERVER_ERROR, "failed".to_owned()),
                _ => (StatusCode::CREATED, format!("run {run} of {body}")),
            }
        };
        let router = Router::new().route("/orders", post(handler)).layer(layer);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Api { address, runs, _server: server }
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

/// Status, head in lower case, and body.
async fn send(address: SocketAddr, key: &str, body: &str) -> (u16, String, String) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: api\r\nconnection: close\r\nidempotency-key: {key}\r\n\
         content-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).expect("a status").parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_gets_the_first_answer_and_runs_nothing() {
    let api = Api::start().await;
    let (status, head, body) = send(api.address, "order-1", "a pen").await;
    assert_eq!((status, &*body), (201, "run 1 of a pen"));
    assert!(!head.contains("idempotent-replayed"), "{head}");
    let (status, head, body) = send(api.address, "order-1", "a pen").await;
    assert_eq!((status, &*body), (201, "run 1 of a pen"));
    assert!(head.contains("idempotent-replayed: true"), "{head}");
    assert_eq!(api.runs(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_body_with_the_same_key_is_a_conflict() {
    let api = Api::start().await;
    send(api.address, "order-1", "a pen").await;
    let (status, _, body) = send(api.address, "order-1", "a book").await;
    assert_eq!(status, 409, "{body}");
    assert_eq!(api.runs(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_without_effect_is_run_again() {
    let api = Api::start().await;
    for run in 1..=2 {
        let (status, ..) = send(api.address, "order-1", "fail").await;
        assert_eq!((status, api.runs()), (500, run));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_runs_and_all_get_its_answer() {
    let api = Api::start().await;
    let mut sending = JoinSet::new();
    for _ in 0..16 {
        let address = api.address;
        sending.spawn(async move { send(address, "order-1", "a pen").await });
    }
    for (status, _, body) in sending.join_all().await {
        assert_eq!((status, &*body), (201, "run 1 of a pen"));
    }
    assert_eq!(api.runs(), 1);
}
