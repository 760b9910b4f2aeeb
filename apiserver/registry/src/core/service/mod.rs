//! Service: what it asks for, what is given to it, what is right.
//!
//! `allocate` comes first: it brings addresses and ports together with an allocator of the apiserver; then the object is
//! prepared, and `rules` look at the result.

pub(crate) mod allocate;
pub(crate) mod rules;

use std::borrow::Cow;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, Path};
use serde_json::Value;

use crate::format::{self, masked, parse_cidr_sloppy};
use crate::resource::*;
use crate::strategy::SelectableFields;
use crate::view::{carry_over, items, remove_at, str_at, text, try_view, view};
use crate::{Allocator, Context, MetaRules, NameRule, Part, Strategy, StrategyError};
use crate::{Column, table};
use allocate::{health_checked, spec_of};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    allow_create_on_update: true,
    storage_prefix: Some("services/specs"),
    ..Resource::core("Service", "ServiceList", "services")
}
.with_status(&[
    Subresource::other("proxy", Kind::core("ServiceProxyOptions"), Verbs::PROXY),
    Subresource::status(Kind::core("Service"), &[&["spec"]]),
]);

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Type", "How far the Service can be reached from."),
    Column::text("Cluster-IP", "The address within the cluster."),
    Column::text("External-IP", "Addresses from outside."),
    Column::text("Port(s)", "Ports, and the nodes' ports for them."),
    Column::AGE,
    Column::text("Selector", "The labels of the Pods behind it.").wide(),
];

fn external_ip(obj: &Value) -> String {
    let own: Vec<&str> =
        obj["spec"]["externalIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match str_at(obj, &["spec", "type"]) {
        "ClusterIP" | "NodePort" if own.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => own.join(","),
        "LoadBalancer" => {
            let ingress = obj["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
            let given: std::collections::BTreeSet<&str> = ingress
                .map(|one| match str_at(one, &["ip"]) {
                    "" => str_at(one, &["hostname"]),
                    ip => ip,
                })
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<&str> = given.into_iter().chain(own).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => str_at(obj, &["spec", "externalName"]).to_owned(),
        _ => "<unknown>".into(),
    }
}

/// See the module.
pub(crate) struct Service;

impl Strategy for Service {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsLabel)
    }

    fn allocate(
        &self,
        obj: &mut Value,
        old: Option<&Value>,
        allocator: &mut dyn Allocator,
    ) -> Result<(), StrategyError> {
        allocate::allocate(obj, old, allocator)
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set_status(obj, serde_json::json!({ "loadBalancer": {} }));
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        if part == Part::Status {
            carry_over(obj, old, "spec");
            return;
        }
        carry_over(obj, old, "status");
        drop_dependent(obj, old);
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(service) = view::<api::Service>(&without_conditions(obj), &mut errors) {
            rules::check(&service, None, &mut errors);
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (Some(new), Some(was)) = (
            view::<api::Service>(&without_conditions(obj), &mut errors),
            view::<api::Service>(&without_conditions(old), &mut errors),
        ) else {
            return errors;
        };
        if part == Part::Status {
            rules::check_status(&new, &was, &mut errors);
            return errors;
        }
        rules::check_change(&new, &was, &mut errors);
        rules::check(&new, Some(&was), &mut errors);
        errors
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        warnings(obj)
    }

    fn warnings_on_update(&self, part: Part, obj: &Value, _old: &Value) -> Vec<String> {
        if part == Part::Status { Vec::new() } else { warnings(obj) }
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn selectable_fields<'a>(&self, obj: &'a Value) -> SelectableFields<'a> {
        vec![
            ("spec.clusterIP", Cow::Borrowed(str_at(obj, &["spec", "clusterIP"]))),
            ("spec.type", Cow::Borrowed(str_at(obj, &["spec", "type"]))),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let ports = obj["spec"]["ports"].as_array().into_iter().flatten();
        let ports: Vec<String> = ports
            .map(|port| {
                let protocol = str_at(port, &["protocol"]);
                match port["nodePort"].as_i64().unwrap_or(0) {
                    0 => format!("{}/{protocol}", port["port"]),
                    node => format!("{}:{node}/{protocol}", port["port"]),
                }
            })
            .collect();
        let cluster_ip = obj["spec"]["clusterIPs"].get(0).and_then(Value::as_str).unwrap_or_default();
        vec![
            table::name(obj),
            str_at(obj, &["spec", "type"]).into(),
            table::none(cluster_ip),
            external_ip(obj).into(),
            table::none(&ports.join(",")),
            table::age(obj, now),
            table::labels(obj["spec"].get("selector")),
        ]
    }
}

fn set_status(obj: &mut Value, status: Value) {
    if let Some(map) = obj.as_object_mut() {
        map.insert("status".into(), status);
    }
}

/// Fields that only the old type had go with it, unless the writer has changed them.
fn drop_dependent(obj: &mut Value, old: &Value) {
    let (new, was) = (spec_of(obj), spec_of(old));
    let (kind, old_kind) = (text(&new.type_), text(&was.type_));
    let same = |field: &str| obj["spec"].get(field) == old["spec"].get(field);
    let external_name = |kind: &str| kind == "ExternalName";
    let has_ports = |kind: &str| kind == "NodePort" || kind == "LoadBalancer";
    let mut dropped: Vec<&str> = Vec::new();
    if !external_name(old_kind) && external_name(kind) {
        if same("clusterIP") && same("clusterIPs") {
            dropped.extend(["clusterIP", "clusterIPs"]);
        }
        dropped.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| same(f)));
    }
    if health_checked(&was) && !health_checked(&new) && same("healthCheckNodePort") {
        dropped.push("healthCheckNodePort");
    }
    if old_kind == "LoadBalancer" && kind != "LoadBalancer" {
        let both = ["allocateLoadBalancerNodePorts", "loadBalancerClass"];
        dropped.extend(both.into_iter().filter(|f| same(f)));
    }
    if rules::is_external(&was) && !rules::is_external(&new) && same("externalTrafficPolicy") {
        dropped.push("externalTrafficPolicy");
    }
    let old_ports: Vec<i32> = items(&was.ports).iter().filter_map(|p| p.node_port).collect();
    let kept = items(&new.ports).iter().filter_map(|p| p.node_port).all(|p| old_ports.contains(&p));
    let drop_ports = has_ports(old_kind) && !has_ports(kind) && kept;
    let keep_ingress = kind == "LoadBalancer";
    for field in dropped {
        remove_at(obj, &["spec", field]);
    }
    if drop_ports {
        for port in obj.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            remove_at(port, &["nodePort"]);
        }
    }
    if !keep_ingress {
        remove_at(obj, &["status", "loadBalancer", "ingress"]);
    }
}

/// Conditions are not looked at, and may lack a time, which the typed view demands.
fn without_conditions(obj: &Value) -> Value {
    let mut obj = obj.clone();
    remove_at(&mut obj, &["status", "conditions"]);
    obj
}

fn warnings(obj: &Value) -> Vec<String> {
    let Some(service) = try_view::<api::Service>(&without_conditions(obj)) else { return Vec::new() };
    let spec = service.spec.unwrap_or_default();
    let path = Path::new("spec");
    let mut all = Vec::new();
    let annotations = service.metadata.annotations.unwrap_or_default();
    if annotations.contains_key(rules::TOPOLOGY_HINTS) {
        all.push(format!("annotation {} is deprecated, use {}", rules::TOPOLOGY_HINTS, rules::TOPOLOGY_MODE));
    }
    let kind = text(&spec.type_);
    let headless = kind == "ClusterIP" && text(&spec.cluster_ip) == "None";
    if !text(&spec.cluster_ip).is_empty() && text(&spec.cluster_ip) != "None" {
        let at = path.child("clusterIPs");
        all.extend(
            items(&spec.cluster_ips)
                .iter()
                .enumerate()
                .filter_map(|(i, ip)| format::warn_ip(ip, &at.index(i))),
        );
    }
    let external = items(&spec.external_ips);
    if headless {
        let ignored = [
            ("loadBalancerIP", !text(&spec.load_balancer_ip).is_empty()),
            ("externalIPs", !external.is_empty()),
            ("SessionAffinity", text(&spec.session_affinity) != "None"),
        ];
        let ignored = ignored.into_iter().filter(|(_, given)| *given);
        all.extend(ignored.map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    }
    let at = path.child("externalIPs");
    all.extend(external.iter().enumerate().filter_map(|(i, ip)| format::warn_ip(ip, &at.index(i))));
    if !external.is_empty() && !headless && kind != "ExternalName" {
        all.push("spec.externalIPs is deprecated and need not work in every cluster".into());
    }
    if let Some(ip) = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty()) {
        all.extend(format::warn_ip(ip, &path.child("loadBalancerIP")));
    }
    let at = path.child("loadBalancerSourceRanges");
    for (i, range) in items(&spec.load_balancer_source_ranges).iter().enumerate() {
        all.extend(warn_cidr(range, &at.index(i)));
    }
    if kind == "ExternalName" && !external.is_empty() {
        all.push("spec.externalIPs is ignored for the type ExternalName".into());
    }
    if kind != "ExternalName" && !text(&spec.external_name).is_empty() {
        all.push("spec.externalName is ignored for other types than ExternalName".into());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        all.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
    all
}

fn warn_cidr(range: &str, path: &Path) -> Vec<String> {
    let Some((ip, bits)) = parse_cidr_sloppy(range) else { return Vec::new() };
    let network = masked(ip, bits);
    let mut all = Vec::new();
    if network != ip {
        all.push(format!("{path}: CIDR value {range:?} is ambiguous (should it be \"{network}/{bits}\"?)"));
    }
    let address = range.split('/').next().unwrap_or("");
    if let Some(warning) = format::warn_ip(address, path).filter(|_| all.is_empty()) {
        all.push(warning);
    }
    all
}
