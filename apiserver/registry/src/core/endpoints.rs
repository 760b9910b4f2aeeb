//! Endpoints, the older form of EndpointSlices: <https://kubernetes.io/docs/concepts/services-networking/service/#endpoints>.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};
use serde_json::Value;

use crate::format::{self, check_endpoint_ip, check_ip, invalid};
use crate::resource::*;
use crate::view::{items, text, try_view, view};
use crate::{Column, Context, MetaRules, NameRule, Part, Strategy, table};

const RESOURCE: Resource = Resource {
    singular: "endpoints",
    short_names: &["ep"],
    storage_prefix: Some("services/endpoints"),
    allow_create_on_update: true,
    deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ..Resource::core("Endpoints", "EndpointsList", "endpoints")
};

const COLUMNS: &[Column] =
    &[Column::NAME, Column::text("Endpoints", "Addresses and ports that are ready."), Column::AGE];

/// See the module.
pub(crate) struct Endpoints;

impl Strategy for Endpoints {
    fn resource(&self) -> &'static Resource {
        &RESOURCE
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::new(NameRule::DnsSubdomain).full_on_update()
    }

    fn validate_create(&self, obj: &Value, _cx: &Context<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(endpoints) = view::<api::Endpoints>(obj, &mut errors) {
            check_subsets(items(&endpoints.subsets), &mut errors);
        }
        errors
    }

    fn validate_update(&self, _part: Part, obj: &Value, old: &Value, cx: &Context<'_>) -> ErrorList {
        // What was there before may stay as it is.
        if obj.get("subsets") == old.get("subsets") {
            ErrorList::new()
        } else {
            self.validate_create(obj, cx)
        }
    }

    fn warnings_on_create(&self, obj: &Value) -> Vec<String> {
        let subsets: Vec<api::EndpointSubset> = obj.get("subsets").and_then(try_view).unwrap_or_default();
        let mut all = Vec::new();
        for (i, subset) in subsets.iter().enumerate() {
            let at = Path::new("subsets").index(i);
            for (field, addresses) in lists(subset) {
                for (j, address) in addresses.iter().enumerate() {
                    all.extend(format::warn_ip(&address.ip, &at.child(field).index(j).child("ip")));
                }
            }
        }
        all
    }

    fn warnings_on_update(&self, _part: Part, obj: &Value, _old: &Value) -> Vec<String> {
        self.warnings_on_create(obj)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let subsets: Vec<api::EndpointSubset> = obj.get("subsets").and_then(try_view).unwrap_or_default();
        let mut shown = Vec::new();
        for subset in &subsets {
            let ports = items(&subset.ports);
            for address in items(&subset.addresses).iter().filter(|_| ports.is_empty()) {
                shown.push(address.ip.clone());
            }
            for port in ports {
                shown.extend(items(&subset.addresses).iter().map(|address| place(&address.ip, port.port)));
            }
        }
        let cell = match shown.len() {
            0 if subsets.is_empty() => "<none>".into(),
            0 => "".into(),
            _ => table::few(&shown),
        };
        vec![table::name(obj), cell, table::age(obj, now)]
    }
}

fn place(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn lists(subset: &api::EndpointSubset) -> [(&'static str, &[api::EndpointAddress]); 2] {
    [("addresses", items(&subset.addresses)), ("notReadyAddresses", items(&subset.not_ready_addresses))]
}

fn check_subsets(subsets: &[api::EndpointSubset], errors: &mut ErrorList) {
    for (i, subset) in subsets.iter().enumerate() {
        let at = Path::new("subsets").index(i);
        if lists(subset).iter().all(|(_, addresses)| addresses.is_empty()) {
            errors.push(FieldError::required(&at, "addresses or notReadyAddresses must be given"));
        }
        for (field, addresses) in lists(subset) {
            for (j, address) in addresses.iter().enumerate() {
                check_address(address, &at.child(field).index(j), errors);
            }
        }
        let ports = items(&subset.ports);
        for (j, port) in ports.iter().enumerate() {
            check_port(port, ports.len() > 1, &at.child("ports").index(j), errors);
        }
    }
}

fn check_address(address: &api::EndpointAddress, path: &Path, errors: &mut ErrorList) {
    let at = path.child("ip");
    check_ip(&address.ip, &[], &at, errors);
    if let Some(hostname) = address.hostname.as_deref().filter(|name| !name.is_empty()) {
        invalid(format::dns_label(hostname), hostname, &path.child("hostname"), errors);
    }
    if let Some(node) = &address.node_name {
        invalid(format::dns_subdomain(node), node, &path.child("nodeName"), errors);
    }
    check_endpoint_ip(&address.ip, &at, errors);
}

fn check_port(port: &api::EndpointPort, needs_name: bool, path: &Path, errors: &mut ErrorList) {
    let name = text(&port.name);
    if !name.is_empty() {
        invalid(format::dns_label(name), name, &path.child("name"), errors);
    } else if needs_name {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    for fault in format::port_number(port.port) {
        errors.push(FieldError::invalid(&path.child("port"), port.port, fault));
    }
    match text(&port.protocol) {
        "" => errors.push(FieldError::required(&path.child("protocol"), "")),
        "TCP" | "UDP" | "SCTP" => {}
        other => {
            errors.push(FieldError::not_supported(&path.child("protocol"), other, &["SCTP", "TCP", "UDP"]));
        }
    }
    if let Some(protocol) = &port.app_protocol {
        invalid(format::qualified_name(protocol), protocol, &path.child("appProtocol"), errors);
    }
}
