//! Shared informers: one list and watch per kind per process, a store of projections, changes told to handlers.
//!
//! ```text
//!  initial events, or a list ──> replace the store ──> watch on ──> Change ──> handlers (push keys into queues)
//!    ^                                                  │ ended: again from the last revision (bookmarks move it on)
//!    └──────────────────── 410, too old ────────────────┘
//! ```
//!
//! The concept: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use crate::Backoff;
use bytes::Bytes;
use futures::AsyncBufReadExt;
use http::Request;
use minik_component::{Chance, Plant, Shutdown, planted};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// Objects of a list's page.
const PAGE: usize = 500;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A watch asks the server to end it after this long, so that a dead connection is noticed in the end.
const WATCH_SECONDS: u64 = 590;
/// A watch on which nothing at all came for longer than it may last is dead.
const WATCH_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS + 30);
/// A server that ignores the wish for initial events says nothing about their end; then they are listed.
const INITIAL_WITHIN: Duration = Duration::from_secs(15);
/// A watch without events that was shorter than this counts as failed.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// Marks the bookmark after the last initial event.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Namespace (empty for cluster-wide kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
pub struct ObjectKey {
    /// The namespace, empty for kinds without.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of a namespaced object.
    pub fn new(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a cluster-wide object.
    pub fn cluster(name: &str) -> ObjectKey {
        ObjectKey::new("", name)
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The metadata that controllers decide on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// The name.
    pub name: Arc<str>,
    /// The namespace, empty for kinds without.
    pub namespace: Arc<str>,
    /// The identity in time.
    pub uid: Arc<str>,
    /// The revision, opaque.
    pub resource_version: Arc<str>,
    /// Counts changes of the spec.
    pub generation: i64,
    /// When it was created, RFC 3339.
    pub creation_timestamp: Option<jiff::Timestamp>,
    /// When its deletion was asked for.
    pub deletion_timestamp: Option<jiff::Timestamp>,
    /// How long its end may take.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Owners.
    pub owner_references: Vec<OwnerRef>,
    /// What must happen before it goes.
    pub finalizers: Vec<Arc<str>>,
}

impl Meta {
    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

/// An owner of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerRef {
    /// Group and version of its kind.
    pub api_version: Arc<str>,
    /// Its kind.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub uid: Arc<str>,
    /// Whether it manages the object.
    pub controller: bool,
    /// Whether its deletion in the foreground waits for the object.
    pub block_owner_deletion: bool,
}

/// What a caller keeps of a kind: a small type that is read straight from the bytes.
pub trait Projection: DeserializeOwned + Send + Sync + 'static {
    /// Its metadata.
    fn meta(&self) -> &Meta;
}

impl Projection for PartialObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// The projection of metadata alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PartialObject {
    /// The metadata.
    pub metadata: Meta,
}

/// Which objects.
#[derive(Debug, Clone)]
pub struct Source {
    /// The collection's path, such as `/api/v1/pods`.
    pub path: String,
    /// A label selector, empty for all.
    pub label_selector: String,
    /// A field selector, empty for all.
    pub field_selector: String,
    /// What is accepted: `application/json`, or metadata only.
    pub accept: &'static str,
}

impl Source {
    /// All objects of a collection.
    pub fn all(path: &str) -> Source {
        Source {
            path: path.to_owned(),
            label_selector: String::new(),
            field_selector: String::new(),
            accept: "application/json",
        }
    }

    /// Those that a field selector fits.
    pub fn fields(path: &str, selector: String) -> Source {
        Source { field_selector: selector, ..Source::all(path) }
    }

    /// Only their metadata.
    pub fn metadata(path: &str) -> Source {
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        Source { accept, ..Source::all(path) }
    }

    fn uri(&self, parameters: &[(&str, &str)]) -> String {
        let selectors = [
            ("labelSelector", self.label_selector.as_str()),
            ("fieldSelector", self.field_selector.as_str()),
        ];
        let all = parameters.iter().chain(&selectors).filter(|(_, value)| !value.is_empty());
        let query: Vec<String> = all.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        format!("{}?{}", self.path, query.join("&"))
    }
}

/// Escapes a query value.
fn escaped(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    value
        .bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A change of the store.
#[derive(Debug)]
pub enum Change<T> {
    /// Not there before.
    Added(Arc<T>),
    /// Another revision than before.
    Updated {
        /// As it was.
        old: Arc<T>,
        /// As it is.
        new: Arc<T>,
    },
    /// There no longer; the last state that was seen, which may lie before the very last.
    Deleted(Arc<T>),
}

impl<T> Change<T> {
    /// The state to look at: the new one, or the last.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Change::Added(object) | Change::Deleted(object) | Change::Updated { new: object, .. } => object,
        }
    }
}

type Fresh<T> = BTreeMap<ObjectKey, Arc<T>>;

/// How far an informer has come.
struct Progress {
    /// The revision to watch on from.
    from: Option<String>,
    /// Whether the server may know watches that begin with all objects.
    streams: bool,
}

type Handler<T> = Box<dyn Fn(&Change<T>) + Send + Sync>;

/// An informer before it runs.
pub struct InformerBuilder<T> {
    source: Source,
    handlers: Vec<Handler<T>>,
    store: Arc<Store<T>>,
    synced: watch::Sender<bool>,
}

struct Store<T> {
    objects: RwLock<BTreeMap<ObjectKey, Arc<T>>>,
    synced: watch::Receiver<bool>,
}

/// A running informer: its store, to be read by anyone.
pub struct Informer<T>(Arc<Store<T>>);

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Informer(self.0.clone())
    }
}

impl<T: Projection> Informer<T> {
    /// An informer of these objects; add handlers, then [`InformerBuilder::run`] it.
    pub fn builder(source: Source) -> InformerBuilder<T> {
        let (synced, seen) = watch::channel(false);
        let store = Arc::new(Store { objects: RwLock::new(BTreeMap::new()), synced: seen });
        InformerBuilder { source, handlers: Vec::new(), store, synced }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ObjectKey, Arc<T>>> {
        // Each change is complete before anything can panic.
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object with this key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.read().get(key).cloned()
    }

    /// All objects, by key.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.read().values().cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = ObjectKey::new(namespace, "");
        self.read()
            .range(from..)
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first list is in the store.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Returns once the first list is in the store and its handlers have been told.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.clone();
        // The sender ends with the informer; then there is nothing left to wait for.
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

impl<T: Projection> InformerBuilder<T> {
    /// Calls `handler` at each change, in order, after the store has it. It must not block: push a key into a queue.
    pub fn on_change(mut self, handler: impl Fn(&Change<T>) + Send + Sync + 'static) -> Self {
        self.handlers.push(Box::new(handler));
        self
    }

    /// As [`InformerBuilder::on_change`], for one of several who share it.
    pub fn add_handler(&mut self, handler: impl Fn(&Change<T>) + Send + Sync + 'static) {
        self.handlers.push(Box::new(handler));
    }

    /// The store, to be read before and while it runs.
    pub fn informer(&self) -> Informer<T> {
        Informer(self.store.clone())
    }

    /// Follows the server until `shutdown`. The caller owns the future (spawn it into a set that is awaited).
    pub async fn run(self, client: kube::Client, chance: Arc<dyn Chance>, shutdown: Shutdown) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut progress = Progress { from: None, streams: true };
        loop {
            // Cancel-safe: the store changes only in between awaits.
            let round = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                round = self.round(&client, &mut progress) => round,
            };
            let wait = match round {
                Ok(()) => {
                    backoff.reset();
                    continue;
                }
                Err(error) => {
                    if matches!(error, Ended::Expired) {
                        progress.from = None;
                    }
                    let wait = backoff.next(&*chance);
                    tracing::debug!(path = self.source.path, %error, ?wait, "the watch ended");
                    wait
                }
            };
            // Cancel-safe: both arms only wait.
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Watches on, or from nothing: by a watch that begins with all objects, or by a list and a watch.
    async fn round(&self, client: &kube::Client, progress: &mut Progress) -> Result<(), Ended> {
        if progress.from.is_none() && progress.streams {
            match self.watch(client, progress).await {
                Err(Ended::NoInitialEvents) => progress.streams = false,
                other => return other,
            }
        }
        if progress.from.is_none() {
            progress.from = Some(self.list(client).await?);
            self.synced.send_replace(true);
        }
        self.watch(client, progress).await
    }

    async fn list(&self, client: &kube::Client) -> Result<String, Ended> {
        let mut fresh = BTreeMap::new();
        let mut token = String::new();
        let limit = PAGE.to_string();
        loop {
            // The first page may come from the server's cache; a continue token carries its own revision.
            let revision = if token.is_empty() { "0" } else { "" };
            let uri =
                self.source.uri(&[("limit", &limit), ("continue", &token), ("resourceVersion", revision)]);
            let body = fetch(client, &uri, self.source.accept).await?;
            let page: Page<T> =
                serde_json::from_slice(&body).map_err(|error| Ended::Broken(error.to_string()))?;
            for object in page.items {
                fresh.insert(object.meta().key(), Arc::new(object));
            }
            token = page.metadata.continue_token;
            if token.is_empty() {
                self.replace(fresh);
                return Ok(page.metadata.resource_version);
            }
        }
    }

    /// Makes the store what a list said, telling the differences.
    fn replace(&self, fresh: Fresh<T>) {
        let old = std::mem::replace(&mut *self.write(), fresh.clone());
        for (key, object) in &old {
            if !fresh.contains_key(key) && !planted(Plant::GoneUntoldByList) {
                self.tell(Change::Deleted(object.clone()));
            }
        }
        for (key, object) in fresh {
            match old.get(&key) {
                None => self.tell(Change::Added(object)),
                Some(before) if before.meta().uid != object.meta().uid => {
                    self.tell(Change::Deleted(before.clone()));
                    self.tell(Change::Added(object));
                }
                Some(before) if before.meta().resource_version != object.meta().resource_version => {
                    if planted(Plant::ChangedUntoldByList) {
                        continue;
                    }
                    self.tell(Change::Updated { old: before.clone(), new: object });
                }
                Some(_) => {}
            }
        }
    }

    async fn watch(&self, client: &kube::Client, progress: &mut Progress) -> Result<(), Ended> {
        let mut initial = progress.from.is_none().then(BTreeMap::new);
        let stream = self.open(client, progress).await?;
        let mut stream = Box::pin(stream);
        let (mut line, mut events) = (Vec::new(), 0u64);
        let started = tokio::time::Instant::now();
        loop {
            line.clear();
            let limit = if initial.is_some() { INITIAL_WITHIN } else { WATCH_LIMIT };
            let read = tokio::time::timeout(limit, stream.read_until(b'\n', &mut line)).await;
            let count = match read {
                Ok(read) => read.map_err(|error| Ended::Broken(error.to_string()))?,
                Err(_) if initial.is_some() => return Err(Ended::NoInitialEvents),
                Err(_) => return Err(Ended::Broken("nothing came".into())),
            };
            match count {
                0 if initial.is_some() => {
                    return Err(Ended::Broken("ended before its initial events".into()));
                }
                // A server that ends watches at once is not asked again at once.
                0 if events == 0 && started.elapsed() < SHORT_WATCH => {
                    return Err(Ended::Broken("ended at once".into()));
                }
                0 => return Ok(()),
                _ => self.event(&line, &mut initial, &mut progress.from)?,
            }
            events += 1;
        }
    }

    async fn open(
        &self,
        client: &kube::Client,
        progress: &Progress,
    ) -> Result<impl futures::AsyncBufRead + use<T>, Ended> {
        let seconds = WATCH_SECONDS.to_string();
        let always =
            [("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", seconds.as_str())];
        let begin = match &progress.from {
            Some(from) => vec![("resourceVersion", from.as_str())],
            None if planted(Plant::ListFromAnywhere) => vec![
                ("sendInitialEvents", "true"),
                ("resourceVersionMatch", "NotOlderThan"),
                ("resourceVersion", "0"),
            ],
            None => vec![("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")],
        };
        let uri = self.source.uri(&[&always, begin.as_slice()].concat());
        let opened = client.request_stream(request(&uri, self.source.accept)).await;
        opened.map_err(|error| match error {
            // A server that does not know the parameter refuses it.
            kube::Error::Api(status) if progress.from.is_none() && matches!(status.code, 400 | 422) => {
                Ended::NoInitialEvents
            }
            other => Ended::from(other),
        })
    }

    /// Takes one line of a watch. While `initial` is some, objects are collected there instead of in the store.
    fn event(
        &self,
        line: &[u8],
        initial: &mut Option<Fresh<T>>,
        from: &mut Option<String>,
    ) -> Result<(), Ended> {
        let event: Event<'_> =
            serde_json::from_slice(line).map_err(|error| Ended::Broken(error.to_string()))?;
        if event.kind == "ERROR" {
            let status: Failure = parse(event.object)?;
            return Err(if status.code == 410 { Ended::Expired } else { Ended::Broken(status.message) });
        }
        if event.kind == "BOOKMARK" {
            let bookmark: Bookmark = parse(event.object)?;
            if initial.is_some() && !bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END) {
                return Ok(());
            }
            if let Some(fresh) = initial.take() {
                self.replace(fresh);
                self.synced.send_replace(true);
            }
            *from = Some(bookmark.metadata.resource_version);
            return Ok(());
        }
        let object: Arc<T> = Arc::new(parse(event.object)?);
        let key = object.meta().key();
        match (event.kind, initial.as_mut()) {
            ("ADDED" | "MODIFIED", Some(fresh)) => drop(fresh.insert(key, object)),
            ("DELETED", Some(fresh)) => drop(fresh.remove(&key)),
            ("ADDED" | "MODIFIED", None) => {
                *from = Some(object.meta().resource_version.to_string());
                let old = self.write().insert(key, object.clone());
                self.tell(match old {
                    Some(old) => Change::Updated { old, new: object },
                    None => Change::Added(object),
                });
            }
            ("DELETED", None) => {
                *from = Some(object.meta().resource_version.to_string());
                // One that was never seen is nobody's loss.
                if self.write().remove(&key).is_some() {
                    self.tell(Change::Deleted(object));
                }
            }
            (other, _) => return Err(Ended::Broken(format!("unknown event {other:?}"))),
        }
        Ok(())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<ObjectKey, Arc<T>>> {
        self.store.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: Change<T>) {
        if self.is_untold(&change) {
            return;
        }
        for handler in &self.handlers {
            handler(&change);
        }
    }
}

impl<T> InformerBuilder<T> {
    /// Whether a planted defect keeps a change back.
    fn is_untold(&self, change: &Change<T>) -> bool {
        if *self.synced.borrow() {
            return false;
        }
        let fields = &self.source.field_selector;
        matches!(change, Change::Added(_))
            && match self.source.path.as_str() {
                "/apis/apps/v1/deployments" => planted(Plant::DeploymentsUntold),
                "/apis/apps/v1/replicasets" => planted(Plant::ReplicaSetsUntold),
                "/api/v1/services" => planted(Plant::ServicesUntold),
                "/api/v1/pods" if fields.starts_with("status.phase") => planted(Plant::WaitingPodsUntold),
                _ => false,
            }
    }
}

/// Why a round ended. All are retried.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The server sends no initial events: list instead.
    #[error("the server sends no initial events")]
    NoInitialEvents,
    /// The revision is too old: list again.
    #[error("the revision is too old")]
    Expired,
    /// Anything else.
    #[error("{0}")]
    Broken(String),
}

impl From<kube::Error> for Ended {
    fn from(error: kube::Error) -> Ended {
        match error {
            kube::Error::Api(status) if status.code == 410 => Ended::Expired,
            other => Ended::Broken(minik_component::chain(&other)),
        }
    }
}

fn request(uri: &str, accept: &str) -> Request<Vec<u8>> {
    let mut request = Request::new(Vec::new());
    // Paths are constants and queries are escaped; one that is neither asks for nothing that exists.
    *request.uri_mut() = uri.parse().unwrap_or_default();
    if let Ok(accept) = accept.parse() {
        request.headers_mut().insert(http::header::ACCEPT, accept);
    }
    request
}

async fn fetch(client: &kube::Client, uri: &str, accept: &str) -> Result<Bytes, Ended> {
    Ok(Bytes::from(client.request_text(request(uri, accept)).await?))
}

fn parse<T: DeserializeOwned>(object: &RawValue) -> Result<T, Ended> {
    serde_json::from_str(object.get()).map_err(|error| Ended::Broken(error.to_string()))
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Page<T> {
    metadata: PageMeta,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_token: String,
}
