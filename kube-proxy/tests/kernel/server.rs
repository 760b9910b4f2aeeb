//! An apiserver in memory: it keeps objects by collection and tells watchers.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::StreamBody;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
pub const NODES: &str = "/api/v1/nodes";

type Frame = Result<http_body::Frame<Bytes>, Infallible>;

#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Value>)>,
    revision: u64,
}

impl Server {
    pub fn put(&self, collection: &str, mut object: Value) {
        let mut kept = self.0.lock().unwrap();
        kept.revision += 1;
        object["metadata"]["resourceVersion"] = kept.revision.to_string().into();
        let key = (collection.to_owned(), object["metadata"]["name"].to_string());
        let kind = if kept.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        kept.objects.insert(key, object.clone());
        kept.tell(collection, kind, &object);
    }

    pub fn remove(&self, collection: &str, name: &str) {
        let mut kept = self.0.lock().unwrap();
        let object = kept.objects.remove(&(collection.to_owned(), json!(name).to_string())).unwrap();
        kept.tell(collection, "DELETED", &object);
    }

    fn watch(&self, collection: &str) -> BoxStream<'static, Frame> {
        let mut kept = self.0.lock().unwrap();
        let there = kept.objects.iter().filter(|((of, _), _)| of == collection);
        let mut lines: Vec<Value> =
            there.map(|(_, object)| json!({ "type": "ADDED", "object": object })).collect();
        let annotations = json!({ "k8s.io/initial-events-end": "true" });
        let metadata = json!({ "resourceVersion": kept.revision.to_string(), "annotations": annotations });
        lines.push(json!({ "type": "BOOKMARK", "object": { "metadata": metadata } }));
        let (sender, receiver) = mpsc::unbounded_channel();
        kept.watchers.push((collection.to_owned(), sender));
        let later = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (event, receiver))
        });
        let lines = futures::stream::iter(lines).chain(later);
        lines.map(|event| Ok(http_body::Frame::data(Bytes::from(format!("{event}\n"))))).boxed()
    }

    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let answer = move |request: Request<kube::client::Body>| {
            let watch = server.watch(request.uri().path());
            async move { Ok::<_, Infallible>(Response::new(StreamBody::new(watch))) }
        };
        minik_client::over(tower::service_fn(answer), "default")
    }
}

impl Kept {
    fn tell(&mut self, collection: &str, kind: &str, object: &Value) {
        let event = json!({ "type": kind, "object": object });
        self.watchers.retain(|(path, sender)| path != collection || sender.send(event.clone()).is_ok());
    }
}
