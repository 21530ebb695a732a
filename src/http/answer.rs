//! The layer's own answers: refusals, and stored responses.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::http::backend::{Completed, ErrorKind, Running};
use crate::http::body::ResponseBody;
use crate::http::classify::Classify;
use crate::http::encoding::{self, Saved};
use crate::http::observe;
use crate::http::policy::Rules;
use crate::http::problem::{Code, Problem};

/// In a replay: it is one.
static REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// In a replay: when the operation completed.
static ORIGINAL_DATE: HeaderName = HeaderName::from_static("idempotency-original-date");

/// When to ask again after a refusal that may be over at once.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// When to ask again where somebody has to look first.
const LATER: Duration = Duration::from_secs(30);

/// The response to a problem.
pub(crate) fn refuse<R>(rules: &Rules, mut problem: Problem) -> Response<ResponseBody<R>> {
    problem.status = rules.status_of(problem.code);
    observe::refused(problem.code);
    let response = rules.renderer.render(&problem);
    response.map(|body| ResponseBody::one(body, None))
}

pub(crate) fn in_progress(running: &Running) -> Problem {
    Problem::after(Code::InProgress, running.retry_after)
}

/// The outcome of an earlier attempt is unknown, and will be until somebody says.
pub(crate) fn unknown() -> Problem {
    Problem::after(Code::OutcomeUnknown, LATER)
}

pub(crate) fn problem_of(kind: ErrorKind) -> Problem {
    match kind {
        ErrorKind::TooLarge => Problem::new(Code::ScopeTooLarge),
        ErrorKind::Full => Problem::after(Code::Unavailable, SOON),
        ErrorKind::Unavailable
        | ErrorKind::Superseded
        | ErrorKind::Corrupt
        | ErrorKind::Invalid => Problem::after(Code::Unavailable, LATER),
    }
}

/// What the store kept of a response.
pub(crate) fn saved(completed: &Completed) -> Result<Saved, Problem> {
    let Some(response) = &completed.response else {
        return Err(Problem::new(Code::ResponseNotStored));
    };
    encoding::decode(response).ok_or_else(|| {
        tracing::error!(
            target: observe::TARGET,
            operation = %completed.operation,
            "a stored response is in no format that this version knows"
        );
        Problem::after(Code::Unavailable, LATER)
    })
}

/// Whether a response is marked as a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    None,
    Replayed,
}

/// A saved response as it is sent.
pub(crate) fn respond<R>(
    rules: &Rules,
    saved: Saved,
    completed: &Completed,
    marker: Marker,
) -> Response<ResponseBody<R>> {
    let Saved { status, headers, trailers, body } = saved;
    let Some(body) = body else {
        let location = headers.get(header::LOCATION).cloned();
        let problem = Problem::new(Code::ResponseNotStored);
        return refuse(rules, Problem { original_status: Some(status), location, ..problem });
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    if let Some(trailers) = &trailers
        && !matches!(rules.classify, Classify::Grpc)
    {
        // HTTP/1.1 sends only the trailers that are announced.
        let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
            headers.insert(header::TRAILER, names);
        }
    }
    if marker == Marker::Replayed {
        mark(headers);
        headers.insert(&ORIGINAL_DATE, date(completed.completed_at));
    }
    announce(rules, completed, headers);
    response.map(|()| ResponseBody::one(body, trailers))
}

/// Says that the operation ran before this request.
pub(crate) fn mark(headers: &mut HeaderMap) {
    headers.insert(&REPLAYED, HeaderValue::from_static("true"));
}

/// Tells until when the key is kept, where the policy says so.
pub(crate) fn announce(rules: &Rules, completed: &Completed, headers: &mut HeaderMap) {
    if let Some(name) = &rules.expiry_header {
        headers.insert(name.clone(), date(completed.expires_at));
    }
}

fn date(time: std::time::SystemTime) -> HeaderValue {
    // Beyond the year 9999 there is no such date; the last one that there is comes closest.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let time = time.min(std::time::UNIX_EPOCH + LAST);
    HeaderValue::try_from(httpdate::fmt_http_date(time)).expect("a date is visible ASCII")
}
