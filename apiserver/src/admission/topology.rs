//! PodTopologyLabels: a Pod bears the zone and region of its node, so that it can read them by the downward API.

use super::objects::{Objects, is_mirror_pod, text};
use super::{Admission, Attributes, Operation};
use crate::error::ApiError;
use serde_json::Value;
use std::sync::Arc;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// See the module.
pub struct PodTopologyLabels(pub Arc<dyn Objects>);

impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        if attributes.resource.kind != "Pod" || attributes.operation != Operation::Create {
            return Ok(());
        }
        let node = match attributes.subresource {
            // A binding's labels become the Pod's.
            "binding" if ["", "Node"].contains(&text(object, "/target/kind")) => text(object, "/target/name"),
            "" if !is_mirror_pod(object) => text(object, "/spec/nodeName"),
            _ => return Ok(()),
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = self.0.get("minions", "", node) else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = node["metadata"]["labels"].get(label) {
                object["metadata"]["labels"][label] = value.clone();
            }
        }
        Ok(())
    }
}
