//! What is answered in the place of what was asked: problem documents
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with stable codes.

use axum::body::Body;
use axum::response::IntoResponse;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::error::Error;

/// Why. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Unauthenticated,
    Forbidden,
    CrossOrigin,
    NotJson,
    NotFound,
    WrongMethod,
    Invalid,
    TooLarge,
    Superseded,
    StillRunning,
    ClaimOpen,
    ScopeFree,
    Full,
    Corrupt,
    Unavailable,
    Io,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Code::Unauthenticated => "admin_unauthenticated",
            Code::Forbidden => "admin_forbidden",
            Code::CrossOrigin => "admin_cross_origin",
            Code::NotJson => "admin_not_json",
            Code::NotFound => "admin_not_found",
            Code::WrongMethod => "admin_wrong_method",
            Code::Invalid => "admin_invalid",
            Code::TooLarge => "admin_too_large",
            Code::Superseded => "admin_superseded",
            Code::StillRunning => "admin_still_running",
            Code::ClaimOpen => "admin_claim_open",
            Code::ScopeFree => "admin_scope_free",
            Code::Full => "admin_full",
            Code::Corrupt => "admin_corrupt",
            Code::Unavailable => "admin_unavailable",
            Code::Io => "admin_io",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::Forbidden | Code::CrossOrigin => StatusCode::FORBIDDEN,
            Code::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::NotFound | Code::ScopeFree => StatusCode::NOT_FOUND,
            Code::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Code::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Superseded | Code::StillRunning | Code::ClaimOpen => StatusCode::CONFLICT,
            Code::Full => StatusCode::INSUFFICIENT_STORAGE,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Corrupt | Code::Io => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One sentence for a person, where nothing more is known.
    fn detail(self) -> &'static str {
        match self {
            Code::Unauthenticated => "sign in first",
            Code::Forbidden => "this account may not operate the store",
            Code::CrossOrigin => "a change must come from the page itself, not from another origin",
            Code::NotJson => "a change is asked for as application/json",
            Code::NotFound => "there is no such route",
            Code::WrongMethod => "this route has another method",
            Code::Invalid => "the request is malformed",
            Code::TooLarge => "the request is too large",
            Code::Superseded => {
                "this attempt is no longer the current one: somebody else took it over, resolved \
                 or released it; look at the list again"
            }
            Code::StillRunning => {
                "its lease has lapsed, but the attempt still lives in the server and may yet \
                 commit; release it once it has ended, or resolve it"
            }
            Code::ClaimOpen => "the claim is open: resolve or release it first",
            Code::ScopeFree => "nothing is stored of this scope",
            Code::Full => "there is no room for the record of it",
            Code::Corrupt => "damage is in the way",
            Code::Unavailable => "the store is closed or poisoned",
            Code::Io => "the operating system refused",
        }
    }
}

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
}

impl Problem {
    pub(crate) fn new(code: Code) -> Problem {
        Problem { code, detail: code.detail().to_owned() }
    }

    pub(crate) fn with(code: Code, detail: impl Into<String>) -> Problem {
        Problem { code, detail: detail.into() }
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code.as_str()
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let status = self.code.status();
        let document = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": self.detail,
            "code": self.code.as_str(),
            "retryable": self.code == Code::Full,
        });
        let mut response = Response::new(Body::from(document.to_string()));
        *response.status_mut() = status;
        let media_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let code = match &error {
            Error::Superseded => return Problem::new(Code::Superseded),
            Error::Invalid { .. } => Code::Invalid,
            Error::TooLarge { .. } => Code::TooLarge,
            Error::Full { .. } => Code::Full,
            Error::Corrupt { .. } | Error::Version { .. } => Code::Corrupt,
            Error::Poisoned { .. } | Error::Closed => Code::Unavailable,
            Error::Io { .. } | Error::AlreadyOpen { .. } | Error::Missing { .. } => Code::Io,
        };
        Problem::with(code, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        Problem::into_response(self)
    }
}
