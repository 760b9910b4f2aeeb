//! Events: told without ever holding up the caller, repeated ones counted instead of written again.
//!
//! ```text
//!  event() ── bounded queue, full: dropped and counted ──> run(): Correlator decides ──> POST or PATCH
//! ```
//!
//! Two forms, as upstream's components use them: the scheduler writes `events.k8s.io/v1` with a series, the kubelet
//! and the controllers write core `v1` with a count.

use crate::{Backoff, call};
use minik_component::{Chance, Clock, Shutdown, chain};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that wait to be written. More come in a burst than a server takes (a scheduler binds a thousand Pods a
/// second); each is under a kilobyte, so this costs two megabytes at worst.
const QUEUE: usize = 2000;
/// Kinds of events that are remembered to be counted, the oldest forgotten first.
const REMEMBERED: usize = 1024;
/// Upstream's limit of a note.
const NOTE_BYTES: usize = 1024;
/// A repeated event of a series is written again this rarely.
const SERIES_WRITTEN_EVERY: Duration = Duration::from_secs(6 * 60);
/// Different messages of one reason about one object within this time are combined after [`SIMILAR`] of them.
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
const SIMILAR: u32 = 10;
/// Events that one source may tell about one object: a burst, then one every so often.
const BURST: f64 = 25.0;
const BURST_REFILL: Duration = Duration::from_secs(300);
const TRIES: u32 = 12;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ObjectRef {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for kinds without.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Identity in time, empty when unknown.
    pub uid: String,
    /// The revision it is about, empty when it does not matter.
    pub resource_version: String,
    /// A part of it, such as `spec.containers{c}`, or empty.
    pub field_path: String,
}

/// How an event is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    /// All is well.
    Normal,
    /// Something should be looked at.
    Warning,
}

/// Which API the events are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventApi {
    /// Core `v1`: kubelet and controllers.
    Core,
    /// `events.k8s.io/v1`: the scheduler.
    Events,
}

/// Who tells.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// The component, such as `default-scheduler` or `kubelet`.
    pub component: String,
    /// Which one of them: a host or node name.
    pub instance: String,
    /// Where to.
    pub api: EventApi,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Draft {
    about: ObjectRef,
    kind: EventType,
    reason: String,
    action: String,
    note: String,
}

/// Takes events; cheap to copy.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Draft>,
    dropped: Arc<AtomicU64>,
}

impl EventRecorder {
    /// A recorder, and the future half that writes what it takes; the caller owns and awaits that.
    pub fn new(
        reporter: Reporter,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> (EventRecorder, EventWriter) {
        let (queue, drafts) = mpsc::channel(QUEUE);
        let correlator = Correlator { reporter, known: BTreeMap::new(), similar: BTreeMap::new(), turn: 0 };
        let writer = EventWriter { drafts, correlator, clock, chance };
        (EventRecorder { queue, dropped: Arc::new(AtomicU64::new(0)) }, writer)
    }

    /// Tells an event. Never waits: when too many wait already, this one is dropped and counted.
    pub fn event(&self, about: &ObjectRef, kind: EventType, reason: &str, action: &str, note: &str) {
        let draft = Draft {
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: truncated(note),
        };
        if self.queue.try_send(draft).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The note within upstream's limit, cut at a character.
fn truncated(note: &str) -> String {
    if note.len() <= NOTE_BYTES {
        return note.to_owned();
    }
    let mut end = NOTE_BYTES - 4;
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ...", &note[..end])
}

/// Writes the events that a recorder took.
pub struct EventWriter {
    drafts: mpsc::Receiver<Draft>,
    correlator: Correlator,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

impl EventWriter {
    /// Writes until `shutdown` or until no recorder is left.
    pub async fn run(mut self, client: kube::Client, shutdown: Shutdown) {
        loop {
            // Cancel-safe: a draft that was not taken stays in the queue.
            let draft = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                draft = self.drafts.recv() => draft,
            };
            let Some(draft) = draft else { return };
            let Some((key, write)) = self.correlator.decide(draft, self.clock.now()) else { continue };
            // Cancel-safe: an event that was cut off is lost, which the end of a process may cost.
            let written = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                written = write_out(&client, &*self.chance, &write) => written,
            };
            if !written {
                self.correlator.known.remove(&key);
            }
        }
    }
}

/// A call that makes an event known.
#[derive(Debug, Clone, PartialEq)]
struct Write {
    /// The collection.
    path: String,
    /// The event's name, for a patch.
    name: String,
    /// A patch of what was written before.
    patch: Option<Value>,
    /// The whole event, for a first time or when the patch finds nothing.
    object: Value,
}

async fn write_out(client: &kube::Client, chance: &dyn Chance, write: &Write) -> bool {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    for _ in 0..TRIES {
        let result = match &write.patch {
            Some(patch) => {
                let path = format!("{}/{}", write.path, write.name);
                let patched = call::patch::<Value>(client, &path, call::PatchKind::Strategic, patch).await;
                match patched {
                    // It has expired or was deleted: written anew.
                    Err(error) if call::refusal(&error) == Some(404) => {
                        call::post::<Value>(client, &write.path, &write.object).await
                    }
                    other => other,
                }
            }
            None => call::post::<Value>(client, &write.path, &write.object).await,
        };
        match result {
            Ok(_) => return true,
            // It is there already, or will never be taken (its namespace ends, it is malformed).
            Err(error) if call::refusal(&error).is_some_and(|code| code < 500 && code != 429) => {
                tracing::debug!(error = chain(&error), "the server refused an event");
                return false;
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "cannot write an event yet");
                tokio::time::sleep(backoff.next(chance)).await;
            }
        }
    }
    false
}

/// Decides, without touching anything, what becomes of an event.
struct Correlator {
    reporter: Reporter,
    known: BTreeMap<Draft, Known>,
    similar: BTreeMap<Draft, Similar>,
    turn: u64,
}

struct Known {
    name: String,
    first: jiff::Timestamp,
    count: u32,
    written: jiff::Timestamp,
    turn: u64,
}

struct Similar {
    notes: u32,
    last_note: String,
    since: jiff::Timestamp,
    tokens: f64,
    looked: jiff::Timestamp,
    turn: u64,
}

impl Correlator {
    fn decide(&mut self, draft: Draft, now: jiff::Timestamp) -> Option<(Draft, Write)> {
        self.turn += 1;
        let turn = self.turn;
        let core = self.reporter.api == EventApi::Core;
        let (key, note) = if core {
            self.combined(draft, now)?
        } else {
            // In events.k8s.io the note does not tell events apart.
            let note = draft.note.clone();
            (Draft { note: String::new(), ..draft }, note)
        };
        forget_oldest(&mut self.known, |known| known.turn);
        let again = self.known.get_mut(&key).map(|known| {
            known.count += 1;
            known.turn = turn;
            let due = since(known.written, now) >= SERIES_WRITTEN_EVERY;
            let write = core || known.count == 2 || due;
            if write {
                known.written = now;
            }
            write
        });
        match again {
            Some(false) => return None,
            Some(true) => {}
            None => {
                let name = format!("{}.{:x}", key.about.name, now.as_nanosecond());
                self.known.insert(key.clone(), Known { name, first: now, count: 1, written: now, turn });
            }
        }
        let known = self.known.get(&key)?;
        let write = match self.reporter.api {
            EventApi::Core => self.core(&key, &note, known, now),
            EventApi::Events => self.events(&key, &note, known, now),
        };
        Some((key, write))
    }

    /// Combines many different messages of one reason, and holds back a source that tells too much.
    fn combined(&mut self, mut draft: Draft, now: jiff::Timestamp) -> Option<(Draft, String)> {
        let turn = self.turn;
        let group = Draft { note: String::new(), ..draft.clone() };
        forget_oldest(&mut self.similar, |similar| similar.turn);
        let similar = self.similar.entry(group).or_insert_with(|| Similar {
            notes: 0,
            last_note: String::new(),
            since: now,
            tokens: BURST,
            looked: now,
            turn,
        });
        similar.turn = turn;
        if since(similar.since, now) > SIMILAR_WITHIN {
            (similar.notes, similar.since) = (0, now);
        }
        if similar.last_note != draft.note {
            similar.notes += 1;
            similar.last_note = draft.note.clone();
        }
        let refilled = since(similar.looked, now).as_secs_f64() / BURST_REFILL.as_secs_f64();
        (similar.tokens, similar.looked) = ((similar.tokens + refilled).min(BURST), now);
        if similar.tokens < 1.0 {
            return None;
        }
        similar.tokens -= 1.0;
        let mut note = draft.note.clone();
        if similar.notes > SIMILAR {
            note = truncated(&format!("(combined from similar events): {note}"));
            draft.note = String::new();
        }
        Some((draft, note))
    }

    fn core(&self, key: &Draft, note: &str, known: &Known, now: jiff::Timestamp) -> Write {
        let seconds = |at: jiff::Timestamp| format!("{at:.0}");
        let count = known.count;
        let object = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": known.name, "namespace": namespace(&key.about)},
            "involvedObject": reference(&key.about),
            "reason": key.reason,
            "message": note,
            "source": {"component": self.reporter.component, "host": self.reporter.instance},
            "firstTimestamp": seconds(known.first),
            "lastTimestamp": seconds(now),
            "count": count,
            "type": kind(key.kind),
            "reportingComponent": self.reporter.component,
            "reportingInstance": self.reporter.instance,
        });
        let patch =
            (count > 1).then(|| json!({"count": count, "lastTimestamp": seconds(now), "message": note}));
        let path = format!("/api/v1/namespaces/{}/events", namespace(&key.about));
        Write { path, name: known.name.clone(), patch, object }
    }

    fn events(&self, key: &Draft, note: &str, known: &Known, now: jiff::Timestamp) -> Write {
        let micros = |at: jiff::Timestamp| format!("{at:.6}");
        let mut object = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": known.name, "namespace": namespace(&key.about)},
            "eventTime": micros(known.first),
            "reportingController": self.reporter.component,
            "reportingInstance": self.reporter.instance,
            "action": key.action,
            "reason": key.reason,
            "regarding": reference(&key.about),
            "note": note,
            "type": kind(key.kind),
        });
        let patch = (known.count > 1).then(|| {
            let series = json!({"count": known.count, "lastObservedTime": micros(now)});
            object["series"] = series.clone();
            json!({"series": series})
        });
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", namespace(&key.about));
        Write { path, name: known.name.clone(), patch, object }
    }
}

fn since(from: jiff::Timestamp, to: jiff::Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn forget_oldest<V>(map: &mut BTreeMap<Draft, V>, turn: impl Fn(&V) -> u64) {
    if map.len() >= REMEMBERED {
        let oldest = map.iter().min_by_key(|(_, value)| turn(value)).map(|(key, _)| key.clone());
        oldest.and_then(|key| map.remove(&key));
    }
}

/// Events about kinds without namespace are kept in `default`.
fn namespace(about: &ObjectRef) -> &str {
    if about.namespace.is_empty() { "default" } else { &about.namespace }
}

fn kind(kind: EventType) -> &'static str {
    match kind {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

fn reference(about: &ObjectRef) -> Value {
    let fields = [
        ("apiVersion", &about.api_version),
        ("kind", &about.kind),
        ("namespace", &about.namespace),
        ("name", &about.name),
        ("uid", &about.uid),
        ("resourceVersion", &about.resource_version),
        ("fieldPath", &about.field_path),
    ];
    let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(set.map(|(name, value)| (name.to_owned(), value.clone().into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn correlator(api: EventApi) -> Correlator {
        let reporter = Reporter { component: "kubelet".into(), instance: "n".into(), api };
        Correlator { reporter, known: BTreeMap::new(), similar: BTreeMap::new(), turn: 0 }
    }

    fn draft(note: &str) -> Draft {
        let about =
            ObjectRef { kind: "Pod".into(), namespace: "s".into(), name: "p".into(), ..Default::default() };
        Draft {
            about,
            kind: EventType::Normal,
            reason: "Pulled".into(),
            action: "Pulling".into(),
            note: note.into(),
        }
    }

    fn at(seconds: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_repeated_core_event_is_counted() {
        let mut events = correlator(EventApi::Core);
        let (_, first) = events.decide(draft("a"), at(0)).unwrap();
        assert_eq!((first.patch, &first.object["count"]), (None, &json!(1)));
        let (_, second) = events.decide(draft("a"), at(5)).unwrap();
        assert_eq!(second.name, first.name);
        assert_eq!(second.patch.unwrap()["count"], json!(2));
        let (_, other) = events.decide(draft("b"), at(6)).unwrap();
        assert!(other.patch.is_none());
    }

    #[test]
    fn many_messages_of_one_reason_are_combined() {
        let mut events = correlator(EventApi::Core);
        let last = (0..12).filter_map(|n| events.decide(draft(&n.to_string()), at(n))).last().unwrap().1;
        assert_eq!(last.object["message"], json!("(combined from similar events): 11"));
        assert_eq!(last.object["count"], json!(2));
    }

    #[test]
    fn a_source_that_tells_too_much_is_held_back() {
        let mut events = correlator(EventApi::Core);
        let told = (0..100).filter(|_| events.decide(draft("a"), at(0)).is_some()).count();
        assert_eq!(told, 25);
        assert!(events.decide(draft("a"), at(301)).is_some());
    }

    #[test]
    fn a_series_is_written_at_its_second_event_and_then_rarely() {
        let mut events = correlator(EventApi::Events);
        let (_, first) = events.decide(draft("a"), at(0)).unwrap();
        assert!(first.patch.is_none() && first.object.get("series").is_none());
        let (_, second) = events.decide(draft("another note"), at(1)).unwrap();
        assert_eq!(second.patch.unwrap()["series"]["count"], json!(2));
        assert!(events.decide(draft("a"), at(2)).is_none());
        let (_, late) = events.decide(draft("a"), at(400)).unwrap();
        assert_eq!(late.patch.unwrap()["series"]["count"], json!(4));
    }

    #[test]
    fn a_long_note_is_cut_at_a_character() {
        let note = truncated(&"ä".repeat(2000));
        assert!(note.len() <= NOTE_BYTES && note.ends_with(" ..."));
    }
}
