//! The projections that are kept of what the API serves.

use minik_client::{Meta, ObjectKey, ObjectRef, Projection};
use minik_placement::{Labels, Node, Pod};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::sync::Arc;

/// A Pod.
#[derive(Debug, Clone)]
pub struct PodObject {
    /// Its metadata, without what `pod` holds.
    pub metadata: Meta,
    /// Who is to place it.
    pub scheduler_name: Arc<str>,
    /// Whether something still holds it back.
    pub gated: bool,
    /// Its PodScheduled condition.
    pub scheduled: Option<Scheduled>,
    /// What placement reads.
    pub pod: Arc<Pod>,
}

/// The PodScheduled condition of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Scheduled {
    /// `True` or `False`.
    pub status: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// In words.
    pub message: Arc<str>,
}

impl Projection for PodObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl PodObject {
    /// Its key.
    pub fn key(&self) -> ObjectKey {
        self.metadata.key()
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
            field_path: String::new(),
        }
    }

    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.metadata.namespace, self.metadata.name)
    }
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
    scheduler_name: Arc<str>,
    scheduling_gates: Vec<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatusWire {
    conditions: Vec<ConditionWire>,
}

#[derive(Deserialize)]
struct ConditionWire {
    #[serde(rename = "type")]
    kind: Arc<str>,
    #[serde(flatten)]
    rest: Scheduled,
}

impl<'de> Deserialize<'de> for PodObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PodObject, D::Error> {
        // Read twice, by two types that each know their part; what both skip is never stored.
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let wire: PodWire = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        let pod: Pod = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        let mut metadata = wire.metadata;
        // `pod` has them; owners and finalizers decide nothing here.
        metadata.labels = Labels::new();
        metadata.owner_references = Vec::new();
        metadata.finalizers = Vec::new();
        let mut conditions = wire.status.conditions.into_iter();
        Ok(PodObject {
            scheduler_name: wire.spec.scheduler_name,
            gated: !wire.spec.scheduling_gates.is_empty(),
            scheduled: conditions.find(|one| &*one.kind == "PodScheduled").map(|one| one.rest),
            pod: Arc::new(pod),
            metadata,
        })
    }
}

/// A Node.
#[derive(Debug, Clone)]
pub struct NodeObject {
    /// Its metadata, without labels.
    pub metadata: Meta,
    /// What placement reads.
    pub node: Arc<Node>,
}

impl Projection for NodeObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl<'de> Deserialize<'de> for NodeObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NodeObject, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            metadata: Meta,
        }
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let Wire { mut metadata } = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        let node: Node = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        metadata.labels = Labels::new();
        Ok(NodeObject { metadata, node: Arc::new(node) })
    }
}

/// A Service: what it selects.
#[derive(Debug, Clone, Deserialize)]
pub struct ServiceObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its specification.
    #[serde(default)]
    pub spec: ServiceSpec,
}

/// What is kept of a Service's specification.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServiceSpec {
    /// The Pods it stands for.
    #[serde(default)]
    pub selector: Labels,
}

impl Projection for ServiceObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
