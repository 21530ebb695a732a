//! What every request passes: the authentication, the checks that a change is meant, and the
//! headers that keep an answer to its reader.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};

use crate::admin::Shared;
use crate::admin::authentication::Operator;
use crate::admin::problem::{Code, Problem};

/// What no browser may do with an answer, unless the answer itself says more.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

pub(crate) async fn guard(
    State(context): State<Shared>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let mut response = match admit(&context, &parts) {
        Ok(operator) => {
            parts.extensions.insert(operator);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(response) => *response,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn admit(context: &Shared, request: &Parts) -> Result<Operator, Box<Response<Body>>> {
    let refuse = |code| Box::new(Problem::new(code).into_response());
    let operator = (context.authenticate)(request);
    let operator = operator.map_err(|refusal| Box::new(refusal.into_response()))?;
    if operator.name().is_empty() {
        return Err(refuse(Code::Forbidden));
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        if !is_of_this_origin(request) {
            return Err(refuse(Code::CrossOrigin));
        }
        // A form of another page cannot send this type, and its scripts must ask first.
        if !is_json(&request.headers) {
            return Err(refuse(Code::NotJson));
        }
    }
    Ok(operator)
}

/// Whether no page of another origin sent it. Browsers say where a request comes from; what is no
/// browser says nothing, and holds no cookie that somebody else's page could use.
fn is_of_this_origin(request: &Parts) -> bool {
    let value = |name: &str| request.headers.get(name).map(HeaderValue::as_bytes);
    if let Some(site) = value("sec-fetch-site") {
        return site == b"same-origin";
    }
    let Some(origin) = value("origin") else { return true };
    // HTTP/2 names the host in the address.
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = authority.or_else(|| value("host"));
    let after_scheme =
        origin.windows(3).position(|three| three == b"://").map(|at| &origin[at + 3..]);
    after_scheme.is_some() && after_scheme == host
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// A route that is there, with another method.
pub(crate) async fn wrong_method() -> Problem {
    Problem::new(Code::WrongMethod)
}
