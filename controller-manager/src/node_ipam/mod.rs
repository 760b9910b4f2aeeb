//! Each node gets a range of addresses for its Pods, `spec.podCIDR`, which no other has while it exists
//! (<https://kubernetes.io/docs/concepts/cluster-administration/networking/>).
//!
//! What is taken stands in the Nodes alone, so that nothing is given twice after a restart; what was given a moment ago is
//! remembered until the Node tells it.

mod ranges;

use crate::objects::Object;
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use minik_client::call::{self, PatchKind};
use minik_client::{Change, ClientError, Done, EventRecorder, EventType, ObjectKey};
pub use ranges::{Range, Ranges};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was given and is not told by the Nodes yet.
#[derive(Default)]
struct Given {
    /// Numbers of ranges by node.
    to: BTreeMap<Arc<str>, u128>,
    /// Where to look on: what was just freed is not given again at once.
    next: u128,
}

#[derive(Clone, Default)]
struct State(Arc<Mutex<Given>>);

impl State {
    fn lock(&self) -> MutexGuard<'_, Given> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct NodeIpam {
    client: kube::Client,
    caches: Caches,
    ranges: Ranges,
    state: State,
    recorder: EventRecorder,
}

/// Adds the controller, when there is something to give.
pub fn set_up(setup: &mut Setup) {
    let Some(ranges) = setup.config.node_ranges else { return };
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let state = State::default();
    let (keys, given, nodes) = (queue.clone(), state.clone(), setup.caches.nodes.clone());
    setup.watches.nodes.add_handler(move |change| {
        let node = change.object();
        let gone = matches!(change, Change::Deleted(_));
        if gone || !node.spec.pod_cidr.is_empty() {
            given.lock().to.remove(&node.metadata.name);
        }
        if gone {
            // There may be enough now for those that wait.
            for other in nodes.list().iter().filter(|other| other.spec.pod_cidr.is_empty()) {
                keys.add(other.metadata.key());
            }
        } else if node.spec.pod_cidr.is_empty() {
            keys.add(node.metadata.key());
        }
    });
    let client = setup.identities.client("node-controller");
    let recorder = setup.recorder("cidrAllocator", &client);
    setup.controller(NodeIpam { client, caches: setup.caches.clone(), ranges, state, recorder }, queue);
}

impl NodeIpam {
    /// The range for a node: the one that it was given already, or a free one.
    fn choose(&self, node: &Arc<str>) -> Option<u128> {
        let mut given = self.state.lock();
        if let Some(number) = given.to.get(node) {
            return Some(*number);
        }
        // Under the lock: a node that tells its range is among these, or its range is among what was given.
        let nodes = self.caches.nodes.list();
        let told = nodes.iter().flat_map(|node| node.spec.pod_cidrs.iter().chain([&node.spec.pod_cidr]));
        let mut taken: Vec<ranges::Taken> = told.filter_map(|range| self.ranges.taken(range)).collect();
        taken.extend(given.to.values().map(|number| (*number, *number)));
        let number = self.ranges.free(&mut taken, given.next)?;
        given.next = number + 1;
        given.to.insert(node.clone(), number);
        Some(number)
    }
}

impl Controller for NodeIpam {
    type Key = ObjectKey;
    const NAME: &'static str = "node_ipam_controller";
    const WORKERS: usize = 8;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.nodes.list().iter().map(|node| node.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(node) = self.caches.nodes.get(key).filter(|node| node.spec.pod_cidr.is_empty()) else {
            return Ok(Done::Ok);
        };
        let name = &node.metadata.name;
        let Some(number) = self.choose(name) else {
            tracing::warn!(node = %name, "no range is left for the node's Pods");
            let note = format!("Node {name} status is now: CIDRNotAvailable");
            self.recorder.event(&node.reference(), EventType::Normal, "CIDRNotAvailable", "", &note);
            return Ok(Done::Ok);
        };
        let range = self.ranges.name(number);
        let patch =
            json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        match call::patch::<Value>(&self.client, &node.path(), PatchKind::Merge, &patch).await {
            Ok(_) => tracing::info!(node = %name, range, "gave a range for the node's Pods"),
            // The node is gone, is another, or has a range that somebody else gave it, all of which will be seen.
            Err(error) if matches!(call::refusal(&error), Some(404 | 409 | 422)) => {
                self.state.lock().to.remove(name);
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        Ok(Done::Ok)
    }
}
