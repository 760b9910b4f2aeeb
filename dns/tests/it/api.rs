//! As much of an apiserver as the server needs: two collections that can be watched, and slices that are written.

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// The server. Objects are kept by collection, namespace and name.
#[derive(Clone, Default)]
pub struct Api(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    objects: BTreeMap<(&'static str, String), Value>,
    watchers: Vec<(&'static str, mpsc::UnboundedSender<Value>)>,
    revision: u64,
    writes: Vec<String>,
    /// Collections are not given while this is set.
    silent: bool,
}

impl Kept {
    fn tell(&mut self, collection: &str, kind: &str, object: &Value) {
        let event = json!({"type": kind, "object": object});
        self.watchers.retain(|(of, sender)| *of != collection || sender.send(event.clone()).is_ok());
    }

    fn put(&mut self, collection: &'static str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let key = (collection, name(&object));
        let kind = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.tell(collection, kind, &object);
        self.objects.insert(key, object.clone());
        object
    }

    fn remove(&mut self, collection: &'static str, name: &str) -> Option<Value> {
        let object = self.objects.remove(&(collection, name.to_owned()))?;
        self.tell(collection, "DELETED", &object);
        Some(object)
    }
}

fn name(object: &Value) -> String {
    let part = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", part("namespace"), part("name"))
}

impl Api {
    /// One that gives no collections before [`Api::speak`].
    pub fn silent() -> Api {
        let api = Api::default();
        api.0.lock().unwrap().silent = true;
        api
    }

    pub fn speak(&self) {
        self.0.lock().unwrap().silent = false;
    }

    pub fn put(&self, collection: &'static str, object: Value) {
        self.0.lock().unwrap().put(collection, object);
    }

    pub fn remove(&self, collection: &'static str, name: &str) {
        self.0.lock().unwrap().remove(collection, name);
    }

    pub fn get(&self, collection: &'static str, name: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(&(collection, name.to_owned())).cloned()
    }

    /// Method and path of every write.
    pub fn writes(&self) -> Vec<String> {
        self.0.lock().unwrap().writes.clone()
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        minik_client::over(service, "default")
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Sent> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let collection = [SERVICES, SLICES].into_iter().find(|collection| *collection == path);
        if let (Some(collection), true) = (collection, head.uri.query().unwrap_or("").contains("watch=true"))
        {
            return self.watch(collection);
        }
        let body = body.collect().await.unwrap().to_bytes();
        let mut kept = self.0.lock().unwrap();
        if head.method != Method::GET {
            kept.writes.push(format!("{} {path}", head.method));
        }
        let slice = path.strip_prefix("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/");
        let found = match (&head.method, slice) {
            (&Method::PATCH, Some(_)) => Some(kept.put(SLICES, serde_json::from_slice(&body).unwrap())),
            (&Method::DELETE, Some(slice)) => kept.remove(SLICES, &format!("kube-system/{slice}")),
            (&Method::GET, None) if path.starts_with("/api/v1/nodes/") => {
                Some(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u1"}}))
            }
            _ => None,
        };
        let (code, body) = match found {
            Some(object) => (200, object),
            None => (
                404,
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "none"}),
            ),
        };
        let body = Full::from(serde_json::to_vec(&body).unwrap()).boxed_unsync();
        Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
    }

    fn watch(&self, collection: &'static str) -> Response<Sent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut kept = self.0.lock().unwrap();
        if kept.silent {
            return Response::builder().status(503).body(Full::default().boxed_unsync()).unwrap();
        }
        for ((of, _), object) in &kept.objects {
            if *of == collection {
                sender.send(json!({"type": "ADDED", "object": object})).unwrap();
            }
        }
        let end = json!({"resourceVersion": kept.revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
        sender.send(json!({"type": "BOOKMARK", "object": {"metadata": end}})).unwrap();
        kept.watchers.push((collection, sender));
        let lines = futures::stream::unfold(receiver, async |mut receiver| {
            let event: Value = receiver.recv().await?;
            let line = Bytes::from(format!("{event}\n"));
            Some((Ok::<_, Infallible>(http_body::Frame::data(line)), receiver))
        });
        Response::new(StreamBody::new(lines.boxed()).boxed_unsync())
    }
}

/// Waits for something to be so; what is not so in a minute never will be.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within a minute");
        // bounded: by the deadline above.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
