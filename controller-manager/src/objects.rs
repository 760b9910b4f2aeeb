//! The projections that are kept of what the API serves.

use minik_client::{Meta, Projection};
use serde::{Deserialize, Serialize};
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
