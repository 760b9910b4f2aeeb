//! Priority: a Pod's priority and preemption policy are those of its class
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>).

use super::objects::{Objects, forbidden, text};
use super::{Admission, Attributes, Operation};
use crate::error::ApiError;
use serde_json::Value;
use std::sync::Arc;

const DEFAULT_POLICY: &str = "PreemptLowerPriority";

/// See the module.
pub struct Priority(pub Arc<dyn Objects>);

impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn admit(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        if attributes.resource.kind != "Pod" || !attributes.subresource.is_empty() {
            return Ok(());
        }
        match attributes.operation {
            Operation::Create => self.resolve(attributes, pod),
            Operation::Update => {
                keep(attributes, pod);
                Ok(())
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }

    fn validate(&self, attributes: &Attributes<'_>, class: &Value) -> Result<(), ApiError> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if attributes.resource.kind != "PriorityClass"
            || !writes
            || class["globalDefault"] != Value::Bool(true)
        {
            return Ok(());
        }
        let name = text(class, "/metadata/name");
        match self.default_class().filter(|other| text(other, "/metadata/name") != name) {
            None => Ok(()),
            Some(other) => {
                let other = text(&other, "/metadata/name").to_owned();
                let why =
                    format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(forbidden(attributes, class, why))
            }
        }
    }
}

impl Priority {
    fn resolve(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let asked = text(pod, "/spec/priorityClassName").to_owned();
        let class = if asked.is_empty() {
            self.default_class().map(Arc::new)
        } else {
            let class = self.0.get("priorityclasses", "", &asked);
            let unknown =
                || forbidden(attributes, pod, format!("no PriorityClass with name {asked} was found"));
            Some(class.ok_or_else(unknown)?)
        };
        let priority = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
        let policy =
            class.as_ref().map_or(DEFAULT_POLICY, |class| text(class, "/preemptionPolicy")).to_owned();
        if asked.is_empty()
            && let Some(class) = &class
        {
            pod["spec"]["priorityClassName"] = text(class, "/metadata/name").into();
        }
        if let Some(own) = pod.pointer("/spec/priority").and_then(Value::as_i64)
            && own != priority
        {
            let why = format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority admission \
                 controller computed {priority} from the given PriorityClass name"
            );
            return Err(forbidden(attributes, pod, why));
        }
        pod["spec"]["priority"] = priority.into();
        if policy.is_empty() {
            return Ok(());
        }
        if let Some(own) = pod.pointer("/spec/preemptionPolicy").and_then(Value::as_str)
            && own != policy
        {
            let why = format!(
                "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            );
            return Err(forbidden(attributes, pod, why));
        }
        pod["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }

    /// The class of Pods that name none; of several the one with the lowest value.
    fn default_class(&self) -> Option<Value> {
        let classes = self.0.list("priorityclasses", "").into_iter();
        classes
            .filter(|class| class["globalDefault"] == Value::Bool(true))
            .min_by_key(|class| class["value"].as_i64().unwrap_or(0))
    }
}

/// A writer who leaves out what was resolved does not mean to remove it.
fn keep(attributes: &Attributes<'_>, pod: &mut Value) {
    let Some(old) = attributes.old else { return };
    for field in ["priority", "preemptionPolicy"] {
        if let (Some(value), None) = (old["spec"].get(field), pod["spec"].get(field)) {
            pod["spec"][field] = value.clone();
        }
    }
}
