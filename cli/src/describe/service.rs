//! A Service.

use super::events;
use super::writer::Writer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;

/// Endpoints that are written out.
const ENDPOINTS: usize = 3;

/// All about it; `slices` are its EndpointSlices.
pub fn describe(
    service: &Service,
    slices: &[EndpointSlice],
    about: Option<&[Event]>,
    now: Timestamp,
) -> String {
    let mut writer = Writer::default();
    let (meta, spec) = (&service.metadata, service.spec.clone().unwrap_or_default());
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let joined = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect::<Vec<_>>().join(",");
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    writer.field(0, "Name", &text(&meta.name));
    writer.field(0, "Namespace", &text(&meta.namespace));
    writer.map(0, "Labels", meta.labels.as_ref(), "=");
    writer.map(0, "Annotations", meta.annotations.as_ref(), ": ");
    let pairs: Vec<String> =
        spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    writer.field(0, "Selector", &or_none(pairs.join(",")));
    writer.field(0, "Type", &text(&spec.type_));
    if let Some(policy) = &spec.ip_family_policy {
        writer.field(0, "IP Family Policy", policy);
    }
    if spec.ip_families.is_some() {
        writer.field(0, "IP Families", &or_none(joined(&spec.ip_families)));
    }
    writer.field(0, "IP", &text(&spec.cluster_ip));
    writer.field(0, "IPs", &or_none(joined(&spec.cluster_ips)));
    for (name, value) in [
        ("External IPs", Some(joined(&spec.external_ips)).filter(|ips| !ips.is_empty())),
        ("Desired LoadBalancer IP", set(&spec.load_balancer_ip)),
        ("External Name", set(&spec.external_name)),
    ] {
        if let Some(value) = value {
            writer.field(0, name, &value);
        }
    }
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = ingress.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let ingress: Vec<String> =
        ingress.map(|one| set(&one.ip).or(set(&one.hostname)).unwrap_or_default()).collect();
    if !ingress.is_empty() {
        writer.field(0, "LoadBalancer Ingress", &ingress.join(", "));
    }
    spec.ports.iter().flatten().for_each(|port| self::port(port, slices, &mut writer));
    writer.field(0, "Session Affinity", &text(&spec.session_affinity));
    let health = spec.health_check_node_port.filter(|port| *port > 0).map(|port| port.to_string());
    for (name, value) in [
        ("External Traffic Policy", set(&spec.external_traffic_policy)),
        ("Internal Traffic Policy", set(&spec.internal_traffic_policy)),
        ("HealthCheck NodePort", health),
        (
            "LoadBalancer Source Ranges",
            Some(joined(&spec.load_balancer_source_ranges)).filter(|all| !all.is_empty()),
        ),
        ("TrafficDistribution", set(&spec.traffic_distribution)),
    ] {
        if let Some(value) = value {
            writer.field(0, name, &value);
        }
    }
    events::write(about, now, &mut writer);
    writer.text()
}

fn port(port: &ServicePort, slices: &[EndpointSlice], writer: &mut Writer) {
    let name = port.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "<unset>".into());
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    writer.field(0, "Port", &format!("{name}\t{}/{protocol}", port.port));
    let target = match &port.target_port {
        Some(IntOrString::String(name)) => name.clone(),
        Some(IntOrString::Int(number)) => number.to_string(),
        None => port.port.to_string(),
    };
    writer.field(0, "TargetPort", &format!("{target}/{protocol}"));
    if let Some(number) = port.node_port.filter(|number| *number > 0) {
        writer.field(0, "NodePort", &format!("{name}\t{number}/{protocol}"));
    }
    writer.field(0, "Endpoints", &endpoints(port.name.as_deref().unwrap_or_default(), slices));
}

/// The ready addresses behind a port.
fn endpoints(name: &str, slices: &[EndpointSlice]) -> String {
    let mut all = Vec::new();
    for slice in slices {
        let ports =
            slice.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or_default() == name);
        for port in ports {
            let ready = slice.endpoints.iter().flatten().filter(|one| {
                one.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
            });
            let number = port.port.unwrap_or(0);
            let at = |address: &String| match address.parse() {
                Ok(IpAddr::V6(_)) => format!("[{address}]:{number}"),
                _ => format!("{address}:{number}"),
            };
            all.extend(ready.flat_map(|one| &one.addresses).map(at));
        }
    }
    let shown = all.iter().take(ENDPOINTS).cloned().collect::<Vec<_>>().join(",");
    match all.len() {
        ..=ENDPOINTS => shown,
        many => format!("{shown} + {} more...", many - ENDPOINTS),
    }
}
