//! What a client is told when it gets no answer of the handler: problem documents
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with stable codes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::http::json::quoted;

/// Why the layer answers in the place of the handler. The names are stable.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The route requires a key, and there is none.
    KeyMissing,
    /// The key is malformed, or there are two.
    KeyInvalid,
    /// Organization, method, path and key together are too long.
    ScopeTooLarge,
    /// The request body is over the limit.
    RequestTooLarge,
    /// The request body was cut short, or took too long.
    RequestIncomplete,
    /// The key was used with another request.
    Conflict,
    /// The first request with this key still runs.
    InProgress,
    /// An earlier attempt vanished, and whether it had an effect is unknown.
    OutcomeUnknown,
    /// The operation ran, but its response was not kept.
    ResponseNotStored,
    /// The answer may not be replayed to this caller.
    ReplayRefused,
    /// The store is full, broken or closing. The handler did not run.
    Unavailable,
    /// The organization has too many requests under way.
    Overloaded,
    /// The handler panicked.
    RunFailed,
    /// The handler took too long and was cancelled.
    RunTimedOut,
    /// The server lacks what it needs to tell whose key this is.
    Misconfigured,
}

impl Code {
    /// The name in the document, such as `idempotency_conflict`.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::KeyMissing => "idempotency_key_missing",
            Code::KeyInvalid => "idempotency_key_invalid",
            Code::ScopeTooLarge => "idempotency_scope_too_large",
            Code::RequestTooLarge => "idempotency_request_too_large",
            Code::RequestIncomplete => "idempotency_request_incomplete",
            Code::Conflict => "idempotency_conflict",
            Code::InProgress => "idempotency_in_progress",
            Code::OutcomeUnknown => "idempotency_outcome_unknown",
            Code::ResponseNotStored => "idempotency_response_not_stored",
            Code::ReplayRefused => "idempotency_replay_refused",
            Code::Unavailable => "idempotency_unavailable",
            Code::Overloaded => "idempotency_overloaded",
            Code::RunFailed => "idempotency_run_failed",
            Code::RunTimedOut => "idempotency_run_timed_out",
            Code::Misconfigured => "idempotency_misconfigured",
        }
    }

    /// Whether sending the same request with the same key again can succeed.
    pub fn is_retryable(self) -> bool {
        match self {
            Code::InProgress
            | Code::OutcomeUnknown
            | Code::Unavailable
            | Code::Overloaded
            | Code::RunFailed
            | Code::RunTimedOut
            | Code::RequestIncomplete => true,
            Code::KeyMissing
            | Code::KeyInvalid
            | Code::ScopeTooLarge
            | Code::RequestTooLarge
            | Code::Conflict
            | Code::ResponseNotStored
            | Code::ReplayRefused
            | Code::Misconfigured => false,
        }
    }

    /// The status, where a policy says nothing else.
    pub fn status(self) -> StatusCode {
        match self {
            Code::KeyMissing | Code::KeyInvalid | Code::ScopeTooLarge => StatusCode::BAD_REQUEST,
            Code::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::RequestIncomplete => StatusCode::REQUEST_TIMEOUT,
            Code::Conflict | Code::ResponseNotStored => StatusCode::CONFLICT,
            Code::InProgress | Code::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Code::OutcomeUnknown | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::ReplayRefused => StatusCode::FORBIDDEN,
            Code::RunFailed | Code::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
            Code::RunTimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// One sentence for a person.
    pub fn detail(self) -> &'static str {
        match self {
            Code::KeyMissing => "this request needs an Idempotency-Key",
            Code::KeyInvalid => "a key is one header line of 1 to 255 visible ASCII characters",
            Code::ScopeTooLarge => "path and key together are too long",
            Code::RequestTooLarge => "the request body is too large",
            Code::RequestIncomplete => "the request body did not arrive whole; nothing was done",
            Code::Conflict => {
                "this key was used with another request; send that one, or use a new key for a \
                 new operation"
            }
            Code::InProgress => "the first request with this key is still running",
            Code::OutcomeUnknown => {
                "an earlier attempt ended without an answer, and it is not known yet whether it \
                 had an effect; retry with the same key"
            }
            Code::ResponseNotStored => {
                "the operation ran, and will not run again; its response was not kept"
            }
            Code::ReplayRefused => "the stored answer may not be shown to this caller",
            Code::Unavailable => "nothing was done; retry with the same key",
            Code::Overloaded => "too many requests are under way; retry with the same key",
            Code::RunFailed => "the request failed; retry with the same key",
            Code::RunTimedOut => "the request took too long; retry with the same key",
            Code::Misconfigured => "the server cannot tell whose key this is; nothing was done",
        }
    }
}

/// An answer of the layer itself.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Why.
    pub code: Code,
    /// The status that will be sent.
    pub status: StatusCode,
    /// When the same request may succeed.
    pub retry_after: Option<Duration>,
    /// Of [`Code::ResponseNotStored`]: the status that the first request was answered with.
    pub original_status: Option<StatusCode>,
    /// Of [`Code::ResponseNotStored`]: where what was made can be found.
    pub location: Option<HeaderValue>,
}

impl Problem {
    pub(crate) fn new(code: Code) -> Problem {
        let status = code.status();
        Problem { code, status, retry_after: None, original_status: None, location: None }
    }

    pub(crate) fn after(code: Code, retry_after: Duration) -> Problem {
        Problem { retry_after: Some(retry_after), ..Problem::new(code) }
    }

    /// Whole seconds for `Retry-After`: never beyond the time that is true, but at least 1, which
    /// is the least that keeps a client from asking at once.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|after| after.as_secs().max(1))
    }
}

type Render = dyn Fn(&Problem) -> Response<Bytes> + Send + Sync;

/// Turns problems into responses.
#[derive(Clone)]
pub struct Renderer(Arc<Render>);

impl Renderer {
    /// A function of one's own. Where it sets no `Retry-After`, the layer adds it.
    pub fn function(
        render: impl Fn(&Problem) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Renderer {
        Renderer(Arc::new(render))
    }

    /// `application/problem+json` with `type`, `title`, `status`, `detail`, `code` and `retryable`.
    /// `type` is the address of the documentation with the code as its fragment, also linked as
    /// `describedby`; without documentation it is `about:blank`.
    pub fn problem_json(documentation: Option<HeaderValue>) -> Renderer {
        Renderer::function(move |problem| problem_json(problem, documentation.as_ref()))
    }

    pub(crate) fn render(&self, problem: &Problem) -> Response<Bytes> {
        let mut response = (self.0)(problem);
        if let Some(seconds) = problem.retry_after_seconds()
            && !response.headers().contains_key(header::RETRY_AFTER)
        {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl fmt::Debug for Renderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renderer")
    }
}

fn problem_json(problem: &Problem, documentation: Option<&HeaderValue>) -> Response<Bytes> {
    let code = problem.code;
    let about = documentation.and_then(|address| address.to_str().ok());
    let about = about.map(|address| format!("{address}#{}", code.as_str()));
    let mut body = format!(
        r#"{{"type":{},"title":{},"status":{},"detail":{},"code":"{}","retryable":{}"#,
        quoted(about.as_deref().unwrap_or("about:blank")),
        quoted(problem.status.canonical_reason().unwrap_or("Error")),
        problem.status.as_u16(),
        quoted(code.detail()),
        code.as_str(),
        code.is_retryable(),
    );
    if let Some(status) = problem.original_status {
        body.push_str(&format!(r#","original_status":{}"#, status.as_u16()));
    }
    if let Some(location) = problem.location.as_ref().and_then(|value| value.to_str().ok()) {
        body.push_str(&format!(r#","location":{}"#, quoted(location)));
    }
    body.push('}');
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, media_type);
    // What is true of this moment is not for a cache.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(location) = &problem.location {
        headers.insert(header::LOCATION, location.clone());
    }
    let link = about.map(|about| format!("<{about}>; rel=\"describedby\""));
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        headers.insert(header::LINK, link);
    }
    response
}
