//! An apiserver in memory: objects by path, watches, the writes that a kubelet makes.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use minik_apimachinery::facts;
use minik_apimachinery::patch::{Findings, Patch, PatchType};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

type Frame = Result<hyper::body::Frame<Bytes>, Infallible>;
type Body = StreamBody<BoxStream<'static, Frame>>;

#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Value>)>,
    revision: u64,
    events: Vec<String>,
    tokens: u32,
}

impl Kept {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.to_owned(), object.clone());
        self.tell(path, json!({"type": kind, "object": object}));
        object
    }

    fn remove(&mut self, path: &str) {
        self.revision += 1;
        if let Some(mut object) = self.objects.remove(path) {
            object["metadata"]["resourceVersion"] = self.revision.to_string().into();
            self.tell(path, json!({"type": "DELETED", "object": object}));
        }
    }

    fn tell(&mut self, path: &str, event: Value) {
        self.watchers.retain(|(of, sender)| !is_in(of, path) || sender.send(event.clone()).is_ok());
    }
}

/// Whether an object belongs to a collection, of one namespace or of all.
fn is_in(collection: &str, path: &str) -> bool {
    let kind = collection.rsplit('/').next().unwrap();
    let mut parts = path.rsplit('/');
    parts.next();
    parts.next() == Some(kind)
}

impl Server {
    pub fn new() -> Server {
        Server::default()
    }

    pub fn put(&self, collection: &str, object: Value) {
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        self.0.lock().unwrap().put(&path, object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    pub fn remove(&self, path: &str) {
        self.0.lock().unwrap().remove(path);
    }

    pub fn mark_deleted(&self, path: &str, grace: i64) {
        let mut object = self.get(path).unwrap();
        object["metadata"]["deletionTimestamp"] = "2027-01-15T08:01:00Z".into();
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.0.lock().unwrap().put(path, object);
    }

    /// Reasons of all events.
    pub fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().events.clone()
    }

    fn watch(&self, collection: &str) -> BoxStream<'static, Frame> {
        let mut kept = self.0.lock().unwrap();
        let mut lines: Vec<Value> = kept
            .objects
            .iter()
            .filter(|(path, _)| is_in(collection, path))
            .map(|(_, object)| json!({"type": "ADDED", "object": object}))
            .collect();
        let end = json!({"resourceVersion": kept.revision.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"}});
        lines.push(json!({"type": "BOOKMARK", "object": {"metadata": end}}));
        let (sender, receiver) = mpsc::unbounded_channel();
        kept.watchers.push((collection.to_owned(), sender));
        let later = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (event, receiver))
        });
        futures::stream::iter(lines)
            .chain(later)
            .map(|event| Ok(hyper::body::Frame::data(Bytes::from(format!("{event}\n")))))
            .boxed()
    }

    async fn answer(self, request: Request<kube::client::Body>) -> Response<Body> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            return Response::new(StreamBody::new(self.watch(&path)));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (code, answer) = self.call(&method, &path, &body);
        let one =
            futures::stream::once(
                async move { Ok(hyper::body::Frame::data(Bytes::from(answer.to_string()))) },
            );
        let mut response = Response::new(StreamBody::new(one.boxed()));
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
        response
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let no = |code: u16| {
            (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "X"}),
            )
        };
        let mut kept = self.0.lock().unwrap();
        let target = path.strip_suffix("/status").unwrap_or(path).to_owned();
        match method {
            "GET" => kept.objects.get(path).cloned().map_or_else(|| no(404), |object| (200, object)),
            "POST" if path.ends_with("/events") => {
                let event: Value = serde_json::from_slice(body).unwrap();
                kept.events.push(event["reason"].as_str().unwrap().to_owned());
                (201, event)
            }
            "POST" if path.ends_with("/token") => {
                let mut object: Value = serde_json::from_slice(body).unwrap();
                kept.tokens += 1;
                object["status"] = json!({"token": format!("token{}", kept.tokens), "expirationTimestamp": "2027-01-15T09:00:00Z"});
                (201, object)
            }
            "POST" => {
                let mut object: Value = serde_json::from_slice(body).unwrap();
                object["metadata"]["uid"] = "made".into();
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
                (201, kept.put(&path, object))
            }
            "PUT" => {
                let object: Value = serde_json::from_slice(body).unwrap();
                (200, kept.put(&target, object))
            }
            "PATCH" if path.contains("/events/") => (200, json!({})),
            "PATCH" => {
                let Some(object) = kept.objects.get(&target).cloned() else { return no(404) };
                let kind = if path.contains("/pods/") { "Pod" } else { "Node" };
                let ty = facts::kind("v1", kind).unwrap();
                let (patch, _) = Patch::parse(PatchType::Strategic, body, Findings::Ignored).unwrap();
                let patched = patch.apply(object, ty).unwrap();
                (200, kept.put(&target, patched))
            }
            "DELETE" => {
                kept.remove(path);
                (200, json!({"kind": "Status", "status": "Success"}))
            }
            _ => no(405),
        }
    }

    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        minik_client::over(
            tower::service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            }),
            "default",
        )
    }
}
