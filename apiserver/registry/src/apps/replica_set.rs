//! ReplicaSet: <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>.

use std::borrow::Cow;

use jiff::Timestamp;
use minik_apimachinery::field::{ErrorList, Path};
use serde_json::{Value, json};

use super::workload::{self, SCALE_SUBRESOURCE};
use crate::meta::check_nonnegative;
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{at, carry_over};
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

const KIND: Kind = Kind { group: "apps", version: "v1", kind: "ReplicaSet" };

const RESOURCE: Resource = Resource {
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    ..Resource::grouped("apps", "ReplicaSet", "ReplicaSetList", "replicasets")
}
.with_status(&[SCALE_SUBRESOURCE, Subresource::status(KIND, &[&["spec"]])]);

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::integer("Desired", "Pods that are wanted."),
    Column::integer("Current", "Pods that there are."),
    Column::integer("Ready", "Pods that are ready."),
    Column::AGE,
    Column::text("Containers", "The names of the template's containers.").wide(),
    Column::text("Images", "Their images.").wide(),
    Column::text("Selector", "Which Pods are meant.").wide(),
];

/// See the module.
pub(crate) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        workload::prepare_create(obj, json!({ "replicas": 0 }));
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        if part == Part::Status {
            carry_over(obj, old, "spec");
            return;
        }
        carry_over(obj, old, "status");
        workload::prepare_update(obj, old, &[&["spec"]]);
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if part == Part::Status {
            let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            let counts = [&["replicas", "terminatingReplicas", "observedGeneration"][..], &parts].concat();
            workload::check_counts(obj, &counts, &parts, &mut errors);
            return errors;
        }
        check_spec(obj, Some(old), &mut errors);
        workload::check_selector_kept(obj, old, &mut errors);
        errors
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        workload::warnings_on_create(obj)
    }

    fn warnings_on_update(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        if part == Part::Status { Vec::new() } else { workload::warnings_on_update(obj, old) }
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        let replicas = at(obj, &["status", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        vec![("status.replicas", Cow::Owned(replicas.to_string()))]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let number = |path: &[&str]| at(obj, path).and_then(Value::as_i64).unwrap_or(0).into();
        let mut cells = vec![
            table::name(obj),
            number(&["spec", "replicas"]),
            number(&["status", "replicas"]),
            number(&["status", "readyReplicas"]),
            table::age(obj, now),
        ];
        cells.extend(workload::wide_cells(obj));
        cells
    }
}

fn check_spec(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let path = Path::new("spec");
    for field in ["replicas", "minReadySeconds"] {
        let number = at(obj, &["spec", field]).and_then(Value::as_i64).unwrap_or(0);
        check_nonnegative(number, &path.child(field), errors);
    }
    workload::check_selector_and_template(obj, old, errors);
}
