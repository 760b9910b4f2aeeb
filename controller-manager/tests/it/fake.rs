//! An apiserver in memory: it keeps objects of any kind, tells watchers, and knows uids, revisions, preconditions,
//! finalizers and propagation policies.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// The time of day when a server starts.
pub const START: jiff::Timestamp = jiff::Timestamp::constant(1_800_000_000, 0);

type Frame = Result<http_body::Frame<Bytes>, Infallible>;
type Answer = Result<Value, (u16, &'static str, Value)>;

/// A resource that is served: group, version, plural, kind, namespaced.
pub type Served = (&'static str, &'static str, &'static str, &'static str, bool);

/// What the controllers need at least.
pub const CORE: &[Served] = &[
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "nodes", "Node", false),
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "services", "Service", true),
    ("", "v1", "endpoints", "Endpoints", true),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", false),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "secrets", "Secret", true),
    ("", "v1", "serviceaccounts", "ServiceAccount", true),
    ("apps", "v1", "deployments", "Deployment", true),
    ("apps", "v1", "replicasets", "ReplicaSet", true),
    ("coordination.k8s.io", "v1", "leases", "Lease", true),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false),
];

#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    served: Vec<Served>,
    kept: Mutex<Kept>,
    changed: Notify,
}

struct Kept {
    started: tokio::time::Instant,
    objects: BTreeMap<Key, Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Value>)>,
    revision: u64,
    /// The collection in which nothing may be created.
    refused: String,
    /// Method and path of each write.
    writes: Vec<String>,
    /// Tokens that were issued: the account's name by token.
    tokens: BTreeMap<String, String>,
}

/// Collection without namespace, namespace, name.
type Key = (String, String, String);

struct Target {
    collection: String,
    namespace: String,
    name: String,
    sub: String,
}

fn parse(path: &str) -> Target {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let head = if parts[0] == "api" { 2 } else { 3 };
    let (base, rest) = (parts[..head].join("/"), &parts[head..]);
    let at = |i: usize| rest.get(i).copied().unwrap_or_default().to_owned();
    let inside = rest[0] == "namespaces" && rest.len() > 2 && !matches!(rest[2], "status" | "finalize");
    let (namespace, skip) = if inside { (at(1), 2) } else { (String::new(), 0) };
    Target { collection: format!("/{base}/{}", at(skip)), namespace, name: at(skip + 1), sub: at(skip + 2) }
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        // As the strategic merge patch takes an owner away.
        (Value::Array(into), Value::Array(patch)) if patch.iter().any(|one| one["$patch"] == "delete") => {
            into.retain(|one| !patch.iter().any(|other| other["uid"] == one["uid"]));
        }
        // Conditions are told by type, as the strategic merge patch tells them.
        (Value::Array(into), Value::Array(patch))
            if patch.iter().all(|one| one.get("type").is_some()) && !patch.is_empty() =>
        {
            for one in patch {
                match into.iter_mut().find(|other| other["type"] == one["type"]) {
                    Some(other) => merge(other, one),
                    None => into.push(one.clone()),
                }
            }
        }
        (into @ Value::Null, patch @ Value::Object(_)) => {
            *into = json!({});
            merge(into, patch);
        }
        (into, patch) => *into = patch.clone(),
    }
}

impl Kept {
    fn tell(&mut self, collection: &str, kind: &str, object: &Value) {
        let event = json!({"type": kind, "object": object});
        self.watchers.retain(|(path, sender)| path != collection || sender.send(event.clone()).is_ok());
    }

    fn store(&mut self, key: Key, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let meta = &object["metadata"];
        let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        let done = empty(&meta["finalizers"]) && empty(&object["spec"]["finalizers"]);
        if !meta["deletionTimestamp"].is_null()
            && done
            && meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        {
            self.objects.remove(&key);
            self.tell(&key.0, "DELETED", &object);
        } else {
            let kind = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            self.tell(&key.0, kind, &object);
            self.objects.insert(key, object.clone());
        }
        object
    }

    fn create(&mut self, key: Key, mut object: Value) -> Answer {
        if key.0 == self.refused {
            return Err((403, "Forbidden", Value::Null));
        }
        if self.objects.contains_key(&key) {
            return Err((409, "AlreadyExists", Value::Null));
        }
        let namespace = self.objects.get(&("/api/v1/namespaces".to_owned(), String::new(), key.1.clone()));
        if namespace.is_some_and(|one| !one["metadata"]["deletionTimestamp"].is_null()) {
            return Err((
                403,
                "Forbidden",
                json!({"causes": [{"reason": "NamespaceTerminating", "field": "", "message": ""}]}),
            ));
        }
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = format!("uid-{}", self.revision + 1).into();
        }
        meta["generation"] = 1.into();
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = format!("{:.0}", START + self.started.elapsed()).into();
        }
        Ok(self.store(key, object))
    }

    fn change(&mut self, key: Key, change: impl FnOnce(&mut Value), body: &Value) -> Answer {
        let Some(mut object) = self.objects.get(&key).cloned() else {
            return Err((404, "NotFound", Value::Null));
        };
        for field in ["uid", "resourceVersion"] {
            let wanted = &body["metadata"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err((409, "Conflict", Value::Null));
            }
        }
        let before = object.clone();
        change(&mut object);
        if object == before {
            return Ok(object);
        }
        if object["spec"] != before["spec"] {
            object["metadata"]["generation"] =
                (before["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        Ok(self.store(key, object))
    }

    fn delete(&mut self, key: Key, options: &Value) -> Answer {
        let Some(mut object) = self.objects.get(&key).cloned() else {
            return Err((404, "NotFound", Value::Null));
        };
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err((409, "Conflict", Value::Null));
            }
        }
        let meta = &mut object["metadata"];
        if meta["finalizers"].is_null() {
            meta["finalizers"] = json!([]);
        }
        let finalizers = meta["finalizers"].as_array_mut().unwrap();
        let policy = options["propagationPolicy"].as_str().unwrap_or("Background");
        finalizers.retain(|one| one != "orphan" && one != "foregroundDeletion");
        match policy {
            "Orphan" => finalizers.push("orphan".into()),
            "Foreground" => finalizers.push("foregroundDeletion".into()),
            _ => {}
        }
        if meta["deletionTimestamp"].is_null() {
            meta["deletionTimestamp"] = format!("{:.0}", START + self.started.elapsed()).into();
        }
        if options["gracePeriodSeconds"].as_i64() == Some(0) {
            meta["deletionGracePeriodSeconds"] = 0.into();
        } else if let Some(grace) = object["spec"]["terminationGracePeriodSeconds"].as_i64() {
            object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        }
        if key.0 == "/api/v1/namespaces" {
            object["status"]["phase"] = "Terminating".into();
        }
        Ok(self.store(key, object))
    }
}

impl Server {
    pub fn new(more: &[Served]) -> Server {
        let served = CORE.iter().chain(more).copied().collect();
        let kept = Kept {
            started: tokio::time::Instant::now(),
            objects: BTreeMap::new(),
            watchers: Vec::new(),
            revision: 0,
            refused: String::new(),
            writes: Vec::new(),
            tokens: BTreeMap::new(),
        };
        Server(Arc::new(Shared { served, kept: Mutex::new(kept), changed: Notify::new() }))
    }

    /// Creates an object in a collection such as `/api/v1/nodes`; gives its uid.
    pub fn put(&self, collection: &str, object: Value) -> String {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (collection.to_owned(), text("namespace"), text("name"));
        let made = self.kept().create(key, object).unwrap();
        self.0.changed.notify_waiters();
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Merges a patch into an object.
    pub fn patch(&self, path: &str, patch: Value) {
        let target = parse(path);
        let key = (target.collection, target.namespace, target.name);
        self.kept().change(key, |object| merge(object, &patch), &Value::Null).unwrap();
        self.0.changed.notify_waiters();
    }

    /// Deletes an object.
    pub fn delete(&self, path: &str, options: Value) {
        let target = parse(path);
        self.kept().delete((target.collection, target.namespace, target.name), &options).unwrap();
        self.0.changed.notify_waiters();
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        let target = parse(path);
        self.kept().objects.get(&(target.collection, target.namespace, target.name)).cloned()
    }

    /// All objects of a collection.
    pub fn list(&self, collection: &str) -> Vec<Value> {
        let kept = self.kept();
        kept.objects.iter().filter(|(key, _)| key.0 == collection).map(|(_, one)| one.clone()).collect()
    }

    /// From now on nothing may be created in a collection; an empty name ends that.
    pub fn refuse(&self, collection: &str) {
        self.kept().refused = collection.to_owned();
    }

    /// Since the server started.
    pub fn elapsed(&self) -> Duration {
        self.kept().started.elapsed()
    }

    /// Resolves at the next change after this call.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.changed.notified()
    }

    /// Waits until the state is as wanted; time that is paused runs on while nothing else is to be done.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Server) -> bool) {
        let reached = async {
            loop {
                let changed = self.0.changed.notified();
                if wanted(self) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(3600), reached).await.is_err() {
            let kept = self.kept();
            panic!("{what} within an hour; objects: {:#?}; writes: {:#?}", kept.objects, kept.writes);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap()
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

    /// A client without an identity: it is answered only what bears a token, and as that account.
    pub fn anonymous(&self) -> kube::Client {
        let server = self.clone();
        minik_client::over(
            tower::service_fn(move |request: Request<kube::client::Body>| {
                let server = server.clone();
                async move {
                    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
                    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
                    let account = server.kept().tokens.get(token).cloned();
                    let Some(account) = account else {
                        return Ok::<_, Infallible>(response(401, json!({"code": 401})));
                    };
                    let call = format!("{} {}", request.method(), request.uri().path());
                    let answer = server.clone().answer(request).await;
                    if let Some(last) = server.kept().writes.iter_mut().rev().find(|write| **write == call) {
                        *last = format!("{account}: {call}");
                    }
                    Ok(answer)
                }
            }),
            "default",
        )
    }

    /// Takes all tokens back.
    pub fn revoke(&self) {
        self.kept().tokens.clear();
    }

    /// Method and path of each write so far, after the account that made it.
    pub fn writes(&self) -> Vec<String> {
        self.kept().writes.clone()
    }

    fn discovery(&self, core: bool) -> Value {
        let mut groups = BTreeMap::<&str, Vec<Value>>::new();
        for (group, version, plural, kind, namespaced) in &self.0.served {
            if group.is_empty() == core {
                groups.entry(group).or_default().push(json!({"resource": plural, "singularResource": kind.to_lowercase(),
                    "responseKind": {"group": group, "version": version, "kind": kind}, "scope": if *namespaced { "Namespaced" } else { "Cluster" },
                    "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]}));
            }
        }
        let items: Vec<Value> = groups
            .into_iter()
            .map(|(group, resources)| json!({"metadata": {"name": group}, "versions": [{"version": "v1", "resources": resources}]}))
            .collect();
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items})
    }

    fn watch(&self, collection: &str) -> BoxStream<'static, Frame> {
        let mut kept = self.kept();
        let all = kept.objects.iter().filter(|(key, _)| key.0 == collection);
        let mut lines: Vec<Value> =
            all.map(|(_, object)| json!({"type": "ADDED", "object": object})).collect();
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

    fn read(&self, target: Target) -> Answer {
        let kept = self.kept();
        if !target.name.is_empty() {
            let key = (target.collection, target.namespace, target.name);
            return kept.objects.get(&key).cloned().ok_or((404, "NotFound", Value::Null));
        }
        let inside = |key: &Key| {
            key.0 == target.collection && (target.namespace.is_empty() || key.1 == target.namespace)
        };
        let items: Vec<&Value> =
            kept.objects.iter().filter(|(key, _)| inside(key)).map(|(_, one)| one).collect();
        Ok(json!({"metadata": {"resourceVersion": kept.revision.to_string()}, "items": items}))
    }

    fn write(&self, method: &str, target: Target, body: &Value) -> Answer {
        let mut kept = self.kept();
        let Target { collection, namespace, name, sub } = target;
        let key = (collection.clone(), namespace.clone(), name.clone());
        match (method, &*sub) {
            ("POST", "token") => {
                if !kept.objects.contains_key(&key) {
                    return Err((404, "NotFound", Value::Null));
                }
                let token = format!("token-{}-{}", name, kept.tokens.len());
                kept.tokens.insert(token.clone(), name);
                Ok(json!({"status": {"token": token}}))
            }
            // Nodes may renew and serve, tokens may join.
            ("POST", "") if collection.ends_with("subjectaccessreviews") => {
                let asked = &body["spec"]["resourceAttributes"]["subresource"];
                let group = if asked == "nodeclient" { "system:bootstrappers" } else { "system:nodes" };
                Ok(json!({"status": {"allowed": body["spec"]["groups"] == json!([group])}}))
            }
            ("POST", "") => {
                let mut body = body.clone();
                if body["metadata"]["name"].is_null() {
                    let base = body["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
                    body["metadata"]["name"] = format!("{base}{}", kept.revision).into();
                }
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                kept.create((collection, namespace, name), body)
            }
            ("PUT", "status" | "approval") => kept.change(
                key,
                |object| {
                    object["status"] = body["status"].clone();
                    // Those of Deployments are written together with their status.
                    if !body["metadata"]["annotations"].is_null() {
                        object["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
                    }
                },
                body,
            ),
            ("PUT", "finalize") => kept.change(
                key,
                |object| object["spec"]["finalizers"] = body["spec"]["finalizers"].clone(),
                body,
            ),
            ("PUT", _) => {
                let mut body = body.clone();
                let uid = kept.objects.get(&key).map(|object| object["metadata"]["uid"].clone());
                body["metadata"]["uid"] = uid.unwrap_or_default();
                kept.change(key, |object| *object = body.clone(), &body)
            }
            ("PATCH", _) => kept.change(key, |object| merge(object, body), body),
            ("DELETE", _) if name.is_empty() => {
                let keys: Vec<Key> = kept
                    .objects
                    .keys()
                    .filter(|key| key.0 == collection && key.1 == namespace)
                    .cloned()
                    .collect();
                for key in keys {
                    kept.delete(key, body)?;
                }
                Ok(json!({"kind": "Status"}))
            }
            ("DELETE", _) => kept.delete(key, body),
            _ => Err((405, "MethodNotAllowed", Value::Null)),
        }
    }

    async fn answer(
        self,
        request: Request<kube::client::Body>,
    ) -> Response<StreamBody<BoxStream<'static, Frame>>> {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = match (&*method, &*path) {
            ("GET", "/api" | "/apis") => Ok(self.discovery(path == "/api")),
            ("GET", _) if query.contains("watch=true") => {
                return Response::new(StreamBody::new(self.watch(&parse(&path).collection)));
            }
            ("GET", _) => self.read(parse(&path)),
            _ => {
                self.kept().writes.push(format!("{method} {path}"));
                self.write(&method, parse(&path), &body)
            }
        };
        self.0.changed.notify_waiters();
        let (code, answer) = match answer {
            Ok(answer) => (200, answer),
            Err((code, reason, details)) => (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "message": reason, "reason": reason, "details": details}),
            ),
        };
        response(code, answer)
    }
}

fn response(code: u16, answer: Value) -> Response<StreamBody<BoxStream<'static, Frame>>> {
    let one =
        futures::stream::once(async move { Ok(http_body::Frame::data(Bytes::from(answer.to_string()))) });
    let mut response = Response::new(StreamBody::new(one.boxed()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}
