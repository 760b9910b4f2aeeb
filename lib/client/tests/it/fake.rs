//! A small apiserver in memory: answers are scripted by a function of method, path with query, and body.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

/// What a call is answered with.
pub enum Answer {
    /// A code and a JSON body.
    Json(u16, Value),
    /// Lines of a watch; the stream stays open after them when `true`.
    Watch(Vec<Value>, bool),
}

type Script = dyn Fn(&str, &str, &Value) -> Answer + Send + Sync;

/// The server and what it was asked.
#[derive(Clone)]
pub struct Fake {
    script: Arc<Script>,
    pub asked: Arc<Mutex<Vec<(String, String, Value)>>>,
}

impl Fake {
    pub fn new(script: impl Fn(&str, &str, &Value) -> Answer + Send + Sync + 'static) -> Fake {
        Fake { script: Arc::new(script), asked: Arc::default() }
    }

    pub fn client(&self) -> kube::Client {
        let fake = self.clone();
        minik_client::over(
            tower::service_fn(move |request: Request<kube::client::Body>| {
                let fake = fake.clone();
                async move { Ok::<_, Infallible>(fake.answer(request).await) }
            }),
            "default",
        )
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Stream> {
        let (method, uri) = (request.method().to_string(), request.uri().to_string());
        let body = request.into_body().collect().await.expect("a body in memory").to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.asked.lock().expect("no panic").push((method.clone(), uri.clone(), body.clone()));
        let (code, lines, open) = match (self.script)(&method, &uri, &body) {
            Answer::Json(code, value) => (code, vec![value.to_string()], false),
            Answer::Watch(lines, open) => (200, lines.iter().map(|line| format!("{line}\n")).collect(), open),
        };
        let lines = futures::stream::iter(
            lines.into_iter().map(|line| Ok(http_body::Frame::data(Bytes::from(line)))),
        );
        let stream: BoxStream<'static, Result<http_body::Frame<Bytes>, Infallible>> =
            if open { lines.chain(futures::stream::pending()).boxed() } else { lines.boxed() };
        let mut response = Response::new(StreamBody::new(stream));
        *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
        response
    }
}

type Stream = StreamBody<BoxStream<'static, Result<http_body::Frame<Bytes>, Infallible>>>;

/// A refusal.
pub fn status(code: u16, reason: &str) -> Answer {
    Answer::Json(
        code,
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": code}),
    )
}
