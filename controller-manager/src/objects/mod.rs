//! The projections that are kept of what the API serves.

use crate::bootstrap;
use k8s_openapi::api::rbac::v1::PolicyRule;
use minik_client::{Meta, ObjectRef, OwnerRef, Projection};
use minik_placement::Selector;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

mod apps;
mod pods;

pub use apps::{
    DeploymentObject, DeploymentStatus, IntOrPercent, ReplicaSetObject, ReplicaSetSpec, ReplicaSetStatus,
    StrategyType, TEMPLATE_HASH,
};
pub use pods::PodObject;

/// Annotations of an object.
pub type Annotations = BTreeMap<Arc<str>, Arc<str>>;

/// A kind that is written, owned or told about.
pub trait Object: Projection {
    /// Group and version.
    const API_VERSION: &'static str;
    /// The kind.
    const KIND: &'static str;
    /// The resource.
    const PLURAL: &'static str;

    /// The path of its collection in the API.
    fn collection(namespace: &str) -> String {
        let root = if Self::API_VERSION.contains('/') { "apis" } else { "api" };
        match namespace {
            "" => format!("/{root}/{}/{}", Self::API_VERSION, Self::PLURAL),
            _ => format!("/{root}/{}/namespaces/{namespace}/{}", Self::API_VERSION, Self::PLURAL),
        }
    }

    /// Its path in the API.
    fn path(&self) -> String {
        format!("{}/{}", Self::collection(&self.meta().namespace), self.meta().name)
    }

    /// What an event about it refers to.
    fn reference(&self) -> ObjectRef {
        let meta = self.meta();
        ObjectRef {
            api_version: Self::API_VERSION.into(),
            kind: Self::KIND.into(),
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            uid: meta.uid.to_string(),
            resource_version: meta.resource_version.to_string(),
            ..ObjectRef::default()
        }
    }

    /// What an object that it controls refers to it by.
    fn owner_reference(&self) -> OwnerRef {
        let meta = self.meta();
        OwnerRef {
            api_version: Self::API_VERSION.into(),
            kind: Self::KIND.into(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            controller: true,
            block_owner_deletion: true,
        }
    }
}

/// Metadata with annotations, which most projections leave out; `A` says which are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotated<A = Annotations> {
    /// The rest.
    pub meta: Meta,
    /// The annotations.
    pub annotations: A,
}

impl<'de, A: DeserializeOwned + Default> Deserialize<'de> for Annotated<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Only<A> {
            annotations: Option<A>,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let meta = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let only: Only<A> = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        Ok(Annotated { meta, annotations: only.annotations.unwrap_or_default() })
    }
}

/// A condition of a Node, a Namespace, a Deployment, a ReplicaSet or a CertificateSigningRequest.
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
    /// When it was last looked at, for those of Deployments and CertificateSigningRequests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<jiff::Timestamp>,
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
    /// Its annotations and data, of those that are written here.
    pub content: Option<Content>,
}

/// What a ConfigMap holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Annotations.
    pub annotations: Annotations,
    /// Data.
    pub data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ConfigMapWire {
    metadata: Annotated,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl From<ConfigMapWire> for ConfigMapObject {
    fn from(wire: ConfigMapWire) -> ConfigMapObject {
        let meta = &wire.metadata.meta;
        let info = (&*meta.namespace, &*meta.name) == (bootstrap::NAMESPACE, bootstrap::NAME);
        let published = info || &*meta.name == crate::root_ca::NAME;
        let content = Content { annotations: wire.metadata.annotations, data: wire.data };
        ConfigMapObject { metadata: wire.metadata.meta, content: published.then_some(content) }
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
    /// The addresses of its Pods, empty when none were given.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Arc<str>,
    /// The same of all families.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<Arc<str>>,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// Its names and addresses.
    pub addresses: Vec<NodeAddress>,
}

/// A name or an address of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// The name or address itself.
    pub address: Arc<str>,
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
}

impl Object for NodeObject {
    const API_VERSION: &'static str = "v1";
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
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
pub fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What is put to an object's status: it is refused when the object has changed meanwhile.
pub fn status_update<T: Object>(object: &T, annotations: &Annotations, status: Value) -> Value {
    let meta = object.meta();
    json!({
        "apiVersion": T::API_VERSION,
        "kind": T::KIND,
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "labels": meta.labels,
            "annotations": annotations,
            "ownerReferences": meta.owner_references,
            "finalizers": meta.finalizers,
        },
        "status": status,
    })
}

/// The time as the API writes it.
pub fn whole_seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    // A time within range stays within it.
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}
