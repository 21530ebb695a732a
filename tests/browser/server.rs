//! The server whose page is looked at, and the proxy that hears of every request elsewhere.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderValue, request::Parts};
use oncelog::admin::{Admin, Operator, Refusal};
use oncelog::{Claim, Fingerprint, Options, Permit, Scope, Store};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) struct Server {
    runtime: Option<Runtime>,
    address: SocketAddr,
    pub(crate) proxy: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    pub(crate) store: Store,
    _dir: TempDir,
}

/// Whoever knows the name is let in: `olivia:` in base64.
fn authenticate(request: &Parts) -> Result<Operator, Refusal> {
    match request.headers.get("authorization") {
        Some(value) if value == "Basic b2xpdmlhOg==" => Ok(Operator::named("olivia")),
        _ => Err(Refusal::unauthenticated(HeaderValue::from_static("Basic realm=\"ops\""))),
    }
}

impl Server {
    pub(crate) fn start(options: Options) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let store = options.open(dir.path().join("store")).unwrap();
        Server::serve(store, dir)
    }

    /// Over a store that was opened elsewhere.
    pub(crate) fn of(store: Store) -> Server {
        Server::serve(store, tempfile::tempdir().unwrap())
    }

    fn serve(store: Store, dir: TempDir) -> Server {
        std::fs::create_dir(dir.path().join("backups")).unwrap();
        let admin = Admin::new(store.clone(), authenticate);
        let admin = admin.backups_in(dir.path().join("backups")).router();
        let runtime = Runtime::new().unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let listen = || async {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let (address, pages) = runtime.block_on(listen());
        let (proxy, elsewhere) = runtime.block_on(listen());
        let app = Router::new().nest("/operations/store", admin);
        runtime.spawn(async move { axum::serve(pages, app).await });
        runtime.spawn(hear(elsewhere, Arc::clone(&heard)));
        Server { runtime: Some(runtime), address, proxy, heard, store, _dir: dir }
    }

    /// With the name that lets in.
    pub(crate) fn page(&self) -> String {
        format!("http://olivia:@{}/operations/store", self.address)
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests to other hosts so far, by their first line.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// From now on nobody listens.
    pub(crate) fn stop(&mut self) {
        self.runtime.take().expect("it is stopped once").shutdown_background();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Notes the first line of every request, and hangs up.
async fn hear(listener: TcpListener, heard: Arc<Mutex<Vec<String>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = vec![0; 1024];
        let length = stream.read(&mut head).await.unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        heard.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
    }
}

pub(crate) fn scope<'a>(organization: &'a str, key: &'a str) -> Scope<'a> {
    Scope { organization, method: "POST", path: "/v1/contacts", key }
}

pub(crate) fn body() -> Fingerprint {
    Fingerprint::of(b"the request")
}

pub(crate) fn claim(store: &Store, key: &str) -> Permit {
    match store.claim(scope("acme", key), body()).unwrap() {
        Claim::Granted(permit) => permit,
        other => panic!("not granted: {other:?}"),
    }
}

/// Orphans, made with one commit.
pub(crate) fn orphans(store: &Store, keys: &[String]) {
    let organizations = ["acme", "globex", "initech", "umbrella"].iter().cycle();
    let requests: Vec<_> =
        keys.iter().zip(organizations).map(|(key, name)| (scope(name, key), body())).collect();
    let claims = store.claim_many(&requests);
    assert!(claims.iter().all(|claim| matches!(claim, Ok(Claim::Granted(_)))));
}
