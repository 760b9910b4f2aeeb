//! Commands against a server whose answers are written down.

use crate::Failure;
use crate::session::Session;
use crate::terminal::Terminal;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

type Frame = Result<http_body::Frame<Bytes>, Infallible>;

/// A server: each call is answered by the first answer for its method and the beginning of its path and query; an
/// answer that is not the last of its kind is given once.
#[derive(Clone)]
pub struct Server {
    answers: Arc<Mutex<Vec<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

struct Answer {
    call: &'static str,
    code: u16,
    body: String,
}

impl Server {
    /// One that serves Pods, Nodes and some more, and answers as written.
    pub fn new(answers: Vec<(&'static str, u16, Value)>) -> Server {
        let text = |body: Value| match body {
            // Lines of a watch, or of a log.
            Value::Array(lines) => lines
                .iter()
                .map(|line| line.as_str().map_or_else(|| line.to_string(), str::to_owned) + "\n")
                .collect(),
            body => body.to_string(),
        };
        let answers =
            answers.into_iter().map(|(call, code, body)| Answer { call, code, body: text(body) }).collect();
        Server { answers: Arc::new(Mutex::new(answers)), asked: Arc::default() }
    }

    /// A session with it.
    pub fn session(&self, namespace: Option<&str>) -> Session {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let client = minik_client::over(service, namespace.unwrap_or("default"));
        Session::over(client, namespace.is_some(), "https://127.0.0.1:6443".into())
    }

    /// What was asked, without discovery.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn answer(
        &self,
        request: Request<kube::client::Body>,
    ) -> Response<StreamBody<BoxStream<'static, Frame>>> {
        let call = format!("{} {}", request.method(), request.uri());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (code, text) = match call.as_str() {
            "GET /api" => (200, discovery(true).to_string()),
            "GET /apis" => (200, discovery(false).to_string()),
            _ => {
                let body = String::from_utf8_lossy(&body);
                self.asked.lock().unwrap().push(format!("{call} {body}").trim_end().to_owned());
                self.written(&call)
            }
        };
        let one = futures::stream::once(async move { Ok(http_body::Frame::data(Bytes::from(text))) });
        let mut response = Response::new(StreamBody::new(one.boxed()));
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
        response
    }

    fn written(&self, call: &str) -> (u16, String) {
        let mut answers = self.answers.lock().unwrap();
        let fits = |answer: &Answer| call.starts_with(answer.call);
        let Some(at) = answers.iter().position(fits) else {
            let status = json!({"kind": "Status", "reason": "NotFound", "code": 404, "message": format!("nothing is written for {call}")});
            return (404, status.to_string());
        };
        let answer = (answers[at].code, answers[at].body.clone());
        if answers[at + 1..].iter().any(|other| other.call == answers[at].call) {
            answers.remove(at);
        }
        answer
    }
}

fn discovery(core: bool) -> Value {
    let found = crate::resources::tests::discovery();
    let mut groups: Vec<Value> = Vec::new();
    for one in found.resources.iter().filter(|one| one.group.is_empty() == core && one.version == "v1") {
        let subresources: Vec<Value> = one
            .subresources
            .iter()
            .map(|name| json!({"subresource": name, "responseKind": {"kind": "Scale"}, "verbs": ["get"]}))
            .collect();
        groups.push(json!({"metadata": {"name": one.group}, "versions": [{"version": one.version, "resources": [{
            "resource": one.plural, "singularResource": one.singular, "responseKind": {"kind": one.kind}, "scope": if one.namespaced { "Namespaced" } else { "Cluster" },
            "verbs": one.verbs, "subresources": subresources, "shortNames": one.short_names, "categories": one.categories}]}]}));
    }
    json!({"kind": "APIGroupDiscoveryList", "items": groups})
}

/// What a command has printed, and how it ended.
pub struct Printed(Vec<u8>, Vec<u8>);

impl Printed {
    /// Nothing yet.
    pub fn new() -> Printed {
        Printed(Vec::new(), Vec::new())
    }

    /// Where it goes.
    pub fn terminal(&mut self) -> Terminal<'_> {
        Terminal::new(&mut self.0, &mut self.1)
    }

    /// All of it: the result, remarks after `! `, the failure after `!! `.
    pub fn text(&self, result: &Result<(), Failure>) -> String {
        let mut text = String::from_utf8_lossy(&self.0).into_owned();
        for line in String::from_utf8_lossy(&self.1).lines() {
            text.push_str(&format!("! {line}\n"));
        }
        if let Err(failure) = result {
            text.push_str(&format!("!! {failure}\n"));
        }
        text
    }
}

/// Parses a command's arguments and gives what running it has printed.
macro_rules! printed {
    ($server:expr, $namespace:expr, $($argument:expr),*) => {{
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            args: Args,
        }
        let alone = <Alone as clap::Parser>::try_parse_from(["x", $($argument),*]).unwrap_or_else(|error| panic!("{error}"));
        let mut printed = crate::testing::Printed::new();
        let session = $server.session($namespace);
        let result = execute(&session, &alone.args, &mut printed.terminal()).await;
        printed.text(&result)
    }};
}
pub(crate) use printed;

/// A refusal by the server.
pub fn refused(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message})
}
