//! TaintNodesByCondition: a new node takes no Pods until the node controller has seen it ready.

use super::objects::{list_mut, text};
use super::{Admission, Attributes, Operation};
use crate::error::ApiError;
use serde_json::{Value, json};

const KEY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

/// See the module.
pub struct TaintNodesByCondition;

impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn admit(&self, attributes: &Attributes<'_>, node: &mut Value) -> Result<(), ApiError> {
        let is_new = attributes.operation == Operation::Create && attributes.subresource.is_empty();
        if attributes.resource.kind != "Node" || !is_new {
            return Ok(());
        }
        if !node["spec"].is_object() {
            node["spec"] = json!({});
        }
        if let Some(taints) = list_mut(&mut node["spec"], "taints")
            && !taints.iter().any(|taint| text(taint, "/key") == KEY && text(taint, "/effect") == EFFECT)
        {
            taints.push(json!({"key": KEY, "effect": EFFECT}));
        }
        Ok(())
    }
}
