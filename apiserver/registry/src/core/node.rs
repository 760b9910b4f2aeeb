//! Node.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::pod::resources::check_amount;
use super::pod::scheduling::check_taint_effect;
use crate::format::{self, are_dual_stack_ranges, check_cidr, invalid};
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::str_at;
use crate::view::{at, carry_over, items, remove_at, text, try_view, view, yes};
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    storage_prefix: Some("minions"),
    ..Resource::core("Node", "NodeList", "nodes")
}
.with_status(&[
    Subresource::other("proxy", Kind::core("NodeProxyOptions"), Verbs::PROXY),
    Subresource::status(Kind::core("Node"), &[&["spec"]]),
]);

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Status", "Whether Pods can run here."),
    Column::text("Roles", "The roles that labels tell."),
    Column::AGE,
    Column::text("Version", "The version of the kubelet."),
    Column::text("Internal-IP", "The address within the cluster.").wide(),
    Column::text("External-IP", "The address from outside.").wide(),
    Column::text("OS-Image", "The operating system.").wide(),
    Column::text("Kernel-Version", "The kernel and its architecture.").wide(),
    Column::text("Container-Runtime", "What runs the containers.").wide(),
];

fn roles(obj: &Value) -> Value {
    let labels = obj["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == "kubernetes.io/role"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    table::none(&roles.into_iter().collect::<Vec<_>>().join(","))
}

fn address(obj: &Value, kind: &str) -> Value {
    let mut all = obj["status"]["addresses"].as_array().into_iter().flatten();
    table::none(all.find(|one| one["type"] == kind).map_or("", |one| str_at(one, &["address"])))
}

/// See the module.
pub(crate) struct Node;

impl Strategy for Node {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn served_to_stored(&self, _version: &str, obj: &mut Value) {
        // The older field names the first range; it wins where they differ.
        let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let first = spec.get("podCIDRs").and_then(|list| list.get(0)).cloned();
        match (spec.get("podCIDR").cloned(), first) {
            (Some(one), first) if first.as_ref() != Some(&one) => {
                spec.insert("podCIDRs".into(), vec![one].into());
            }
            (None, Some(first)) if first != "" => {
                spec.insert("podCIDR".into(), first);
            }
            _ => {}
        }
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        for path in [["spec", "configSource"], ["status", "config"], ["spec", "podPreemptionPolicy"]] {
            remove_at(obj, &path);
        }
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        let drop = |path: &[&str], obj: &mut Value| {
            if at(old, path).is_none() {
                remove_at(obj, path);
            }
        };
        if part == Part::Status {
            carry_over(obj, old, "spec");
            drop(&["status", "config"], obj);
            return;
        }
        carry_over(obj, old, "status");
        drop(&["spec", "configSource"], obj);
        drop(&["spec", "podPreemptionPolicy"], obj);
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(node) = view::<api::Node>(obj, &mut errors) {
            check(&node, &mut errors);
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (Some(node), Some(was)) =
            (view::<api::Node>(obj, &mut errors), view::<api::Node>(old, &mut errors))
        else {
            return errors;
        };
        if part == Part::Main {
            check(&node, &mut errors);
        }
        check_change(&node, &was, &mut errors);
        errors
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        warnings(obj)
    }

    fn warnings_on_update(&self, part: Part, obj: &Value, _old: &Value) -> Vec<String> {
        if part == Part::Main { warnings(obj) } else { Vec::new() }
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        let unschedulable = yes(&at(obj, &["spec", "unschedulable"]).and_then(Value::as_bool));
        vec![("spec.unschedulable", Cow::Borrowed(if unschedulable { "true" } else { "false" }))]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let mut conditions = obj["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.rfind(|one| one["type"] == "Ready");
        let mut status = match ready.map(|one| one["status"] == "True") {
            Some(true) => "Ready".to_owned(),
            Some(false) => "NotReady".to_owned(),
            None => "Unknown".to_owned(),
        };
        if obj["spec"]["unschedulable"] == true {
            status.push_str(",SchedulingDisabled");
        }
        let info = |name: &str| str_at(obj, &["status", "nodeInfo", name]);
        let known = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        let kernel = match info("architecture") {
            "" => known(info("kernelVersion")),
            architecture => format!("{} ({architecture})", known(info("kernelVersion"))),
        };
        vec![
            table::name(obj),
            status.into(),
            roles(obj),
            table::age(obj, now),
            info("kubeletVersion").into(),
            address(obj, "InternalIP"),
            address(obj, "ExternalIP"),
            known(info("osImage")).into(),
            kernel.into(),
            known(info("containerRuntimeVersion")).into(),
        ]
    }
}

/// A Node, new or changed. Causes of its taints name metadata, as stock's do.
fn check(node: &api::Node, errors: &mut ErrorList) {
    check_common(node, errors);
    let spec = node.spec.clone().unwrap_or_default();
    let swap = node.status.as_ref().and_then(|s| s.node_info.as_ref()).and_then(|i| i.swap.as_ref());
    if let Some(capacity) = swap.and_then(|s| s.capacity).filter(|c| *c <= 0) {
        let path = Path::new("metadata").child("nodeSwapStatus").child("capacity");
        errors.push(FieldError::invalid(&path, capacity, "must be greater than zero"));
    }
    let path = Path::new("spec").child("podCIDRs");
    let ranges = items(&spec.pod_cidrs);
    for (i, range) in ranges.iter().enumerate() {
        check_cidr(range, &[], &path.index(i), errors);
    }
    if ranges.len() > 1 {
        let list: Vec<&str> = ranges.iter().map(String::as_str).collect();
        let dual = are_dual_stack_ranges(&list);
        if dual.is_none() {
            errors.push(FieldError::internal(&path, "the versions of the ranges cannot be told"));
        }
        if dual != Some(true) || ranges.len() > 2 {
            errors.push(FieldError::invalid(
                &path,
                ranges.to_vec(),
                "one range of each version may be given",
            ));
        }
    }
}

/// What is looked at on every write.
fn check_common(node: &api::Node, errors: &mut ErrorList) {
    let meta = Path::new("metadata");
    if let Some(json) =
        node.metadata.annotations.as_ref().and_then(|a| a.get(TAINTS)).filter(|j| !j.is_empty())
    {
        let path = meta.child("annotations");
        match serde_json::from_str::<Vec<api::Taint>>(json) {
            Ok(taints) => check_taints(&taints, &path.child(TAINTS), errors),
            Err(e) => errors.push(FieldError::invalid(&path, TAINTS, e.to_string())),
        }
    }
    let spec = node.spec.clone().unwrap_or_default();
    check_taints(items(&spec.taints), &meta.child("taints"), errors);
    let Some(status) = &node.status else { return };
    let path = Path::new("status");
    for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        check_amounts(amounts, &path.child(field), errors);
    }
    check_features(items(&status.declared_features), &path.child("declaredFeatures"), errors);
}

const TAINTS: &str = "scheduler.alpha.kubernetes.io/taints";

/// Causes of amounts are joined by dots, not by brackets.
fn check_amounts(amounts: &Option<BTreeMap<String, Quantity>>, path: &Path, errors: &mut ErrorList) {
    for (name, quantity) in amounts.iter().flatten() {
        check_amount(name, quantity, &path.child(name), errors);
    }
}

fn check_features(features: &[String], path: &Path, errors: &mut ErrorList) {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric());
    let begins = |w: &str, rule: fn(&u8) -> bool| w.as_bytes().first().is_some_and(rule);
    for (i, feature) in features.iter().enumerate() {
        let mut words = feature.split('/');
        let first = words.next().unwrap_or("");
        let fits = word(first)
            && begins(first, u8::is_ascii_uppercase)
            && words.all(|w| word(w) && begins(w, u8::is_ascii_alphabetic))
            && feature.len() <= format::SUBDOMAIN_MAX;
        if !fits {
            errors.push(FieldError::invalid(&path.index(i), feature.as_str(), "must be a feature's name"));
        }
        match features.get(i + 1) {
            Some(next) if next == feature => {
                errors.push(FieldError::duplicate(&path.index(i + 1), next.as_str()));
            }
            Some(next) if next < feature => {
                errors.push(FieldError::invalid(
                    &path.index(i + 1),
                    next.as_str(),
                    "the list must be sorted",
                ));
            }
            _ => {}
        }
    }
}

fn check_taints(taints: &[api::Taint], path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let at = path.index(i);
        invalid(format::qualified_name(&taint.key), &taint.key, &at.child("key"), errors);
        let value = text(&taint.value);
        let faults = format::label_value(value);
        if !faults.is_empty() {
            errors.push(FieldError::invalid(&at.child("value"), value, faults.join("; ")));
        }
        check_taint_effect(&taint.effect, &at.child("effect"), errors);
        if !seen.insert((taint.effect.as_str(), taint.key.as_str())) {
            errors.push(FieldError::duplicate(&at, taint.key.as_str()));
        }
    }
}

fn check_change(node: &api::Node, old: &api::Node, errors: &mut ErrorList) {
    check_common(node, errors);
    let addresses = node.status.as_ref().map(|s| items(&s.addresses)).unwrap_or(&[]);
    for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
        let path = Path::new("status").child("addresses").index(i);
        errors.push(FieldError::duplicate(&path, address.address.as_str()));
    }
    let (spec, was) = (node.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let path = Path::new("spec");
    let (ranges, before) = (items(&spec.pod_cidrs), items(&was.pod_cidrs));
    if !before.is_empty() {
        let changed = if ranges.len() == before.len() {
            ranges.iter().zip(before).filter(|(n, o)| n != o).count()
        } else {
            1
        };
        let detail = "ranges can be set once";
        (0..changed).for_each(|_| errors.push(FieldError::forbidden(&path.child("podCIDRs"), detail)));
    }
    let (id, old_id) = (text(&spec.provider_id), text(&was.provider_id));
    if !old_id.is_empty() && id != old_id {
        errors.push(FieldError::invalid(&path.child("providerID"), id, "cannot change once set"));
    }
    if let Some(source) = &spec.config_source {
        check_config_source(source, Origin::Spec, &path.child("configSource"), errors);
    }
    let config = node.status.as_ref().and_then(|s| s.config.as_ref());
    let sources = config
        .map(|c| [("assigned", &c.assigned), ("active", &c.active), ("lastKnownGood", &c.last_known_good)]);
    for (field, source) in sources.into_iter().flatten() {
        if let Some(source) = source {
            let path = Path::new("status").child("config").child(field);
            check_config_source(source, Origin::Status, &path, errors);
        }
    }
    if text(&spec.external_id) != text(&was.external_id) {
        errors.push(FieldError::forbidden(&path.child("externalID"), "cannot change"));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Spec,
    Status,
}

fn check_config_source(source: &api::NodeConfigSource, origin: Origin, path: &Path, errors: &mut ErrorList) {
    let Some(map) = &source.config_map else {
        errors.push(FieldError::invalid(path, Value::Null, "a source must be given"));
        return;
    };
    let path = path.child("configMap");
    for (field, value) in [("uid", text(&map.uid)), ("resourceVersion", text(&map.resource_version))] {
        match origin {
            Origin::Spec if !value.is_empty() => {
                errors.push(FieldError::forbidden(&path.child(field), "cannot be set in a specification"));
            }
            Origin::Status if value.is_empty() => errors.push(FieldError::required(&path.child(field), "")),
            _ => {}
        }
    }
    type Rule = fn(&str) -> Vec<String>;
    let names: [(&str, &str, Rule); 3] = [
        ("namespace", &map.namespace, format::dns_label),
        ("name", &map.name, format::dns_subdomain),
        ("kubeletConfigKey", &map.kubelet_config_key, format::config_key),
    ];
    for (field, value, rule) in names {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        } else {
            invalid(rule(value), value, &path.child(field), errors);
        }
    }
}

fn warnings(obj: &Value) -> Vec<String> {
    let spec: api::NodeSpec = obj.get("spec").and_then(try_view).unwrap_or_default();
    let mut all = Vec::new();
    if spec.config_source.is_some() {
        all.push("spec.configSource: the feature is no longer supported".into());
    }
    if !text(&spec.external_id).is_empty() {
        all.push("spec.externalID: the field is deprecated and unused".into());
    }
    all
}
