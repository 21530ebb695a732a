//! A server with the operator's routes on a loopback socket, and the client that talks to it.

use std::net::SocketAddr;

use axum::Router;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use oncelog::admin::{Admin, Operator, Refusal};
use oncelog::{Claim, Fingerprint, Options, Permit, Scope, Store};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

/// Every route, and a body that it would take.
pub(crate) fn routes() -> Vec<(Method, &'static str, Value)> {
    let seen = json!({ "scope": fields(scope("k")), "token": "1" });
    let mut resolution = seen.clone();
    resolution["response"] = json!({ "text": "created" });
    vec![
        (Method::GET, "/", Value::Null),
        (Method::GET, "/stats", Value::Null),
        (Method::GET, "/segments", Value::Null),
        (Method::GET, "/orphans", Value::Null),
        (Method::GET, "/metrics", Value::Null),
        (Method::GET, "/no-such-route", Value::Null),
        (Method::POST, "/orphans/resolve", resolution),
        (Method::POST, "/orphans/release", seen),
        (Method::POST, "/forget", json!({ "scope": fields(scope("k")) })),
        (Method::POST, "/forget-organization", json!({ "organization": "acme" })),
        (Method::POST, "/accept-clock", json!({})),
        (Method::POST, "/backup", json!({ "name": "backup" })),
    ]
}

/// `Authorization: Bearer NAME`, as a server's own authentication might have it.
pub(crate) fn authenticate(request: &Parts) -> Result<Operator, Refusal> {
    let value = request.headers.get("authorization").and_then(|value| value.to_str().ok());
    match value.and_then(|value| value.strip_prefix("Bearer")) {
        Some(" mallory") => Err(Refusal::forbidden()),
        Some(" guest") => Err(Refusal::sign_in(HeaderValue::from_static("/sign-in"))),
        Some(name) => Ok(Operator::named(name.trim())),
        None => Err(Refusal::unauthenticated(HeaderValue::from_static("Bearer"))),
    }
}

pub(crate) fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

pub(crate) fn fields(scope: Scope<'_>) -> Value {
    let Scope { organization, method, path, key } = scope;
    json!({ "organization": organization, "method": method, "path": path, "key": key })
}

pub(crate) fn body() -> Fingerprint {
    Fingerprint::of(b"the request")
}

pub(crate) fn claim(store: &Store, scope: Scope<'_>) -> Permit {
    match store.claim(scope, body()).unwrap() {
        Claim::Granted(permit) => permit,
        other => panic!("not granted: {other:?}"),
    }
}

/// A claim whose permit is gone, as an operator sees it: scope and token.
pub(crate) fn orphan(store: &Store, scope: Scope<'_>) -> Value {
    let permit = claim(store, scope);
    let token = permit.token();
    drop(permit);
    json!({ "scope": fields(scope), "token": token.to_string() })
}

pub(crate) fn kind(store: &Store, scope: Scope<'_>) -> &'static str {
    let claimed = store.claim(scope, body()).unwrap();
    claimed.kind()
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
    mount: &'static str,
}

impl Server {
    pub(crate) async fn start() -> Server {
        Server::with("/ops", Store::options()).await
    }

    /// Mounted below a prefix, with the store and the backups in one scratch directory.
    pub(crate) async fn with(mount: &'static str, options: Options) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let store = options.open(dir.path().join("store")).unwrap();
        Server::mounted(mount, store, dir).await
    }

    /// Over a store that was opened elsewhere.
    pub(crate) async fn of(store: Store) -> Server {
        Server::mounted("/ops", store, tempfile::tempdir().unwrap()).await
    }

    async fn mounted(mount: &'static str, store: Store, dir: TempDir) -> Server {
        let backups = dir.path().join("backups");
        std::fs::create_dir(&backups).unwrap();
        let admin = Admin::new(store.clone(), authenticate).backups_in(backups).router();
        let address = serve(Router::new().nest(mount, admin)).await;
        Server { address, store, dir, mount }
    }

    pub(crate) fn get(&self, route: &str) -> Ask {
        self.ask(Method::GET, route)
    }

    pub(crate) fn ask(&self, method: Method, route: &str) -> Ask {
        // Nested at a path without a slash, the root has none.
        let mount = self.mount.trim_end_matches('/');
        let route = if route == "/" { &self.mount[mount.len()..] } else { route };
        let path = format!("{mount}{route}");
        let headers = vec![("authorization".to_owned(), "Bearer olivia".to_owned())];
        Ask { address: self.address, method, path, headers, body: Bytes::new() }
    }

    pub(crate) fn post(&self, route: &str, body: &Value) -> Ask {
        let ask = self.ask(Method::POST, route);
        Ask { body: body.to_string().into(), ..ask }.header("content-type", "application/json")
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
pub(crate) struct Ask {
    pub(crate) address: SocketAddr,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In the place of the one that every request has.
    pub(crate) fn bearer(mut self, name: Option<&str>) -> Ask {
        self.headers.retain(|(name, _)| name != "authorization");
        match name {
            Some(name) => self.header("authorization", &format!("Bearer {name}")),
            None => self,
        }
    }

    pub(crate) async fn send(self) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(self.method).uri(&self.path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            request = request.header("host", "api.example.com");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body)).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        Reply { status: head.status, headers: head.headers, body }
    }

    /// The JSON of an answer that is a success.
    pub(crate) async fn json(self) -> Value {
        let reply = self.send().await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/json"));
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// Status and code of an answer that is a problem.
    pub(crate) async fn problem(self) -> (u16, String) {
        self.send().await.problem()
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Status and code of a problem document, which is checked for its form.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["retryable"].is_boolean() && problem["title"].is_string());
        assert!(problem["type"].is_string() && problem["detail"].is_string());
        (self.status.as_u16(), problem["code"].as_str().unwrap().to_owned())
    }
}
