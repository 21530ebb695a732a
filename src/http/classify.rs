//! What a response says about the operation: it happened, it had no effect, or nobody knows.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, response};

/// What a response says about the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened: the response is stored.
    Success,
    /// It had no effect, and no attempt of it will have one: the key is free again.
    NoEffect,
    /// It failed, perhaps after an effect.
    InDoubt,
}

/// In the extensions of a response: the handler's word that the operation had no effect, whatever
/// the status says. No attempt of it had one, and none will.
///
/// ```
/// let mut response = http::Response::new("the vendor is closed on Sundays");
/// *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
/// response.extensions_mut().insert(oncelog::http::NoEffect);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEffect;

type OfHead = dyn Fn(&response::Parts) -> Outcome + Send + Sync;

/// How the outcome is read off a response.
#[derive(Clone)]
pub(crate) enum Classify {
    Status,
    Grpc,
    Function(Arc<OfHead>),
}

impl Classify {
    /// The outcome, where the head of the response tells. `None`: the trailers will.
    pub(crate) fn of_head(&self, head: &response::Parts) -> Option<Outcome> {
        match self {
            Classify::Status => Some(of_status(head.status)),
            Classify::Function(function) => Some(function(head)),
            Classify::Grpc if head.status != StatusCode::OK => Some(Outcome::InDoubt),
            Classify::Grpc => grpc_status(&head.headers).map(of_grpc),
        }
    }

    /// The outcome of a response whose head did not tell.
    pub(crate) fn of_trailers(&self, trailers: Option<&HeaderMap>) -> Outcome {
        trailers.and_then(grpc_status).map_or(Outcome::InDoubt, of_grpc)
    }
}

impl fmt::Debug for Classify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Classify::Status => "Status",
            Classify::Grpc => "Grpc",
            Classify::Function(_) => "Function",
        })
    }
}

/// 304 depends on what the client has, so it says nothing about the write; 307 and 308 send it
/// elsewhere; 408 may come from a time limit that cut the handler off.
fn of_status(status: StatusCode) -> Outcome {
    match status.as_u16() {
        200..=299 | 301..=303 => Outcome::Success,
        408 => Outcome::InDoubt,
        307 | 308 | 400..=499 => Outcome::NoEffect,
        _ => Outcome::InDoubt,
    }
}

fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The codes of <https://grpc.io/docs/guides/status-codes/>. Those that a server gives before it
/// does anything have no effect; `CANCELLED`, `UNKNOWN`, `DEADLINE_EXCEEDED`, `ABORTED`,
/// `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS` can come at any point.
fn of_grpc(status: u8) -> Outcome {
    match status {
        0 => Outcome::Success,
        3 | 5 | 6 | 7 | 8 | 9 | 11 | 12 | 16 => Outcome::NoEffect,
        _ => Outcome::InDoubt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_became_of_the_operation() {
        for (outcome, statuses) in [
            (Outcome::Success, &[200, 201, 202, 204, 206, 301, 302, 303][..]),
            (Outcome::NoEffect, &[307, 308, 400, 401, 404, 409, 422, 429, 499]),
            (Outcome::InDoubt, &[300, 304, 305, 408, 500, 502, 503, 504, 599, 600]),
        ] {
            for status in statuses {
                let status = StatusCode::from_u16(*status).expect("a status");
                assert_eq!(of_status(status), outcome, "{status}");
            }
        }
    }
}
