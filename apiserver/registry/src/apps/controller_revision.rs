//! ControllerRevision: <https://kubernetes.io/docs/concepts/workloads/controllers/controllerrevision/>.

use jiff::Timestamp;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::meta::{IMMUTABLE, check_nonnegative};
use crate::resource::*;
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

const RESOURCE: Resource = Resource {
    singular: "controllerrevision",
    ..Resource::grouped("apps", "ControllerRevision", "ControllerRevisionList", "controllerrevisions")
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Controller", "The object whose state is kept."),
    Column::text("Revision", "Which of its states it is."),
    Column::AGE,
];

/// See the module.
pub(crate) struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if !obj["data"].is_object() {
            errors.push(FieldError::required(
                &Path::new("data"),
                "a revision keeps a state, which is an object",
            ));
        }
        check_revision(obj, &mut errors);
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check_revision(obj, &mut errors);
        if obj.get("data") != old.get("data") {
            errors.push(FieldError::invalid(&Path::new("data"), obj["data"].clone(), IMMUTABLE));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let owners = obj["metadata"]["ownerReferences"].as_array();
        let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
        let shown = controller.map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let text = |field: &str| owner[field].as_str().unwrap_or_default();
                let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
                let dot = if group.is_empty() { "" } else { "." };
                format!("{}{dot}{group}/{}", text("kind").to_lowercase(), text("name"))
            },
        );
        let revision = obj["revision"].as_i64().unwrap_or(0);
        vec![table::name(obj), shown.into(), revision.into(), table::age(obj, now)]
    }
}

fn check_revision(obj: &Value, errors: &mut ErrorList) {
    check_nonnegative(obj["revision"].as_i64().unwrap_or(0), &Path::new("revision"), errors);
}
