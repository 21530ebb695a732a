//! Which parts of a request its fingerprint stands for.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, HeaderValue, header};

use crate::http::json;
use crate::scope::Fingerprint;

/// Which parts of a request its fingerprint stands for. By default: the body as received, the
/// media type in lower case without parameters, and the query.
///
/// ```
/// use oncelog::http::FingerprintOf;
///
/// let fingerprint = FingerprintOf::default()
///     .ignoring_parameters(["utm_source"])
///     .header(http::HeaderName::from_static("x-api-version"))
///     .canonical_json();
/// ```
#[must_use]
#[derive(Clone)]
pub struct FingerprintOf {
    body: BodyPart,
    media_type: Part,
    query: Query,
    headers: Vec<HeaderName>,
}

#[derive(Clone)]
enum BodyPart {
    Bytes,
    CanonicalJson,
    Nothing,
    Function(Arc<Function>),
}

type Function = dyn Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    In,
    Out,
}

#[derive(Clone)]
enum Query {
    Whole,
    Without(Vec<String>),
    Nothing,
}

/// Changes whenever the same request would get another fingerprint, so that two rules are never
/// taken for each other.
const VERSION: &[u8] = b"1";

impl Default for FingerprintOf {
    fn default() -> FingerprintOf {
        FingerprintOf {
            body: BodyPart::Bytes,
            media_type: Part::In,
            query: Query::Whole,
            headers: Vec::new(),
        }
    }
}

impl FingerprintOf {
    /// A function of one's own takes the place of the body, media type and query.
    pub fn function(f: impl Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync + 'static) -> Self {
        let body = BodyPart::Function(Arc::new(f));
        FingerprintOf { body, media_type: Part::Out, query: Query::Nothing, headers: Vec::new() }
    }

    /// Leaves the body out: any body is the same request.
    pub fn without_body(mut self) -> Self {
        self.body = BodyPart::Nothing;
        self
    }

    /// Leaves the media type out.
    pub fn without_media_type(mut self) -> Self {
        self.media_type = Part::Out;
        self
    }

    /// Leaves the query out.
    pub fn without_query(mut self) -> Self {
        self.query = Query::Nothing;
        self
    }

    /// Leaves these parameters of the query out, whatever their values.
    pub fn ignoring_parameters<N: Into<String>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        self.query = Query::Without(names.into_iter().map(Into::into).collect());
        self
    }

    /// Adds a header, all lines of it.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.headers.push(name);
        self
    }

    /// A body that is JSON counts by its values: the order of members and the space between them
    /// do not. Numbers and strings are compared as written; a body that is not JSON, or names a
    /// member twice, is compared by its bytes.
    pub fn canonical_json(mut self) -> Self {
        self.body = BodyPart::CanonicalJson;
        self
    }

    /// The fingerprint of a request from this principal.
    pub(crate) fn of(&self, parts: &Parts, body: &[u8], principal: Option<&str>) -> Fingerprint {
        let media_type = self.media_type(parts);
        let query = self.query(parts);
        let (form, body): (&[u8], Cow<'_, [u8]>) = match &self.body {
            BodyPart::Bytes => (b"bytes", body.into()),
            BodyPart::Nothing => (b"nothing", Cow::default()),
            BodyPart::CanonicalJson => match json::canonical(body) {
                Some(canonical) => (b"json", canonical.into()),
                None => (b"bytes", body.into()),
            },
            BodyPart::Function(function) => {
                (b"function", function(parts, body).to_bytes().to_vec().into())
            }
        };
        // Each on its own, so that a line of one is not taken for the name of the next.
        let headers: Vec<_> = self.headers.iter().map(|name| (name, lines(parts, name))).collect();
        let mut all: Vec<&[u8]> = vec![VERSION, form, &body, &media_type, &query];
        for (name, lines) in &headers {
            all.extend([name.as_str().as_bytes(), lines]);
        }
        if let Some(principal) = principal {
            all.extend([&b"principal"[..], principal.as_bytes()]);
        }
        Fingerprint::of_parts(&all)
    }

    fn media_type(&self, parts: &Parts) -> Vec<u8> {
        let value = parts.headers.get(header::CONTENT_TYPE).filter(|_| self.media_type == Part::In);
        let bytes = value.map_or(&b""[..], |value| value.as_bytes());
        let bare = bytes.split(|byte| *byte == b';').next().unwrap_or_default();
        bare.trim_ascii().to_ascii_lowercase()
    }

    fn query(&self, parts: &Parts) -> Vec<u8> {
        let query = parts.uri.query().unwrap_or_default();
        match &self.query {
            Query::Nothing => Vec::new(),
            Query::Whole => query.as_bytes().to_vec(),
            Query::Without(names) => {
                let counts = |pair: &&str| {
                    let name = pair.split('=').next().unwrap_or_default();
                    !names.iter().any(|ignored| ignored == name)
                };
                query.split('&').filter(counts).collect::<Vec<_>>().join("&").into_bytes()
            }
        }
    }
}

/// All lines of a header as one part.
fn lines(parts: &Parts, name: &HeaderName) -> [u8; 16] {
    let lines = parts.headers.get_all(name).iter().map(HeaderValue::as_bytes);
    Fingerprint::of_parts(&lines.collect::<Vec<_>>()).to_bytes()
}

impl fmt::Debug for FingerprintOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FingerprintOf").field("headers", &self.headers).finish_non_exhaustive()
    }
}
