//! What kinds that keep a number of equal Pods have in common.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use minik_apimachinery::selector;
use serde_json::{Value, json};

use crate::core::pod::{template, warnings};
use crate::format;
use crate::meta::{IMMUTABLE, check_nonnegative};
use crate::resource::*;
use crate::scale;
use crate::selector::{as_selector, check_label_selector};
use crate::table;
use crate::view::{at, generation, items, set_generation, str_at, text, view};

/// The `scale` of a kind with `spec.replicas`, `spec.selector` and `status.replicas`.
pub(crate) const SCALE_SUBRESOURCE: Subresource = Subresource::other("scale", scale::KIND, Verbs::STATUS);

/// A new object: of the first generation, with an empty status.
pub(crate) fn prepare_create(obj: &mut Value, status: Value) {
    set_generation(obj, 1);
    if let Some(map) = obj.as_object_mut() {
        map.insert("status".into(), status);
    }
    if let Some(template) = obj.pointer_mut("/spec/template") {
        template::drop_disabled(template, None);
    }
}

/// Leaves out of a changed template what is switched off, and counts the generation on when what is `counted` differs.
pub(crate) fn prepare_update(obj: &mut Value, old: &Value, counted: &[&[&str]]) {
    let before = at(old, &["spec", "template"]).cloned();
    if let Some(template) = obj.pointer_mut("/spec/template") {
        template::drop_disabled(template, before.as_ref());
    }
    if counted.iter().any(|path| at(obj, path) != at(old, path)) {
        set_generation(obj, generation(old) + 1);
    }
}

/// The selector, and the template that must fit it.
pub(crate) fn check_selector_and_template(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let (tree, path) = (obj.pointer("/spec/selector").filter(|tree| !tree.is_null()), Path::new("spec"));
    let at = path.child("selector");
    match tree.and_then(|tree| view::<LabelSelector>(tree, errors)) {
        None => errors.push(FieldError::required(&at, "")),
        Some(selector) => {
            check_label_selector(Some(&selector), false, &at, errors);
            let labels = selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty());
            if labels && items(&selector.match_expressions).is_empty() {
                errors.push(FieldError::invalid(&at, json!(selector), "an empty selector selects all Pods"));
            }
        }
    }
    match as_selector(tree) {
        Some(selector) => {
            let of = |o: &Value, errors: &mut ErrorList| -> Option<api::PodTemplateSpec> {
                o.pointer("/spec/template").and_then(|tree| view(tree, errors))
            };
            let (template, before) =
                (of(obj, errors).unwrap_or_default(), old.and_then(|old| of(old, errors)));
            check_template(&selector, &template, before.as_ref(), &path.child("template"), errors);
        }
        None => errors.push(FieldError::invalid(&at, json!(tree), "is no label selector")),
    }
}

/// The selector stays as it was.
pub(crate) fn check_selector_kept(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let (is, was) = (obj.pointer("/spec/selector"), old.pointer("/spec/selector"));
    if is != was {
        errors.push(FieldError::invalid(&Path::new("spec").child("selector"), json!(is), IMMUTABLE));
    }
}

fn check_template(
    selector: &selector::LabelSelector,
    template: &api::PodTemplateSpec,
    before: Option<&api::PodTemplateSpec>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    if !selector.is_everything() && !selector.matches(&labels) {
        let at = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&at, json!(labels), "the selector does not select these labels"));
    }
    template::check(template, before, path, errors);
    let spec = template.spec.clone().unwrap_or_default();
    let at = path.child("spec");
    if text(&spec.restart_policy) != "Always" {
        let policy = text(&spec.restart_policy);
        errors.push(FieldError::not_supported(&at.child("restartPolicy"), policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        errors
            .push(FieldError::forbidden(&at.child("activeDeadlineSeconds"), "such Pods are to run for ever"));
    }
}

/// Numbers of Pods in a status, which cannot be negative; those of `parts` are among all and cannot be more.
pub(crate) fn check_counts(obj: &Value, counts: &[&str], parts: &[&str], errors: &mut ErrorList) {
    let status = &obj["status"];
    let path = Path::new("status");
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    for field in counts {
        check_nonnegative(count(field), &path.child(field), errors);
    }
    for field in parts.iter().filter(|field| count(field) > count("replicas")) {
        let detail = "cannot be greater than status.replicas";
        errors.push(FieldError::invalid(&path.child(field), count(field), detail));
    }
    if count("availableReplicas") > count("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        let at = path.child("availableReplicas");
        errors.push(FieldError::invalid(&at, count("availableReplicas"), detail));
    }
}

/// Warnings for a new object.
pub(crate) fn warnings_on_create(obj: &Value) -> Vec<String> {
    let mut all = Vec::new();
    let faults = format::dns_label(str_at(obj, &["metadata", "name"]));
    if !faults.is_empty() {
        all.push(format!("metadata.name: Pods are named after it, which should be a DNS label: {faults:?}"));
    }
    all.extend(warnings::of_template(obj));
    all
}

/// Warnings for a changed one.
pub(crate) fn warnings_on_update(obj: &Value, old: &Value) -> Vec<String> {
    if generation(obj) == generation(old) { Vec::new() } else { warnings::of_template(obj) }
}

/// The cells that show containers, images and selector.
pub(crate) fn wide_cells(obj: &Value) -> [Value; 3] {
    let containers = obj.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let of = |field: &str| -> Value {
        let all = containers.into_iter().flatten().map(|one| one[field].as_str().unwrap_or_default());
        all.collect::<Vec<_>>().join(",").into()
    };
    let shown = match as_selector(obj.pointer("/spec/selector")) {
        Some(selector) => table::none(&selector.to_string()),
        None => "<error>".into(),
    };
    [of("name"), of("image"), shown]
}
