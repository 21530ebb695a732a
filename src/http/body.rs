//! Bodies: read whole up to a limit, handed on without a copy, or passed through.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// What follows a body. Boxed, since few have any, and bodies and their heads are moved often.
pub(crate) type Trailers = Option<Box<HeaderMap>>;

/// Pieces of a body in order, and what follows them.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pub(crate) data: Vec<Bytes>,
    pub(crate) trailers: Trailers,
}

impl Pieces {
    pub(crate) fn len(&self) -> u64 {
        self.data.iter().map(|piece| piece.len() as u64).sum()
    }
}

pin_project! {
    /// The body of a request behind the layer: what the layer read of it, or the client's own.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    /// The body of a response before the layer: stored bytes, the layer's own, or the handler's.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    #[project = InnerProjected]
    #[derive(Debug)]
    enum Inner<B> {
        Passed { #[pin] body: B },
        // The first piece stands apart: most bodies are one, which then takes no list.
        Pieces { first: Bytes, data: std::vec::IntoIter<Bytes>, left: u64, trailers: Trailers },
        // The rest was moved while it was read, so it is boxed.
        Rest { data: std::vec::IntoIter<Bytes>, rest: Option<Pin<Box<B>>> },
    }
}

impl<B> Inner<B> {
    fn pieces(pieces: Pieces) -> Inner<B> {
        let left = pieces.len();
        let (first, data) = (Bytes::new(), pieces.data.into_iter());
        Inner::Pieces { first, data, left, trailers: pieces.trailers }
    }

    fn one(piece: Bytes, trailers: Trailers) -> Inner<B> {
        let left = piece.len() as u64;
        Inner::Pieces { first: piece, data: Vec::new().into_iter(), left, trailers }
    }
}

impl<B: Body> Inner<B> {
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            InnerProjected::Passed { body } => body.poll_frame(cx).map(own),
            InnerProjected::Pieces { first, data, left, trailers } => {
                let first = Some(std::mem::take(first)).filter(|first| !first.is_empty());
                let frame = match first.or_else(|| data.next()) {
                    Some(piece) => {
                        *left -= piece.len() as u64;
                        Some(Frame::data(piece))
                    }
                    None => trailers.take().map(|trailers| Frame::trailers(*trailers)),
                };
                Poll::Ready(frame.map(Ok))
            }
            InnerProjected::Rest { data, rest } => {
                if let Some(piece) = data.next() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                let Some(body) = rest else { return Poll::Ready(None) };
                let frame = ready!(body.as_mut().poll_frame(cx));
                if frame.is_none() {
                    *rest = None;
                }
                Poll::Ready(own(frame))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Inner::Passed { body } => body.is_end_stream(),
            Inner::Pieces { first, data, trailers, .. } => {
                first.is_empty() && data.len() == 0 && trailers.is_none()
            }
            Inner::Rest { data, rest } => {
                data.len() == 0 && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Inner::Passed { body } => body.size_hint(),
            // An exact size makes a length of the message, and that leaves no room for trailers.
            Inner::Pieces { trailers: Some(_), .. } | Inner::Rest { .. } => SizeHint::default(),
            Inner::Pieces { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

fn own<D: Buf, E>(frame: Option<Result<Frame<D>, E>>) -> Option<Result<Frame<Bytes>, E>> {
    let bytes = |mut data: D| data.copy_to_bytes(data.remaining());
    frame.map(|frame| frame.map(|frame| frame.map_data(bytes)))
}

impl<B> RequestBody<B> {
    pub(crate) fn passed(body: B) -> RequestBody<B> {
        RequestBody { inner: Inner::Passed { body } }
    }

    pub(crate) fn read(read: Read) -> RequestBody<B> {
        RequestBody { inner: Inner::one(read.data, read.trailers) }
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn passed(body: B) -> ResponseBody<B> {
        ResponseBody { inner: Inner::Passed { body } }
    }

    pub(crate) fn one(piece: Bytes, trailers: Trailers) -> ResponseBody<B> {
        ResponseBody { inner: Inner::one(piece, trailers) }
    }

    pub(crate) fn pieces(pieces: Pieces) -> ResponseBody<B> {
        ResponseBody { inner: Inner::pieces(pieces) }
    }

    pub(crate) fn rest(read: Vec<Bytes>, rest: Pin<Box<B>>) -> ResponseBody<B> {
        ResponseBody { inner: Inner::Rest { data: read.into_iter(), rest: Some(rest) } }
    }
}

/// Both bodies are what their inner one is.
macro_rules! impl_body {
    ($body:ident) => {
        impl<B: Body> Body for $body<B> {
            type Data = Bytes;
            type Error = B::Error;

            fn poll_frame(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
                self.project().inner.poll_frame(cx)
            }

            fn is_end_stream(&self) -> bool {
                self.inner.is_end_stream()
            }

            fn size_hint(&self) -> SizeHint {
                self.inner.size_hint()
            }
        }
    };
}

impl_body!(RequestBody);
impl_body!(ResponseBody);

/// A request body that was read whole.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) data: Bytes,
    pub(crate) trailers: Trailers,
}

/// Why a request body was not read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRead {
    TooLarge,
    Broken,
}

/// Reads a request body of at most `limit` bytes. One that comes in one piece is not copied.
pub(crate) async fn read<B: Body>(body: B, limit: u64) -> Result<Read, NotRead> {
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let mut trailers = None;
    let mut bytes: u64 = 0;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|_| NotRead::Broken)?;
        match frame.into_data() {
            Ok(mut data) => {
                bytes = bytes.saturating_add(data.remaining() as u64);
                if bytes > limit {
                    return Err(NotRead::TooLarge);
                }
                if first.is_empty() && joined.is_empty() {
                    first = data.copy_to_bytes(data.remaining());
                } else {
                    if joined.is_empty() {
                        joined.extend_from_slice(&first);
                    }
                    while data.has_remaining() {
                        let chunk = data.chunk().len();
                        joined.extend_from_slice(data.chunk());
                        data.advance(chunk);
                    }
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
    let data = if joined.is_empty() { first } else { joined.freeze() };
    Ok(Read { data, trailers })
}

/// How reading a response body went. What was read is in the pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Whole,
    /// It goes on past the limit of bytes.
    TooLarge,
    /// It failed, and nothing follows.
    Broken,
}

/// Reads a response body into pieces until it ends or holds more than `limit` bytes; nothing is
/// copied, or lost where this future is dropped in between.
pub(crate) async fn collect<B: Body>(
    body: &mut Pin<Box<B>>,
    pieces: &mut Pieces,
    limit: u64,
) -> Ended {
    let mut bytes = pieces.len();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(frame) = frame else { return Ended::Broken };
        match frame.into_data() {
            Ok(mut data) => {
                bytes = bytes.saturating_add(data.remaining() as u64);
                if data.has_remaining() {
                    pieces.data.push(data.copy_to_bytes(data.remaining()));
                }
                if bytes > limit {
                    return Ended::TooLarge;
                }
            }
            Err(frame) => pieces.trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
    Ended::Whole
}
