//! A service's own endpoint: `/livez`, `/readyz`, `/healthz` and `/metrics`.
//!
//! Plain HTTP, so it is for loopback addresses and sockets inside a node; it tells nothing about objects.

use crate::Shutdown;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::{Encoder, Registry, TextEncoder};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Connections of this endpoint at a time: scrapers and probes, never many.
const MOST_CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// What the endpoint answers from.
#[derive(Clone)]
pub struct Ops {
    /// The metrics to show.
    pub metrics: Registry,
    /// What is not ready yet, by name; empty when ready.
    pub unready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl Ops {
    /// One that is always ready.
    pub fn new(metrics: Registry) -> Ops {
        Ops { metrics, unready: Arc::new(Vec::new) }
    }

    /// The answer to a request.
    pub fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let text = |code: StatusCode, text: String| {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = code;
            response
        };
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok".into()),
            "/readyz" | "/healthz" => match (self.unready)() {
                unready if unready.is_empty() => text(StatusCode::OK, "ok".into()),
                unready => {
                    text(StatusCode::INTERNAL_SERVER_ERROR, format!("not ready: {}\n", unready.join(", ")))
                }
            },
            "/metrics" => self.metrics_text(),
            _ => text(StatusCode::NOT_FOUND, "not found\n".into()),
        }
    }

    fn metrics_text(&self) -> Response<Full<Bytes>> {
        let mut body = Vec::new();
        // Writing to memory cannot fail; a malformed family is left out.
        let _ = TextEncoder::new().encode(&self.metrics.gather(), &mut body);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, ops: Ops, shutdown: Shutdown) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    answer(listener, Arc::new(move |method: &Method, path: &str| ops.answer(method, path)), shutdown).await;
    Ok(())
}

/// What answers a request by its method and path.
pub type Answer = dyn Fn(&Method, &str) -> Response<Full<Bytes>> + Send + Sync;

/// Serves any answers, as small as these, until `shutdown`.
pub async fn answer(listener: TcpListener, answer: Arc<Answer>, shutdown: Shutdown) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        // Cancel-safe: accept and join_next lose nothing when dropped.
        tokio::select! {
            () = shutdown.requested() => return,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if open.len() < MOST_CONNECTIONS => {
                let Ok((stream, _)) = accepted else { continue };
                let answer = answer.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let response = answer(request.method(), request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                open.spawn(async move {
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
                    // A client that breaks off has nothing to be told.
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ops: &Ops, method: Method, path: &str, code: u16) {
        assert_eq!(ops.answer(&method, path).status().as_u16(), code, "{method} {path}");
    }

    #[test]
    fn health_follows_what_is_unready() {
        let mut ops = Ops::new(Registry::new());
        check(&ops, Method::GET, "/readyz", 200);
        check(&ops, Method::GET, "/metrics", 200);
        check(&ops, Method::GET, "/secrets", 404);
        check(&ops, Method::POST, "/livez", 405);
        ops.unready = Arc::new(|| vec!["informers".into()]);
        check(&ops, Method::GET, "/readyz", 500);
        check(&ops, Method::GET, "/livez", 200);
    }
}
