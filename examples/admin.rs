//! The operator's page beside an API, behind HTTP Basic authentication.
//!
//! ```text
//! OPERATIONS_PASSWORD=... cargo run --example admin
//! open http://127.0.0.1:8083/operations in a browser, as any user with that password
//! curl http://127.0.0.1:8083/notes -H "Idempotency-Key: note-1" -d hello
//! ```

use axum::http::{HeaderValue, request::Parts};
use axum::{Router, routing::post};
use oncelog::admin::{Admin, Operator, Refusal};
use oncelog::http::{IdempotencyLayer, Organization, Orphans};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let password = std::env::var("OPERATIONS_PASSWORD")?;
    let store = oncelog::Store::open("notes-data")?;
    let layer = IdempotencyLayer::new(store.clone(), Organization::single(), Orphans::Hold);
    let api = Router::new().route("/notes", post(|note: String| async { note })).layer(layer);
    // A server with accounts reads here what its own authentication put into the request.
    let admin = Admin::new(store, move |request| operator(request, &password)).router();
    let app = api.nest("/operations", admin);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8083").await?;
    Ok(axum::serve(listener, app).await?)
}

fn operator(request: &Parts, password: &str) -> Result<Operator, Refusal> {
    let challenge = HeaderValue::from_static("Basic realm=\"operations\", charset=\"UTF-8\"");
    let refused = || Refusal::unauthenticated(challenge);
    let value = request.headers.get("authorization").and_then(|value| value.to_str().ok());
    let encoded = value.and_then(|value| value.strip_prefix("Basic "));
    let Some((user, given)) = encoded.and_then(decoded) else { return Err(refused()) };
    // Digests are compared, so that the time taken tells nothing of the password.
    let digest = |text: &str| oncelog::Fingerprint::of(text.as_bytes());
    if digest(&given) == digest(password) { Ok(Operator::named(user)) } else { Err(refused()) }
}

/// User and password of Basic credentials, which are base64 of `user:password`.
fn decoded(base64: &str) -> Option<(String, String)> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in base64.trim_end_matches('=').bytes() {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        bits = bits << 6 | u32::try_from(letters.iter().position(|&one| one == letter)?).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}
