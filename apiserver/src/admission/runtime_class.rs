//! RuntimeClass: a Pod's class must exist, and gives it overhead and placement
//! (<https://kubernetes.io/docs/concepts/containers/runtime-class/>).

use super::objects::{Objects, forbidden, text};
use super::{Admission, Attributes, Operation};
use crate::error::ApiError;
use serde_json::{Map, Value};
use std::sync::Arc;

/// See the module.
pub struct RuntimeClass(pub Arc<dyn Objects>);

impl Admission for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn admit(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), ApiError> {
        if !is_new_pod(attributes) {
            return Ok(());
        }
        let Some(class) = self.class(attributes, pod)? else { return Ok(()) };
        if let Some(overhead) = class.pointer("/overhead/podFixed") {
            if pod["spec"].get("overhead").is_some_and(|own| own != overhead) {
                let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
                return Err(forbidden(attributes, pod, why));
            }
            pod["spec"]["overhead"] = overhead.clone();
        }
        place(attributes, pod, &class)
    }

    fn validate(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
        if !is_new_pod(attributes) {
            return Ok(());
        }
        let class = self.class(attributes, pod)?;
        let given = class.as_ref().and_then(|class| class.pointer("/overhead/podFixed"));
        if pod["spec"].get("overhead").is_some() && given.is_none() {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(forbidden(attributes, pod, why));
        }
        Ok(())
    }
}

impl RuntimeClass {
    fn class(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Arc<Value>>, ApiError> {
        let Some(name) = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str) else {
            return Ok(None);
        };
        if name.is_empty() {
            return Err(ApiError::Failed("resource name may not be empty".into()));
        }
        let unknown = || forbidden(attributes, pod, format!("pod rejected: RuntimeClass {name:?} not found"));
        self.0.get("runtimeclasses", "", name).ok_or_else(unknown).map(Some)
    }
}

/// Adds the class's node selector and tolerations to the Pod's.
fn place(attributes: &Attributes<'_>, pod: &mut Value, class: &Value) -> Result<(), ApiError> {
    let wanted = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object);
    for (key, value) in wanted.into_iter().flatten() {
        let own = pod.pointer("/spec/nodeSelector").and_then(|selector| selector.get(key));
        if own.is_some_and(|own| own != value) {
            let (own, value) = (own.and_then(Value::as_str).unwrap_or_default(), text(value, ""));
            let why = format!(
                "conflict: pod.spec.nodeSelector[{key}] = {own}; runtimeClass.scheduling.nodeSelector[{key}] = {value}"
            );
            return Err(forbidden(attributes, pod, why));
        }
    }
    let Some(spec) = pod["spec"].as_object_mut() else { return Ok(()) };
    if let Some(wanted) = wanted {
        let selector = spec.entry("nodeSelector").or_insert_with(|| Value::Object(Map::new()));
        if let Some(selector) = selector.as_object_mut() {
            selector.extend(wanted.clone());
        }
    }
    let tolerations = class.pointer("/scheduling/tolerations").and_then(Value::as_array);
    if let Some(wanted) = tolerations
        && let Some(own) = super::objects::list_mut(&mut pod["spec"], "tolerations")
    {
        own.extend(wanted.iter().filter(|one| !own.contains(one)).cloned().collect::<Vec<_>>());
    }
    Ok(())
}

fn is_new_pod(attributes: &Attributes<'_>) -> bool {
    attributes.resource.kind == "Pod"
        && attributes.subresource.is_empty()
        && attributes.operation == Operation::Create
}
