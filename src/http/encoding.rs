//! A response as bytes, as the store keeps it; versioned, described in DESIGN.md.
//!
//! ```text
//! version 1 | flags 1 | status 2 | length of headers 4 | length of trailers 4 | headers | trailers
//! | body: all that is left
//! field: length of name 2 | length of value 4 | name | value
//! ```
//!
//! Numbers are little-endian. A header with several values is several fields, in order. The only
//! flag says that the body was not kept.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const VERSION: u8 = 1;
const BODY_NOT_KEPT: u8 = 1;
pub(crate) const PREFIX_BYTES: usize = 12;
const FIELD_PREFIX_BYTES: usize = 6;

/// Whether the body is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKept {
    Whole,
    No,
}

/// A response as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    /// `None` where it was not kept.
    pub(crate) body: Option<Bytes>,
}

/// What comes before the body.
pub(crate) fn encode_head<'a>(
    status: StatusCode,
    headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    trailers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    body: BodyKept,
) -> Vec<u8> {
    let mut head = vec![0; PREFIX_BYTES];
    head[0] = VERSION;
    head[1] = if body == BodyKept::No { BODY_NOT_KEPT } else { 0 };
    head[2..4].copy_from_slice(&status.as_u16().to_le_bytes());
    let headers_bytes = push_fields(&mut head, headers);
    head[4..8].copy_from_slice(&headers_bytes.to_le_bytes());
    let trailers_bytes = push_fields(&mut head, trailers);
    head[8..12].copy_from_slice(&trailers_bytes.to_le_bytes());
    head
}

fn push_fields<'a>(
    head: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) -> u32 {
    let before = head.len();
    for (name, value) in fields {
        let name = name.as_str().as_bytes();
        // A field beyond these lengths is no header that a server would send; it is not kept.
        let lengths = (u16::try_from(name.len()), u32::try_from(value.len()));
        let (Ok(name_bytes), Ok(value_bytes)) = lengths else { continue };
        head.extend_from_slice(&name_bytes.to_le_bytes());
        head.extend_from_slice(&value_bytes.to_le_bytes());
        head.extend_from_slice(name);
        head.extend_from_slice(value.as_bytes());
    }
    u32::try_from(head.len() - before).expect("headers of a response are far below 4 GiB")
}

/// A stored response; `None` where the bytes are not one.
pub(crate) fn decode(bytes: &Bytes) -> Option<Saved> {
    let prefix = bytes.get(..PREFIX_BYTES)?;
    if prefix[0] != VERSION || prefix[1] & !BODY_NOT_KEPT != 0 {
        return None;
    }
    let status = StatusCode::from_u16(u16::from_le_bytes([prefix[2], prefix[3]])).ok()?;
    let headers_bytes = length(&prefix[4..8])?;
    let trailers_bytes = length(&prefix[8..12])?;
    let headers_end = PREFIX_BYTES.checked_add(headers_bytes)?;
    let trailers_end = headers_end.checked_add(trailers_bytes)?;
    let headers = fields(bytes, PREFIX_BYTES..headers_end)?;
    let trailers = fields(bytes, headers_end..trailers_end)?;
    let trailers = (!trailers.is_empty()).then(|| Box::new(trailers));
    let body = (prefix[1] & BODY_NOT_KEPT == 0).then(|| bytes.slice(trailers_end..));
    Some(Saved { status, headers, trailers, body })
}

fn length(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// The fields in a range of a response, whose values share its bytes.
fn fields(response: &Bytes, range: Range<usize>) -> Option<HeaderMap> {
    let mut bytes = response.get(range)?;
    let mut fields = HeaderMap::new();
    while !bytes.is_empty() {
        let (prefix, rest) = bytes.split_at_checked(FIELD_PREFIX_BYTES)?;
        let name_bytes = usize::from(u16::from_le_bytes([prefix[0], prefix[1]]));
        let (name, rest) = rest.split_at_checked(name_bytes)?;
        let (value, rest) = rest.split_at_checked(length(&prefix[2..])?)?;
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_maybe_shared(response.slice_ref(value)).ok()?;
        // One more than a map can hold is refused, not a panic.
        fields.try_append(name, value).ok()?;
        bytes = rest;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_static("</a>; rel=a, </b>; rel=b"));
        headers.append("link", HeaderValue::from_static("</c>; rel=c"));
        let mut trailers = HeaderMap::new();
        trailers.append("grpc-status", HeaderValue::from_static("0"));
        let body = Some(Bytes::from_static(b"\0\xffbody"));
        let trailers = Some(Box::new(trailers));
        Saved { status: StatusCode::CREATED, headers, trailers, body }
    }

    fn encode(saved: &Saved) -> Vec<u8> {
        let trailers = saved.trailers.as_deref().into_iter().flatten();
        let kept = if saved.body.is_some() { BodyKept::Whole } else { BodyKept::No };
        let mut bytes = encode_head(saved.status, saved.headers.iter(), trailers, kept);
        bytes.extend_from_slice(saved.body.as_deref().unwrap_or_default());
        bytes
    }

    #[test]
    fn an_encoded_response_gives_back_every_line_and_byte() {
        let whole = saved();
        assert_eq!(decode(&encode(&whole).into()), Some(whole));
        let without = Saved { body: None, ..saved() };
        assert_eq!(decode(&encode(&without).into()), Some(without));
        let bare = Saved {
            status: StatusCode::NO_CONTENT,
            headers: HeaderMap::new(),
            trailers: None,
            body: Some(Bytes::new()),
        };
        assert_eq!(decode(&encode(&bare).into()), Some(bare));
    }

    #[test]
    fn the_bytes_of_version_1_are_these() {
        let mut headers = HeaderMap::new();
        headers.append("location", HeaderValue::from_static("/1"));
        let body = Some(Bytes::from_static(b"hi"));
        let saved = Saved { status: StatusCode::CREATED, headers, trailers: None, body };
        let golden = b"\x01\0\xc9\0\x10\0\0\0\0\0\0\0\x08\0\x02\0\0\0location/1hi";
        assert_eq!(encode(&saved), golden);
    }

    #[test]
    fn bytes_cut_anywhere_in_the_head_are_no_response() {
        let bytes = encode(&saved());
        let head = bytes.len() - saved().body.map_or(0, |body| body.len());
        for end in 0..head {
            assert_eq!(decode(&Bytes::copy_from_slice(&bytes[..end])), None, "{end}");
        }
    }

    #[test]
    fn any_byte_can_be_hostile() {
        let bytes = encode(&saved());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                // No panic; what decodes is a response.
                decode(&flipped.into());
            }
        }
        assert_eq!(decode(&Bytes::from_static(b"\x02\0\xc8\0\0\0\0\0\0\0\0\0")), None);
        assert_eq!(decode(&Bytes::from_static(b"\x01\x02\xc8\0\0\0\0\0\0\0\0\0")), None);
    }
}
