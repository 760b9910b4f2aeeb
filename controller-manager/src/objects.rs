//! The projections that are kept of what the API serves.

use k8s_openapi::api::rbac::v1::PolicyRule;
use minik_client::{Meta, ObjectRef, Projection};
use minik_placement::Selector;
use minik_placement::taints::Toleration;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A condition of a Node or a Namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// `True`, `False` or `Unknown`.
    pub status: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// In words.
    pub message: Arc<str>,
    /// When its status changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<jiff::Timestamp>,
    /// When it was last told, for those of Nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<jiff::Timestamp>,
}

/// A Namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NamespaceObject {
    /// Its metadata.
    pub metadata: Meta,
    #[serde(default)]
    spec: NamespaceSpec,
    #[serde(default)]
    status: NamespaceStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct NamespaceSpec {
    finalizers: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct NamespaceStatus {
    phase: Arc<str>,
    conditions: Vec<Condition>,
}

impl NamespaceObject {
    /// Whether new objects may be made in it.
    pub fn is_active(&self) -> bool {
        self.metadata.deletion_timestamp.is_none() && &*self.status.phase != "Terminating"
    }

    /// What must happen before it goes.
    pub fn finalizers(&self) -> &[Arc<str>] {
        &self.spec.finalizers
    }

    /// Its conditions.
    pub fn conditions(&self) -> &[Condition] {
        &self.status.conditions
    }

    /// Whether its phase is Terminating.
    pub fn is_terminating(&self) -> bool {
        &*self.status.phase == "Terminating"
    }
}

impl Projection for NamespaceObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A ConfigMap: of most only the metadata is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "ConfigMapWire")]
pub struct ConfigMapObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its annotations and data, of the one that is published.
    pub content: Option<Content>,
}

/// What a published ConfigMap holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Data.
    pub data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ConfigMapWire {
    metadata: ConfigMapMeta,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ConfigMapMeta {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Meta,
}

impl From<ConfigMapWire> for ConfigMapObject {
    fn from(wire: ConfigMapWire) -> ConfigMapObject {
        let published = &*wire.metadata.rest.name == crate::root_ca::NAME;
        let content = Content { annotations: wire.metadata.annotations, data: wire.data };
        ConfigMapObject { metadata: wire.metadata.rest, content: published.then_some(content) }
    }
}

impl Projection for ConfigMapObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A taint of a node, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Its key.
    pub key: Arc<str>,
    /// Its value.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub value: Arc<str>,
    /// What it does.
    pub effect: Arc<str>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<jiff::Timestamp>,
}

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeObject {
    /// Its metadata.
    pub metadata: Meta,
    /// What is asked of it.
    #[serde(default)]
    pub spec: NodeSpec,
    /// How it is.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What is asked of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it takes no more Pods.
    pub unschedulable: bool,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

impl NodeObject {
    /// One of its conditions.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|one| &*one.kind == kind)
    }

    /// The status of its Ready condition; `None` when it has none.
    pub fn ready(&self) -> Option<&str> {
        self.condition("Ready").map(|one| &*one.status)
    }

    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.metadata.name)
    }
}

impl Projection for NodeObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A Lease: when it was renewed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LeaseObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its specification.
    #[serde(default)]
    pub spec: LeaseSpec,
}

/// What is kept of a Lease's specification.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// The last renewal, as text: only whether it changes matters, for it is another machine's clock.
    pub renew_time: Option<Arc<str>>,
}

impl Projection for LeaseObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PodWire")]
pub struct PodObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Where it runs, empty when nowhere yet.
    pub node: Arc<str>,
    /// What it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Its phase.
    pub phase: Arc<str>,
    /// Why it is in that phase.
    pub reason: Arc<str>,
    /// Whether it is Ready.
    pub ready: bool,
    /// When it was given its node, as far as is known.
    pub bound_at: Option<jiff::Timestamp>,
}

#[derive(Deserialize)]
struct PodWire {
    metadata: Meta,
    #[serde(default)]
    spec: PodSpecWire,
    #[serde(default)]
    status: PodStatusWire,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpecWire {
    node_name: Arc<str>,
    tolerations: Vec<Toleration>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatusWire {
    phase: Arc<str>,
    reason: Arc<str>,
    conditions: Vec<Condition>,
}

impl From<PodWire> for PodObject {
    fn from(wire: PodWire) -> PodObject {
        let condition = |kind: &str| {
            wire.status.conditions.iter().find(|one| &*one.kind == kind && &*one.status == "True")
        };
        PodObject {
            ready: condition("Ready").is_some(),
            bound_at: condition("PodScheduled")
                .and_then(|one| one.last_transition_time)
                .or(wire.metadata.creation_timestamp),
            metadata: Meta { labels: BTreeMap::new(), ..wire.metadata },
            node: wire.spec.node_name,
            tolerations: wire.spec.tolerations,
            phase: wire.status.phase,
            reason: wire.status.reason,
        }
    }
}

impl PodObject {
    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.metadata.namespace, self.metadata.name)
    }

    /// Whether all its containers have ended for good.
    pub fn has_ended(&self) -> bool {
        matches!(&*self.phase, "Succeeded" | "Failed")
    }

    /// What an event about it refers to.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: self.metadata.namespace.to_string(),
            name: self.metadata.name.to_string(),
            uid: self.metadata.uid.to_string(),
            resource_version: self.metadata.resource_version.to_string(),
            ..ObjectRef::default()
        }
    }
}

impl Projection for PodObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A ClusterRole.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRoleObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Which others it is made of.
    pub aggregation_rule: Option<AggregationRule>,
    /// What it allows.
    #[serde(default, deserialize_with = "or_none")]
    pub rules: Vec<PolicyRule>,
}

/// Which roles another is made of.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationRule {
    /// Any of these fits.
    pub cluster_role_selectors: Vec<Selector>,
}

impl Projection for ClusterRoleObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A list that is written as null when it is empty.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}
