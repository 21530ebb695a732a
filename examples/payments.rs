//! A payment route that never runs twice by itself: an unknown outcome is held, and a completer
//! asks the bank and resolves it.
//!
//! ```text
//! cargo run --example payments
//! curl http://127.0.0.1:8082/payments -H "Idempotency-Key: order-1001-pay-v1" -d 100
//! ```

use std::time::Duration;

use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::{Extension, Router, routing::post};
use oncelog::http::{Attempt, IdempotencyLayer, KeyPresence, Organization, Orphans, Policy};
use oncelog::{Error, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open("payments-data")?;
    let held = Policy::builder(Orphans::Hold)
        .key_presence(KeyPresence::Required)
        .run_limit(Duration::from_secs(20))
        .build()?;
    let layer =
        IdempotencyLayer::new(store.clone(), Organization::single(), Orphans::Hold).policy(held);
    tokio::spawn(async move {
        if let Err(error) = complete(store).await {
            eprintln!("payments: nothing is resolved any more: {error}");
        }
    });
    let router = Router::new().route("/payments", post(pay)).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8082").await?;
    Ok(axum::serve(listener, router).await?)
}

/// The bank gets a key of its own, the same for every attempt; what came back is saved, so that the
/// completer need not ask again.
async fn pay(Extension(attempt): Extension<Attempt>, amount: String) -> impl IntoResponse {
    let receipt = bank(&attempt.child_key("charge"), &amount).await;
    let response = Response::builder().status(201).body(receipt).expect("a valid response");
    match attempt.save_checkpoint(&attempt.encode(&response)).await {
        Ok(()) => Ok(response),
        Err(error) => Err((StatusCode::BAD_GATEWAY, error.to_string())),
    }
}

async fn bank(key: &str, amount: &str) -> String {
    format!("paid {} as {key}\n", amount.trim())
}

/// Resolves what the bank is known to have done; the rest stays held for a person.
async fn complete(store: Store) -> oncelog::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(10));
    loop {
        ticks.tick().await;
        for info in store.unresolved()? {
            let orphan = store.orphan(info.scope())?;
            if let (Some(orphan), Some(response)) = (orphan, info.checkpoint()) {
                match orphan.resolve_async(response).await {
                    // The attempt was alive after all, and has its own answer.
                    Ok(_) | Err(Error::Superseded) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
