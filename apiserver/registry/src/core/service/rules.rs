//! What a Service may say.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::allocate::health_checked;
use crate::core::pod::container::one_of;
use crate::core::pod::handler::check_port;
use crate::format::{
    self, check_cidr, check_endpoint_ip, check_ip, invalid, is_dual_stack, is_ipv6, parse_ip_sloppy,
};
use crate::meta::check_labels;
use crate::view::{items, text};

/// The annotation of old by which traffic was kept near.
pub(crate) const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// The one that replaced it.
pub(crate) const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// A Service without an address of its own.
pub(crate) fn is_headless(spec: &api::ServiceSpec) -> bool {
    matches!(items(&spec.cluster_ips), [only] if only == "None")
}

/// Whether it can be reached from outside the cluster.
pub(crate) fn is_external(spec: &api::ServiceSpec) -> bool {
    match text(&spec.type_) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !items(&spec.external_ips).is_empty(),
        _ => false,
    }
}

/// A Service, new or changed.
pub(crate) fn check(service: &api::Service, old: Option<&api::Service>, errors: &mut ErrorList) {
    let none = api::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let old_spec = old.map(|o| o.spec.as_ref().unwrap_or(&none));
    let path = Path::new("spec");
    check_annotations(service, errors);
    check_type(spec, &path, errors);
    check_ports(spec, &path, errors);
    if let Some(selector) = &spec.selector {
        check_labels(selector, &path.child("selector"), errors);
    }
    check_affinity(spec, &path, errors);
    check_addresses(spec, old_spec, errors);
    let old_external = old_spec.map_or(&[][..], |o| items(&o.external_ips));
    for (i, ip) in items(&spec.external_ips).iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        let before = errors.len();
        check_ip(ip, old_external, &at, errors);
        if errors.len() == before {
            check_endpoint_ip(ip, &at, errors);
        }
    }
    check_source_ranges(service, spec, (old, old_spec), errors);
    check_load_balancer(spec, &path, errors);
    check_traffic(spec, &path, errors);
}

fn check_annotations(service: &api::Service, errors: &mut ErrorList) {
    let Some(annotations) = &service.metadata.annotations else { return };
    if let (Some(mode), Some(hints)) = (annotations.get(TOPOLOGY_MODE), annotations.get(TOPOLOGY_HINTS))
        && mode != hints
    {
        let path = Path::new("metadata").child("annotations").key(TOPOLOGY_MODE);
        errors.push(FieldError::invalid(&path, mode.as_str(), format!("must be what {TOPOLOGY_HINTS} says")));
    }
}

fn check_type(spec: &api::ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let kind = text(&spec.type_);
    if items(&spec.ports).is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let at = path.child("clusterIPs").index(0);
            errors.push(FieldError::invalid(&at, "None", format!("must not be 'None' for the type {kind}")));
        }
        "ExternalName" => check_external_name(spec, path, errors),
        _ => {}
    }
    one_of(kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &path.child("type"), errors);
}

fn check_external_name(spec: &api::ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let set = [
        ("clusterIPs", !items(&spec.cluster_ips).is_empty()),
        ("ipFamilies", !items(&spec.ip_families).is_empty()),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ];
    for (field, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
        errors.push(FieldError::forbidden(&path.child(field), "cannot be set for the type ExternalName"));
    }
    let name = text(&spec.external_name);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("externalName"), ""));
    } else {
        invalid(format::dns_subdomain(name), name, &path.child("externalName"), errors);
    }
}

fn check_ports(spec: &api::ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let ports = items(&spec.ports);
    let list = path.child("ports");
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let at = list.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            invalid(format::dns_label(name), name, &at.child("name"), errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        } else if ports.len() > 1 {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        for fault in format::port_number(port.port) {
            errors.push(FieldError::invalid(&at.child("port"), port.port, fault));
        }
        let protocol = text(&port.protocol);
        one_of(protocol, &["SCTP", "TCP", "UDP"], &at.child("protocol"), errors);
        check_port(
            port.target_port.as_ref().unwrap_or(&IntOrString::Int(0)),
            &at.child("targetPort"),
            errors,
        );
        if let Some(protocol) = &port.app_protocol {
            invalid(format::qualified_name(protocol), protocol, &at.child("appProtocol"), errors);
        }
        let node_port = port.node_port.unwrap_or(0);
        if node_port != 0 {
            if text(&spec.type_) == "ClusterIP" {
                let detail = "cannot be set for the type ClusterIP";
                errors.push(FieldError::forbidden(&at.child("nodePort"), detail));
            }
            if !node_ports.insert((protocol, node_port)) {
                errors.push(FieldError::duplicate(&at.child("nodePort"), node_port));
            }
        }
        if !numbers.insert((protocol, port.port)) {
            errors.push(FieldError::duplicate(&at, port.port));
        }
    }
}

const AFFINITY_MAX_SECONDS: i32 = 24 * 60 * 60;

fn check_affinity(spec: &api::ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let affinity = text(&spec.session_affinity);
    one_of(affinity, &["ClientIP", "None"], &path.child("sessionAffinity"), errors);
    let at = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        ("None", Some(_)) => errors.push(FieldError::forbidden(&at, "needs session affinity")),
        ("ClientIP", None) => errors.push(FieldError::required(&at, "")),
        ("ClientIP", Some(config)) => {
            let at = at.child("clientIP");
            let Some(client) = &config.client_ip else {
                errors.push(FieldError::required(&at, ""));
                return;
            };
            let at = at.child("timeoutSeconds");
            match client.timeout_seconds {
                None => errors.push(FieldError::required(&at, "")),
                Some(seconds) if !(1..=AFFINITY_MAX_SECONDS).contains(&seconds) => {
                    let detail = format!("must be between 1 and {AFFINITY_MAX_SECONDS}, inclusive");
                    errors.push(FieldError::invalid(&at, seconds, detail));
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

/// Addresses, families and policy, as far as they can be judged without knowing what the cluster has.
pub(crate) fn check_addresses(
    spec: &api::ServiceSpec,
    old: Option<&api::ServiceSpec>,
    errors: &mut ErrorList,
) {
    if text(&spec.type_) == "ExternalName" {
        return;
    }
    let path = Path::new("spec");
    let at = path.child("clusterIPs");
    let (first, all) = (text(&spec.cluster_ip), items(&spec.cluster_ips));
    let listed = || Value::from(all.to_vec());
    match (first.is_empty(), all.first()) {
        (false, None) => errors.push(FieldError::required(&at, "")),
        (false, Some(head)) if head != first => {
            errors.push(FieldError::invalid(&at, listed(), "the first must be clusterIP"));
        }
        (true, Some(_)) => errors.push(FieldError::invalid(&at, listed(), "must be empty without clusterIP")),
        _ => {}
    }
    let families = items(&spec.ip_families);
    let mut seen = BTreeSet::new();
    for (i, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(i);
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            errors.push(FieldError::not_supported(&at, family.as_str(), &["IPv4", "IPv6"]));
        }
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(&at, family.as_str()));
        }
    }
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = spec.ip_family_policy.as_deref().filter(|p| !POLICIES.contains(p)) {
        errors.push(FieldError::not_supported(&path.child("ipFamilyPolicy"), policy, POLICIES));
    }
    let before = errors.len();
    let old_ips = old.map_or(&[][..], |o| items(&o.cluster_ips));
    for (i, ip) in all.iter().enumerate() {
        if i == 0 && ip == "None" {
            if all.len() > 1 {
                errors.push(FieldError::invalid(&at, listed(), "'None' stands alone"));
            }
            continue;
        }
        check_ip(ip, old_ips, &at.index(i), errors);
    }
    let wrong = errors.len() > before;
    if all.len() > 2 {
        errors.push(FieldError::invalid(&at, listed(), "must not have more than 2"));
    }
    if !wrong {
        check_families_match(all, families, &at, errors);
    }
}

fn check_families_match(all: &[String], families: &[String], path: &Path, errors: &mut ErrorList) {
    if all.len() > 1 {
        let list: Vec<&str> = all.iter().map(String::as_str).collect();
        if is_dual_stack(&list) != Some(true) {
            errors.push(FieldError::invalid(path, all.to_vec(), "one address of each version may be given"));
        }
    }
    if all.first().is_some_and(|ip| ip == "None") {
        return;
    }
    for (i, (ip, family)) in all.iter().zip(families).enumerate() {
        let six = parse_ip_sloppy(ip).is_some_and(|ip| is_ipv6(&ip));
        if (family == "IPv4" && six) || (family == "IPv6" && !six) {
            errors.push(FieldError::invalid(
                &path.index(i),
                ip.as_str(),
                format!("must be an {family} address"),
            ));
        }
    }
}

type Old<'a> = (Option<&'a api::Service>, Option<&'a api::ServiceSpec>);

fn check_source_ranges(
    service: &api::Service,
    spec: &api::ServiceSpec,
    (old, old_spec): Old<'_>,
    errors: &mut ErrorList,
) {
    const DETAIL: &str = "needs the type LoadBalancer";
    let balanced = text(&spec.type_) == "LoadBalancer";
    let ranges = items(&spec.load_balancer_source_ranges);
    if !ranges.is_empty() {
        let path = Path::new("spec").child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(FieldError::forbidden(&path, DETAIL));
        }
        let before: Vec<String> = old_spec
            .map(|o| items(&o.load_balancer_source_ranges).iter().map(|r| r.trim().to_owned()).collect())
            .unwrap_or_default();
        for (i, range) in ranges.iter().enumerate() {
            check_cidr(range.trim(), &before, &path.index(i), errors);
        }
        return;
    }
    let of = |s: &api::Service| s.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE_RANGES).cloned());
    let Some(annotation) = of(service) else { return };
    let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
    if !balanced {
        errors.push(FieldError::forbidden(&path, DETAIL));
    }
    if old.and_then(of).as_ref() != Some(&annotation) && !annotation.trim().is_empty() {
        for range in annotation.split(',') {
            check_cidr(range.trim(), &[], &path, errors);
        }
    }
}

fn check_load_balancer(spec: &api::ServiceSpec, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "needs the type LoadBalancer";
    let balanced = text(&spec.type_) == "LoadBalancer";
    if !balanced && spec.allocate_load_balancer_node_ports.is_some() {
        errors.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), DETAIL));
    }
    if balanced && spec.allocate_load_balancer_node_ports.is_none() {
        errors.push(FieldError::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    check_class(spec, path, errors);
}

fn check_class(spec: &api::ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let Some(class) = &spec.load_balancer_class else { return };
    let at = path.child("loadBalancerClass");
    if text(&spec.type_) == "LoadBalancer" {
        invalid(format::qualified_name(class), class, &at, errors);
    } else {
        errors.push(FieldError::forbidden(&at, "needs the type LoadBalancer"));
    }
}

fn check_traffic(spec: &api::ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let policies = ["Cluster", "Local"];
    let external = text(&spec.external_traffic_policy);
    let at = path.child("externalTrafficPolicy");
    if is_external(spec) {
        one_of(external, &policies, &at, errors);
    } else if !external.is_empty() {
        errors.push(FieldError::invalid(&at, external, "needs a Service that is reached from outside"));
    }
    let port = spec.health_check_node_port.unwrap_or(0);
    let at = path.child("healthCheckNodePort");
    if !health_checked(spec) {
        if port != 0 {
            let detail = "needs the type LoadBalancer and externalTrafficPolicy Local";
            errors.push(FieldError::invalid(&at, port, detail));
        }
    } else if port == 0 {
        errors.push(FieldError::required(&at, ""));
    } else {
        errors.extend(format::port_number(port).into_iter().map(|f| FieldError::invalid(&at, port, f)));
    }
    let at = path.child("internalTrafficPolicy");
    match spec.internal_traffic_policy.as_deref() {
        None if matches!(text(&spec.type_), "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.push(FieldError::required(&at, ""));
        }
        Some(policy) if !policies.contains(&policy) => {
            errors.push(FieldError::not_supported(&at, policy, &policies));
        }
        _ => {}
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(kind) = spec.traffic_distribution.as_deref().filter(|d| !DISTRIBUTIONS.contains(d)) {
        errors.push(FieldError::not_supported(&path.child("trafficDistribution"), kind, DISTRIBUTIONS));
    }
}

/// What a change may not change.
pub(crate) fn check_change(service: &api::Service, old: &api::Service, errors: &mut ErrorList) {
    let none = api::ServiceSpec::default();
    let (spec, was) = (service.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
    let path = Path::new("spec");
    if text(&spec.type_) != "ExternalName" && text(&was.type_) != "ExternalName" {
        let (headless, was_headless) = (is_headless(spec), is_headless(was));
        let families = (items(&spec.ip_families), items(&was.ip_families));
        let ips = (items(&spec.cluster_ips), items(&was.cluster_ips));
        if !(headless && was_headless) {
            check_kept(ips, "clusterIPs", spec, errors);
        }
        if !headless && !was_headless {
            check_kept(families, "ipFamilies", spec, errors);
        }
    }
    if text(&spec.type_) == "LoadBalancer"
        && text(&was.type_) == "LoadBalancer"
        && spec.load_balancer_class != was.load_balancer_class
    {
        let at = path.child("loadBalancerClass");
        errors.push(FieldError::invalid(&at, text(&spec.load_balancer_class), "cannot change once set"));
    }
    check_class(spec, &path, errors);
    if health_checked(spec)
        && health_checked(was)
        && spec.health_check_node_port != was.health_check_node_port
    {
        errors.push(FieldError::forbidden(&path.child("healthCheckNodePort"), "the field is immutable"));
    }
}

/// The first of a list stays; the second can come and, with the policy's word, go.
fn check_kept(
    (now, was): (&[String], &[String]),
    field: &str,
    spec: &api::ServiceSpec,
    errors: &mut ErrorList,
) {
    let path = Path::new("spec").child(field);
    let mut changed = |i: usize, detail: &str| {
        // Causes of families name the first, whichever has changed.
        let i = if field == "ipFamilies" { 0 } else { i };
        errors.push(FieldError::invalid(&path.index(i), now.to_vec(), detail));
    };
    if was.len() == now.len() {
        for (i, _) in was.iter().zip(now).enumerate().filter(|(_, (w, n))| w != n) {
            changed(i, "cannot change once set");
        }
        return;
    }
    let no_address = items(&spec.cluster_ips).is_empty();
    if was.len() > now.len() && no_address {
        changed(0, "the first cannot be taken away");
    }
    if let (Some(w), Some(n)) = (was.first(), now.first())
        && w != n
    {
        changed(0, "cannot change once set");
    }
    if was.len() > now.len() && now.len() == 1 && spec.ip_family_policy.as_deref() != Some("SingleStack") {
        let at = Path::new("spec").child("ipFamilyPolicy");
        let detail = "must be SingleStack to give up the second";
        errors.push(FieldError::invalid(&at, text(&spec.ip_family_policy), detail));
    }
}

/// What a load balancer says about itself.
pub(crate) fn check_status(service: &api::Service, old: &api::Service, errors: &mut ErrorList) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = |s: &api::Service| -> Vec<api::LoadBalancerIngress> {
        let balancer = s.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        balancer.map(|b| items(&b.ingress).to_vec()).unwrap_or_default()
    };
    let all = ingress(service);
    if service.spec.as_ref().map_or("", |s| text(&s.type_)) != "LoadBalancer" {
        if !all.is_empty() {
            errors.push(FieldError::forbidden(&path, "needs the type LoadBalancer"));
        }
        return;
    }
    let before: Vec<String> = ingress(old).into_iter().filter_map(|i| i.ip).collect();
    for (i, entry) in all.iter().enumerate() {
        let at = path.index(i);
        let ip = text(&entry.ip);
        if !ip.is_empty() {
            check_ip(ip, &before, &at.child("ip"), errors);
        }
        let mode_path = at.child("ipMode");
        match entry.ip_mode.as_deref() {
            None if !ip.is_empty() => errors.push(FieldError::required(&mode_path, "an ip needs it")),
            Some(_) if ip.is_empty() => errors.push(FieldError::forbidden(&mode_path, "needs an ip")),
            Some(mode) if !["Proxy", "VIP"].contains(&mode) => {
                errors.push(FieldError::not_supported(&mode_path, mode, &["Proxy", "VIP"]));
            }
            _ => {}
        }
        let host = text(&entry.hostname);
        if !host.is_empty() {
            let at = at.child("hostname");
            invalid(format::dns_subdomain(host), host, &at, errors);
            if parse_ip_sloppy(host).is_some() {
                errors.push(FieldError::invalid(&at, host, "must be a name, not an address"));
            }
        }
    }
}
