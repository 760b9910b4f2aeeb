//! What is kept of Deployments and ReplicaSets.

use super::{Annotated, Annotations, Condition, Object};
use minik_client::{Meta, Projection};
use minik_placement::{Labels, Selector};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// The label that tells the Pods of a Deployment's ReplicaSets apart.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// A template of Pods. It is compared and copied, and but for its labels never looked into.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    /// Its labels.
    pub labels: Labels,
    /// The whole in one order of fields, without the label [`TEMPLATE_HASH`].
    text: Arc<str>,
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
        let mut template = Value::deserialize(deserializer)?;
        let labels = template.pointer_mut("/metadata/labels");
        let kept =
            labels.as_deref().map(Labels::deserialize).transpose().map_err(serde::de::Error::custom)?;
        if let Some(Value::Object(labels)) = labels {
            labels.remove(TEMPLATE_HASH);
        }
        // Maps of this crate are ordered, so that equal templates have equal texts.
        Ok(Template { labels: kept.unwrap_or_default(), text: template.to_string().into() })
    }
}

impl Template {
    /// Whether both make the same Pods but for the label [`TEMPLATE_HASH`].
    pub fn is_like(&self, other: &Template) -> bool {
        self.text == other.text
    }

    /// A short name of its content, another after each collision.
    pub fn hash(&self, collisions: i32) -> String {
        // FNV-1a: the same in every process.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let collisions = collisions.to_le_bytes();
        let mut hash = self.text.bytes().chain(collisions).fold(0xcbf2_9ce4_8422_2325, step);
        let mut name = String::new();
        for _ in 0..10 {
            name.push(char::from(minik_component::LETTERS[(hash % 27) as usize]));
            hash /= 27;
        }
        name
    }

    /// The template with these labels.
    pub fn with_labels(&self, labels: &Labels) -> Value {
        // The text was written from a value.
        let mut value: Value = serde_json::from_str(&self.text).unwrap_or_default();
        value["metadata"]["labels"] = serde_json::json!(labels);
        value
    }
}

/// A selector, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WrittenSelector {
    /// What it selects.
    pub selector: Selector,
    written: Value,
}

impl<'de> Deserialize<'de> for WrittenSelector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WrittenSelector, D::Error> {
        let written = Value::deserialize(deserializer)?;
        let selector = Selector::deserialize(&written).map_err(serde::de::Error::custom)?;
        Ok(WrittenSelector { selector, written })
    }
}

impl WrittenSelector {
    /// This one narrowed to what bears the label, as it is written.
    pub fn with_label(&self, label: &str, value: &str) -> Value {
        let mut written = self.written.clone();
        written["matchLabels"][label] = value.into();
        written
    }
}

/// A number, or a share of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntOrPercent {
    /// A number.
    Int(i32),
    /// A share of a hundred.
    Percent(i32),
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IntOrPercent, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Int(i32),
            Text(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Int(count) => Ok(IntOrPercent::Int(count)),
            Wire::Text(text) => {
                let share = text.strip_suffix('%').and_then(|share| share.parse().ok());
                share.map(IntOrPercent::Percent).ok_or_else(|| {
                    serde::de::Error::custom(format!("{text:?} is neither a number nor a percentage"))
                })
            }
        }
    }
}

/// How old Pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum StrategyType {
    /// All at once, the old before the new.
    Recreate,
    /// Step by step.
    #[default]
    RollingUpdate,
}

/// How a Deployment changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// In one step or in several.
    #[serde(rename = "type")]
    pub kind: StrategyType,
    /// The limits of several steps.
    pub rolling_update: Option<RollingUpdate>,
}

/// The limits of a rolling update.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// How many Pods there may be above the wanted number.
    pub max_surge: Option<IntOrPercent>,
    /// How many may be unavailable.
    pub max_unavailable: Option<IntOrPercent>,
}

/// A Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire<DeploymentSpec, DeploymentStatus>")]
pub struct DeploymentObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its annotations.
    pub annotations: Annotations,
    /// What is asked for.
    pub spec: DeploymentSpec,
    /// What is.
    pub status: DeploymentStatus,
}

/// What is asked of a Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// How many Pods.
    pub replicas: Option<i32>,
    /// Whose.
    pub selector: WrittenSelector,
    /// Which Pods.
    pub template: Template,
    /// How they change.
    pub strategy: Strategy,
    /// How long a Pod must be Ready to be available.
    pub min_ready_seconds: i32,
    /// How many old ReplicaSets are kept.
    pub revision_history_limit: Option<i32>,
    /// Whether a change of the template waits.
    pub paused: bool,
    /// Within which time something must happen.
    pub progress_deadline_seconds: Option<i32>,
}

/// What became of a Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// The generation that this tells about.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// All its Pods that are not being deleted.
    #[serde(skip_serializing_if = "is_zero")]
    pub replicas: i32,
    /// Those of the template.
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_replicas: i32,
    /// Those that are Ready.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i32,
    /// Those that are available.
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i32,
    /// Those that are not.
    #[serde(skip_serializing_if = "is_zero")]
    pub unavailable_replicas: i32,
    /// Those that are being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i32>,
    /// Its conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How often the name of a ReplicaSet was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
}

/// A ReplicaSet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire<ReplicaSetSpec, ReplicaSetStatus>")]
pub struct ReplicaSetObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its annotations.
    pub annotations: Annotations,
    /// What is asked for.
    pub spec: ReplicaSetSpec,
    /// What is.
    pub status: ReplicaSetStatus,
}

/// What is asked of a ReplicaSet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpec {
    /// How many Pods.
    pub replicas: Option<i32>,
    /// How long a Pod must be Ready to be available.
    pub min_ready_seconds: i32,
    /// Whose.
    pub selector: Selector,
    /// Which Pods.
    pub template: Template,
}

/// What became of a ReplicaSet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// Its Pods that are not being deleted.
    pub replicas: i32,
    /// Those that bear all labels of the template.
    #[serde(skip_serializing_if = "is_zero")]
    pub fully_labeled_replicas: i32,
    /// Those that are Ready.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i32,
    /// Those that are available.
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i32,
    /// Those that are being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i32>,
    /// The generation that this tells about.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Its conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "Spec: Deserialize<'de>, Status: Deserialize<'de> + Default"))]
struct Wire<Spec, Status> {
    metadata: Annotated,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

impl From<Wire<DeploymentSpec, DeploymentStatus>> for DeploymentObject {
    fn from(wire: Wire<DeploymentSpec, DeploymentStatus>) -> DeploymentObject {
        let Annotated { meta: metadata, annotations } = wire.metadata;
        DeploymentObject { metadata, annotations, spec: wire.spec, status: wire.status }
    }
}

impl From<Wire<ReplicaSetSpec, ReplicaSetStatus>> for ReplicaSetObject {
    fn from(wire: Wire<ReplicaSetSpec, ReplicaSetStatus>) -> ReplicaSetObject {
        let Annotated { meta: metadata, annotations } = wire.metadata;
        ReplicaSetObject { metadata, annotations, spec: wire.spec, status: wire.status }
    }
}

impl DeploymentSpec {
    /// How many Pods are asked for.
    pub fn replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }
}

impl ReplicaSetObject {
    /// How many Pods are asked for.
    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
}

impl Projection for DeploymentObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Projection for ReplicaSetObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for DeploymentObject {
    const API_VERSION: &'static str = "apps/v1";
    const KIND: &'static str = "Deployment";
    const PLURAL: &'static str = "deployments";
}

impl Object for ReplicaSetObject {
    const API_VERSION: &'static str = "apps/v1";
    const KIND: &'static str = "ReplicaSet";
    const PLURAL: &'static str = "replicasets";
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(value: Value) -> Template {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn templates_are_compared_without_their_hash() {
        let plain = template(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1, "y": [2]}}));
        let hashed =
            json!({"metadata": {"labels": {"a": "b", TEMPLATE_HASH: "h"}}, "spec": {"y": [2], "x": 1}});
        let hashed = template(hashed);
        assert!(plain.is_like(&hashed));
        assert_eq!(hashed.labels.len(), 2, "the label itself is kept");
        assert_eq!(plain.hash(0), hashed.hash(0));
        let other = template(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1, "y": [3]}}));
        assert!(!plain.is_like(&other));
        assert_ne!(plain.hash(0), other.hash(0));
        assert_ne!(plain.hash(0), plain.hash(1), "a collision makes another name");
        assert_eq!(plain.hash(0).len(), 10);
    }

    #[test]
    fn numbers_and_shares_are_read() {
        let read = |value: Value| serde_json::from_value::<IntOrPercent>(value).ok();
        assert_eq!(read(json!(3)), Some(IntOrPercent::Int(3)));
        assert_eq!(read(json!("25%")), Some(IntOrPercent::Percent(25)));
        assert_eq!(read(json!("25")), None);
    }
}
