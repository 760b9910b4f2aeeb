//! Bodies of answers.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use std::convert::Infallible;
use std::error::Error;
use std::io::Write;

/// Why a stream breaks off.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(Box<dyn Error + Send + Sync>);

/// The body of an answer: whole, or a stream.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(never).boxed_unsync()
}

/// A body of pieces as they come.
pub fn streamed(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok::<_, BodyError>(Frame::data(piece)))).boxed_unsync()
}

/// A body of somebody else's.
pub fn passed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    body.map_err(|error| BodyError(error.into())).boxed_unsync()
}

/// From how many bytes on an answer is packed, as upstream has it.
const PACKED_FROM: u64 = 128 << 10;

/// Whether the client wants large answers packed.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim() == "gzip")
}

/// The answer packed, if it is whole and large.
pub async fn zipped(response: Response<Body>) -> Response<Body> {
    let large = response.body().size_hint().exact().is_some_and(|size| size > PACKED_FROM);
    if !large || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // A whole body does not fail.
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let plain = bytes.clone();
    let packing = tokio::task::spawn_blocking(move || {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(&plain).and_then(|()| out.finish())
    });
    let Ok(Ok(packed)) = packing.await else { return Response::from_parts(parts, full(bytes)) };
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, full(packed))
}

fn never(never: Infallible) -> BodyError {
    match never {}
}
