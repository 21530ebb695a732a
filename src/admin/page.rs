//! The page: one document with its style and its script in it, which asks no other host for
//! anything.

use std::fmt::Write as _;

use axum::body::Body;
use http::{HeaderValue, Response, header};

use crate::admin::problem::{Code, Problem};
use crate::admin::read::document;
use crate::random;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: [&str; 3] =
    [include_str!("charts.js"), include_str!("orphans.js"), include_str!("page.js")];

pub(crate) async fn page() -> Result<Response<Body>, Problem> {
    let nonce = nonce().map_err(|error| Problem::with(Code::Io, error.to_string()))?;
    // Alone what this document brings runs: nothing that a key or a path smuggled into it could.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let page = PAGE
        .replace("{{style}}", STYLE)
        .replace("{{script}}", &SCRIPT.concat())
        .replace("{{nonce}}", &nonce);
    let mut response = document("text/html; charset=utf-8", page);
    let policy = HeaderValue::from_str(&policy).expect("hexadecimal digits in plain text");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// No route.
pub(crate) async fn fallback() -> Problem {
    Problem::new(Code::NotFound)
}

/// 128 random bits, drawn for each answer.
fn nonce() -> std::io::Result<String> {
    let bytes: [u8; 16] = random::bytes()?;
    let mut nonce = String::with_capacity(32);
    for byte in bytes {
        write!(nonce, "{byte:02x}").expect("a String takes any text");
    }
    Ok(nonce)
}
