//! A unary gRPC method behind the layer, with tonic: the key is in the metadata `idempotency-key`.
//! The codec and the service are what `tonic-build` generates in a real program.

mod text;

use std::convert::Infallible;
use std::task::{Context, Poll};

use oncelog::Store;
use oncelog::http::{Attempt, IdempotencyLayer, Organization, Orphans, Policy};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Request, Response, Status, body::Body, server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open("grpc-data")?;
    let layer = IdempotencyLayer::new(store, Organization::single(), Orphans::Hold)
        .policy(Policy::grpc(Orphans::Hold).build()?);
    let server = tonic::transport::Server::builder().layer(layer).add_service(Books);
    Ok(server.serve("127.0.0.1:8083".parse()?).await?)
}

async fn add(request: Request<String>) -> Result<Response<String>, Status> {
    let operation = request.extensions().get::<Attempt>().map(Attempt::operation);
    let title = request.into_inner();
    if title.is_empty() {
        return Err(Status::invalid_argument("a book has a title"));
    }
    Ok(Response::new(format!("added {title} as {operation:?}")))
}

#[derive(Clone)]
struct Books;

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
        let method = tower::service_fn(add);
        Box::pin(async move { Ok(server::Grpc::new(text::Text).unary(method, request).await) })
    }
}
