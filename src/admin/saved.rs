//! The response that an orphan is resolved with, as an operator gives it.

use axum::body::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;

use crate::admin::problem::{Code, Problem};
use crate::engine::outcome::OrphanInfo;
use crate::http::encoding::{BodyKept, decode, encode_head};
use crate::http::policy::is_of_the_moment;

/// Where the response comes from.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Response {
    /// What the attempt saved last: a server whose handlers save the encoded response before they
    /// answer has it there.
    Checkpoint,
    /// What a caller of the HTTP layer is to get.
    Http(HttpResponse),
    /// The bytes as they are, for callers without the HTTP layer.
    Text(String),
    Base64(String),
}

/// A response in parts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpResponse {
    status: u16,
    /// Lines of name and value, in order.
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    /// In the place of `body`.
    body_base64: Option<String>,
}

impl Response {
    /// The bytes that are stored.
    pub(crate) fn bytes(self, orphan: &OrphanInfo) -> Result<Vec<u8>, Problem> {
        match self {
            Response::Checkpoint => {
                let checkpoint = orphan.checkpoint().map(<[u8]>::to_vec);
                checkpoint.ok_or_else(|| invalid("the attempt saved no checkpoint"))
            }
            Response::Http(response) => response.encode(),
            Response::Text(text) => Ok(text.into_bytes()),
            Response::Base64(text) => base64(&text),
        }
    }
}

impl HttpResponse {
    fn encode(self) -> Result<Vec<u8>, Problem> {
        let status =
            StatusCode::from_u16(self.status).ok().filter(|status| !status.is_informational());
        let status = status.ok_or_else(|| invalid("a status is from 200 to 999"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| invalid(format!("{name:?} is no name of a header")))?;
            if is_of_the_moment(&name) {
                return Err(invalid(format!("{name} is never replayed")));
            }
            let value = HeaderValue::from_str(value)
                .map_err(|_| invalid(format!("the value of {name} is no header value")))?;
            headers.append(name, value);
        }
        let body = match self.body_base64 {
            Some(text) if self.body.is_empty() => base64(&text)?,
            Some(_) => return Err(invalid("a response has one body")),
            None => self.body.into_bytes(),
        };
        let mut bytes = encode_head(status, headers.iter(), std::iter::empty(), BodyKept::Whole);
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }
}

/// The status of what an attempt saved, where that is an encoded response.
pub(crate) fn status(checkpoint: &[u8]) -> Option<u16> {
    decode(&Bytes::copy_from_slice(checkpoint)).map(|saved| saved.status.as_u16())
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::with(Code::Invalid, detail)
}

/// Standard base64 with its padding ([RFC 4648](https://www.rfc-editor.org/rfc/rfc4648)), strictly.
fn base64(text: &str) -> Result<Vec<u8>, Problem> {
    decode_base64(text.as_bytes()).ok_or_else(|| invalid("the text is not standard base64"))
}

fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let unpadded = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for letters in unpadded.chunks(4) {
        let mut bits: u32 = 0;
        for &letter in letters {
            bits = bits << 6 | digit(letter)?;
        }
        // Two letters are one byte and four bits, three are two bytes and two bits.
        bits <<= 6 * (4 - letters.len());
        let byte = |shift: u32| u8::try_from(bits >> shift & 0xff).expect("eight bits");
        let group = [byte(16), byte(8), byte(0)];
        let kept = letters.len() - 1;
        if group[kept..].iter().any(|&byte| byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&group[..kept]);
    }
    Some(bytes)
}

fn digit(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_the_rfc_writes_it() {
        let samples = [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ];
        for (text, bytes) in samples {
            assert_eq!(decode_base64(text.as_bytes()).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(decode_base64(b"+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "Zm9v=", "Zm9\n", "Zg==Zg==", "-_-_"]
        {
            assert_eq!(decode_base64(text.as_bytes()), None, "{text}");
        }
    }
}
