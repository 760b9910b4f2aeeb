//! What the API server fills in and leaves out before a Pod is checked.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::time;
use serde_json::{Map, Value, json};

use super::qos;
use crate::Part;
use crate::view::{
    at, carry_over, carry_over_metadata, generation, items, remove_at, set_generation, str_at, try_view,
};

/// A new Pod: pending, of the first generation, without what stock v1.37 has switched off.
pub(crate) fn create(obj: &mut Value, now: Timestamp) {
    set_generation(obj, 1);
    if let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) {
        minik_apimachinery::defaults::pod_level_resources(spec);
    }
    drop_disabled(obj, None);
    merge_label_keys(obj);
    let spec: Option<api::PodSpec> = obj.get("spec").and_then(try_view);
    let mut status = Map::new();
    status.insert("phase".into(), "Pending".into());
    if let Some(spec) = &spec {
        if !items(&spec.scheduling_gates).is_empty() {
            status.insert("conditions".into(), json!([gated(now)]));
        }
        status.insert("qosClass".into(), qos::class(spec).into());
    }
    if let Some(map) = obj.as_object_mut() {
        map.insert("status".into(), Value::Object(status));
    }
}

/// Why a Pod with gates is not scheduled.
fn gated(now: Timestamp) -> Value {
    json!({
        "type": "PodScheduled",
        "status": "False",
        "lastProbeTime": null,
        "lastTransitionTime": time::seconds(now),
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
    })
}

/// Fields of the switched-off features, each as a path in the tree in which `*` stands for every item.
const DISABLED: &[&[&str]] = &[
    &["spec", "schedulingGroup"],
    &["spec", "evictionResponders"],
    &["spec", "volumes", "*", "emptyDir", "mode"],
    &["spec", "volumes", "*", "secret", "defaultUser"],
    &["spec", "volumes", "*", "secret", "items", "*", "user"],
    &["spec", "volumes", "*", "configMap", "defaultUser"],
    &["spec", "volumes", "*", "configMap", "items", "*", "user"],
    &["spec", "volumes", "*", "downwardAPI", "defaultUser"],
    &["spec", "volumes", "*", "downwardAPI", "items", "*", "user"],
    &["spec", "volumes", "*", "projected", "defaultUser"],
    &["spec", "volumes", "*", "projected", "sources", "*", "secret", "items", "*", "user"],
    &["spec", "volumes", "*", "projected", "sources", "*", "configMap", "items", "*", "user"],
    &["spec", "volumes", "*", "projected", "sources", "*", "downwardAPI", "items", "*", "user"],
    &["spec", "volumes", "*", "projected", "sources", "*", "serviceAccountToken", "user"],
    &["spec", "volumes", "*", "projected", "sources", "*", "clusterTrustBundle", "user"],
    &["spec", "volumes", "*", "projected", "sources", "*", "podCertificate", "user"],
    &["status", "nodeAllocatableResourceClaimStatuses"],
    &["status", "volumeHealth"],
    &["status", "containerStatuses", "*", "volumeMounts", "*", "volumeStatus"],
    &["status", "initContainerStatuses", "*", "volumeMounts", "*", "volumeStatus"],
    &["status", "ephemeralContainerStatuses", "*", "volumeMounts", "*", "volumeStatus"],
];
/// The same within a container.
const DISABLED_IN_CONTAINER: &[&[&str]] = &[
    &["volumeMounts", "*", "bindMountOptions"],
    &["livenessProbe", "grpc", "mode"],
    &["readinessProbe", "grpc", "mode"],
    &["startupProbe", "grpc", "mode"],
    &["livenessProbe", "httpGet", "protocol"],
    &["readinessProbe", "httpGet", "protocol"],
    &["startupProbe", "httpGet", "protocol"],
    &["lifecycle", "postStart", "httpGet", "protocol"],
    &["lifecycle", "preStop", "httpGet", "protocol"],
];
/// Annotations by which init containers were written long ago.
const INIT_CONTAINER_ANNOTATIONS: &[&str] = &[
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Leaves out what is switched off; a Pod that has such a field may keep it.
pub(crate) fn drop_disabled(obj: &mut Value, old: Option<&Value>) {
    let drop = |path: &[&str], obj: &mut Value| {
        if old.is_none_or(|old| !has(old, path)) {
            remove(obj, path);
        }
    };
    for path in DISABLED {
        drop(path, obj);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for path in DISABLED_IN_CONTAINER {
            let whole: Vec<&str> = ["spec", list, "*"].into_iter().chain(path.iter().copied()).collect();
            drop(&whole, obj);
        }
        let signal = ["spec", list, "*", "lifecycle", "stopSignal"];
        if old.is_none_or(|old| !has(old, &signal)) && has(obj, &signal) {
            remove(obj, &signal);
            remove_empty_lifecycles(obj, list);
        }
    }
    if let Some(annotations) = obj.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| !INIT_CONTAINER_ANNOTATIONS.contains(&key.as_str()));
    }
}

fn remove_empty_lifecycles(obj: &mut Value, list: &str) {
    let containers = obj.get_mut("spec").and_then(|s| s.get_mut(list)).and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
        if container.get("lifecycle").and_then(Value::as_object).is_some_and(Map::is_empty) {
            container.remove("lifecycle");
        }
    }
}

fn has(tree: &Value, path: &[&str]) -> bool {
    match path {
        [] => true,
        ["*", rest @ ..] => tree.as_array().is_some_and(|list| list.iter().any(|item| has(item, rest))),
        [name, rest @ ..] => tree.get(name).is_some_and(|child| has(child, rest)),
    }
}

fn remove(tree: &mut Value, path: &[&str]) {
    match path {
        [] => {}
        [last] => {
            if let Some(map) = tree.as_object_mut() {
                map.remove(*last);
            }
        }
        ["*", rest @ ..] => {
            for item in tree.as_array_mut().into_iter().flatten() {
                remove(item, rest);
            }
        }
        [name, rest @ ..] => {
            if let Some(child) = tree.get_mut(name) {
                remove(child, rest);
            }
        }
    }
}

/// Where a selector shall match the Pod's own labels, their values are written into it once and for all.
fn merge_label_keys(obj: &mut Value) {
    let labels = at(obj, &["metadata", "labels"]).cloned().unwrap_or_default();
    let Some(spec) = obj.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.pointer_mut(&format!("/affinity/{kind}")) else { continue };
        for term in list_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_term(term, &labels);
        }
        for weighted in list_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                merge_term(term, &labels);
            }
        }
    }
    for constraint in list_mut(spec, "topologySpreadConstraints") {
        merge_term(constraint, &labels);
    }
}

fn list_mut<'a>(tree: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    tree.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn merge_term(term: &mut Value, labels: &Value) {
    let mut added: Vec<Value> = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = term.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for (key, value) in keys.filter_map(|key| Some((key, labels.get(key)?))) {
            added.push(json!({ "key": key, "operator": operator, "values": [value] }));
        }
    }
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    if added.is_empty() {
        return;
    }
    let expressions = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if let Some(list) = expressions.as_array_mut() {
        list.append(&mut added);
    }
}

/// A changed Pod: everything that this endpoint does not write is as it was.
pub(crate) fn update(part: Part, obj: &mut Value, old: &Value) {
    if at(obj, &["spec", "overhead"]) == Some(&json!({})) {
        remove_at(obj, &["spec", "overhead"]);
    }
    match part {
        Part::Status => return update_status(obj, old),
        Part::EphemeralContainers => {
            let ephemeral = at(obj, &["spec", "ephemeralContainers"]).cloned();
            carry_over_metadata(obj, old);
            carry_over(obj, old, "spec");
            if let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) {
                match ephemeral {
                    Some(list) => spec.insert("ephemeralContainers".into(), list),
                    None => spec.remove("ephemeralContainers"),
                };
            }
        }
        Part::Resize => update_resize(obj, old),
        _ => {
            // Requests of the Pod as a whole cannot be taken away by leaving them out.
            if at(obj, &["spec", "resources"]).is_none()
                && let Some(resources) = at(old, &["spec", "resources"])
                && let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut)
            {
                spec.insert("resources".into(), resources.clone());
            }
        }
    }
    carry_over(obj, old, "status");
    drop_disabled(obj, Some(old));
    if obj.get("spec") != old.get("spec") {
        set_generation(obj, generation(old) + 1);
    }
}

fn update_status(obj: &mut Value, old: &Value) {
    carry_over(obj, old, "spec");
    let old_meta = old.get("metadata").cloned().unwrap_or_default();
    if let Some(meta) = obj.get_mut("metadata") {
        carry_over(meta, &old_meta, "deletionTimestamp");
        carry_over(meta, &old_meta, "ownerReferences");
    }
    let Some(map) = obj.as_object_mut() else { return };
    let status = map.entry("status").or_insert_with(|| json!({}));
    let old_status = old.get("status").cloned().unwrap_or_default();
    let kept = [
        "qosClass",
        "observedGeneration",
        "resourceClaimStatuses",
        "extendedResourceClaimStatus",
        "nodeAllocatableResourceClaimStatuses",
    ];
    for field in kept {
        if status.get(field).is_none() && old_status.get(field).is_some() {
            carry_over(status, &old_status, field);
        }
    }
    keep_observed_generations(status, &old_status);
    drop_disabled(obj, Some(old));
}

/// A condition written without a generation keeps the one that the condition of its type had.
fn keep_observed_generations(status: &mut Value, old: &Value) {
    let mut before: Vec<(&str, &Value)> = old
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|c| (str_at(c, &["type"]), c.get("observedGeneration").unwrap_or(&Value::Null)))
        .collect();
    for condition in list_mut(status, "conditions") {
        let kind = str_at(condition, &["type"]).to_owned();
        let Some(i) = before.iter().position(|(t, _)| *t == kind) else { continue };
        let (_, observed) = before.remove(i);
        if let Some(map) = condition.as_object_mut()
            && !map.contains_key("observedGeneration")
            && !observed.is_null()
        {
            map.insert("observedGeneration".into(), observed.clone());
        }
    }
}

fn update_resize(obj: &mut Value, old: &Value) {
    let spec = obj.get("spec").cloned().unwrap_or_default();
    let old_spec = old.get("spec").cloned().unwrap_or_default();
    let count = |s: &Value, list: &str| s.get(list).and_then(Value::as_array).map_or(0, Vec::len);
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|list| count(&spec, list) != count(&old_spec, list)) {
        return;
    }
    carry_over_metadata(obj, old);
    let mut merged = old_spec.clone();
    for list in lists {
        let (Some(new), Some(was)) =
            (spec.get(list).and_then(Value::as_array), old_spec.get(list).and_then(Value::as_array))
        else {
            continue;
        };
        if let Some(map) = merged.as_object_mut() {
            map.insert(list.into(), resized(new, was).into());
        }
    }
    let resources = spec.get("resources").or(old_spec.get("resources")).cloned();
    if let (Some(map), Some(resources)) = (merged.as_object_mut(), resources) {
        map.insert("resources".into(), resources);
    }
    if let Some(map) = obj.as_object_mut() {
        map.insert("spec".into(), merged);
    }
}

/// The old containers with the new ones' resources; containers out of order are left for validation to refuse.
fn resized(new: &[Value], old: &[Value]) -> Vec<Value> {
    if new.iter().zip(old).any(|(n, o)| n.get("name") != o.get("name")) {
        return new.to_vec();
    }
    let merge = |(n, o): (&Value, &Value)| {
        let mut container = o.clone();
        carry_over(&mut container, n, "resources");
        carry_over(&mut container, n, "resizePolicy");
        container
    };
    new.iter().zip(old).map(merge).collect()
}
