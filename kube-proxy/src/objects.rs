//! The projections that are kept of what the API serves.

use jiff::Timestamp;
use minik_client::{Meta, ObjectKey, Projection};
use minik_net::Cidr;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const ZONE: &str = "topology.kubernetes.io/zone";
/// An autoscaler's mark on a Node that it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A transport protocol that Services know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // their names say it
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// A Service.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// Its metadata, without labels and owners.
    pub metadata: Meta,
    /// Its virtual addresses; none for a headless one or an alias.
    pub cluster_ips: Vec<IpAddr>,
    /// What it serves.
    pub ports: Vec<ServicePort>,
    /// Addresses that an administrator routes here.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of its load balancer that packets arrive with.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use those; all when empty.
    pub source_ranges: Vec<Cidr>,
    /// Traffic from outside stays on its node.
    pub external_local: bool,
    /// Traffic from inside stays on its node.
    pub internal_local: bool,
    /// How long a client keeps its endpoint, in seconds.
    pub affinity_seconds: Option<u32>,
    /// Where load balancers ask whether this node has endpoints.
    pub health_check_port: Option<u16>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// The name, empty for an only port.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The port on every node, or 0.
    pub node_port: u16,
}

impl Projection for Service {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Deserialize)]
struct ServiceWire {
    metadata: Meta,
    #[serde(default)]
    spec: ServiceSpecWire,
    #[serde(default)]
    status: ServiceStatusWire,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpecWire {
    #[serde(rename = "type")]
    kind: Arc<str>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Arc<str>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<Arc<str>>,
    ports: Vec<ServicePort>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<Arc<str>>,
    load_balancer_source_ranges: Vec<Arc<str>>,
    external_traffic_policy: Arc<str>,
    internal_traffic_policy: Arc<str>,
    session_affinity: Arc<str>,
    session_affinity_config: AffinityWire,
    health_check_node_port: u16,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityWire {
    #[serde(rename = "clientIP")]
    client_ip: ClientIpWire,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIpWire {
    timeout_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatusWire {
    load_balancer: LoadBalancerWire,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancerWire {
    ingress: Vec<IngressWire>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IngressWire {
    ip: Arc<str>,
    ip_mode: Option<Arc<str>>,
}

/// Upstream's default for client affinity: three hours.
const AFFINITY_SECONDS: u32 = 10_800;

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Service, D::Error> {
        let ServiceWire { metadata, spec, status } = ServiceWire::deserialize(deserializer)?;
        let addresses = |texts: &[Arc<str>]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        let cluster_ips: Vec<IpAddr> = match (&*spec.kind, spec.cluster_ips.is_empty()) {
            ("ExternalName", _) => Vec::new(),
            // "None" is no address, so a headless Service has none.
            (_, true) => addresses(&[spec.cluster_ip]),
            (_, false) => addresses(&spec.cluster_ips),
        };
        let ingress = status.load_balancer.ingress.iter();
        let arriving = ingress.filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
        let ranges = spec.load_balancer_source_ranges.iter();
        let affinity = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(AFFINITY_SECONDS);
        Ok(Service {
            metadata: bare(metadata),
            ports: spec.ports,
            external_ips: addresses(&spec.external_ips),
            load_balancer_ips: addresses(&arriving.map(|ingress| ingress.ip.clone()).collect::<Vec<_>>()),
            source_ranges: ranges.filter_map(|range| range.trim().parse().ok()).collect(),
            external_local: &*spec.external_traffic_policy == "Local",
            internal_local: &*spec.internal_traffic_policy == "Local",
            affinity_seconds: (&*spec.session_affinity == "ClientIP").then_some(affinity),
            health_check_port: (spec.health_check_node_port != 0).then_some(spec.health_check_node_port),
            cluster_ips,
        })
    }
}

/// Metadata without what nobody here reads.
fn bare(metadata: Meta) -> Meta {
    Meta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        deletion_timestamp: metadata.deletion_timestamp,
        ..Meta::default()
    }
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default)]
pub struct Slice {
    /// Its metadata, without labels and owners.
    pub metadata: Meta,
    /// The Service that it belongs to.
    pub service: Arc<str>,
    /// The ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// When what it tells of happened.
    pub triggered: Option<Timestamp>,
}

/// A port of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Option<Arc<str>>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The port; none stands for all.
    pub port: Option<u16>,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// May be given new connections.
    pub ready: bool,
    /// Answers.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Its node.
    pub node: Option<Arc<str>>,
    /// The zones that it should serve.
    pub for_zones: Vec<Arc<str>>,
    /// The nodes that it should serve.
    pub for_nodes: Vec<Arc<str>>,
}

impl Slice {
    /// Its Service's key.
    pub fn service_key(&self) -> ObjectKey {
        ObjectKey { namespace: self.metadata.namespace.clone(), name: self.service.clone() }
    }
}

impl Projection for Slice {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceWire<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
    #[serde(default)]
    endpoints: Option<Vec<EndpointWire>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    annotations: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointWire {
    addresses: Vec<Arc<str>>,
    conditions: ConditionsWire,
    node_name: Option<Arc<str>>,
    hints: Option<HintsWire>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConditionsWire {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HintsWire {
    for_zones: Vec<Named>,
    for_nodes: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: Arc<str>,
}

impl<'de> Deserialize<'de> for Slice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Slice, D::Error> {
        use serde::de::Error;
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let wire: SliceWire<'_> = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        let metadata: Meta = serde_json::from_str(wire.metadata.get()).map_err(D::Error::custom)?;
        let Annotations { annotations } =
            serde_json::from_str(wire.metadata.get()).map_err(D::Error::custom)?;
        let names = |named: Vec<Named>| named.into_iter().map(|named| named.name).collect();
        let endpoint = |wire: EndpointWire| {
            let hints = wire.hints.unwrap_or_default();
            Some(SliceEndpoint {
                // An address that is none (of a slice of names) serves nobody here.
                address: wire.addresses.first()?.parse().ok()?,
                ready: wire.conditions.ready.unwrap_or(true),
                serving: wire.conditions.serving.unwrap_or(true),
                terminating: wire.conditions.terminating.unwrap_or(false),
                node: wire.node_name,
                for_zones: names(hints.for_zones),
                for_nodes: names(hints.for_nodes),
            })
        };
        Ok(Slice {
            service: metadata.labels.get(SERVICE_NAME).cloned().unwrap_or_default(),
            ports: wire.ports.unwrap_or_default(),
            endpoints: wire.endpoints.unwrap_or_default().into_iter().filter_map(endpoint).collect(),
            triggered: annotations.get(TRIGGER_TIME).and_then(|time| time.parse().ok()),
            metadata: bare(metadata),
        })
    }
}

/// A ServiceCIDR: addresses that no Service has yet come from its ranges.
#[derive(Debug, Clone, Deserialize)]
pub struct ServiceRange {
    /// Its metadata.
    pub metadata: Meta,
    /// The ranges.
    #[serde(default)]
    pub spec: ServiceRangeSpec,
}

/// What is kept of a ServiceCIDR's specification.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServiceRangeSpec {
    /// One a family.
    #[serde(default)]
    pub cidrs: Vec<Arc<str>>,
}

impl Projection for ServiceRange {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// The Node that this proxy serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its metadata, without labels and owners.
    pub metadata: Meta,
    /// Its zone.
    pub zone: Arc<str>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// It is about to go.
    pub leaving: bool,
}

impl Projection for Node {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Deserialize)]
struct NodeWire {
    metadata: Meta,
    #[serde(default)]
    spec: NodeSpecWire,
    #[serde(default)]
    status: NodeStatusWire,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpecWire {
    taints: Vec<TaintWire>,
}

#[derive(Deserialize)]
struct TaintWire {
    key: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatusWire {
    addresses: Vec<AddressWire>,
}

#[derive(Deserialize)]
struct AddressWire {
    #[serde(rename = "type")]
    kind: Arc<str>,
    address: Arc<str>,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let NodeWire { metadata, spec, status } = NodeWire::deserialize(deserializer)?;
        let internal = status.addresses.iter().filter(|address| &*address.kind == "InternalIP");
        Ok(Node {
            zone: metadata.labels.get(ZONE).cloned().unwrap_or_default(),
            addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
            leaving: metadata.deletion_timestamp.is_some()
                || spec.taints.iter().any(|taint| &*taint.key == TO_BE_DELETED),
            metadata: bare(metadata),
        })
    }
}
