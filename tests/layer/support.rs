//! An API behind the layer on a loopback socket, what it stands on, and who talks to it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use oncelog::Scope;
use oncelog::conformance::Harness;
use oncelog::http::{
    Administer, Attempt, Backend as _, Holding, IdempotencyLayer, Organization, Orphans,
    OrphansShow, PolicyBuilder, Unresolved,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use crate::ground::Ground;

/// Who is authenticated: put into the request by the layer around the one under test.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) organization: String,
    pub(crate) user: String,
}

/// `Authorization: Bearer ORGANIZATION` or `ORGANIZATION/USER`.
pub(crate) async fn authenticate(mut request: Request, next: Next) -> Response {
    let bearer = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if let Some(token) = bearer.and_then(|value| value.strip_prefix("Bearer ")) {
        let (organization, user) = token.split_once('/').unwrap_or((token, "somebody"));
        let (organization, user) = (organization.to_owned(), user.to_owned());
        request.extensions_mut().insert(Account { organization, user });
    }
    next.run(request).await
}

pub(crate) fn organization() -> Organization {
    Organization::of_extension(|account: &Account| account.organization.clone())
}

/// How often a handler ran.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<AtomicU64>);

impl Runs {
    /// One more; the number of this run.
    pub(crate) fn begin(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A door at which handlers say that they have come, and wait until they are let through.
#[derive(Clone)]
pub(crate) struct Door {
    came: mpsc::UnboundedSender<()>,
    open: Arc<Semaphore>,
}

/// The other side of a door.
pub(crate) struct Porter {
    comes: mpsc::UnboundedReceiver<()>,
    open: Arc<Semaphore>,
}

pub(crate) fn door() -> (Door, Porter) {
    let (came, comes) = mpsc::unbounded_channel();
    let open = Arc::new(Semaphore::new(0));
    (Door { came, open: Arc::clone(&open) }, Porter { comes, open })
}

impl Door {
    pub(crate) async fn pass(&self) {
        self.came.send(()).ok();
        self.open.acquire().await.expect("the door is never removed").forget();
    }
}

impl Porter {
    /// Waits for a handler to come.
    pub(crate) async fn met(&mut self) {
        let came = tokio::time::timeout(Duration::from_secs(20), self.comes.recv()).await;
        came.expect("a handler comes in time").expect("the door is never removed");
    }

    pub(crate) fn let_through(&self) {
        self.open.add_permits(1);
    }
}

/// Asks for its operation id, and fails in doubt.
pub(crate) fn failing() -> Router {
    let fail = |Extension(attempt): Extension<Attempt>| async move {
        attempt.operation();
        StatusCode::INTERNAL_SERVER_ERROR
    };
    Router::new().route("/", post(fail))
}

/// Where claims live in this test target.
pub(crate) type Claims = <Ground as Harness>::Backend;

pub(crate) type Layer = IdempotencyLayer<Claims>;

/// How long responses live: what a store keeps them for by default.
pub(crate) const TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Longer than any lease of these tests.
pub(crate) const LEASE_OVER: Duration = Duration::from_secs(61);

/// A layer with one policy.
pub(crate) fn policy(build: PolicyBuilder) -> impl FnOnce(Layer) -> Layer {
    let policy = build.build().unwrap();
    |layer| layer.policy(policy)
}

/// A response in the encoding of the layer, without headers.
pub(crate) fn encoded(status: u8, body: &[u8]) -> Bytes {
    [&[1, 0, status, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], body].concat().into()
}

/// A server, its store, its layer, and what they stand on.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) store: Claims,
    pub(crate) layer: Layer,
    pub(crate) ground: Arc<Ground>,
}

impl Api {
    /// Serves a router behind the default layer with these orphans.
    pub(crate) async fn start(orphans: Orphans, router: Router) -> Api {
        Api::with(orphans, |layer| layer, router).await
    }

    /// Serves a router behind a layer that was set up.
    pub(crate) async fn with(
        orphans: Orphans,
        set_up: impl FnOnce(Layer) -> Layer,
        router: Router,
    ) -> Api {
        let ground = Arc::new(Ground::new());
        let store = ground.fresh(TTL).await;
        Api::on((ground, store), orphans, set_up, router).await
    }

    /// The same on a store that is there.
    pub(crate) async fn on(
        (ground, store): (Arc<Ground>, Claims),
        orphans: Orphans,
        set_up: impl FnOnce(Layer) -> Layer,
        router: Router,
    ) -> Api {
        let layer = set_up(IdempotencyLayer::new(store.clone(), organization(), orphans));
        let router = router.layer(layer.clone()).layer(middleware::from_fn(authenticate));
        Api { address: serve(router).await, store, layer, ground }
    }

    /// One more server on the claims of this one.
    pub(crate) async fn beside(&self, orphans: Orphans, router: Router) -> Api {
        let store = self.ground.another().await;
        Api::on((Arc::clone(&self.ground), store), orphans, |layer| layer, router).await
    }

    /// The server after this one, which died, once it knows what was left open.
    pub(crate) async fn crash(self, orphans: Orphans, router: Router) -> Api {
        let store = self.ground.crash(self.store).await;
        if store.promises().orphans == OrphansShow::ByLease {
            self.ground.pass(LEASE_OVER).await;
        }
        Api::on((self.ground, store), orphans, |layer| layer, router).await
    }

    /// Lets time pass for leases and expiry.
    pub(crate) async fn pass(&self, time: Duration) {
        self.ground.pass(time).await;
    }

    pub(crate) async fn holds(&self, scope: Scope<'_>) -> Option<Holding> {
        self.store.look_up(scope).await.unwrap()
    }

    /// Waits for the operation of a scope to be recorded.
    pub(crate) async fn completed(&self, scope: Scope<'_>) {
        let wait = async {
            while !matches!(self.holds(scope).await, Some(Holding::Completed(_))) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it is recorded");
    }

    pub(crate) async fn orphans(&self) -> Vec<Unresolved> {
        Administer::unresolved(&self.store, None, 100).await.unwrap()
    }

    pub(crate) fn post(&self, path: &str) -> Send {
        Send::new(self.address, Method::POST, path)
    }

    pub(crate) fn send(&self, method: Method, path: &str) -> Send {
        Send::new(self.address, method, path)
    }
}

/// Serves a router until the test's runtime ends.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A request to be sent over a connection of its own.
#[derive(Clone)]
pub(crate) struct Send {
    address: SocketAddr,
    request: Arc<Head>,
    body: Bytes,
}

#[derive(Clone)]
struct Head {
    method: Method,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Send {
    pub(crate) fn new(address: SocketAddr, method: Method, path: &str) -> Send {
        let headers = vec![("authorization".to_owned(), b"Bearer acme".to_vec())];
        let head = Head { method, path: path.to_owned(), headers };
        Send { address, request: Arc::new(head), body: Bytes::new() }
    }

    pub(crate) fn key(self, key: &str) -> Send {
        self.header("idempotency-key", key)
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Send {
        let head = Arc::make_mut(&mut self.request);
        head.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// In the place of the bearer token that every request has.
    pub(crate) fn bearer(mut self, token: &str) -> Send {
        let head = Arc::make_mut(&mut self.request);
        head.headers.retain(|(name, _)| name != "authorization");
        if token.is_empty() {
            self
        } else {
            self.header("authorization", format!("Bearer {token}"))
        }
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Send {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &str) -> Send {
        self.header("content-type", "application/json").body(body.to_owned())
    }

    fn request(&self) -> http::Request<Full<Bytes>> {
        let head = &*self.request;
        let mut request = http::Request::builder()
            .method(head.method.clone())
            .uri(&head.path)
            .header("host", "api.example.com");
        for (name, value) in &head.headers {
            request = request.header(name, &value[..]);
        }
        request.body(Full::new(self.body.clone())).unwrap()
    }

    /// Sends it and waits for the whole answer.
    pub(crate) async fn send(self) -> Reply {
        self.try_send().await.expect("the server answers")
    }

    /// The same, where the connection may break before the answer is whole.
    pub(crate) async fn try_send(self) -> Option<Reply> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(self.request()).await.ok()?;
        let (head, body) = response.into_parts();
        let collected = body.collect().await.ok()?;
        connection.abort();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let body = collected.to_bytes();
        Some(Reply { status: head.status, headers: head.headers, body, trailers })
    }

    /// Sends it from a task of its own.
    pub(crate) fn spawn(self) -> tokio::task::JoinHandle<Reply> {
        tokio::spawn(self.send())
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The problem document, checked for its form.
    pub(crate) fn problem(&self) -> HashMap<String, serde_json::Value> {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: HashMap<String, serde_json::Value> =
            serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["retryable"].is_boolean() && problem["detail"].is_string());
        assert!(problem["title"].is_string() && problem["type"].is_string());
        problem
    }

    pub(crate) fn code(&self) -> String {
        self.problem()["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn is_retryable(&self) -> bool {
        self.problem()["retryable"].as_bool().unwrap()
    }

    /// The same answer as far as a client's program can tell.
    pub(crate) fn assert_same(&self, first: &Reply) {
        assert_eq!((self.status, &self.body), (first.status, &first.body));
        for name in ["content-type", "location", "etag", "link", "content-length"] {
            let lines =
                |reply: &Reply| reply.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
            assert_eq!(lines(self), lines(first), "{name}");
        }
    }
}

/// Yields until something holds that other tasks bring about.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{what}"));
}
