//! What a Pod is as an endpoint of a Service.

use super::objects::{
    Conditions, Endpoint, Family, Hints, Named, Port, ServiceObject, ServicePort, Target, TargetRef,
};
use crate::objects::{NodeObject, PodObject};
use minik_placement::Labels;
use std::sync::Arc;

/// The zone that a node's labels tell.
pub fn zone(labels: &Labels) -> Option<&Arc<str>> {
    labels.get("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty())
}

/// Whether two states of a Pod are the same endpoints.
pub fn is_same(old: &PodObject, new: &PodObject) -> bool {
    let facts = |pod: &PodObject| (pod.metadata.deletion_timestamp.is_some(), pod.ready, pod.has_ended());
    facts(old) == facts(new)
        && old.metadata.uid == new.metadata.uid
        && old.metadata.labels == new.metadata.labels
        && old.node == new.node
        && old.ips == new.ips
        && (&old.hostname, &old.subdomain) == (&new.hostname, &new.subdomain)
}

/// Whether a Pod can be an endpoint of anything.
pub fn can_serve(pod: &PodObject) -> bool {
    !pod.has_ended() && !pod.ips.is_empty()
}

/// The ports that a Pod has of those of a Service, in order.
pub fn ports(service: &ServiceObject, pod: &PodObject) -> Vec<Port> {
    let found = service.spec.ports.iter().filter_map(|port| {
        Some(Port {
            name: port.name.clone(),
            protocol: port.protocol.clone(),
            port: number(port, pod)?,
            app_protocol: port.app_protocol.clone(),
        })
    });
    let mut ports: Vec<Port> = found.collect();
    ports.sort();
    ports
}

fn number(port: &ServicePort, pod: &PodObject) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(Target::Number(number)) => Some(*number),
        Some(Target::Name(name)) => {
            let same = pod.ports.iter().find(|one| one.name == *name && one.protocol == port.protocol.0);
            same.map(|one| one.port)
        }
    }
}

/// What an endpoint refers to the Pod by.
pub fn reference(pod: &PodObject) -> TargetRef {
    TargetRef {
        kind: "Pod".into(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    }
}

/// Its name in DNS below the Service's.
pub fn hostname(service: &ServiceObject, pod: &PodObject) -> Option<Arc<str>> {
    let named = !pod.hostname.is_empty() && pod.subdomain == service.metadata.name;
    named.then(|| pod.hostname.clone())
}

/// The endpoint that a Pod is; `None` when it has no address of this family, or runs on a node that is not known.
pub fn endpoint(
    service: &ServiceObject,
    pod: &PodObject,
    node: Option<&NodeObject>,
    family: Family,
) -> Option<Endpoint> {
    let published = service.spec.publish_not_ready_addresses;
    let addresses: Vec<Arc<str>> =
        pod.ips.iter().filter(|ip| Family::of(ip) == family).map(|ip| ip.to_string().into()).collect();
    if !can_serve(pod) || addresses.is_empty() || (node.is_none() && !published) {
        return None;
    }
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = published || (pod.ready && !terminating);
    let zone = node.and_then(|node| zone(&node.metadata.labels)).cloned();
    let node_name = (!pod.node.is_empty()).then(|| pod.node.clone());
    Some(Endpoint {
        addresses,
        conditions: Conditions {
            ready: Some(ready),
            serving: Some(pod.ready),
            terminating: Some(terminating),
        },
        hostname: hostname(service, pod),
        target_ref: Some(reference(pod)),
        hints: ready.then(|| hints(service, zone.as_ref(), node_name.as_ref())).flatten(),
        node_name,
        zone,
    })
}

/// Who should use a ready endpoint by the Service's `trafficDistribution`.
fn hints(service: &ServiceObject, zone: Option<&Arc<str>>, node: Option<&Arc<str>>) -> Option<Hints> {
    let wanted = &*service.spec.traffic_distribution;
    if service.hints_by_capacity || !matches!(wanted, "PreferClose" | "PreferSameZone" | "PreferSameNode") {
        return None;
    }
    let one = |name: Option<&Arc<str>>| name.map(|name| Named { name: name.clone() }).into_iter().collect();
    let for_nodes = if wanted == "PreferSameNode" { one(node) } else { Vec::new() };
    let hints = Hints { for_zones: one(zone), for_nodes };
    (hints != Hints::default()).then_some(hints)
}
