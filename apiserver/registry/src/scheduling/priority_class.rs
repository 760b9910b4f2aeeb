//! PriorityClass.

use k8s_openapi::api::scheduling::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::core::pod::spec::check_preemption_policy;
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::view::{set_generation, str_at, view, yes};
use crate::{Column, table};
use crate::{Context, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "priorityclass",
    short_names: &["pc"],
    scope: Scope::Cluster,
    ..Resource::grouped("scheduling.k8s.io", "PriorityClass", "PriorityClassList", "priorityclasses")
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Value", "The priority of Pods of the class."),
    Column { kind: "boolean", ..Column::text("Global-Default", "Whether Pods without a class get it.") },
    Column::AGE,
    Column::text("PreemptionPolicy", "Whether its Pods push out others."),
];

/// See the module.
pub(crate) struct PriorityClass;

impl Strategy for PriorityClass {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set_generation(obj, 1);
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(class) = view::<api::PriorityClass>(obj, &mut errors) else { return errors };
        let value = class.value.unwrap_or(0);
        let name = class.metadata.name.as_deref().unwrap_or("");
        if name.starts_with("system-") {
            let known = SYSTEM.iter().any(|(n, v)| *n == name && *v == value);
            if !known || yes(&class.global_default) {
                let detail = "names that begin with 'system-' are the system's own";
                errors.push(FieldError::forbidden(&Path::new("metadata").child("name"), detail));
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail = format!("must not be above {HIGHEST_USER_PRIORITY}, which is left to the system");
            errors.push(FieldError::forbidden(&Path::new("value"), detail));
        }
        if let Some(policy) = &class.preemption_policy {
            check_preemption_policy(policy, &Path::new("preemptionPolicy"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if obj["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
            errors.push(FieldError::forbidden(&Path::new("value"), IMMUTABLE));
        }
        let policy = |o| str_at(o, &["preemptionPolicy"]);
        if policy(obj) != policy(old) {
            errors.push(FieldError::invalid(&Path::new("preemptionPolicy"), policy(obj), IMMUTABLE));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let value = obj["value"].as_i64().unwrap_or(0);
        let default = obj["globalDefault"].as_bool().unwrap_or(false);
        let policy = str_at(obj, &["preemptionPolicy"]);
        vec![table::name(obj), value.into(), default.into(), table::age(obj, now), policy.into()]
    }
}

/// The highest priority that a class made by a user may give.
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
/// The classes that the system brings.
const SYSTEM: &[(&str, i32)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
