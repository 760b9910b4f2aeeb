//! EndpointSlice.

use k8s_openapi::api::discovery::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::format::{
    self, check_canonical_ip, check_endpoint_ip, check_ip, invalid, is_ipv6, parse_ip_sloppy,
};
use crate::meta::IMMUTABLE;
use crate::resource::*;
use crate::view::{at, generation, items, set_generation, str_at, text, try_view, view};
use crate::{Column, table};
use crate::{Context, MetaRules, NameRule, Part, Strategy};
use jiff::Timestamp;

const RESOURCE: Resource = Resource {
    singular: "endpointslice",
    ..Resource::grouped("discovery.k8s.io", "EndpointSlice", "EndpointSliceList", "endpointslices")
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("AddressType", "IPv4, IPv6 or FQDN."),
    Column::text("Ports", "The ports of all endpoints."),
    Column::text("Endpoints", "The addresses."),
    Column::AGE,
];

/// See the module.
pub(crate) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set_generation(obj, 1);
        drop_topology(obj);
    }

    fn prepare_update(&self, _part: Part, obj: &mut Value, old: &Value, _cx: &Context<'_>) {
        let labels = |o| at(o, &["metadata", "labels"]).cloned();
        let content = |o: &Value| ["addressType", "endpoints", "ports"].map(|f| o.get(f).cloned());
        if content(obj) != content(old) || labels(obj) != labels(old) {
            set_generation(obj, generation(old) + 1);
        }
        if obj.get("endpoints") != old.get("endpoints") {
            drop_topology(obj);
        }
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(slice) = view::<api::EndpointSlice>(obj, &mut errors) else { return errors };
        check_type(&slice, &mut errors);
        check_ports(items(&slice.ports), &mut errors);
        check_endpoints(&slice, &mut errors);
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(slice) = view::<api::EndpointSlice>(obj, &mut errors) else { return errors };
        check_type(&slice, &mut errors);
        check_ports(items(&slice.ports), &mut errors);
        if obj.get("endpoints") != old.get("endpoints") {
            check_endpoints(&slice, &mut errors);
        }
        if slice.address_type != str_at(old, &["addressType"]) {
            errors.push(FieldError::invalid(
                &Path::new("addressType"),
                slice.address_type.as_str(),
                IMMUTABLE,
            ));
        }
        errors
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if str_at(obj, &["addressType"]) == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".into());
        }
        warnings.extend(warn_addresses(obj));
        warnings
    }

    fn warnings_on_update(&self, _part: Part, obj: &Value, _old: &Value) -> Vec<String> {
        warn_addresses(obj)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let ports = obj["ports"].as_array().into_iter().flatten();
        let ports: Vec<String> = ports
            .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            })
            .collect();
        let endpoints = obj["endpoints"].as_array().into_iter().flatten();
        let addresses = endpoints.flat_map(|one| one["addresses"].as_array()).flatten();
        let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
        vec![
            table::name(obj),
            obj["addressType"].clone(),
            table::few(&ports),
            table::few(&addresses),
            table::age(obj, now),
        ]
    }
}

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const HINTS_MAX: usize = 8;

/// Version v1 has no topology map beside `nodeName` and `zone`.
fn drop_topology(obj: &mut Value) {
    for endpoint in obj.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(map) = endpoint.as_object_mut() {
            map.remove("deprecatedTopology");
        }
    }
}

fn check_type(slice: &api::EndpointSlice, errors: &mut ErrorList) {
    let path = Path::new("addressType");
    match slice.address_type.as_str() {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => errors.push(FieldError::required(&path, "")),
        other => errors.push(FieldError::not_supported(&path, other, &["FQDN", "IPv4", "IPv6"])),
    }
}

fn check_ports(ports: &[api::EndpointPort], errors: &mut ErrorList) {
    let path = Path::new("ports");
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&path, ports.len(), PORTS_MAX));
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            invalid(format::dns_label(name), name, &at.child("name"), errors);
        }
        if names.contains(&name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        names.push(name);
        match port.protocol.as_deref() {
            None => errors.push(FieldError::required(&at.child("protocol"), "")),
            Some("TCP" | "UDP" | "SCTP") => {}
            Some(other) => {
                errors.push(FieldError::not_supported(&at.child("protocol"), other, &["SCTP", "TCP", "UDP"]));
            }
        }
        if let Some(protocol) = &port.app_protocol {
            invalid(format::qualified_name(protocol), protocol, &at.child("appProtocol"), errors);
        }
    }
}

fn check_endpoints(slice: &api::EndpointSlice, errors: &mut ErrorList) {
    let path = Path::new("endpoints");
    let endpoints = items(&slice.endpoints);
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&path, endpoints.len(), ENDPOINTS_MAX));
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = path.index(i);
        let addresses = &endpoint.addresses;
        let addresses_path = at.child("addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(&addresses_path, "an endpoint needs an address"));
        } else if addresses.len() > ADDRESSES_MAX {
            errors.push(FieldError::too_many(&addresses_path, addresses.len(), ADDRESSES_MAX));
        }
        for (j, address) in addresses.iter().enumerate() {
            check_address(address, &slice.address_type, (&addresses_path, j), errors);
        }
        if let Some(node) = &endpoint.node_name {
            invalid(format::dns_subdomain(node), node, &at.child("nodeName"), errors);
        }
        if let Some(hostname) = &endpoint.hostname {
            invalid(format::dns_label(hostname), hostname, &at.child("hostname"), errors);
        }
        if let Some(hints) = &endpoint.hints {
            check_hints(hints, &at.child("hints"), errors);
        }
    }
}

fn check_address(address: &str, kind: &str, (list, index): (&Path, usize), errors: &mut ErrorList) {
    let path = list.index(index);
    let before = errors.len();
    match kind {
        "IPv4" => check_ip(address, &[], &path, errors),
        "IPv6" => check_canonical_ip(address, &path, errors),
        "FQDN" => return format::fully_qualified_domain(address, &path, errors),
        _ => return,
    }
    if errors.len() > before {
        return;
    }
    let six = parse_ip_sloppy(address).is_some_and(|ip| is_ipv6(&ip));
    if six != (kind == "IPv6") {
        errors.push(FieldError::invalid(list, address, format!("must be an {kind} address")));
    }
    check_endpoint_ip(address, &path, errors);
}

fn check_hints(hints: &api::EndpointHints, path: &Path, errors: &mut ErrorList) {
    let zones: Vec<&str> = items(&hints.for_zones).iter().map(|z| z.name.as_str()).collect();
    if !check_hint_names(&zones, &path.child("forZones"), format::label_value, errors) {
        return;
    }
    let nodes: Vec<&str> = items(&hints.for_nodes).iter().map(|n| n.name.as_str()).collect();
    check_hint_names(&nodes, &path.child("forNodes"), format::dns_subdomain, errors);
}

/// False when there are too many to look at.
fn check_hint_names(
    names: &[&str],
    path: &Path,
    rule: fn(&str) -> Vec<String>,
    errors: &mut ErrorList,
) -> bool {
    if names.len() > HINTS_MAX {
        errors.push(FieldError::too_many(path, names.len(), HINTS_MAX));
        return false;
    }
    for (i, name) in names.iter().enumerate() {
        let at = path.index(i).child("name");
        if names[..i].contains(name) {
            errors.push(FieldError::duplicate(&at, *name));
        }
        invalid(rule(name), name, &at, errors);
    }
    true
}

fn warn_addresses(obj: &Value) -> Vec<String> {
    let by = str_at(obj, &["metadata", "labels", "endpointslice.kubernetes.io/managed-by"]);
    if by == "endpointslice-controller.k8s.io" || by == "endpointslicemirroring-controller.k8s.io" {
        return Vec::new();
    }
    let endpoints: Vec<api::Endpoint> = obj.get("endpoints").and_then(try_view).unwrap_or_default();
    let path = Path::new("endpoints");
    let of = |(i, endpoint): (usize, &api::Endpoint)| -> Vec<String> {
        let at = path.index(i).child("addresses");
        endpoint.addresses.iter().enumerate().filter_map(|(j, a)| format::warn_ip(a, &at.index(j))).collect()
    };
    endpoints.iter().enumerate().flat_map(of).collect()
}
