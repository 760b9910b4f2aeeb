//! The running scheduler against an apiserver in memory, on a paused clock.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use minik_component::{SeededChance, Shutdown};
use minik_scheduler::{Config, SchedulerError, run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

type Frame = Result<http_body::Frame<Bytes>, Infallible>;

/// An apiserver that keeps objects by path, tells watchers, and notes what is written.
#[derive(Clone)]
struct Server {
    kept: Arc<Mutex<Kept>>,
    /// Method, path, body of each write.
    writes: broadcast::Sender<(String, String, Value)>,
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Value>)>,
    revision: u64,
    /// Codes to answer the next bindings with.
    refusals: Vec<u16>,
}

impl Server {
    fn new() -> Server {
        Server { kept: Arc::default(), writes: broadcast::channel(100).0 }
    }

    /// Puts an object into a collection such as `/api/v1/nodes`.
    fn put(&self, collection: &str, mut object: Value) {
        let mut kept = self.kept.lock().unwrap();
        kept.revision += 1;
        object["metadata"]["resourceVersion"] = kept.revision.to_string().into();
        let key = format!("{collection} {}/{}", object["metadata"]["namespace"], object["metadata"]["name"]);
        let kind = if kept.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        kept.objects.insert(key, object.clone());
        let event = json!({"type": kind, "object": object});
        kept.watchers.retain(|(path, sender)| path != collection || sender.send(event.clone()).is_ok());
    }

    fn remove(&self, collection: &str, namespace: &str, name: &str) {
        let mut kept = self.kept.lock().unwrap();
        let object = kept.objects.remove(&format!("{collection} {:?}/{:?}", namespace, name)).unwrap();
        let event = json!({"type": "DELETED", "object": object});
        kept.watchers.retain(|(path, sender)| path != collection || sender.send(event.clone()).is_ok());
    }

    fn watch(&self, collection: &str) -> BoxStream<'static, Frame> {
        let mut kept = self.kept.lock().unwrap();
        let prefix = format!("{collection} ");
        let mut lines: Vec<Value> = kept
            .objects
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(_, object)| json!({"type": "ADDED", "object": object}))
            .collect();
        lines.push(json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": kept.revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}}));
        let (sender, receiver) = mpsc::unbounded_channel();
        kept.watchers.push((collection.to_owned(), sender));
        let later = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (event, receiver))
        });
        futures::stream::iter(lines)
            .chain(later)
            .map(|event| Ok(http_body::Frame::data(Bytes::from(format!("{event}\n")))))
            .boxed()
    }

    async fn answer(
        self,
        request: Request<kube::client::Body>,
    ) -> Response<StreamBody<BoxStream<'static, Frame>>> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        if method == "GET" {
            return Response::new(StreamBody::new(self.watch(&path)));
        }
        let body: Value =
            serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
        let refused =
            if path.ends_with("/binding") { self.kept.lock().unwrap().refusals.pop() } else { None };
        let (code, answer) = match refused {
            Some(code) => (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "message": "no", "reason": "X"}),
            ),
            None => (201, body.clone()),
        };
        // Nobody may be listening yet.
        let _ = self.writes.send((method, path, body));
        let one =
            futures::stream::once(async move { Ok(http_body::Frame::data(Bytes::from(answer.to_string()))) });
        let mut response = Response::new(StreamBody::new(one.boxed()));
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
        response
    }

    fn client(&self) -> kube::Client {
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

/// A running scheduler and what it writes.
struct Running {
    server: Server,
    writes: broadcast::Receiver<(String, String, Value)>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), SchedulerError>>,
}

impl Running {
    fn start() -> Running {
        let server = Server::new();
        let shutdown = Shutdown::new();
        let config = Config { chance: Arc::new(SeededChance::new(1)), ..Config::default() };
        let task = tokio::spawn(run(config, server.client(), shutdown.clone()));
        Running { writes: server.writes.subscribe(), server, shutdown, task }
    }

    /// The next write to a path with this ending.
    async fn written(&mut self, ending: &str) -> Value {
        let found = async {
            loop {
                let (_, path, body) = self.writes.recv().await.unwrap();
                if path.ends_with(ending) {
                    return body;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(600), found)
            .await
            .unwrap_or_else(|_| panic!("nothing was written to {ending}"))
    }

    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "s", "uid": name, "generation": 1}, "spec": {"schedulerName": "default-scheduler",
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": "Pending"}})
}

const PODS: &str = "/api/v1/pods";
const NODES: &str = "/api/v1/nodes";

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_and_told_of() {
    let mut running = Running::start();
    running.server.put(NODES, node("n", "2"));
    running.server.put(PODS, pod("p", "1"));
    let binding = running.written("/namespaces/s/pods/p/binding").await;
    assert_eq!((&binding["target"]["name"], &binding["metadata"]["uid"]), (&json!("n"), &json!("p")));
    let event = running.written("/events").await;
    assert_eq!(
        (&event["reason"], &event["note"]),
        (&json!("Scheduled"), &json!("Successfully assigned s/p to n"))
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_until_there_is_room() {
    let mut running = Running::start();
    running.server.put(NODES, node("n", "2"));
    let mut old = pod("old", "2");
    old["spec"]["nodeName"] = "n".into();
    running.server.put(PODS, old);
    running.server.put(PODS, pod("p", "1"));
    let status = running.written("/pods/p/status").await;
    let words = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let condition = &status["status"]["conditions"][0];
    assert_eq!((&condition["message"], &condition["reason"]), (&json!(words), &json!("Unschedulable")));
    running.server.remove(PODS, "s", "old");
    running.written("/pods/p/binding").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_fails_is_tried_again() {
    let mut running = Running::start();
    running.server.kept.lock().unwrap().refusals = vec![500];
    running.server.put(NODES, node("n", "1"));
    running.server.put(PODS, pod("p", "1"));
    running.written("/pods/p/binding").await;
    let status = running.written("/pods/p/status").await;
    assert_eq!(status["status"]["conditions"][0]["reason"], json!("SchedulerError"));
    running.written("/pods/p/binding").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_higher_priority_pushes_another_out() {
    let mut running = Running::start();
    running.server.put(NODES, node("n", "2"));
    let mut low = pod("low", "2");
    low["spec"]["nodeName"] = "n".into();
    running.server.put(PODS, low.clone());
    let mut high = pod("high", "2");
    high["spec"]["priority"] = 100.into();
    running.server.put(PODS, high);
    let nominated = running.written("/pods/high/status").await;
    assert_eq!(nominated["status"]["nominatedNodeName"], json!("n"));
    let disrupted = running.written("/pods/low/status").await;
    assert_eq!(disrupted["status"]["conditions"][0]["reason"], json!("PreemptionByScheduler"));
    let deleted = running.written("/pods/low").await;
    assert_eq!(deleted["preconditions"]["uid"], json!("low"));
    running.server.remove(PODS, "s", "low");
    running.written("/pods/high/binding").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_name_another_scheduler_are_left_alone() {
    let mut running = Running::start();
    running.server.put(NODES, node("n", "2"));
    let mut other = pod("other", "1");
    other["spec"]["schedulerName"] = "mine".into();
    running.server.put(PODS, other);
    running.server.put(PODS, pod("p", "1"));
    let (_, path, _) = running.writes.recv().await.unwrap();
    assert!(path.contains("/p/"), "{path}");
    running.stop().await;
}
