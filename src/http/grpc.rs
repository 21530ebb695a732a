//! The gRPC form of the layer's own answers: trailers-only responses.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header};

use crate::http::problem::{Code, Problem, Renderer};

/// What a unary response carries beside its message.
pub(crate) const HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// Refusals as gRPC clients read them: `200`, with status and message in the only header block. A
/// retryable one is `UNAVAILABLE`, which a client's retry policy knows, with the time to wait in
/// `grpc-retry-pushback-ms`.
pub(crate) fn renderer() -> Renderer {
    Renderer::function(render)
}

fn render(problem: &Problem) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status_of(problem.code)));
    // The sentences are visible ASCII without `%`, which needs no encoding.
    headers.insert("grpc-message", HeaderValue::from_static(problem.code.detail()));
    headers.insert("idempotency-code", HeaderValue::from_static(problem.code.as_str()));
    if let Some(seconds) = problem.retry_after_seconds() {
        headers.insert("grpc-retry-pushback-ms", (seconds.saturating_mul(1000)).into());
    }
    response
}

/// The codes of <https://grpc.io/docs/guides/status-codes/>.
fn status_of(code: Code) -> &'static str {
    const INVALID_ARGUMENT: &str = "3";
    const DEADLINE_EXCEEDED: &str = "4";
    const ALREADY_EXISTS: &str = "6";
    const PERMISSION_DENIED: &str = "7";
    const RESOURCE_EXHAUSTED: &str = "8";
    const FAILED_PRECONDITION: &str = "9";
    const INTERNAL: &str = "13";
    const UNAVAILABLE: &str = "14";
    match code {
        Code::KeyMissing | Code::KeyInvalid | Code::ScopeTooLarge => INVALID_ARGUMENT,
        Code::RequestTooLarge => RESOURCE_EXHAUSTED,
        Code::Conflict => FAILED_PRECONDITION,
        Code::ResponseNotStored => ALREADY_EXISTS,
        Code::ReplayRefused => PERMISSION_DENIED,
        Code::RequestIncomplete
        | Code::InProgress
        | Code::OutcomeUnknown
        | Code::Unavailable
        | Code::Overloaded => UNAVAILABLE,
        Code::RunTimedOut => DEADLINE_EXCEEDED,
        Code::RunFailed | Code::Misconfigured => INTERNAL,
    }
}
