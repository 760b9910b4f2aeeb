//! Pods that wait for a decision. Pure: `now` is passed in.
//!
//! ```text
//!  add ──> active ── pop ──> in flight ──> gone (bound) · waiting (no node does) · errors (something failed)
//!            ^                                                │                        │
//!            └── backoff is over ── backoff <── an event that a plugin hopes for       │
//!            └─────────────────────────────────── its backoff is over ─────────────────┘
//! ```
//!
//! Gated Pods wait until nothing holds them back. A Pod that waits is looked at again after five minutes in any case.

use crate::cluster::Uid;
use crate::framework::{Event, Plugin};
use crate::objects::PodObject;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Upstream's times.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Higher priority first, then who waits longer.
type Turn = (Reverse<i32>, Duration, u64, Uid);

/// A Pod in the queue.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The Pod.
    pub object: Arc<PodObject>,
    /// Decisions so far, the running one included.
    pub attempts: u32,
    /// When the first decision began.
    pub first: Option<Duration>,
    added: Duration,
    order: u64,
    /// As `active` is sorted by it; the Pod's own may be another by now.
    priority: i32,
    plugins: BTreeSet<&'static str>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    /// Until then, unless nothing else is to be done.
    Backoff(Duration),
    /// Until then.
    Errors(Duration),
    /// Since then; `until` its backoff would hold it.
    Waiting {
        since: Duration,
        until: Duration,
    },
    Gated,
    InFlight,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeMap<Uid, Entry>,
    active: BTreeSet<Turn>,
    backoff: BTreeSet<(Duration, Uid)>,
    errors: BTreeSet<(Duration, Uid)>,
    waiting: BTreeSet<(Duration, Uid)>,
    orders: u64,
}

/// How many Pods are where, by upstream's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// To be decided on next.
    pub active: usize,
    /// Held back for a while.
    pub backoff: usize,
    /// Waiting for something to change.
    pub unschedulable: usize,
    /// Held back by their gates.
    pub gated: usize,
}

impl Queue {
    /// Adds a Pod or takes over its new state. `profile` tells whether the change may help one that waits.
    pub fn set(&mut self, object: Arc<PodObject>, profile: &[Box<dyn Plugin>], now: Duration) {
        let uid = object.metadata.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.orders += 1;
            let place = if object.gated { Place::Gated } else { Place::Active };
            let entry = Entry {
                priority: object.pod.priority,
                object,
                attempts: 0,
                first: None,
                added: now,
                order: self.orders,
                plugins: BTreeSet::new(),
                place,
            };
            self.insert(uid, entry);
            return;
        };
        let old = std::mem::replace(&mut entry.object, object);
        let new = entry.object.clone();
        match entry.place {
            Place::Gated if !new.gated => self.activate(&uid, now),
            Place::Active => {
                // Its priority may have changed.
                self.take(&uid).into_iter().for_each(|entry| self.insert(uid.clone(), entry));
            }
            Place::Waiting { .. } if *old.pod != *new.pod => {
                let helps =
                    |name: &&str| hopes(profile, name, Event::TargetUpdated(&old.pod, &new.pod), &new);
                if entry.plugins.iter().any(helps) {
                    self.wake(&uid, now);
                }
            }
            _ => {}
        }
    }

    /// Forgets a Pod.
    pub fn remove(&mut self, uid: &str) {
        self.take(uid);
    }

    /// The Pod to decide on now; it is in flight until one of [`Queue::wait`], [`Queue::failed`] or
    /// [`Queue::remove`].
    pub fn pop(&mut self, now: Duration) -> Option<Entry> {
        self.promote(now);
        let next = match self.active.first() {
            Some((.., uid)) => uid.clone(),
            // There is time: one that is only held back to be fair to others need not wait.
            None => self.backoff.first()?.1.clone(),
        };
        let mut entry = self.take(&next)?;
        entry.place = Place::InFlight;
        entry.attempts += 1;
        entry.first.get_or_insert(now);
        self.entries.insert(next, entry.clone());
        Some(entry)
    }

    /// When [`Queue::pop`] will have something, if nothing happens before.
    pub fn next_at(&self) -> Option<Duration> {
        let waits = self.waiting.first().map(|(since, _)| *since + LONGEST_WAIT);
        waits.into_iter().chain(self.errors.first().map(|(until, _)| *until)).min()
    }

    /// No node does: the Pod waits for an event that one of these plugins hopes for (any event when none is named).
    pub fn wait(&mut self, uid: &str, plugins: BTreeSet<&'static str>, now: Duration) {
        let Some(mut entry) = self.take(uid) else { return };
        entry.plugins = plugins;
        entry.place = Place::Waiting { since: now, until: now + backoff(entry.attempts) };
        self.insert(uid.into(), entry);
    }

    /// Something failed: the Pod is tried again after its backoff.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        let Some(mut entry) = self.take(uid) else { return };
        entry.place = Place::Errors(now + backoff(entry.attempts));
        self.insert(uid.into(), entry);
    }

    /// Wakes the Pods that an event may help.
    pub fn on_event(&mut self, event: Event<'_>, profile: &[Box<dyn Plugin>], now: Duration) {
        let helped = |entry: &Entry| {
            entry.plugins.is_empty()
                || entry.plugins.iter().any(|name| hopes(profile, name, event, &entry.object))
        };
        let waiting = self.waiting.iter().map(|(_, uid)| uid);
        let woken: Vec<Uid> =
            waiting.filter(|uid| self.entries.get(*uid).is_some_and(helped)).cloned().collect();
        woken.iter().for_each(|uid| self.wake(uid, now));
    }

    /// The Pod as it is known now.
    pub fn get(&self, uid: &str) -> Option<&Entry> {
        self.entries.get(uid)
    }

    /// How many Pods are where.
    pub fn pending(&self) -> Pending {
        let held = self.backoff.len() + self.errors.len();
        let gated = self.entries.values().filter(|entry| entry.place == Place::Gated).count();
        Pending { active: self.active.len(), backoff: held, unschedulable: self.waiting.len(), gated }
    }

    fn wake(&mut self, uid: &str, now: Duration) {
        let Some(mut entry) = self.take(uid) else { return };
        entry.place = match entry.place {
            Place::Waiting { until, .. } if until > now => Place::Backoff(until),
            _ => Place::Active,
        };
        entry.added = now;
        self.insert(uid.into(), entry);
    }

    fn activate(&mut self, uid: &str, now: Duration) {
        let Some(mut entry) = self.take(uid) else { return };
        (entry.place, entry.added) = (Place::Active, now);
        self.insert(uid.into(), entry);
    }

    /// Moves what has waited long enough to `active`.
    fn promote(&mut self, now: Duration) {
        let due = |set: &BTreeSet<(Duration, Uid)>| {
            set.iter().take_while(|(until, _)| *until <= now).map(|(_, uid)| uid.clone()).collect::<Vec<_>>()
        };
        let mut over = due(&self.backoff);
        over.extend(due(&self.errors));
        let long = self.waiting.iter().take_while(|(since, _)| *since + LONGEST_WAIT <= now);
        over.extend(long.map(|(_, uid)| uid.clone()));
        over.iter().for_each(|uid| self.activate(uid, now));
    }

    fn insert(&mut self, uid: Uid, mut entry: Entry) {
        entry.priority = entry.object.pod.priority;
        match entry.place {
            Place::Active => drop(self.active.insert(entry.turn(&uid))),
            Place::Backoff(until) => drop(self.backoff.insert((until, uid.clone()))),
            Place::Errors(until) => drop(self.errors.insert((until, uid.clone()))),
            Place::Waiting { since, .. } => drop(self.waiting.insert((since, uid.clone()))),
            Place::Gated | Place::InFlight => {}
        }
        self.entries.insert(uid, entry);
    }

    fn take(&mut self, uid: &str) -> Option<Entry> {
        let (uid, entry) = self.entries.remove_entry(uid)?;
        match entry.place {
            Place::Active => drop(self.active.remove(&entry.turn(&uid))),
            Place::Backoff(until) => drop(self.backoff.remove(&(until, uid))),
            Place::Errors(until) => drop(self.errors.remove(&(until, uid))),
            Place::Waiting { since, .. } => drop(self.waiting.remove(&(since, uid))),
            Place::Gated | Place::InFlight => {}
        }
        Some(entry)
    }
}

impl Entry {
    fn turn(&self, uid: &Uid) -> Turn {
        (Reverse(self.priority), self.added, self.order, uid.clone())
    }
}

fn backoff(attempts: u32) -> Duration {
    (FIRST_BACKOFF * (1 << attempts.saturating_sub(1).min(10))).min(LONGEST_BACKOFF)
}

fn hopes(profile: &[Box<dyn Plugin>], name: &str, event: Event<'_>, object: &PodObject) -> bool {
    profile.iter().any(|plugin| plugin.name() == name && plugin.hint(event, &object.pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::default_profile;
    use minik_placement::Node;

    fn pod(name: &str, priority: i32, gated: bool) -> Arc<PodObject> {
        let gates = if gated { r#"[{"name": "g"}]"# } else { "[]" };
        let text = format!(
            r#"{{"metadata": {{"name": "{name}", "namespace": "s", "uid": "{name}"}}, "spec": {{"priority": {priority}, "schedulingGates": {gates}, "nodeSelector": {{"a": "b"}}}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn names(queue: &mut Queue, now: Duration) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|entry| entry.object.metadata.name.to_string()).collect()
    }

    #[test]
    fn high_priority_comes_first_then_who_came_first() {
        let (mut queue, profile) = (Queue::default(), default_profile());
        for (name, priority) in [("b", 0), ("a", 0), ("c", 5)] {
            queue.set(pod(name, priority, false), &profile, at(0));
        }
        queue.set(pod("a", 9, false), &profile, at(1));
        assert_eq!(names(&mut queue, at(1)), ["a", "c", "b"]);
    }

    #[test]
    fn a_gated_pod_waits_for_its_gates() {
        let (mut queue, profile) = (Queue::default(), default_profile());
        queue.set(pod("a", 0, true), &profile, at(0));
        assert_eq!((names(&mut queue, at(0)).len(), queue.pending().gated), (0, 1));
        queue.set(pod("a", 0, false), &profile, at(1));
        assert_eq!(names(&mut queue, at(1)), ["a"]);
    }

    #[test]
    fn only_events_that_can_help_wake_a_pod() {
        let (mut queue, profile) = (Queue::default(), default_profile());
        queue.set(pod("a", 0, false), &profile, at(0));
        queue.pop(at(0));
        queue.wait("a", BTreeSet::from(["NodeAffinity"]), at(0));
        let other = Node::default();
        queue.on_event(Event::NodeAdded(&other), &profile, at(20));
        assert_eq!(queue.pending().unschedulable, 1);
        let right = Node { labels: [("a".into(), "b".into())].into(), ..Node::default() };
        queue.on_event(Event::NodeUpdated(&other, &right), &profile, at(20));
        assert_eq!(names(&mut queue, at(20)), ["a"]);
    }

    #[test]
    fn errors_hold_a_pod_back_longer_each_time() {
        let (mut queue, profile) = (Queue::default(), default_profile());
        queue.set(pod("a", 0, false), &profile, at(0));
        for (now, until) in [(0, 1), (1, 3), (3, 7), (7, 15), (15, 25)] {
            assert_eq!(names(&mut queue, at(now)), ["a"], "at {now} s");
            queue.failed("a", at(now));
            assert_eq!(queue.next_at(), Some(at(until)));
            assert!(names(&mut queue, at(until - 1)).is_empty());
        }
    }

    #[test]
    fn what_waits_is_looked_at_again_after_five_minutes() {
        let (mut queue, profile) = (Queue::default(), default_profile());
        queue.set(pod("a", 0, false), &profile, at(0));
        queue.pop(at(0));
        queue.wait("a", BTreeSet::from(["NodeName"]), at(0));
        assert!(names(&mut queue, at(299)).is_empty());
        assert_eq!(names(&mut queue, at(300)), ["a"]);
    }

    #[test]
    fn a_pod_that_was_woken_early_runs_when_nothing_else_is_to_be_done() {
        let (mut queue, profile) = (Queue::default(), default_profile());
        for name in ["a", "b"] {
            queue.set(pod(name, 0, false), &profile, at(0));
        }
        queue.pop(at(0));
        queue.wait("a", BTreeSet::new(), at(0));
        queue.on_event(Event::NodeAdded(&Node::default()), &profile, at(0));
        assert_eq!(names(&mut queue, at(0)), ["b", "a"]);
    }
}
