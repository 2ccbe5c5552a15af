//! Request and response bodies.

use crate::status::ApiError;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, whatever transport it came through.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// The largest request body the server reads (upstream's `MaxRequestBodyBytes`).
pub const MAX_REQUEST_BYTES: usize = 3 * 1024 * 1024;

/// A response's body: shared bytes written as they are, or a stream.
pub struct Body(Inner);

enum Inner {
    Chunks(VecDeque<Bytes>),
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>),
    Boxed(RequestBody),
}

impl Body {
    pub fn empty() -> Self {
        Self(Inner::Chunks(VecDeque::new()))
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes: Bytes = bytes.into();
        let mut chunks = VecDeque::new();
        if !bytes.is_empty() {
            chunks.push_back(bytes);
        }
        Self(Inner::Chunks(chunks))
    }

    /// Pieces written one after the other; none is copied.
    pub fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        Self(Inner::Chunks(chunks.into_iter().filter(|b| !b.is_empty()).collect()))
    }

    pub fn stream(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(stream)))
    }

    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Inner::Boxed(body.map_err(Into::into).boxed_unsync()))
    }

    /// The same body, keeping `guard` until it has been sent or given up.
    #[must_use]
    pub fn holding<G: Send + Unpin + 'static>(self, guard: G) -> Self {
        Self(Inner::Boxed(Holding { body: self, _guard: guard }.boxed_unsync()))
    }

    /// The pieces, if the whole body is already in memory.
    pub fn as_chunks(&self) -> Option<&VecDeque<Bytes>> {
        match &self.0 {
            Inner::Chunks(chunks) => Some(chunks),
            _ => None,
        }
    }
}

struct Holding<G> {
    body: Body,
    _guard: G,
}

impl<G: Unpin> HttpBody for Holding<G> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Inner::Chunks(chunks) => {
                // Small pieces of a list are joined so that one write carries many of them.
                let Some(first) = chunks.pop_front() else { return Poll::Ready(None) };
                const JOIN: usize = 16 * 1024;
                if first.len() >= JOIN || chunks.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(first))));
                }
                let mut joined = BytesMut::with_capacity(JOIN + 4096);
                joined.extend_from_slice(&first);
                while joined.len() < JOIN {
                    match chunks.front() {
                        Some(next) if next.len() < JOIN => {
                            joined.extend_from_slice(next);
                            chunks.pop_front();
                        }
                        _ => break,
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(joined.freeze()))))
            }
            Inner::Stream(stream) => {
                stream.poll_next_unpin(cx).map(|item| item.map(|bytes| bytes.map(Frame::data)))
            }
            Inner::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Chunks(chunks) => chunks.is_empty(),
            Inner::Stream(_) => false,
            Inner::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Chunks(chunks) => SizeHint::with_exact(chunks.iter().map(|b| b.len() as u64).sum()),
            Inner::Stream(_) => SizeHint::default(),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

/// Boxes a transport's body.
pub fn request_body<B>(body: B) -> RequestBody
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Reads on for a while and keeps nothing: a client that is still sending when the connection ends would see a broken
/// pipe in place of the answer.
async fn discard(mut body: RequestBody) {
    const MOST: usize = 16 << 20;
    const PATIENCE: Duration = Duration::from_secs(1);
    let reading = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > MOST {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

/// Reads a whole body; past [`MAX_REQUEST_BYTES`] the answer is 413.
pub async fn read(mut body: RequestBody) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(format!("limit is {MAX_REQUEST_BYTES}"));
    if body.size_hint().lower() > MAX_REQUEST_BYTES as u64 {
        discard(body).await;
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::bad_request(format!("unable to read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        match &first {
            None => first = Some(data),
            Some(_) => rest.extend_from_slice(&data),
        }
        if first.as_ref().map_or(0, Bytes::len) + rest.len() > MAX_REQUEST_BYTES {
            discard(body).await;
            return Err(too_large());
        }
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}
