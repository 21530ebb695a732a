//! Where the key of a request is found, and what may be one.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The longest key.
pub(crate) const KEY_BYTES_MAX: usize = 255;

/// Where the key of a request is found.
#[derive(Clone)]
pub enum KeySource {
    /// In a header: `Idempotency-Key` by default, or what a sender of webhooks calls its delivery
    /// id.
    Header(HeaderName),
    /// A function of the request and its whole body, which is then read for every write. `None`
    /// is a request without a key.
    Function(KeyFunction),
}

type Find = dyn Fn(&Parts, &[u8]) -> Option<String> + Send + Sync;

/// Finds the key of a request.
#[derive(Clone)]
pub struct KeyFunction(Arc<Find>);

impl KeySource {
    /// The header that clients send, `Idempotency-Key`.
    pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

    /// A function of the request and its whole body.
    pub fn function(
        find: impl Fn(&Parts, &[u8]) -> Option<String> + Send + Sync + 'static,
    ) -> KeySource {
        KeySource::Function(KeyFunction(Arc::new(find)))
    }
}

impl KeyFunction {
    pub(crate) fn find(&self, parts: &Parts, body: &[u8]) -> Option<String> {
        (self.0)(parts, body)
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Header(name) => f.debug_tuple("Header").field(name).finish(),
            KeySource::Function(_) => f.write_str("Function"),
        }
    }
}

impl fmt::Debug for KeyFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFunction")
    }
}

/// Which forms of a key in a header are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySyntax {
    /// A bare token or a quoted string; both forms of one value are the same key.
    BareOrQuoted,
    /// Only a quoted string, a structured-field string
    /// ([RFC 8941](https://www.rfc-editor.org/rfc/rfc8941#section-3.3.3)).
    Quoted,
}

/// Whether a request has to have a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPresence {
    /// A request without one passes through.
    Optional,
    /// A request without one is refused.
    Required,
}

/// What a request says about its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    None,
    Malformed,
    Key(String),
}

/// The key in a header. Two lines of it are malformed: which one would be meant?
pub(crate) fn in_header(headers: &HeaderMap, name: &HeaderName, syntax: KeySyntax) -> Found {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Found::None };
    if lines.next().is_some() {
        return Found::Malformed;
    }
    parse(line, syntax).map_or(Found::Malformed, Found::Key)
}

fn parse(line: &HeaderValue, syntax: KeySyntax) -> Option<String> {
    let bytes = line.as_bytes();
    let key = if bytes.first() == Some(&b'"') {
        let item = sfv::Parser::new(bytes).parse::<sfv::Item>().ok()?;
        item.bare_item.as_string()?.as_str().to_owned()
    } else if syntax == KeySyntax::BareOrQuoted {
        std::str::from_utf8(bytes).ok()?.to_owned()
    } else {
        return None;
    };
    is_key(&key).then_some(key)
}

/// Whether these are 1 to 255 visible ASCII bytes.
pub(crate) fn is_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &[u8]) -> Found {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_bytes(line).expect("a legal header value");
        headers.insert(KeySource::IDEMPOTENCY_KEY, value);
        in_header(&headers, &KeySource::IDEMPOTENCY_KEY, KeySyntax::BareOrQuoted)
    }

    #[test]
    fn a_bare_token_and_a_quoted_string_of_one_value_are_the_same_key() {
        for key in
            ["hubspot-contact-123-create-v1", "a:b/c", "8e03978e-40d5-43dd-bc93-6894a57f9324"]
        {
            assert_eq!(found(key.as_bytes()), Found::Key(key.into()));
            assert_eq!(found(format!("\"{key}\"").as_bytes()), Found::Key(key.into()));
        }
        assert_eq!(found(br#""a\"b";v=1"#), Found::Key("a\"b".into()));
    }

    #[test]
    fn a_key_has_1_to_255_visible_ascii_bytes() {
        let long = "k".repeat(KEY_BYTES_MAX);
        assert_eq!(found(long.as_bytes()), Found::Key(long.clone()));
        let longer = format!("{long}k");
        let bad: [&[u8]; 7] =
            [b"", b"\"\"", b"a b", b"\"a b\"", b"\"open", b"\"a\" b", b"caf\xc3\xa9"];
        for line in bad.into_iter().chain([longer.as_bytes()]) {
            assert_eq!(found(line), Found::Malformed, "{line:?}");
        }
    }

    #[test]
    fn upper_and_lower_case_are_different_keys() {
        assert_ne!(found(b"Order-1"), found(b"order-1"));
    }
}
