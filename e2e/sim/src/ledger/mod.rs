//! What must hold after every write, whoever wrote: kept from the store itself.

mod rollouts;
mod seen;

use crate::trace::Trace;
use minik_placement::{Node, NodeState, Pod, fit};
use minik_storage::Change;
use rollouts::Bounds;
use seen::{DeploymentSeen, NodeSeen, PodSeen, ServiceSeen, SetSeen, SliceSeen};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long after something was last so it may still be acted upon, since watches lag: a Pod's readiness by who writes
/// slices, a node's failure by who evicts its Pods.
const STALE: Duration = Duration::from_secs(120);

/// The objects as they are, and what was wrong.
pub struct Ledger {
    trace: Arc<Trace>,
    state: Mutex<State>,
}

/// A change of a Pod, as a watch must tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// When.
    pub revision: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    /// Which.
    pub key: Arc<str>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<Arc<str>, PodSeen>,
    /// By uid, what scheduling reads of those that are bound.
    bound: BTreeMap<Arc<str>, Arc<Pod>>,
    sets: BTreeMap<Arc<str>, SetSeen>,
    deployments: BTreeMap<Arc<str>, DeploymentSeen>,
    services: BTreeMap<Arc<str>, ServiceSeen>,
    /// Each node, and whether it is well.
    nodes: BTreeMap<Arc<str>, (Arc<Node>, bool)>,
    /// When a node was last not well.
    unwell: Option<Instant>,
    /// When Pods, by uid, were last ready that are no longer.
    ceased: BTreeMap<Arc<str>, Instant>,
    set_bounds: BTreeMap<Arc<str>, Bounds>,
    deployment_bounds: BTreeMap<Arc<str>, Bounds>,
    /// The user is at work: what is wanted may change.
    user_acts: bool,
    /// Changes of Pods, in order.
    moves: Vec<Moved>,
    /// Revisions of what the user writes.
    written: BTreeMap<u64, Arc<str>>,
    /// The last change below each folder of the store.
    changed: BTreeMap<String, Instant>,
    revision: u64,
    wrong: Vec<String>,
}

impl Ledger {
    /// An empty one, which notes all writes in `trace`.
    pub fn new(trace: Arc<Trace>) -> Ledger {
        Ledger { trace, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write was done.
    pub fn note(&self, change: &Change) {
        self.trace.note((change.revision.0, &*change.key, change.value.as_deref()));
        tracing::debug!(revision = change.revision.0, key = %change.key, gone = change.value.is_none(), trace = self.trace.number(), "written");
        self.state().note(change);
    }

    /// What was wrong, in order.
    pub fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    /// Something was seen to be wrong elsewhere.
    pub fn blame(&self, what: String) {
        self.state().wrong(what);
    }

    /// How long nothing has changed below these folders of the store, such as `pods` or `services/specs`.
    pub fn quiet(&self, folders: &[&str]) -> Duration {
        let state = self.state();
        let changed = folders.iter().filter_map(|folder| state.changed.get(*folder)).max();
        changed.map_or(Duration::MAX, |changed| changed.elapsed())
    }

    /// Whether all nodes are ready.
    pub fn all_nodes_well(&self) -> bool {
        self.state().all_nodes_well()
    }

    /// The user begins or ends to change what is wanted.
    pub fn set_user_acts(&self, acts: bool) {
        self.state().user_acts = acts;
    }

    /// The user was told that this write was done.
    pub fn acknowledged(&self, revision: u64, name: &str) {
        let mut state = self.state();
        if !state.written.get(&revision).is_some_and(|key| key.ends_with(name)) {
            state.wrong(format!(
                "the write of {name} at revision {revision} was acknowledged, and is not there"
            ));
        }
    }

    /// The changes of Pods after a revision.
    pub fn moves_after(&self, revision: u64) -> Vec<Moved> {
        let state = self.state();
        let from = state.moves.partition_point(|one| one.revision <= revision);
        state.moves[from..].to_vec()
    }

    /// The Pods as they were at a revision, each with its own.
    pub fn pods_at(&self, revision: u64) -> BTreeMap<Arc<str>, u64> {
        let mut pods = BTreeMap::new();
        for one in self.state().moves.iter().take_while(|one| one.revision <= revision) {
            match one.kind {
                "DELETED" => pods.remove(&one.key),
                _ => pods.insert(one.key.clone(), one.revision),
            };
        }
        pods
    }
}

fn read<T: DeserializeOwned>(change: &Change) -> Option<T> {
    change.value.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok())
}

/// Puts what a write left into a map; gives what was there.
fn swap<T>(map: &mut BTreeMap<Arc<str>, T>, key: &Arc<str>, after: Option<T>) -> Option<T> {
    match after {
        Some(after) => map.insert(key.clone(), after),
        None => map.remove(key),
    }
}

impl State {
    fn wrong(&mut self, what: String) {
        tracing::error!(what, revision = self.revision, "wrong");
        self.wrong.push(what);
    }

    fn note(&mut self, change: &Change) {
        let key = &change.key;
        self.revision = change.revision.0;
        let path = key.trim_start_matches("/registry/");
        let depth = if path.starts_with("services/") { 1 } else { 0 };
        let folder = path.match_indices('/').nth(depth).map_or(path, |(end, _)| &path[..end]);
        self.changed.insert(folder.to_owned(), Instant::now());
        let mut path = path.split('/');
        match (path.next().unwrap_or_default(), path.next()) {
            ("pods", _) => self.pod(change),
            ("services", Some("specs")) => self.service(change),
            ("deployments", _) => {
                self.written.insert(change.revision.0, key.clone());
                let before = swap(&mut self.deployments, key, read(change));
                let after = self.deployments.remove(key);
                self.deployment_moved(before.as_ref(), after.as_ref());
                swap(&mut self.deployments, key, after);
            }
            ("replicasets", _) => {
                let before = swap(&mut self.sets, key, read(change));
                let after: Option<SetSeen> = read(change);
                self.set_moved(before.as_ref(), after.as_ref());
            }
            ("minions", Some(name)) => self.node(name, change),
            ("endpointslices", _) => self.slice(change),
            _ => {}
        }
    }

    fn all_nodes_well(&self) -> bool {
        self.nodes.values().all(|(_, well)| *well)
    }

    /// Whether all nodes were well for so long that nobody deletes Pods for their sake any more.
    fn nodes_stay_well(&self) -> bool {
        self.all_nodes_well() && self.unwell.is_none_or(|last| last.elapsed() > STALE)
    }

    fn pod(&mut self, change: &Change) {
        let key = &change.key;
        let before = swap(&mut self.pods, key, read(change));
        let kind = match (&before, &change.value) {
            (None, _) => "ADDED",
            (Some(_), Some(_)) => "MODIFIED",
            (Some(_), None) => "DELETED",
        };
        self.moves.push(Moved { revision: change.revision.0, kind, key: key.clone() });
        let after: Option<PodSeen> = read(change);
        if before.as_ref().is_some_and(PodSeen::is_ready) && !after.as_ref().is_some_and(PodSeen::is_ready) {
            let uid = before.as_ref().map(|pod| pod.metadata.uid.clone());
            self.ceased.extend(uid.map(|uid| (uid, Instant::now())));
        }
        match (&before, &after) {
            (Some(before), Some(after)) => self.same_pod(key, before, after),
            (Some(before), None) => drop(self.bound.remove(&before.metadata.uid)),
            _ => {}
        }
        if let Some(pod) = &after {
            let was_bound = before.as_ref().is_some_and(|before| !before.node().is_empty());
            if !pod.node().is_empty() && !was_bound {
                self.fits(change, pod);
            }
            if pod.is_over() {
                self.bound.remove(&pod.metadata.uid);
            }
            self.address(key, pod);
        }
        self.pods_moved(before.as_ref(), after.as_ref());
    }

    /// What can never change of a Pod.
    fn same_pod(&mut self, key: &Arc<str>, before: &PodSeen, after: &PodSeen) {
        if before.metadata.uid != after.metadata.uid {
            self.wrong(format!("{key} became another without a deletion"));
        }
        if !before.node().is_empty() && before.node() != after.node() {
            self.wrong(format!("{key} was bound to {} and is now to {:?}", before.node(), after.node()));
        }
        if before.is_over() && before.phase() != after.phase() {
            self.wrong(format!("{key} was {} and is now {}", before.phase(), after.phase()));
        }
        if before.metadata.deletion_timestamp.is_some() && after.metadata.deletion_timestamp.is_none() {
            self.wrong(format!("{key} was being deleted and is not any more"));
        }
    }

    /// No two Pods have one address.
    fn address(&mut self, key: &Arc<str>, pod: &PodSeen) {
        let has = |other: &PodSeen| !other.is_over() && other.ip() == pod.ip();
        let twice = self.pods.iter().find(|(other, seen)| *other != key && has(seen));
        if !pod.ip().is_empty()
            && has(pod)
            && let Some((other, _)) = twice
        {
            self.wrong(format!("{} belongs to {key} and to {other}", pod.ip()));
        }
    }

    /// The Pods of a node may not ask for more than it has.
    fn fits(&mut self, change: &Change, pod: &PodSeen) {
        let (key, name) = (&change.key, pod.node());
        let Some((node, _)) = self.nodes.get(name) else {
            return self.wrong(format!("{key} is bound to {name}, which is not there"));
        };
        let mut state = NodeState::new(node.clone());
        let uids = self.pods.values().filter(|other| other.node() == name).map(|other| &other.metadata.uid);
        uids.filter_map(|uid| self.bound.get(uid)).for_each(|other| state.add(other.clone()));
        let Some(own) = read::<Pod>(change) else { return };
        if let Err(reasons) = fit::resources(&own, &state) {
            self.wrong(format!("{key} is bound to {name} beyond what it has: {reasons:?}"));
        }
        self.bound.insert(pod.metadata.uid.clone(), Arc::new(own));
    }

    fn node(&mut self, name: &str, change: &Change) {
        let node = read::<Node>(change).map(Arc::new);
        let well = read::<NodeSeen>(change).is_some_and(|node| node.is_well());
        if !well || !self.all_nodes_well() {
            self.unwell = Some(Instant::now());
        }
        swap(&mut self.nodes, &name.into(), node.map(|node| (node, well)));
        if !well {
            self.excuse_all();
        }
    }

    /// No address and no port belongs to two Services.
    fn service(&mut self, change: &Change) {
        self.written.insert(change.revision.0, change.key.clone());
        swap(&mut self.services, &change.key, read(change));
        let Some(own) = self.services.get(&change.key).map(ServiceSeen::claims) else { return };
        let others = self.services.iter().filter(|(key, _)| **key != change.key);
        let twice = others.flat_map(|(key, other)| {
            let both: Vec<String> = other.claims().intersection(&own).cloned().collect();
            both.into_iter().map(move |claim| format!("{claim} belongs to {} and to {key}", change.key))
        });
        twice.collect::<Vec<_>>().into_iter().for_each(|what| self.wrong(what));
    }

    /// A slice names as ready what is, or was a while ago.
    fn slice(&mut self, change: &Change) {
        let Some(slice) = read::<SliceSeen>(change) else { return };
        for uid in slice.ready() {
            let is_ready = self.pods.values().any(|pod| pod.metadata.uid == *uid && pod.is_ready());
            let was = self.ceased.get(uid).is_some_and(|ceased| ceased.elapsed() < STALE);
            if !is_ready && !was {
                self.wrong(format!("{} says that the Pod {uid} is ready, which it is not", change.key));
            }
        }
    }
}
