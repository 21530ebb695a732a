//! The gRPC preset, with tonic on both ends: the outcome is read off `grpc-status`, and refusals
//! are statuses that a client understands.

#[path = "../../examples/text/mod.rs"]
mod text;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use oncelog::conformance::Harness as _;
use oncelog::http::{IdempotencyLayer, KeyPresence, Organization, Orphans, Policy};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status, body::Body, server};

use crate::ground::Ground;
use crate::layer::support::{Runs, TTL};

#[derive(Clone)]
struct Books(Runs);

impl server::NamedService for Books {
    const NAME: &'static str = "library.Books";
}

impl Service<http::Request<Body>> for Books {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let runs = self.0.clone();
        let add = tower::service_fn(move |request: Request<String>| {
            let run = runs.begin();
            async move {
                match &*request.into_inner() {
                    "untitled" => Err(Status::invalid_argument("a book has a title")),
                    "burning" => Err(Status::internal("the library burns")),
                    title => Ok(Response::new(format!("{title} is number {run}"))),
                }
            }
        });
        Box::pin(async move { Ok(server::Grpc::new(text::Text).unary(add, request).await) })
    }
}

async fn start() -> (Runs, SocketAddr, Ground) {
    let ground = Ground::new();
    let store = ground.fresh(TTL).await;
    let policy = Policy::grpc(Orphans::Hold).key_presence(KeyPresence::Required).build().unwrap();
    let layer = IdempotencyLayer::new(store, Organization::single(), Orphans::Hold).policy(policy);
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = incoming.local_addr().unwrap();
    let runs = Runs::default();
    let server = Server::builder().layer(layer).add_service(Books(runs.clone()));
    tokio::spawn(server.serve_with_incoming(incoming));
    (runs, address, ground)
}

async fn connect(address: SocketAddr) -> tonic::client::Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    tonic::client::Grpc::new(endpoint.connect().await.unwrap())
}

async fn add(
    client: &mut tonic::client::Grpc<Channel>,
    key: Option<&str>,
    title: &str,
) -> Result<Response<String>, Status> {
    client.ready().await.unwrap();
    let mut request = Request::new(title.to_owned());
    if let Some(key) = key {
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    }
    let path = http::uri::PathAndQuery::from_static("/library.Books/Add");
    client.unary(request, path, text::Text).await
}

#[tokio::test]
async fn a_retry_of_a_unary_call_gets_the_stored_message_and_status() {
    let (runs, address, _ground) = start().await;
    let mut client = connect(address).await;
    let first = add(&mut client, Some("k"), "Emma").await.unwrap();
    assert!(first.metadata().get("idempotent-replayed").is_none());
    let retry = add(&mut client, Some("k"), "Emma").await.unwrap();
    assert_eq!(retry.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!((first.get_ref(), retry.get_ref()), (retry.get_ref(), &"Emma is number 1".into()));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn the_outcome_is_read_off_grpc_status() {
    let (runs, address, _ground) = start().await;
    let mut client = connect(address).await;
    for run in 1..=2 {
        let failed = add(&mut client, Some("invalid"), "untitled").await.unwrap_err();
        assert_eq!((failed.code(), runs.count()), (Code::InvalidArgument, run), "released");
    }
    for run in 3..=4 {
        // In doubt; released, since the method never asked for its operation id.
        let failed = add(&mut client, Some("doubt"), "burning").await.unwrap_err();
        assert_eq!((failed.code(), runs.count()), (Code::Internal, run));
    }
}

#[tokio::test]
async fn refusals_are_trailers_only() {
    let (runs, address, _ground) = start().await;
    let mut client = connect(address).await;
    add(&mut client, Some("k"), "Emma").await.unwrap();
    let conflict = add(&mut client, Some("k"), "Persuasion").await.unwrap_err();
    assert_eq!(conflict.code(), Code::FailedPrecondition);
    assert_eq!(conflict.metadata().get("idempotency-code").unwrap(), "idempotency_conflict");
    let missing = add(&mut client, None, "Emma").await.unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    assert_eq!(runs.count(), 1);
}
