//! The layer on the store, through a socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use oncelog::cluster::RedisStore;
use oncelog::http::{Attempt, IdempotencyLayer, Organization, Orphans, Testimony};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::server::Server;

/// An API behind the layer, with a handler that counts its runs and, where it is told to, stays.
struct Api {
    address: SocketAddr,
    store: RedisStore,
    runs: Arc<AtomicU64>,
    came: Arc<Notify>,
    goes_on: Arc<Notify>,
}

#[derive(Clone)]
struct Account(String);

impl Api {
    async fn start(server: &Server, orphans: Orphans) -> Api {
        let store = RedisStore::connect(&server.url()).await.unwrap();
        let runs = Arc::new(AtomicU64::new(0));
        let (came, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (run, come, stay) = (Arc::clone(&runs), Arc::clone(&came), Arc::clone(&goes_on));
        let handler = move |attempt: axum::Extension<Attempt>, body: String| {
            let (run, come, stay) = (Arc::clone(&run), Arc::clone(&come), Arc::clone(&stay));
            async move {
                let number = run.fetch_add(1, Ordering::SeqCst) + 1;
                // Who asks for its operation may have had an effect.
                let _ = attempt.operation();
                if body == "stay" {
                    come.notify_one();
                    stay.notified().await;
                }
                let status = if body == "fail" && number == 1 { 500 } else { 201 };
                (StatusCode::from_u16(status).unwrap(), format!("run {number}"))
            }
        };
        let organization = Organization::of_extension(|account: &Account| account.0.clone());
        let layer = IdempotencyLayer::new(store.clone(), organization, orphans);
        let authenticate = |mut request: Request, next: axum::middleware::Next| async {
            request.extensions_mut().insert(Account("acme".to_owned()));
            next.run(request).await
        };
        let router = Router::new().route("/contacts", post(handler)).layer(layer);
        let router = router.layer(axum::middleware::from_fn(authenticate));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Api { address, store, runs, came, goes_on }
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }

    fn has_code(&self, code: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(code)
    }
}

async fn send(address: SocketAddr, key: &str, body: &'static str) -> Reply {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("/contacts")
        .header("host", "api.example.com")
        .header("idempotency-key", key)
        .body(Full::new(Bytes::from_static(body.as_bytes())));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_answered_with_the_first_response_also_by_another_server() {
    let server = Server::start(&[]);
    let first = Api::start(&server, Orphans::Hold).await;
    let second = Api::start(&server, Orphans::Hold).await;
    let told = send(first.address, "key-1", "body").await;
    assert_eq!((told.status, &told.body[..], told.is_replay()), (201, &b"run 1"[..], false));
    for api in [&first, &second] {
        let again = send(api.address, "key-1", "body").await;
        assert_eq!((again.status, again.is_replay()), (201, true));
        assert_eq!(again.body, told.body);
    }
    let conflict = send(second.address, "key-1", "another body").await;
    assert_eq!(conflict.status, 409);
    assert!(conflict.has_code("idempotency_conflict"), "{conflict:?}");
    assert_eq!((first.runs(), second.runs()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_at_another_server_waits_for_the_first_run() {
    let server = Server::start(&[]);
    let first = Api::start(&server, Orphans::Hold).await;
    let second = Api::start(&server, Orphans::Hold).await;
    let running = tokio::spawn(send(first.address, "key-1", "stay"));
    first.came.notified().await;
    let waiting = tokio::spawn(send(second.address, "key-1", "stay"));
    let in_progress = send(second.address, "key-1", "other").await;
    assert_eq!(in_progress.status, 409, "a conflict waits for nobody");
    first.goes_on.notify_one();
    let (told, again) = (running.await.unwrap(), waiting.await.unwrap());
    assert_eq!((told.status, again.status, again.is_replay()), (201, 201, true));
    assert_eq!(told.body, again.body);
    assert_eq!(second.runs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_is_held_until_an_operator_resolves_it() {
    use oncelog::http::Administer as _;

    let server = Server::start(&[]);
    let api = Api::start(&server, Orphans::Hold).await;
    let told = send(api.address, "key-1", "fail").await;
    assert_eq!(told.status, 500);
    let held = send(api.address, "key-1", "fail").await;
    assert_eq!(held.status, 503);
    assert!(held.has_code("idempotency_outcome_unknown"), "{held:?}");
    let orphans = api.store.unresolved(None, 10).await.unwrap();
    assert_eq!((orphans.len(), &*orphans[0].key), (1, "key-1"));
    let scope = oncelog::Scope {
        organization: &orphans[0].organization,
        method: &orphans[0].method,
        path: &orphans[0].path,
        key: &orphans[0].key,
    };
    api.store.release_orphan(scope, orphans[0].orphan.token).await.unwrap();
    assert_eq!(send(api.address, "key-1", "fail").await.status, 201);
    assert_eq!(api.runs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_is_asked_about_a_claim_whose_lease_is_over() {
    use oncelog::http::{Answer, Backend as _};

    let server = Server::start(&[]);
    let asked = Arc::new(AtomicU64::new(0));
    let asks = Arc::clone(&asked);
    let orphans = Orphans::witness(move |_| {
        asks.fetch_add(1, Ordering::SeqCst);
        async { Ok(Testimony::DidNotHappen) }
    });
    let api = Api::start(&server, orphans).await;
    // A server that dies leaves a claim behind: here one whose record is made to look abandoned.
    let running = tokio::spawn(send(api.address, "key-1", "stay"));
    api.came.notified().await;
    running.abort();
    let other = Api::start(&server, Orphans::Hold).await;
    server.pass(Duration::from_secs(3600));
    let held = send(other.address, "key-1", "stay").await;
    assert_eq!(held.status, 503, "an orphan after its lease: {held:?}");
    assert_eq!(other.runs(), 0);
    let next = tokio::spawn(send(api.address, "key-1", "stay"));
    api.came.notified().await;
    api.goes_on.notify_waiters();
    api.goes_on.notify_one();
    assert_eq!(next.await.unwrap().status, 201);
    assert_eq!((asked.load(Ordering::SeqCst), api.runs()), (1, 2));
    let scope = crate::records::KEY;
    let free = api.store.claim(scope, crate::records::body(), crate::records::LEASE).await;
    assert!(matches!(free, Ok(Answer::Granted(_))), "another scope is not touched");
}
