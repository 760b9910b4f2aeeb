//! A Pod's binding to a node.

use super::{Step, Target, WriteOptions};
use crate::admission::Operation;
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::object::Object;
use crate::wire;
use crate::world::store_error;
use minik_apimachinery::time;
use minik_component::{Plant, planted};
use minik_storage::{Expect, StorageError};
use serde_json::{Value, json};

/// Tries before something is wrong.
const TRIES: usize = 200;

impl Api {
    /// Binds a Pod to a node, as a `Binding` says.
    ///
    /// # Errors
    /// 409 when it has a node already or goes, 422 when the binding is wrong.
    pub async fn bind(&self, target: Target<'_>, binding: &Value, options: &WriteOptions) -> Result<()> {
        self.world().caught_up().await?;
        let step = Step::new(target, options);
        let mut binding = binding.clone();
        let attributes = step.attributes(self, Operation::Create, target.name, None);
        self.admission().admit(&attributes, &mut binding)?;
        check_binding(&target, &binding)?;
        self.admission().validate(&attributes, &binding)?;
        for _ in 0..TRIES {
            let record = self.stored(&target).await?;
            let mut pod = wire::tree(&record.value, Some(record.revision))?;
            assign(&target, &mut pod, &binding, &time::seconds(options.now))?;
            if options.dry_run {
                return Ok(());
            }
            let key = self.key(&target)?;
            let value = wire::encode(&pod);
            match self.world().storage().put(&key, value, Expect::At(record.revision), None).await {
                Ok(revision) => {
                    self.world().wrote(revision);
                    return Ok(());
                }
                Err(StorageError::Conflict(_)) => {}
                Err(error) => return Err(store_error(&error)),
            }
        }
        Err(target.conflict(super::change::MODIFIED))
    }
}

fn check_binding(target: &Target<'_>, binding: &Value) -> Result<()> {
    let typed = serde_json::from_value(binding.clone())
        .map_err(|error| ApiError::BadRequest(format!("the binding cannot be read: {error}")))?;
    let errors = minik_registry::check_binding(&typed);
    if errors.is_empty() {
        return Ok(());
    }
    let on = crate::error::Named { group: String::new(), kind: "Binding".into(), name: target.name.into() };
    Err(ApiError::Invalid { on, errors })
}

/// Puts the binding's node, labels and annotations onto the Pod.
fn assign(target: &Target<'_>, pod: &mut Value, binding: &Value, now: &str) -> Result<()> {
    let conflict = |why: String| {
        let on = crate::error::Named {
            group: String::new(),
            kind: "pods/binding".into(),
            name: target.name.into(),
        };
        Err(ApiError::Conflict { on, why })
    };
    let (uid, version) = (binding.meta("uid"), binding.meta("resourceVersion"));
    if !uid.is_empty() && uid != pod.meta("uid") {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            pod.meta("uid")
        ));
    }
    if !version.is_empty() && version != pod.meta("resourceVersion") {
        let has = pod.meta("resourceVersion");
        return conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {has}"
        ));
    }
    if pod.is_terminating() {
        return conflict(format!("pod {} is being deleted, cannot be assigned to a host", target.name));
    }
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let node = text("/spec/nodeName");
    if !node.is_empty() && !planted(Plant::BoundAgain) {
        return conflict(format!("pod {} is already assigned to node {node:?}", target.name));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {} has non-empty .spec.schedulingGates", target.name));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    for map in ["annotations", "labels"] {
        let Some(more) = binding["metadata"][map].as_object() else { continue };
        let metadata = pod.metadata_mut();
        let own = metadata.entry(map).or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            own.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    let mut condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if let Some(generation) = pod.pointer("/metadata/generation") {
        condition["observedGeneration"] = generation.clone();
    }
    set_condition(pod, condition);
    Ok(())
}

/// Adds or replaces the condition of a type; its transition time stays when its status does.
pub(super) fn set_condition(object: &mut Value, mut condition: Value) {
    let status = object.as_object_mut().map(|object| object.entry("status").or_insert_with(|| json!({})));
    let Some(status) = status.and_then(Value::as_object_mut) else { return };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|one| one["type"] == condition["type"]) {
        Some(one) => {
            if one["status"] == condition["status"] {
                condition["lastTransitionTime"] = one["lastTransitionTime"].clone();
            }
            *one = condition;
        }
        None => conditions.push(condition),
    }
}
