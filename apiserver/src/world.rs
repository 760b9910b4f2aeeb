//! Everything that is stored, in memory: one watch over the store feeds a cache a resource.
//!
//! ```text
//!  Storage::list ──> caches        Storage::watch ──> feed ──> cache ──> watchers
//!                                                      ├─> followers (RBAC, node graph, allocators)
//!                                                      └─> reached (the revision that all caches have)
//! ```
//!
//! Invariant: when `reached` is R, every cache holds everything up to R.

use crate::error::{ApiError, Named, Result};
use crate::served::Served;
use crate::wire;
use bytes::Bytes;
use minik_component::{Plant, Shutdown, chain, planted};
use minik_registry::Strategy;
use minik_storage::{
    Cache, Change, Everything, Fields, Header, Item, Revision, Snapshot, Storage, StorageError,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a reader waits for the caches to reach a revision.
const REACH_WITHIN: Duration = Duration::from_secs(3);
/// Changes that are taken over in one go.
const AT_ONCE: usize = 256;
/// Pauses between tries to reach a store that does not answer.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(1000),
    Duration::from_millis(3000),
];

/// Something that keeps its own picture of some kinds.
pub trait Follower: Send + Sync {
    /// Whether it wants to hear of the objects below this folder of the store.
    fn wants(&self, folder: &str) -> bool;
    /// An object came to be or changed.
    fn put(&self, folder: &str, object: &Value);
    /// An object is gone.
    fn remove(&self, folder: &str, namespace: &str, name: &str);
}

/// The cache of one folder of the store.
struct Folder {
    name: &'static str,
    strategy: &'static dyn Strategy,
    cache: Cache,
    followers: Vec<Arc<dyn Follower>>,
}

/// Everything that is stored, in memory.
pub struct World {
    storage: Arc<dyn Storage>,
    prefix: String,
    folders: BTreeMap<&'static str, Folder>,
    reached: watch::Sender<Revision>,
    /// The last revision that was written through this server.
    written: AtomicU64,
    lately: Lately,
}

/// Most trees that are remembered, and the largest object of which one is.
const MOST_TREES: usize = 128;
const LARGEST_BYTES: usize = 4096;

/// Trees of small objects that were looked at lately: every write asks for the same few (its namespace, an account).
#[derive(Default)]
struct Lately(Mutex<BTreeMap<String, (Revision, Arc<Value>)>>);

impl Lately {
    fn tree(&self, key: String, item: &Item) -> Option<Arc<Value>> {
        let read = || wire::tree(&item.value, Some(item.revision)).ok().map(Arc::new);
        if item.value.len() > LARGEST_BYTES {
            return read();
        }
        // Whoever panics meanwhile leaves a map that is whole.
        let trees = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tree)) = trees().get(&key).filter(|(revision, _)| *revision == item.revision) {
            return Some(tree.clone());
        }
        // Read while nobody waits for it.
        let tree = read()?;
        let mut trees = trees();
        if trees.len() >= MOST_TREES {
            trees.clear();
        }
        trees.insert(key, (item.revision, tree.clone()));
        Some(tree)
    }
}

impl World {
    /// Reads everything below `prefix` (such as `/registry`).
    ///
    /// # Errors
    /// The store's.
    pub async fn open(
        storage: Arc<dyn Storage>,
        prefix: &str,
        served: &[Served],
        followers: &[Arc<dyn Follower>],
    ) -> std::result::Result<World, StorageError> {
        let everything = storage.list(&format!("{prefix}/")).await?;
        let revision = everything.revision;
        let mut strategies: BTreeMap<&'static str, &'static dyn Strategy> = BTreeMap::new();
        for one in served {
            if let Some(folder) = one.folder().filter(|_| one.native) {
                strategies.insert(folder, one.strategy);
            }
        }
        let mut parts: BTreeMap<&'static str, Everything> =
            strategies.keys().map(|name| (*name, Everything { records: Vec::new(), revision })).collect();
        for mut record in everything.records {
            let Some(name) = folder_of(&record.key, prefix, |name| strategies.contains_key(name)) else {
                continue;
            };
            let Some(value) = readable(&record.key, record.value) else { continue };
            record.value = value;
            if let Some((_, part)) = parts.iter_mut().find(|(folder, _)| **folder == name) {
                part.records.push(record);
            }
        }
        let mut folders = BTreeMap::new();
        for (name, everything) in parts {
            let strategy = strategies[name];
            let followers: Vec<_> = followers.iter().filter(|one| one.wants(name)).cloned().collect();
            for record in everything.records.iter().filter(|_| !followers.is_empty()) {
                // What could not be read was left out above.
                let object = serde_json::from_slice(&record.value).unwrap_or_default();
                followers.iter().for_each(|one| one.put(name, &object));
            }
            let cache = Cache::new(everything, Box::new(move |bytes| describe(strategy, bytes)));
            folders.insert(name, Folder { name, strategy, cache, followers });
        }
        let reached = watch::Sender::new(revision);
        Ok(World {
            storage,
            prefix: prefix.to_owned(),
            folders,
            reached,
            written: AtomicU64::new(revision.0),
            lately: Lately::default(),
        })
    }

    /// The store.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The cache of a folder.
    pub fn cache(&self, folder: &str) -> Option<&Cache> {
        self.folders.get(folder).map(|folder| &folder.cache)
    }

    /// All caches.
    pub fn caches(&self) -> impl Iterator<Item = (&'static str, &Cache)> {
        self.folders.iter().map(|(name, folder)| (*name, &folder.cache))
    }

    /// The key of an object, or of a collection with an empty name.
    pub fn key(&self, folder: &str, namespace: &str, name: &str) -> String {
        let mut key = format!("{}/{folder}/", self.prefix);
        if !namespace.is_empty() {
            key.push_str(namespace);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    /// The revision that all caches have.
    pub fn reached(&self) -> Revision {
        *self.reached.borrow()
    }

    /// Remembers a write, so that later requests see it.
    pub fn wrote(&self, revision: Revision) {
        self.written.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Waits until the caches have what was written through this server.
    ///
    /// # Errors
    /// 504 when they do not get there.
    pub async fn caught_up(&self) -> Result<()> {
        self.reach(Revision(self.written.load(Ordering::Relaxed))).await
    }

    /// Waits until the caches have everything that is stored now.
    ///
    /// # Errors
    /// 504 when they do not get there, or the store's.
    pub async fn fresh(&self) -> Result<()> {
        if planted(Plant::ReadFromCache) {
            return Ok(());
        }
        let now = self.storage.revision().await.map_err(|error| store_error(&error))?;
        self.reach(now).await
    }

    /// Waits until the caches have a revision.
    ///
    /// # Errors
    /// 504 when they do not get there.
    pub async fn reach(&self, revision: Revision) -> Result<()> {
        if self.reached() >= revision {
            return Ok(());
        }
        let mut reached = self.reached.subscribe();
        let waited = tokio::time::timeout(REACH_WITHIN, reached.wait_for(|now| *now >= revision)).await;
        if matches!(waited, Ok(Ok(_))) {
            return Ok(());
        }
        let message = format!("Too large resource version: {revision}, current: {}", self.reached());
        Err(ApiError::Timeout { on: Named::default(), message })
    }

    /// Everything of a folder at this moment, at the revision that it is known to be complete for.
    pub fn snapshot(&self, cache: &Cache) -> Snapshot {
        // Read first: what the snapshot has then is at least as new.
        let reached = self.reached();
        let snapshot = cache.snapshot();
        Snapshot { items: snapshot.items.clone(), revision: snapshot.revision.max(reached) }
    }

    /// Feeds the caches until `shutdown`. Runs once.
    pub async fn feed(&self, shutdown: Shutdown) {
        let mut failures = 0;
        while !shutdown.is_requested() {
            // Cancel-safe: nothing that was received is lost, since the next watch begins at what was reached.
            let ended = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                ended = self.follow(&mut failures) => ended,
            };
            let result = match ended {
                StorageError::Compacted { .. } => self.read_again().await,
                error => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(error = chain(&error), "the watch over the store ended; trying again");
                let pause = PAUSES[failures.min(PAUSES.len() - 1)];
                failures += 1;
                // Cancel-safe: waiting only.
                tokio::select! {
                    biased;
                    () = shutdown.requested() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    async fn follow(&self, failures: &mut usize) -> StorageError {
        let mut changes = match self.storage.watch(self.reached()).await {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        let mut waiting = Vec::new();
        while changes.recv_many(&mut waiting, AT_ONCE).await > 0 {
            *failures = 0;
            for change in waiting.drain(..) {
                match change {
                    Ok(change) => self.apply(change),
                    Err(error) => return error,
                }
            }
        }
        StorageError::Unavailable("the store ended the watch".into())
    }

    fn apply(&self, mut change: Change) {
        let revision = change.revision;
        let folder = folder_of(&change.key, &self.prefix, |name| self.folders.contains_key(name));
        if let Some(folder) = folder.and_then(|name| self.folders.get(name)) {
            if let Some(value) = change.value.take() {
                change.value = readable(&change.key, value);
            }
            folder.apply(change);
        }
        self.reached.send_replace(revision);
    }

    /// The store forgot where we were: compares all that it has with all that is known.
    async fn read_again(&self) -> std::result::Result<(), StorageError> {
        let everything = self.storage.list(&format!("{}/", self.prefix)).await?;
        tracing::warn!(revision = %everything.revision, "the store forgot the last changes; read everything again");
        let mut gone: BTreeMap<Arc<str>, ()> = BTreeMap::new();
        for folder in self.folders.values() {
            gone.extend(folder.cache.snapshot().items.keys().map(|key| (key.clone(), ())));
        }
        let mut changes: Vec<Change> = Vec::new();
        for record in everything.records {
            gone.remove(&record.key);
            let known = folder_of(&record.key, &self.prefix, |name| self.folders.contains_key(name))
                .and_then(|name| self.folders.get(name))
                .and_then(|folder| folder.cache.get(&record.key));
            if known.is_none_or(|item| item.revision < record.revision) {
                changes.push(Change {
                    revision: record.revision,
                    key: record.key,
                    value: Some(record.value),
                });
            }
        }
        changes.sort_by_key(|change| change.revision);
        let missing = gone.into_keys().map(|key| Change { revision: everything.revision, key, value: None });
        for change in changes.into_iter().chain(missing) {
            self.apply(change);
        }
        self.reached.send_replace(everything.revision);
        Ok(())
    }

    /// Tells all watchers how far the caches are, for bookmarks.
    pub fn tell_progress(&self) {
        let reached = self.reached();
        for folder in self.folders.values() {
            folder.cache.progress(reached);
            folder.cache.tell_progress();
        }
    }

    /// Ends all watches.
    pub fn close(&self) {
        self.folders.values().for_each(|folder| folder.cache.close());
    }
}

impl Folder {
    fn apply(&self, change: Change) {
        let before = self.cache.get(&change.key).filter(|_| change.value.is_none());
        // What could not be read was left out before.
        let object: Option<Value> =
            change.value.as_ref().map(|value| serde_json::from_slice(value).unwrap_or_default());
        let header = object.as_ref().map(|object| header_of(self.strategy, object));
        self.cache.apply_described(change, header);
        match (object, before) {
            (Some(object), _) => {
                self.followers.iter().for_each(|one| one.put(self.name, &object));
            }
            (None, Some(item)) => {
                let (namespace, name) = (&item.header.namespace, &item.header.name);
                self.followers.iter().for_each(|one| one.remove(self.name, namespace, name));
            }
            (None, None) => {}
        }
    }
}

/// The folder that a key is in: one or two names long.
fn folder_of<'a>(key: &'a str, prefix: &str, known: impl Fn(&str) -> bool) -> Option<&'a str> {
    let rest = key.strip_prefix(prefix)?.strip_prefix('/')?;
    let mut slashes = rest.match_indices('/').map(|(at, _)| at);
    let (one, two) = (slashes.next()?, slashes.next());
    [Some(one), two].into_iter().flatten().map(|end| &rest[..end]).find(|name| known(name))
}

/// A stored value in our layout; one that cannot be read is passed over, which is said.
fn readable(key: &str, value: Bytes) -> Option<Bytes> {
    match wire::at_rest(value) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(key, %error, "a stored object cannot be read; it is passed over");
            None
        }
    }
}

/// What the cache must know of an object.
fn describe(strategy: &'static dyn Strategy, bytes: &[u8]) -> Header {
    // Only what could be read gets here.
    header_of(strategy, &serde_json::from_slice(bytes).unwrap_or_default())
}

fn header_of(strategy: &dyn Strategy, object: &Value) -> Header {
    let meta = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let fields = strategy.selectable_fields(object);
    debug_assert!(fields.iter().map(|(name, _)| name).eq(strategy.selectable_names()), "a field has no name");
    Header {
        namespace: meta("namespace").into(),
        name: meta("name").into(),
        // The tree keeps its keys sorted.
        labels: labels
            .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
            .collect(),
        fields: Fields::new(strategy.selectable_names(), fields.iter().map(|(_, value)| &**value)),
    }
}

/// A store's failure as an answer.
pub fn store_error(error: &StorageError) -> ApiError {
    match error {
        StorageError::Conflict(_) => ApiError::Internal("an unexpected conflict in the store".into()),
        StorageError::Compacted { .. } => ApiError::Expired(
            "The provided from parameter is too old to display a consistent list result.".into(),
        ),
        StorageError::QuotaExceeded => ApiError::Internal("etcdserver: mvcc: database space exceeded".into()),
        StorageError::TooLarge => ApiError::Internal(error.to_string()),
        StorageError::Unavailable(_) => ApiError::Unavailable(error.to_string()),
        StorageError::Broken { .. } => ApiError::Internal(error.to_string()),
    }
}

/// A read-only look at what is stored, for those who decide about other objects.
#[derive(Clone)]
pub struct View(Arc<World>);

impl View {
    /// A look at this world.
    pub fn new(world: Arc<World>) -> View {
        View(world)
    }

    /// An object of a core or grouped kind, by the folder it is stored in (`pods`, `minions`, `services/specs`, ...): the
    /// stored tree with its resourceVersion. The namespace is empty for cluster-wide kinds.
    pub fn get(&self, folder: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = self.0.key(folder, namespace, name);
        let item = self.0.cache(folder)?.get(&key)?;
        self.0.lately.tree(key, &item)
    }

    /// The same without reading it: its header tells namespace, name, labels and selectable fields.
    pub fn item(&self, folder: &str, namespace: &str, name: &str) -> Option<Arc<Item>> {
        self.0.cache(folder)?.get(&self.0.key(folder, namespace, name))
    }

    /// Whether there is such an object.
    pub fn has(&self, folder: &str, namespace: &str, name: &str) -> bool {
        self.item(folder, namespace, name).is_some()
    }

    /// All objects of a folder in a namespace, or in all with an empty one.
    pub fn list(&self, folder: &str, namespace: &str) -> Vec<Value> {
        let Some(cache) = self.0.cache(folder) else { return Vec::new() };
        let items = &cache.snapshot().items;
        let inside =
            items.values().filter(|item| namespace.is_empty() || &*item.header.namespace == namespace);
        inside.filter_map(|item| wire::tree(&item.value, Some(item.revision)).ok()).collect()
    }
}
