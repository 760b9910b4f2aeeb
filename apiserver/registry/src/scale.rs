//! Scale: how many Pods a workload keeps, as a face of its own
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#scaling-a-deployment>).

use jiff::Timestamp;
use minik_apimachinery::field::{ErrorList, Path};
use minik_apimachinery::selector::LabelSelector;
use serde_json::{Map, Value, json};

use crate::meta::check_nonnegative;
use crate::resource::*;
use crate::view::at;
use crate::{Column, Context, Strategy, StrategyError, table};

pub(crate) const KIND: Kind = Kind { group: "autoscaling", version: "v1", kind: "Scale" };

const RESOURCE: Resource = Resource {
    singular: "scale",
    verbs: Verbs::STATUS,
    storage_prefix: None,
    ..Resource::grouped("autoscaling", "Scale", "", "scales")
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Desired", "Pods that are wanted."),
    Column::integer("Available", "Pods that there are."),
    Column::AGE,
];

/// The Scale; it stands at no path of its own, but below what it is the scale of.
pub static SCALE: &dyn Strategy = &Scale;

struct Scale;

impl Strategy for Scale {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let replicas = at(obj, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        check_nonnegative(replicas, &Path::new("spec").child("replicas"), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let replicas = |part| at(obj, &[part, "replicas"]).cloned().unwrap_or(0.into());
        vec![table::name(obj), replicas("spec"), replicas("status"), table::age(obj, now)]
    }
}

/// The Scale of a workload, without managed fields.
///
/// # Errors
/// The workload's selector is none.
pub fn scale_of(obj: &Value) -> Result<Value, StrategyError> {
    let selector = LabelSelector::from_object(obj.pointer("/spec/selector"))
        .map_err(|error| StrategyError::BadRequest(error.to_string()))?;
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    let meta =
        kept.into_iter().filter_map(|field| Some((field.to_owned(), at(obj, &["metadata", field])?.clone())));
    let meta: Map<String, Value> = meta.collect();
    let replicas = |part| at(obj, &[part, "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = json!({});
    if replicas("spec") != 0 {
        spec["replicas"] = replicas("spec").into();
    }
    let mut status = json!({"replicas": replicas("status")});
    let selector = selector.to_string();
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    Ok(
        json!({"kind": "Scale", "apiVersion": KIND.api_version(), "metadata": meta, "spec": spec, "status": status}),
    )
}

/// The workload with the number of its Scale, and at the Scale's revision.
pub fn with_scale(mut obj: Value, scale: &Value) -> Value {
    obj["spec"]["replicas"] = at(scale, &["spec", "replicas"]).cloned().unwrap_or(0.into());
    let revision = at(scale, &["metadata", "resourceVersion"]).cloned().unwrap_or(Value::Null);
    if let Some(meta) = obj.get_mut("metadata").and_then(Value::as_object_mut) {
        if revision.is_null() {
            meta.remove("resourceVersion")
        } else {
            meta.insert("resourceVersion".into(), revision)
        };
    }
    obj
}
