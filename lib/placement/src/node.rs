//! A Node and the Pods on it.

use crate::labels::Labels;
use crate::pod::{HostPort, Pod};
use crate::resources::Resources;
use crate::taints::Taint;
use crate::wire;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Node as placement sees it; read straight from the API's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "wire::Node")]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// What Pods can have of it.
    pub allocatable: Resources,
    /// How many Pods it takes.
    pub most_pods: i64,
    /// Images that are there, by normalized name, with their bytes.
    pub images: BTreeMap<Arc<str>, i64>,
}

impl From<wire::Node> for Node {
    fn from(wire: wire::Node) -> Node {
        let list = wire.status.allocatable.iter().map(|(name, amount)| (name.clone(), amount.0)).collect();
        let pods = wire.status.allocatable.get("pods").map_or(0, |amount| amount.0.value());
        let images = wire.status.images.iter().flat_map(|image| {
            image.names.iter().map(|name| (crate::pod::normalized_image(name), image.size_bytes))
        });
        Node {
            allocatable: Resources::from_list(&list),
            most_pods: pods,
            images: images.collect(),
            name: wire.metadata.name,
            labels: wire.metadata.labels,
            unschedulable: wire.spec.unschedulable,
            taints: wire.spec.taints,
        }
    }
}

/// A node with what is placed on it; sums are kept, so that a look costs nothing per Pod.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// The node.
    pub node: Arc<Node>,
    pods: Vec<Arc<Pod>>,
    /// Those of `pods` with any wish about other Pods.
    affine: Vec<Arc<Pod>>,
    requested: Resources,
    scored: Resources,
}

impl NodeState {
    /// An empty node.
    pub fn new(node: Arc<Node>) -> NodeState {
        NodeState { node, ..NodeState::default() }
    }

    /// The Pods on it.
    pub fn pods(&self) -> &[Arc<Pod>] {
        &self.pods
    }

    /// The Pods on it that wish something of other Pods.
    pub fn affine_pods(&self) -> &[Arc<Pod>] {
        &self.affine
    }

    /// What its Pods take.
    pub fn requested(&self) -> &Resources {
        &self.requested
    }

    /// What its Pods take, each container counted.
    pub fn scored(&self) -> &Resources {
        &self.scored
    }

    /// Puts a Pod on it.
    pub fn add(&mut self, pod: Arc<Pod>) {
        self.requested.add(&pod.requests.taken, 1);
        self.scored.add(&pod.requests.taken_scored, 1);
        if pod.affinity.is_some() {
            self.affine.push(pod.clone());
        }
        self.pods.push(pod);
    }

    /// Takes a Pod off it. Gives the Pod as it was put.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let at = self.pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.affine.retain(|pod| &*pod.uid != uid);
        self.requested.add(&pod.requests.taken, -1);
        self.scored.add(&pod.requests.taken_scored, -1);
        Some(pod)
    }

    /// Ports that its Pods hold.
    pub fn used_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.iter().flat_map(|pod| &pod.host_ports)
    }
}
