//! A webhook receiver: the sender's delivery id is the key, so that each event counts once however
//! often it is delivered.
//!
//! ```text
//! cargo run --example webhook
//! curl http://127.0.0.1:8081/hooks -H "X-Delivery-Id: 72d3162e-cc78" -d '{"paid": 100}'
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderName;
use axum::routing::post;
use axum::{Router, extract::State};
use oncelog::Store;
use oncelog::http::{
    FingerprintOf, IdempotencyLayer, KeyPresence, KeySource, Organization, Orphans, Policy,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open("webhook-data")?;
    // Each delivery has its own id, and the sender does not promise the same bytes twice.
    let deliveries = Policy::builder(Orphans::Rerun)
        .key(KeySource::Header(HeaderName::from_static("x-delivery-id")))
        .key_presence(KeyPresence::Required)
        .fingerprint(FingerprintOf::default().without_body())
        .build()?;
    // A receiver with several senders reads here what the check of the signature found.
    let layer =
        IdempotencyLayer::new(store, Organization::single(), Orphans::Rerun).policy(deliveries);
    let router = Router::new()
        .route("/hooks", post(count))
        .with_state(Arc::<AtomicU64>::default())
        .layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
    Ok(axum::serve(listener, router).await?)
}

async fn count(State(events): State<Arc<AtomicU64>>) -> String {
    format!("event {}\n", events.fetch_add(1, Ordering::Relaxed) + 1)
}
