//! What the routes share: calls of the store away from the runtime's threads, JSON in and out, and
//! the forms of times.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use http::{HeaderValue, Response, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::admin::problem::{Code, Problem};
use crate::admin::{Context, Shared};
use crate::clock::to_ms;
use crate::scope::{Scope, Token};

/// Four fields, as JSON names them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScopeFields {
    organization: String,
    method: String,
    path: String,
    key: String,
}

impl ScopeFields {
    pub(crate) fn scope(&self) -> Scope<'_> {
        let ScopeFields { organization, method, path, key } = self;
        Scope { organization, method, path, key }
    }
}

/// Runs what may wait for a disk or a lock.
pub(crate) async fn blocking<T: Send + 'static>(
    context: &Shared,
    call: impl FnOnce(&Context) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let context = Arc::clone(context);
    match tokio::task::spawn_blocking(move || call(&context)).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(Problem::with(Code::Unavailable, "the call panicked, or the server is ending"))
        }
    }
}

/// What a request asks for.
pub(crate) fn asked<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Problem> {
    let body = body.map_err(|_| Problem::new(Code::TooLarge))?;
    serde_json::from_slice(&body).map_err(|error| Problem::with(Code::Invalid, error.to_string()))
}

/// A token, which JSON has as text: a number of a browser is exact below 2^53 only.
pub(crate) fn token(text: &str) -> Result<Token, Problem> {
    let what = "a token is a decimal number below 2^63, as text";
    text.parse().map_err(|_| Problem::with(Code::Invalid, what))
}

/// A document of this type.
pub(crate) fn document(media_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

pub(crate) fn json(value: &serde_json::Value) -> Response<Body> {
    document("application/json", value.to_string())
}

/// Milliseconds since 1970, as every time is told.
pub(crate) fn ms(time: SystemTime) -> u64 {
    to_ms(time)
}
