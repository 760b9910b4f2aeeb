//! Addresses and ports that a Service is given: those it asks for, those it had, or new ones.

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::{Value, json};

use super::rules::{check_addresses, is_headless};
use crate::format::{is_ipv6, parse_ip_sloppy};
use crate::view::{items, text, try_view};
use crate::{AllocationError, Allocator, StrategyError};

/// The specification as a view; empty when the tree does not fit, which decoding has excluded.
pub(crate) fn spec_of(obj: &Value) -> api::ServiceSpec {
    obj.get("spec").and_then(try_view).unwrap_or_default()
}

/// Whether a port for health checks belongs to it.
pub(crate) fn health_checked(spec: &api::ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

fn has_addresses(spec: &api::ServiceSpec) -> bool {
    text(&spec.type_) != "ExternalName"
}

fn wants_node_ports(spec: &api::ServiceSpec) -> bool {
    match text(&spec.type_) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports.unwrap_or(true),
        _ => false,
    }
}

/// What a stored Service holds of the cluster's addresses and ports; what it no longer holds after a write is free again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Cluster addresses.
    pub cluster_ips: Vec<String>,
    /// Ports of every node, health checks' among them.
    pub node_ports: Vec<u16>,
}

/// What a Service holds.
pub fn held_by_service(service: &Value) -> Held {
    let spec = spec_of(service);
    if !has_addresses(&spec) {
        return Held::default();
    }
    let ips = items(&spec.cluster_ips).iter().filter(|ip| *ip != "None" && !ip.is_empty());
    let health = spec.health_check_node_port.filter(|_| health_checked(&spec));
    let ports = items(&spec.ports).iter().filter_map(|p| p.node_port).chain(health);
    Held {
        cluster_ips: ips.cloned().collect(),
        node_ports: ports.filter_map(|p| u16::try_from(p).ok()).filter(|p| *p != 0).collect(),
    }
}

/// Fills in what a Service is given. `old` is what is stored.
pub(crate) fn allocate(
    obj: &mut Value,
    old: Option<&Value>,
    allocator: &mut dyn Allocator,
) -> Result<(), StrategyError> {
    let mut spec = spec_of(obj);
    let before = spec.clone();
    let old = old.map(spec_of);
    if let Some(old) = &old {
        keep_allocated(&mut spec, old);
    }
    sync_addresses(&mut spec, old.as_ref());
    init_families(&mut spec, old.as_ref(), allocator)?;
    give_addresses(&mut spec, old.as_ref(), allocator)?;
    match &old {
        None => give_new_ports(&mut spec, allocator)?,
        Some(old) => give_changed_ports(&mut spec, old, allocator)?,
    }
    give_health_port(&mut spec, old.as_ref(), allocator)?;
    write(obj, &spec, &before);
    Ok(())
}

/// What a writer leaves out stays what it was.
fn keep_allocated(spec: &mut api::ServiceSpec, old: &api::ServiceSpec) {
    if has_addresses(old) && has_addresses(spec) {
        if text(&spec.cluster_ip).is_empty() {
            spec.cluster_ip = old.cluster_ip.clone();
        }
        if items(&spec.cluster_ips).is_empty() {
            spec.cluster_ips = old.cluster_ips.clone();
        }
    }
    if wants_node_ports(old) && wants_node_ports(spec) {
        let numbers = |s: &api::ServiceSpec| -> Vec<i32> {
            items(&s.ports).iter().filter_map(|p| p.node_port).filter(|p| *p != 0).collect()
        };
        let (was, is) = (numbers(old), numbers(spec));
        for port in spec.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
            let same = items(&old.ports).iter().rev().find(|o| text(&o.name) == text(&port.name));
            let number = same.and_then(|o| o.node_port).unwrap_or(0);
            if !(was.contains(&number) && is.contains(&number)) {
                port.node_port = Some(number).filter(|n| *n != 0);
            }
        }
    }
    if health_checked(old) && health_checked(spec) && spec.health_check_node_port.unwrap_or(0) == 0 {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// `clusterIP` is the first of `clusterIPs`, whichever of the two the writer knows.
fn sync_addresses(spec: &mut api::ServiceSpec, old: Option<&api::ServiceSpec>) {
    let first = text(&spec.cluster_ip).to_owned();
    let Some(old) = old else {
        if !first.is_empty() && items(&spec.cluster_ips).is_empty() {
            spec.cluster_ips = Some(vec![first]);
        }
        return;
    };
    let old_first = text(&old.cluster_ip);
    if !items(&old.cluster_ips).is_empty() && items(&spec.cluster_ips).is_empty() && old_first == first {
        spec.cluster_ips = old.cluster_ips.clone();
    }
    let same_list = items(&old.cluster_ips) == items(&spec.cluster_ips);
    if old_first != first && same_list {
        spec.cluster_ips = if !old_first.is_empty() && first.is_empty() { None } else { Some(vec![first]) };
    }
}

const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";
const PREFER: &str = "PreferDualStack";

fn family_of(ip: &str) -> &'static str {
    if parse_ip_sloppy(ip).is_some_and(|ip| is_ipv6(&ip)) { "IPv6" } else { "IPv4" }
}

fn other(family: &str) -> String {
    if family == "IPv4" { "IPv6".into() } else { "IPv4".into() }
}

/// A Service that prefers both families and changes nothing about them is left as it is.
fn prefers_unchanged(spec: &api::ServiceSpec, old: Option<&api::ServiceSpec>) -> bool {
    old.is_some_and(|old| {
        spec.ip_family_policy.as_deref() == Some(PREFER)
            && old.ip_family_policy.as_deref() == Some(PREFER)
            && old.type_ == spec.type_
            && has_addresses(spec)
            && old.cluster_ip == spec.cluster_ip
            && items(&old.cluster_ips) == items(&spec.cluster_ips)
            && items(&old.ip_families) == items(&spec.ip_families)
    })
}

fn init_families(
    spec: &mut api::ServiceSpec,
    old: Option<&api::ServiceSpec>,
    allocator: &dyn Allocator,
) -> Result<(), StrategyError> {
    if !has_addresses(spec) || prefers_unchanged(spec, old) {
        return Ok(());
    }
    let selectorless =
        text(&spec.cluster_ip) == "None" && spec.selector.as_ref().is_none_or(|s| s.is_empty());
    if spec.ip_family_policy.is_none() {
        let inherited = old.and_then(|o| o.ip_family_policy.clone());
        let default = if selectorless { REQUIRE } else { SINGLE };
        spec.ip_family_policy = Some(inherited.unwrap_or_else(|| default.into()));
    }
    let mut errors = ErrorList::new();
    check_addresses(spec, old, &mut errors);
    refuse(errors)?;
    let mut errors = ErrorList::new();
    settle_policy(spec, old, &mut errors);
    let families = allocator.families();
    add_address_families(spec, families, &mut errors);
    refuse(errors)?;
    let list = spec.ip_families.get_or_insert_default();
    if list.is_empty() && selectorless {
        list.push(families.first().copied().unwrap_or("IPv4").into());
    }
    let policy = spec.ip_family_policy.as_deref().unwrap_or(SINGLE);
    if selectorless {
        if list.len() == 1 && policy != SINGLE {
            list.push(other(&list[0]));
        }
        return Ok(());
    }
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    if policy == REQUIRE && families.len() < 2 {
        let detail = "the cluster has addresses of one family only";
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), policy, detail));
    }
    for (i, family) in list.iter().enumerate().filter(|(_, f)| !families.contains(&f.as_str())) {
        let at = path.child("ipFamilies").index(i);
        errors.push(FieldError::invalid(&at, family.as_str(), "the cluster has no such addresses"));
    }
    refuse(errors)?;
    if list.is_empty() {
        list.push(families.first().copied().unwrap_or("IPv4").into());
    }
    if policy != SINGLE && list.len() == 1 && families.len() == 2 {
        list.push(other(&list[0]));
    }
    Ok(())
}

fn refuse(errors: ErrorList) -> Result<(), StrategyError> {
    if errors.is_empty() { Ok(()) } else { Err(StrategyError::Invalid(errors)) }
}

/// One family or two: the policy and the lists must agree.
fn settle_policy(spec: &mut api::ServiceSpec, old: Option<&api::ServiceSpec>, errors: &mut ErrorList) {
    let policy = spec.ip_family_policy.clone().unwrap_or_default();
    let at = Path::new("spec").child("ipFamilyPolicy");
    if let Some(old) = old {
        let (ips, families) = (items(&spec.cluster_ips), items(&spec.ip_families));
        let (old_ips, old_families) = (items(&old.cluster_ips), items(&old.ip_families));
        if policy == SINGLE {
            if ips == old_ips && ips.len() > 1 {
                spec.cluster_ips = Some(vec![old_ips[0].clone()]);
            }
            if items(&spec.ip_families) == old_families && old_families.len() > 1 {
                spec.ip_families = Some(vec![old_families[0].clone()]);
            }
        } else {
            let reduced =
                |now: &[String], was: &[String]| was.len() == 2 && now.len() == 1 && now[0] == was[0];
            for is_reduced in [reduced(ips, old_ips), reduced(families, old_families)] {
                if is_reduced {
                    let detail = "must be SingleStack to give up the second family";
                    errors.push(FieldError::invalid(&at, policy.as_str(), detail));
                }
            }
        }
    }
    if policy == SINGLE {
        for count in [items(&spec.cluster_ips).len(), items(&spec.ip_families).len()] {
            if count == 2 {
                let detail = "must be RequireDualStack or PreferDualStack with two families";
                errors.push(FieldError::invalid(&at, policy.as_str(), detail));
            }
        }
    }
}

/// Addresses that were asked for say their family.
fn add_address_families(spec: &mut api::ServiceSpec, families: &[&str], errors: &mut ErrorList) {
    let addresses = spec.cluster_ips.clone().unwrap_or_default();
    for (i, ip) in addresses.iter().enumerate().take_while(|(_, ip)| *ip != "None") {
        let list = spec.ip_families.get_or_insert_default();
        if i < list.len() {
            continue;
        }
        let family = family_of(ip);
        if families.contains(&family) {
            list.push(family.into());
        } else {
            let at = Path::new("spec").child("clusterIPs").index(i);
            errors.push(FieldError::invalid(
                &at,
                ip.as_str(),
                format!("the cluster has no {family} addresses"),
            ));
        }
    }
}

fn give_addresses(
    spec: &mut api::ServiceSpec,
    old: Option<&api::ServiceSpec>,
    allocator: &mut dyn Allocator,
) -> Result<(), StrategyError> {
    if !has_addresses(spec) || prefers_unchanged(spec, old) {
        return Ok(());
    }
    let first = match old {
        // Addresses are given once; only a second family can come later.
        Some(old) if has_addresses(old) => {
            if items(&old.cluster_ips).first().is_some_and(|ip| ip == "None") {
                return Ok(());
            }
            let upgraded = items(&old.ip_families).len() == 1 && items(&spec.ip_families).len() == 2;
            if !upgraded {
                return Ok(());
            }
            1
        }
        _ => 0,
    };
    if is_headless(spec) {
        return Ok(());
    }
    let families = spec.ip_families.clone().unwrap_or_default();
    let addresses = spec.cluster_ips.get_or_insert_default();
    let path = Path::new("spec").child("clusterIPs");
    for (i, family) in families.iter().enumerate().skip(first) {
        if i >= addresses.len() {
            addresses.push(String::new());
        }
        let wanted = Some(addresses[i].as_str()).filter(|ip| !ip.is_empty());
        let given =
            allocator.cluster_ip(family, wanted).map_err(|e| refused(e, &path, addresses[i].as_str()))?;
        addresses[i] = given;
    }
    spec.cluster_ip = addresses.first().cloned();
    Ok(())
}

fn refused(error: AllocationError, path: &Path, value: impl Into<Value>) -> StrategyError {
    match error {
        AllocationError::Full => StrategyError::Exhausted(error.to_string()),
        _ => StrategyError::Invalid(FieldError::invalid(path, value, error.to_string()).into()),
    }
}

fn node_port(allocator: &mut dyn Allocator, wanted: Option<i32>, path: &Path) -> Result<i32, StrategyError> {
    allocator.node_port(wanted).map_err(|e| refused(e, path, wanted.unwrap_or(0)))
}

fn gives_node_ports(spec: &api::ServiceSpec) -> bool {
    matches!(text(&spec.type_), "NodePort" | "LoadBalancer")
}

/// Ports of a new Service: equal ports (of two protocols) get equal node ports.
fn give_new_ports(spec: &mut api::ServiceSpec, allocator: &mut dyn Allocator) -> Result<(), StrategyError> {
    if !gives_node_ports(spec) {
        return Ok(());
    }
    let all = wants_node_ports(spec);
    let asked: Vec<(i32, i32)> =
        items(&spec.ports).iter().filter_map(|p| Some((p.port, p.node_port.filter(|n| *n != 0)?))).collect();
    let mut given: Vec<(i32, i32)> = Vec::new();
    for (i, port) in spec.ports.iter_mut().flatten().enumerate() {
        let own = port.node_port.filter(|n| *n != 0);
        if own.is_none() && !all {
            continue;
        }
        let path = Path::new("spec").child("ports").index(i).child("nodePort");
        match given.iter().find(|(p, _)| *p == port.port).map(|(_, n)| *n) {
            None => {
                let wanted = asked.iter().find(|(p, _)| *p == port.port).map(|(_, n)| *n);
                let number = node_port(allocator, wanted, &path)?;
                port.node_port = Some(number);
                given.push((port.port, number));
            }
            Some(number) => match own {
                None => port.node_port = Some(number),
                Some(own) if own != number => {
                    node_port(allocator, Some(own), &path)?;
                }
                Some(_) => {}
            },
        }
    }
    Ok(())
}

fn give_changed_ports(
    spec: &mut api::ServiceSpec,
    old: &api::ServiceSpec,
    allocator: &mut dyn Allocator,
) -> Result<(), StrategyError> {
    if !gives_node_ports(spec) {
        return Ok(());
    }
    let all = wants_node_ports(spec);
    let mut held: Vec<i32> = items(&old.ports).iter().filter_map(|p| p.node_port).collect();
    for (i, port) in spec.ports.iter_mut().flatten().enumerate() {
        let path = Path::new("spec").child("ports").index(i).child("nodePort");
        match port.node_port.filter(|n| *n != 0) {
            Some(number) if held.contains(&number) => {}
            Some(number) => {
                node_port(allocator, Some(number), &path)?;
                held.push(number);
            }
            None if all => port.node_port = Some(node_port(allocator, None, &path)?),
            None => {}
        }
    }
    Ok(())
}

fn give_health_port(
    spec: &mut api::ServiceSpec,
    old: Option<&api::ServiceSpec>,
    allocator: &mut dyn Allocator,
) -> Result<(), StrategyError> {
    if !health_checked(spec) || old.is_some_and(health_checked) {
        return Ok(());
    }
    let wanted = spec.health_check_node_port.filter(|p| *p != 0);
    let path = Path::new("spec").child("healthCheckNodePort");
    match node_port(allocator, wanted, &path) {
        Ok(number) => spec.health_check_node_port = Some(number),
        // Stock answers this one as a failure of its own.
        Err(StrategyError::Invalid(errors)) => return Err(StrategyError::Exhausted(errors.aggregate())),
        Err(other) => return Err(other),
    }
    Ok(())
}

/// Writes what was given into the tree, and nothing else.
fn write(obj: &mut Value, spec: &api::ServiceSpec, before: &api::ServiceSpec) {
    let Some(map) = obj.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let mut set = |field: &str, value: Option<Value>| match value {
        Some(value) => {
            map.insert(field.into(), value);
        }
        None => {
            map.remove(field);
        }
    };
    if spec.cluster_ip != before.cluster_ip {
        set("clusterIP", spec.cluster_ip.clone().filter(|ip| !ip.is_empty()).map(Value::from));
    }
    if spec.cluster_ips != before.cluster_ips {
        set("clusterIPs", spec.cluster_ips.clone().filter(|l| !l.is_empty()).map(|l| json!(l)));
    }
    if spec.ip_families != before.ip_families {
        set("ipFamilies", spec.ip_families.clone().filter(|l| !l.is_empty()).map(|l| json!(l)));
    }
    if spec.ip_family_policy != before.ip_family_policy {
        set("ipFamilyPolicy", spec.ip_family_policy.clone().map(Value::from));
    }
    if spec.health_check_node_port != before.health_check_node_port {
        set("healthCheckNodePort", spec.health_check_node_port.map(Value::from));
    }
    let ports = map.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
    for (tree, port) in ports.zip(items(&spec.ports)) {
        if let (Some(tree), Some(number)) = (tree.as_object_mut(), port.node_port.filter(|n| *n != 0)) {
            tree.insert("nodePort".into(), number.into());
        }
    }
}
