//! The parts of a Pod and a Node that placement reads, as they are written.

use crate::labels::{Labels, NodeSelectorTerm, Requirement, Selector};
use minik_apimachinery::quantity::Quantity;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) type Resources = BTreeMap<Arc<str>, Amount>;

/// A quantity as text, or as a number where an author left out the quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount(pub Quantity);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(serde_json::Number),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        text.parse().map(Amount).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub metadata: PodMeta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodMeta {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub uid: Arc<str>,
    pub labels: Labels,
    pub deletion_timestamp: Option<Arc<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    pub overhead: Resources,
    pub resources: ContainerResources,
    pub node_name: Option<Arc<str>>,
    pub node_selector: Labels,
    pub affinity: Affinity,
    pub tolerations: Vec<crate::taints::Toleration>,
    pub topology_spread_constraints: Vec<SpreadConstraint>,
    pub priority: Option<i32>,
    pub preemption_policy: Option<Arc<str>>,
    pub volumes: Vec<Volume>,
    pub host_network: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub name: Arc<str>,
    pub image: Arc<str>,
    pub resources: ContainerResources,
    pub restart_policy: Option<Arc<str>>,
    pub ports: Vec<Port>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerResources {
    pub requests: Resources,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Port {
    pub host_port: u16,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Volume {
    pub name: Arc<str>,
    pub persistent_volume_claim: Option<Claim>,
    pub ephemeral: Option<serde::de::IgnoredAny>,
    pub image: Option<ImageVolume>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Claim {
    pub claim_name: Arc<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageVolume {
    pub reference: Arc<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Affinity {
    pub node_affinity: NodeAffinity,
    pub pod_affinity: PodAffinity,
    pub pod_anti_affinity: PodAffinity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<Preferred>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSelector {
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Preferred {
    pub weight: i64,
    pub preference: NodeSelectorTerm,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Vec<Term>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<WeightedTerm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct WeightedTerm {
    pub weight: i64,
    pub pod_affinity_term: Term,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Term {
    pub label_selector: Selector,
    pub namespaces: BTreeSet<Arc<str>>,
    pub topology_key: Arc<str>,
    pub namespace_selector: Selector,
    pub match_label_keys: Vec<Arc<str>>,
    pub mismatch_label_keys: Vec<Arc<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SpreadConstraint {
    pub max_skew: i64,
    pub topology_key: Arc<str>,
    pub when_unsatisfiable: Arc<str>,
    pub label_selector: Selector,
    pub min_domains: Option<usize>,
    pub node_affinity_policy: Option<Arc<str>>,
    pub node_taints_policy: Option<Arc<str>>,
    pub match_label_keys: Vec<Arc<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub phase: Option<Arc<str>>,
    pub start_time: Option<Arc<str>>,
    pub nominated_node_name: Option<Arc<str>>,
    pub conditions: Vec<Condition>,
    pub container_statuses: Vec<ContainerStatus>,
    pub init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    pub status: Arc<str>,
    pub reason: Arc<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerStatus {
    pub name: Arc<str>,
    pub allocated_resources: Option<Resources>,
    pub resources: Option<ContainerResources>,
}

impl PodStatus {
    /// Whether the node says what it has really given, so that the specification alone does not tell.
    pub(crate) fn resizes(&self) -> bool {
        let mut statuses = self.container_statuses.iter().chain(&self.init_container_statuses);
        statuses.any(|status| status.allocated_resources.is_some() || status.resources.is_some())
    }

    pub(crate) fn resize_is_infeasible(&self) -> bool {
        self.conditions.iter().any(|one| &*one.kind == "PodResizePending" && &*one.reason == "Infeasible")
    }

    pub(crate) fn of(&self, container: &str) -> Option<&ContainerStatus> {
        self.container_statuses
            .iter()
            .chain(&self.init_container_statuses)
            .find(|status| &*status.name == container)
    }
}

impl Term {
    /// The selector with the Pod's own values of the keys that must, or must not, match.
    pub(crate) fn selector(&self, labels: &Labels) -> Selector {
        let value = |key: &Arc<str>| labels.get(key).cloned().map(|value| (key.clone(), value));
        let same = self
            .match_label_keys
            .iter()
            .filter_map(value)
            .map(|(key, value)| Requirement::equals(key, value));
        let other = self.mismatch_label_keys.iter().filter_map(value).map(|(key, value)| Requirement {
            operator: crate::labels::Operator::NotIn,
            ..Requirement::equals(key, value)
        });
        // The server writes these into the selector when the Pod is created; doing it again changes nothing.
        self.label_selector.clone().and(same.chain(other).collect::<Vec<_>>())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub metadata: NodeMeta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeMeta {
    pub name: Arc<str>,
    pub labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSpec {
    pub unschedulable: bool,
    pub taints: Vec<crate::taints::Taint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub allocatable: Resources,
    pub images: Vec<Image>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Image {
    pub names: Vec<Arc<str>>,
    pub size_bytes: i64,
}
