//! The two ways in which SPDY comes: as an upgrade of its own, or inside a WebSocket, message by message.

use super::forward;
use crate::runtime::Runtime;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::ws::{Message, WebSocket};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The subprotocol of a WebSocket that carries SPDY.
pub const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// The protocol of the streams inside, which plain SPDY names in a header.
const STREAMS: &str = "portforward.k8s.io";
/// What may wait between a WebSocket and SPDY in each direction, in bytes.
const BETWEEN_BYTES: usize = 64 * 1024;

/// Whether a request asks for SPDY itself.
pub fn is_spdy(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"SPDY/3.1"))
}

/// Answers a request for SPDY, and serves it.
pub fn upgrade(runtime: Runtime, sandbox: String, request: &mut Request) -> Response {
    let upgraded = hyper::upgrade::on(request);
    let tasks = runtime.tasks.clone();
    tasks.spawn(async move {
        match upgraded.await {
            Ok(io) => forward::run(runtime, sandbox, TokioIo::new(io)).await,
            Err(error) => tracing::debug!(error = error.to_string(), "a client did not upgrade"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "SPDY/3.1"),
        (header::HeaderName::from_static("x-stream-protocol-version"), STREAMS),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Serves SPDY inside a WebSocket.
pub async fn websocket(runtime: Runtime, sandbox: String, mut socket: WebSocket) {
    let (inside, outside) = tokio::io::duplex(BETWEEN_BYTES);
    let served = forward::run(runtime, sandbox, inside);
    let (mut reader, mut writer) = tokio::io::split(outside);
    let carried = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            // Cancel-safe: a message or bytes that were not taken stay where they are.
            tokio::select! {
                message = socket.recv() => match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        if writer.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                count = reader.read(&mut buffer) => match count {
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        if socket.send(Message::Binary(buffer[..count].to_vec().into())).await.is_err() {
                            return;
                        }
                    }
                },
            }
        }
    };
    // Cancel-safe: either end ends it.
    tokio::select! {
        () = served => {}
        () = carried => {}
    }
}
