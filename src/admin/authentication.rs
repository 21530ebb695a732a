//! Who asks, and what is answered to those who may not.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use crate::admin::problem::{Code, Problem};

/// Whoever may see and change the store: the answer of the authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    name: String,
}

impl Operator {
    /// By the name that is logged with each change, and shown on the page to whoever bears it. A
    /// request of an operator with an empty name is refused: the log is to say who made a change.
    pub fn named(name: impl Into<String>) -> Operator {
        Operator { name: name.into() }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What is answered in the place of a route.
#[derive(Debug)]
pub struct Refusal(Box<Response<Body>>);

impl Refusal {
    /// `401` with this challenge, such as `Basic realm="operations"`, for which a browser asks
    /// whoever sits before it.
    pub fn unauthenticated(challenge: HeaderValue) -> Refusal {
        let mut response = Problem::new(Code::Unauthenticated).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        Refusal(Box::new(response))
    }

    /// `403`: known, and without the right.
    pub fn forbidden() -> Refusal {
        Refusal(Box::new(Problem::new(Code::Forbidden).into_response()))
    }

    /// `303` to where people sign in.
    pub fn sign_in(location: HeaderValue) -> Refusal {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SEE_OTHER;
        response.headers_mut().insert(header::LOCATION, location);
        Refusal(Box::new(response))
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        *self.0
    }
}
