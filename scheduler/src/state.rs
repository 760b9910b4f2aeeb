//! What informers tell, turned into the cluster and the queue; one lock, held only between awaits.

use crate::cluster::{Cluster, Uid};
use crate::decide::{Decision, decide};
use crate::framework::{Event, Plugin};
use crate::objects::{NodeObject, PodObject, ServiceObject};
use crate::preemption::Preemption;
use crate::queue::{Entry, Pending, Queue};
use minik_client::{Change, PartialObject};
use minik_component::{Chance, Plant, planted};
use minik_placement::{Labels, Pod};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Shared by the informers' handlers and the loop that decides.
pub struct Shared {
    state: Mutex<State>,
    /// Told when there may be something to decide.
    pub wake: Notify,
    profile: Vec<Box<dyn Plugin>>,
    scheduler_name: String,
}

/// What became of a Pod whose turn it was.
pub enum Turn {
    /// It is being deleted: nothing is to be decided.
    Skipped,
    /// It was decided on.
    Decided(Decision),
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    queue: Queue,
    start: usize,
}

impl Shared {
    /// An empty cluster, for Pods that ask for `scheduler_name`.
    pub fn new(profile: Vec<Box<dyn Plugin>>, scheduler_name: String) -> Arc<Shared> {
        let state = Mutex::new(State::default());
        Arc::new(Shared { state, wake: Notify::new(), profile, scheduler_name })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held ends the process; until then the state is no worse than before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a change of a Pod.
    pub fn pod(&self, change: &Change<PodObject>, now: Duration) {
        let mut state = self.lock();
        match change {
            Change::Deleted(object) => state.pod_gone(object, &self.profile, now),
            Change::Added(object) | Change::Updated { new: object, .. } => {
                let ours = *object.scheduler_name == *self.scheduler_name;
                state.pod_set(object, ours, &self.profile, now);
            }
        }
        self.wake.notify_one();
    }

    /// Takes a change of a Node.
    pub fn node(&self, change: &Change<NodeObject>, now: Duration) {
        let mut guard = self.lock();
        let state = &mut *guard;
        match change {
            Change::Deleted(object) => {
                if let Some(old) = state.cluster.remove_node(&object.node.name) {
                    state.queue.on_event(Event::NodeDeleted(&old), &self.profile, now);
                }
            }
            Change::Added(object) | Change::Updated { new: object, .. } => {
                let new = object.node.clone();
                match state.cluster.set_node(new.clone()) {
                    None => state.queue.on_event(Event::NodeAdded(&new), &self.profile, now),
                    Some(old) if *old != *new => {
                        state.queue.on_event(Event::NodeUpdated(&old, &new), &self.profile, now);
                    }
                    Some(_) => return,
                }
            }
        }
        self.wake.notify_one();
    }

    /// Takes a change of a Namespace.
    pub fn namespace(&self, change: &Change<PartialObject>) {
        let meta = &change.object().metadata;
        let mut state = self.lock();
        match change {
            Change::Deleted(_) => state.cluster.namespaces_mut().remove(&meta.name),
            _ => state.cluster.namespaces_mut().set(meta.name.clone(), meta.labels.clone()),
        }
    }

    /// Takes a change of a Service.
    pub fn service(&self, change: &Change<ServiceObject>) {
        let object = change.object();
        let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
        let selector =
            if matches!(change, Change::Deleted(_)) { Labels::new() } else { object.spec.selector.clone() };
        self.lock().cluster.set_service(namespace, name, selector);
    }

    /// Decides on the next Pod, if one is ready, and counts it where it goes.
    pub fn decide(&self, chance: &dyn Chance, now: Duration) -> Option<(Entry, Turn)> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let entry = state.queue.pop(now)?;
        let pod = entry.object.pod.clone();
        if pod.terminating {
            state.queue.remove(&pod.uid);
            return Some((entry, Turn::Skipped));
        }
        let decision = decide(&self.profile, &state.cluster, &pod, &mut state.start, chance);
        match &decision {
            Decision::Place { .. } if planted(Plant::NothingAssumed) => {}
            Decision::Place { node, .. } => state.cluster.assume(pod, node.clone()),
            Decision::Wait(diagnosis) => {
                match &diagnosis.preemption {
                    Some(Preemption::Victims { node, .. }) => {
                        state.cluster.nominate(&pod, Some(node.clone()))
                    }
                    Some(Preemption::NotEligible(_)) => {}
                    Some(Preemption::NotHelpful(_)) | None => state.cluster.nominate(&pod, None),
                }
                state.queue.wait(&pod.uid, diagnosis.plugins.clone(), now);
            }
        }
        Some((entry, Turn::Decided(decision)))
    }

    /// A Pod is bound: nothing is to be decided any more.
    pub fn bound(&self, uid: &str) {
        self.lock().queue.remove(uid);
    }

    /// A Pod could not be bound: its node has room again, and it is tried later. False when it is gone or bound
    /// after all.
    pub fn not_bound(&self, uid: &Uid, now: Duration) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !planted(Plant::FailedBindingKept)
            && let Some(pod) = state.cluster.forget(uid)
        {
            state.queue.on_event(Event::PodDeleted(&pod), &self.profile, now);
        }
        state.queue.failed(uid, now);
        self.wake.notify_one();
        state.queue.get(uid).is_some()
    }

    /// When something is to be decided without anything happening before.
    pub fn next_at(&self) -> Option<Duration> {
        self.lock().queue.next_at()
    }

    /// How many Pods wait.
    pub fn pending(&self) -> Pending {
        self.lock().queue.pending()
    }

    /// Pods with a lower priority that a node was being cleared for: it is now for another.
    pub fn displace(&self, node: &str, priority: i32) -> Vec<Arc<Pod>> {
        let mut state = self.lock();
        let lower: Vec<Arc<Pod>> =
            state.cluster.nominated_to(node).filter(|pod| pod.priority < priority).cloned().collect();
        lower.iter().for_each(|pod| state.cluster.nominate(pod, None));
        lower
    }
}

impl State {
    fn pod_set(&mut self, object: &Arc<PodObject>, ours: bool, profile: &[Box<dyn Plugin>], now: Duration) {
        let pod = &object.pod;
        if pod.finished {
            self.pod_gone(object, profile, now);
        } else if pod.is_placed() {
            self.queue.remove(&pod.uid);
            let was_assumed = self.cluster.is_assumed(&pod.uid);
            match self.cluster.place(pod.clone()) {
                Some(old) if !was_assumed && *old != **pod => {
                    self.queue.on_event(Event::PodUpdated(&old, pod), profile, now);
                }
                Some(_) if !was_assumed => {}
                _ => self.queue.on_event(Event::PodAdded(pod), profile, now),
            }
        } else if ours && !self.cluster.is_assumed(&pod.uid) {
            self.cluster.nominate(pod, pod.nominated_node_name.clone());
            self.queue.set(object.clone(), profile, now);
        }
    }

    fn pod_gone(&mut self, object: &PodObject, profile: &[Box<dyn Plugin>], now: Duration) {
        self.queue.remove(&object.pod.uid);
        if let Some(old) = self.cluster.remove(&object.pod.uid) {
            self.queue.on_event(Event::PodDeleted(&old), profile, now);
        }
    }
}
