//! Deployment: <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Value, json};

use super::workload::{self, SCALE_SUBRESOURCE};
use crate::int_or_percent::{check_at_most_all, check_int_or_percent, value_of};
use crate::meta::check_nonnegative;
use crate::resource::*;
use crate::view::{at, carry_over, view};
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

const KIND: Kind = Kind { group: "apps", version: "v1", kind: "Deployment" };

const RESOURCE: Resource = Resource {
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    ..Resource::grouped("apps", "Deployment", "DeploymentList", "deployments")
}
.with_status(&[SCALE_SUBRESOURCE, Subresource::status(KIND, &[&["spec"], &["metadata", "labels"]])]);

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Ready", "Ready Pods of those that are wanted."),
    Column::text("Up-to-date", "Pods of the newest template."),
    Column::text("Available", "Pods that are ready for long enough."),
    Column::AGE,
    Column::text("Containers", "The names of the template's containers.").wide(),
    Column::text("Images", "Their images.").wide(),
    Column::text("Selector", "Which Pods are meant.").wide(),
];

/// See the module.
pub(crate) struct Deployment;

impl Strategy for Deployment {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        workload::prepare_create(obj, json!({}));
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        if part == Part::Status {
            carry_over(obj, old, "spec");
            if let (Some(meta), Some(before)) = (obj.get_mut("metadata"), old.get("metadata")) {
                carry_over(meta, before, "labels");
            }
            return;
        }
        carry_over(obj, old, "status");
        // Annotations are copied to ReplicaSets: the controller has to see them.
        workload::prepare_update(obj, old, &[&["spec"], &["metadata", "annotations"]]);
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if part == Part::Status {
            check_status(obj, old, &mut errors);
            return errors;
        }
        check_spec(obj, Some(old), &mut errors);
        workload::check_selector_kept(obj, old, &mut errors);
        errors
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain)
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        workload::warnings_on_create(obj)
    }

    fn warnings_on_update(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        if part == Part::Status { Vec::new() } else { workload::warnings_on_update(obj, old) }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let number = |path: &[&str]| at(obj, path).and_then(Value::as_i64).unwrap_or(0);
        let status = |field| number(&["status", field]);
        let ready = format!("{}/{}", status("readyReplicas"), number(&["spec", "replicas"]));
        let mut cells = vec![
            table::name(obj),
            ready.into(),
            status("updatedReplicas").into(),
            status("availableReplicas").into(),
            table::age(obj, now),
        ];
        cells.extend(workload::wide_cells(obj));
        cells
    }
}

fn check_spec(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let number = |field: &str| at(obj, &["spec", field]).and_then(Value::as_i64);
    let progress = path.child("progressDeadlineSeconds");
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        check_nonnegative(number(field).unwrap_or(0), &path.child(field), errors);
    }
    let min_ready = number("minReadySeconds").unwrap_or(0);
    if let Some(seconds) = number("progressDeadlineSeconds").filter(|seconds| *seconds <= min_ready) {
        errors.push(FieldError::invalid(&progress, seconds, "must be greater than minReadySeconds"));
    }
    workload::check_selector_and_template(obj, old, errors);
    if let Some(strategy) = at(obj, &["spec", "strategy"]).and_then(|tree| view(tree, errors)) {
        check_strategy(&strategy, &path.child("strategy"), errors);
    }
}

fn check_strategy(strategy: &api::DeploymentStrategy, path: &Path, errors: &mut ErrorList) {
    let rolling = path.child("rollingUpdate");
    match (strategy.type_.as_deref(), &strategy.rolling_update) {
        (Some("Recreate"), Some(_)) => {
            errors.push(FieldError::forbidden(&rolling, "cannot be set when the type is Recreate"));
        }
        (Some("Recreate"), None) => {}
        (Some("RollingUpdate"), None) => errors.push(FieldError::required(&rolling, "")),
        (Some("RollingUpdate"), Some(update)) => check_rolling_update(update, &rolling, errors),
        _ => errors.push(FieldError::not_supported(path, json!(strategy), &["Recreate", "RollingUpdate"])),
    }
}

fn check_rolling_update(update: &api::RollingUpdateDeployment, path: &Path, errors: &mut ErrorList) {
    let unavailable_path = path.child("maxUnavailable");
    let (unavailable, surge) = (update.max_unavailable.as_ref(), update.max_surge.as_ref());
    check_int_or_percent(unavailable, &unavailable_path, errors);
    check_int_or_percent(surge, &path.child("maxSurge"), errors);
    if value_of(unavailable) == 0 && value_of(surge) == 0 {
        let detail = "cannot be 0 when maxSurge is 0";
        errors.push(FieldError::invalid(&unavailable_path, json!(unavailable), detail));
    }
    check_at_most_all(unavailable, &unavailable_path, errors);
}

fn check_status(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    workload::check_counts(obj, &counts, &["updatedReplicas", "readyReplicas", "availableReplicas"], errors);
    let collisions = |o: &Value| o["status"]["collisionCount"].as_i64();
    let (is, was) = (collisions(obj), collisions(old));
    if was.is_some_and(|was| is.is_none_or(|is| is < was)) {
        let path = Path::new("status").child("collisionCount");
        errors.push(FieldError::invalid(&path, is.unwrap_or(0), "cannot become smaller"));
    }
}
