//! The watch cache: all objects of one resource in memory, and the events that lead there.
//!
//! ```text
//!  Storage::watch ──> Cache::apply ──> objects (a persistent map: readers never lock)
//!                                  ├─> window  (past events, bounded in bytes: watches resume from here)
//!                                  └─> watchers (found by namespace, name or field; a full one is ended)
//! ```
//!
//! The guarantees are Kubernetes' own of a watch: ordered, unique, atomic, reliable, resumable, bookmarkable
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).

use crate::{Change, Everything, Revision};
use arc_swap::ArcSwap;
use bytes::Bytes;
use imbl::OrdMap;
use minik_component::{Plant, planted};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Bytes of past events that a resource keeps.
const WINDOW_BYTES: usize = 8 << 20;
/// Past events that a resource keeps at least, however large.
const WINDOW_EVENTS: usize = 100;
/// Events that a watcher may be behind: a burst of one rollout fits, an endless backlog does not.
const WATCHER_QUEUE: usize = 4096;

/// What a cache must know of a value: found out once, by the caller who knows kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The namespace, empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// Labels, sorted.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Selectable fields.
    pub fields: Fields,
}

/// Selectable fields: names that all objects of a kind share, and the values of one, as one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    names: &'static [&'static str],
    values: Box<str>,
    ends: Box<[u32]>,
}

impl Fields {
    /// A value for each name.
    pub fn new<'a>(names: &'static [&'static str], each: impl IntoIterator<Item = &'a str>) -> Fields {
        let (mut values, mut ends) = (String::new(), Vec::with_capacity(names.len()));
        for value in each {
            values.push_str(value);
            ends.push(values.len() as u32);
        }
        Fields { names, values: values.into(), ends: ends.into() }
    }

    /// The names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let mut from = 0;
        self.names.iter().zip(&self.ends).map(move |(name, end)| {
            let value = &self.values[from..*end as usize];
            from = *end as usize;
            (*name, value)
        })
    }
}

/// Reads the header of a value.
pub type Describe = dyn Fn(&[u8]) -> Header + Send + Sync;

/// Forms of a value that were made once and are shared by all who ask.
#[derive(Debug, Default)]
pub struct Memo(Mutex<Vec<(u32, Bytes)>>);

impl Memo {
    /// The form with this number, made now if nobody made it before.
    pub fn get_or<E>(&self, form: u32, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let found = |forms: &[(u32, Bytes)]| {
            forms.iter().find(|(known, _)| *known == form).map(|(_, bytes)| bytes.clone())
        };
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = found(&lock()) {
            return Ok(bytes);
        }
        // Two may make it at once; the result is the same.
        let bytes = make()?;
        lock().push((form, bytes.clone()));
        Ok(bytes)
    }
}

/// An object of the cache.
#[derive(Debug)]
pub struct Item {
    /// Its key.
    pub key: Arc<str>,
    /// The revision of its last write.
    pub revision: Revision,
    /// The stored bytes, in which its revision does not stand.
    pub value: Bytes,
    /// What was found out about it.
    pub header: Header,
    /// Other forms of it.
    pub forms: Memo,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It came to be.
    Added,
    /// It changed.
    Modified,
    /// It went.
    Deleted,
}

/// A change of the cache.
#[derive(Debug)]
pub struct Event {
    /// When.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The new state; for a deletion the last one.
    pub item: Arc<Item>,
    /// The state before a modification.
    pub before: Option<Arc<Item>>,
    /// Frames of it.
    pub frames: Memo,
}

impl Event {
    /// What the event is for a watcher who sees only some objects: one that comes into sight was added, one that goes
    /// out of sight was deleted; `None` when neither state is in sight.
    pub fn seen_by(&self, sees: impl Fn(&Header) -> bool) -> Option<EventKind> {
        let now = sees(&self.item.header);
        let before = self.before.as_ref().is_some_and(|item| sees(&item.header));
        match (self.kind, before, now) {
            (EventKind::Modified, true, true) => Some(EventKind::Modified),
            (EventKind::Modified, false, true) => Some(EventKind::Added),
            (EventKind::Modified, true, false) => Some(EventKind::Deleted),
            (EventKind::Modified, false, false) => None,
            (kind, _, true) => Some(kind),
            (_, _, false) => None,
        }
    }

    /// The state to show: of an object that went out of sight, the last one in sight.
    pub fn shown(&self, kind: EventKind) -> &Arc<Item> {
        match (kind, &self.before) {
            (EventKind::Deleted, Some(before)) => before,
            _ => &self.item,
        }
    }
}

/// Which events a watcher must be asked about; a selector narrows them further.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All.
    All,
    /// Those of a namespace.
    Namespace(Arc<str>),
    /// Those of a name, in any namespace.
    Name(Arc<str>),
    /// Those whose field has this value now or had it before.
    Field(&'static str, Box<str>),
}

/// Everything at one moment.
#[derive(Clone)]
pub struct Snapshot {
    /// The objects by key.
    pub items: OrdMap<Arc<str>, Arc<Item>>,
    /// The moment.
    pub revision: Revision,
}

/// What a watcher is sent.
#[derive(Debug, Clone)]
pub enum Watching {
    /// A change.
    Event(Arc<Event>),
    /// The cache has reached this revision, and nothing more was to be told.
    Progress(Revision),
}

/// Why a watch cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The revision has left the window. Final: list again.
    #[error("too old resource version: {asked} ({oldest})")]
    TooOld {
        /// Asked for.
        asked: Revision,
        /// The oldest that can be resumed from.
        oldest: Revision,
    },
}

/// A watch: its past events, then its stream, which ends when the watcher is too slow or the cache is closed.
pub struct Watcher {
    /// What happened after the revision that was asked for, until now.
    pub past: Vec<Arc<Event>>,
    /// What happens from now on.
    pub next: mpsc::Receiver<Watching>,
    /// Everything at the moment between the two.
    pub snapshot: Snapshot,
}

struct Window {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Watches can resume from here on.
    oldest: Revision,
    watchers: BTreeMap<Scope, Vec<mpsc::Sender<Watching>>>,
}

/// The cache of one resource.
pub struct Cache {
    state: ArcSwap<Snapshot>,
    window: Mutex<Window>,
    describe: Box<Describe>,
}

impl Cache {
    /// A cache of what is stored at one revision.
    pub fn new(everything: Everything, describe: Box<Describe>) -> Cache {
        let revision = everything.revision;
        let items = everything.records.into_iter().map(|record| {
            let header = describe(&record.value);
            let item = Item {
                key: record.key.clone(),
                revision: record.revision,
                value: record.value,
                header,
                forms: Memo::default(),
            };
            (record.key, Arc::new(item))
        });
        let state = ArcSwap::from_pointee(Snapshot { items: items.collect(), revision });
        let window =
            Window { events: VecDeque::new(), bytes: 0, oldest: revision, watchers: BTreeMap::new() };
        Cache { state, window: Mutex::new(window), describe }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Each change is complete before anything can panic.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.state.load_full()
    }

    /// The object with this key.
    pub fn get(&self, key: &str) -> Option<Arc<Item>> {
        self.state.load().items.get(key).cloned()
    }

    /// Takes over a change of this resource. Changes come in order, each once.
    pub fn apply(&self, change: Change) {
        let header = change.value.as_ref().map(|value| (self.describe)(value));
        self.apply_described(change, header);
    }

    /// The same for a caller who has read the value and knows its header already.
    pub fn apply_described(&self, change: Change, header: Option<Header>) {
        let mut window = self.window();
        let state = self.state.load_full();
        let before = state.items.get(&change.key).cloned();
        let mut items = state.items.clone();
        let (kind, item, before) = match change.value {
            Some(value) => {
                let header = header.unwrap_or_default();
                let item = Arc::new(Item {
                    key: change.key.clone(),
                    revision: change.revision,
                    value,
                    header,
                    forms: Memo::default(),
                });
                items.insert(change.key, item.clone());
                (if before.is_some() { EventKind::Modified } else { EventKind::Added }, item, before)
            }
            None => {
                items.remove(&change.key);
                // The deletion of what was never there tells nobody anything.
                let Some(last) = before else {
                    return self.state.store(Arc::new(Snapshot { items, revision: change.revision }));
                };
                (EventKind::Deleted, last, None)
            }
        };
        self.state.store(Arc::new(Snapshot { items, revision: change.revision }));
        let event =
            Arc::new(Event { revision: change.revision, kind, item, before, frames: Memo::default() });
        window.tell(&event);
        window.keep(event);
    }

    /// The store has reached a revision with nothing more for this resource.
    pub fn progress(&self, revision: Revision) {
        let state = self.state.load_full();
        if state.revision < revision {
            self.state.store(Arc::new(Snapshot { items: state.items.clone(), revision }));
        }
    }

    /// Watches from after a revision, or from now with `None`.
    ///
    /// # Errors
    /// [`WatchError::TooOld`] when the revision has left the window.
    pub fn watch(&self, after: Option<Revision>, scope: Scope) -> Result<Watcher, WatchError> {
        let mut window = self.window();
        let snapshot = Snapshot::clone(&self.state.load());
        let past = match after {
            None => Vec::new(),
            Some(asked) if asked < window.oldest => {
                return Err(WatchError::TooOld { asked, oldest: window.oldest });
            }
            Some(asked) => {
                let missed = window.events.iter().filter(|event| event.revision > asked);
                missed.skip(usize::from(planted(Plant::ResumedTooLate))).cloned().collect()
            }
        };
        let (sender, next) = mpsc::channel(WATCHER_QUEUE);
        let watchers = window.watchers.entry(scope).or_default();
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.push(sender);
        Ok(Watcher { past, next, snapshot })
    }

    /// Everything at an earlier revision, as far back as the window goes; of a later one what is there now.
    pub fn at(&self, revision: Revision) -> Option<Snapshot> {
        let window = self.window();
        if revision < window.oldest {
            return None;
        }
        let mut items = self.state.load().items.clone();
        for event in window.events.iter().rev().take_while(|event| event.revision > revision) {
            let key = &event.item.key;
            match (event.kind, &event.before) {
                (EventKind::Added, _) | (EventKind::Modified, None) => drop(items.remove(key)),
                (EventKind::Modified, Some(before)) => drop(items.insert(key.clone(), before.clone())),
                (EventKind::Deleted, _) => drop(items.insert(key.clone(), event.item.clone())),
            }
        }
        Some(Snapshot { items, revision })
    }

    /// Tells every watcher how far the cache is, for bookmarks.
    pub fn tell_progress(&self) {
        let mut window = self.window();
        let revision = self.state.load().revision;
        for watchers in window.watchers.values_mut() {
            // A full queue has events in it, which say as much.
            watchers.retain(|watcher| {
                !matches!(
                    watcher.try_send(Watching::Progress(revision)),
                    Err(mpsc::error::TrySendError::Closed(_))
                )
            });
        }
        window.watchers.retain(|_, watchers| !watchers.is_empty());
    }

    /// Ends every watch, so that clients go elsewhere.
    pub fn close(&self) {
        self.window().watchers.clear();
    }
}

impl Window {
    fn tell(&mut self, event: &Arc<Event>) {
        let mut scopes = vec![Scope::All];
        for header in
            [Some(&event.item.header), event.before.as_ref().map(|item| &item.header)].into_iter().flatten()
        {
            let own = [Scope::Namespace(header.namespace.clone()), Scope::Name(header.name.clone())];
            let fields = header.fields.iter().filter(|(name, _)| self.is_asked(name));
            let fields = fields.map(|(name, value)| Scope::Field(name, value.into()));
            for scope in own.into_iter().chain(fields) {
                if !scopes.contains(&scope) {
                    scopes.push(scope);
                }
            }
        }
        for scope in scopes {
            if let Some(watchers) = self.watchers.get_mut(&scope) {
                // A watcher that is full or gone is ended: it comes again and resumes from the window.
                watchers.retain(|watcher| watcher.try_send(Watching::Event(event.clone())).is_ok());
            }
        }
    }

    /// Whether anybody watches by this field.
    fn is_asked(&self, field: &'static str) -> bool {
        let first = self.watchers.range(Scope::Field(field, Box::default())..).next();
        matches!(first, Some((Scope::Field(known, _), _)) if *known == field)
    }

    fn keep(&mut self, event: Arc<Event>) {
        self.bytes += event.item.value.len();
        self.events.push_back(event);
        while self.bytes > WINDOW_BYTES && self.events.len() > WINDOW_EVENTS {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.item.value.len();
                self.oldest = oldest.revision;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;
    use proptest::prelude::*;

    /// A value is its labels' text: `ns/name:label`.
    fn describe(value: &[u8]) -> Header {
        let text = std::str::from_utf8(value).unwrap();
        let (place, label) = text.split_once(':').unwrap();
        let (namespace, name) = place.split_once('/').unwrap();
        Header {
            namespace: namespace.into(),
            name: name.into(),
            labels: vec![("l".into(), label.into())],
            fields: Fields::new(&["f"], [label]),
        }
    }

    fn empty() -> Cache {
        Cache::new(Everything::default(), Box::new(describe))
    }

    fn put(revision: u64, place: &str, label: &str) -> Change {
        Change {
            revision: Revision(revision),
            key: place.into(),
            value: Some(format!("{place}:{label}").into()),
        }
    }

    fn gone(revision: u64, place: &str) -> Change {
        Change { revision: Revision(revision), key: place.into(), value: None }
    }

    fn drain(watcher: &mut Watcher) -> Vec<(u64, EventKind)> {
        let mut seen: Vec<_> = watcher.past.drain(..).map(|event| (event.revision.0, event.kind)).collect();
        while let Ok(Watching::Event(event)) = watcher.next.try_recv() {
            seen.push((event.revision.0, event.kind));
        }
        seen
    }

    #[test]
    fn watchers_are_asked_only_about_their_scope() {
        let cache = empty();
        let scopes = [
            Scope::All,
            Scope::Namespace("a".into()),
            Scope::Name("x".into()),
            Scope::Field("f", "1".into()),
        ];
        let mut watchers: Vec<Watcher> =
            scopes.into_iter().map(|scope| cache.watch(None, scope).unwrap()).collect();
        for change in
            [put(1, "a/x", "1"), put(2, "b/y", "2"), put(3, "a/x", "2"), put(4, "a/x", "3"), gone(5, "b/y")]
        {
            cache.apply(change);
        }
        let seen: Vec<Vec<u64>> = watchers
            .iter_mut()
            .map(|watcher| drain(watcher).into_iter().map(|(revision, _)| revision).collect())
            .collect();
        assert_eq!(seen, [vec![1, 2, 3, 4, 5], vec![1, 3, 4], vec![1, 3, 4], vec![1, 3]]);
    }

    #[test]
    fn going_out_of_sight_is_a_deletion_with_the_last_seen_state() {
        let cache = empty();
        let mut watcher = cache.watch(None, Scope::All).unwrap();
        for change in [put(1, "a/x", "1"), put(2, "a/x", "2"), put(3, "a/x", "1")] {
            cache.apply(change);
        }
        let sees = |header: &Header| header.labels[0].1.as_ref() == "1";
        let mut kinds = Vec::new();
        while let Ok(Watching::Event(event)) = watcher.next.try_recv() {
            let kind = event.seen_by(sees).unwrap();
            kinds.push((kind, event.shown(kind).revision.0));
        }
        assert_eq!(kinds, [(EventKind::Added, 1), (EventKind::Deleted, 1), (EventKind::Added, 3)]);
    }

    #[test]
    fn a_slow_watcher_is_ended_and_resumes() {
        let cache = empty();
        let mut slow = cache.watch(None, Scope::All).unwrap();
        let count = WATCHER_QUEUE as u64 + 10;
        for revision in 1..=count {
            cache.apply(put(revision, "a/x", "1"));
        }
        let seen = drain(&mut slow);
        assert_eq!(seen.len(), WATCHER_QUEUE);
        assert!(matches!(slow.next.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        let mut again = cache.watch(Some(Revision(seen.last().unwrap().0)), Scope::All).unwrap();
        assert_eq!(drain(&mut again).len(), 10);
    }

    #[test]
    fn what_left_the_window_is_too_old() {
        let cache = empty();
        let large = "v".repeat(WINDOW_BYTES / WINDOW_EVENTS);
        for revision in 1..=(WINDOW_EVENTS as u64 * 2) {
            cache.apply(put(revision, "a/x", &large));
        }
        assert!(matches!(cache.watch(Some(Revision(1)), Scope::All), Err(WatchError::TooOld { .. })));
        assert!(cache.watch(Some(Revision(WINDOW_EVENTS as u64 * 2 - 1)), Scope::All).is_ok());
    }

    proptest! {
        /// Whatever happens: a list plus the events after it gives the state, from any revision, each event once.
        #[test]
        fn a_resumed_watch_leads_to_the_present(ops in proptest::collection::vec((0..4u8, 0..3u8, any::<bool>()), 1..60), from in 0..60usize) {
            let cache = empty();
            let mut states: Vec<OrdMap<Arc<str>, Arc<Item>>> = vec![cache.snapshot().items.clone()];
            for (at, (name, label, delete)) in ops.iter().enumerate() {
                let (revision, place) = (at as u64 + 1, format!("n/{name}"));
                cache.apply(if *delete { gone(revision, &place) } else { put(revision, &place, &label.to_string()) });
                states.push(cache.snapshot().items.clone());
            }
            let from = from.min(ops.len());
            let watcher = cache.watch(Some(Revision(from as u64)), Scope::All).unwrap();
            let mut state: BTreeMap<Arc<str>, u64> = states[from].iter().map(|(key, item)| (key.clone(), item.revision.0)).collect();
            let mut last = from as u64;
            for event in watcher.past {
                prop_assert!(event.revision.0 > last);
                last = event.revision.0;
                match event.kind {
                    EventKind::Deleted => drop(state.remove(&event.item.key)),
                    _ => drop(state.insert(event.item.key.clone(), event.item.revision.0)),
                }
            }
            let present: BTreeMap<Arc<str>, u64> = cache.snapshot().items.iter().map(|(key, item)| (key.clone(), item.revision.0)).collect();
            prop_assert_eq!(state, present);
        }
    }

    #[test]
    fn a_cache_begins_with_what_is_stored() {
        let record = Record { key: "k".into(), value: "a/x:1".into(), revision: Revision(4) };
        let cache =
            Cache::new(Everything { records: vec![record], revision: Revision(9) }, Box::new(describe));
        assert_eq!(cache.get("k").unwrap().revision, Revision(4));
        assert!(
            cache.watch(Some(Revision(8)), Scope::All).is_err()
                && cache.watch(Some(Revision(9)), Scope::All).is_ok()
        );
    }
}
