//! What is kept of Services, EndpointSlices and Endpoints.

use crate::objects::{Annotated, Annotations, Object, or_none};
use minik_client::{Meta, Projection};
use minik_placement::Labels;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// The label of a slice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of a slice that names its manager.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of what belongs to a Service without an address of its own.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// The annotation that tells when the change happened that led to a write.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The manager of slices that follow a selector.
pub const SLICES: &str = "endpointslice-controller.k8s.io";
/// The manager of slices that follow Endpoints made by hand.
pub const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";

/// What kind of addresses a slice holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub enum Family {
    /// Four bytes.
    IPv4,
    /// Sixteen bytes.
    IPv6,
    /// Names.
    #[serde(rename = "FQDN")]
    Fqdn,
}

impl Family {
    /// The family of an address.
    pub fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::IPv4 } else { Family::IPv6 }
    }
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "ServiceWire")]
pub struct ServiceObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Whether hints are to be shared out by the zones' processors, which this does not do: no hints are given then.
    pub hints_by_capacity: bool,
    /// What is asked for.
    pub spec: ServiceSpec,
}

/// What is asked of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// Which Pods; with none, none.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its address.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Arc<str>,
    /// Its families of addresses.
    pub ip_families: Vec<Family>,
    /// Whether all its Pods count as ready.
    pub publish_not_ready_addresses: bool,
    /// Which endpoints are preferred.
    pub traffic_distribution: Arc<str>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// What is spoken on it.
    pub app_protocol: Option<Arc<str>>,
    /// Its number.
    pub port: i32,
    /// The port of the Pods.
    pub target_port: Option<Target>,
}

/// A port of Pods: a number, or the name that their containers give it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// The same in all.
    Number(i32),
    /// Looked up in each.
    Name(Arc<str>),
}

/// A transport protocol, TCP unless it is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Protocol(pub Arc<str>);

impl Default for Protocol {
    fn default() -> Protocol {
        Protocol("TCP".into())
    }
}

#[derive(Deserialize)]
struct ServiceWire {
    metadata: Annotated<ServiceAnnotations>,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServiceAnnotations {
    #[serde(rename = "service.kubernetes.io/topology-aware-hints")]
    hints: Option<Arc<str>>,
    #[serde(rename = "service.kubernetes.io/topology-mode")]
    mode: Option<Arc<str>>,
}

impl From<ServiceWire> for ServiceObject {
    fn from(wire: ServiceWire) -> ServiceObject {
        let Annotated { meta, annotations } = wire.metadata;
        let mode = annotations.hints.or(annotations.mode);
        let hints_by_capacity = matches!(mode.as_deref(), Some("Auto" | "auto"));
        ServiceObject { metadata: meta, hints_by_capacity, spec: wire.spec }
    }
}

impl ServiceObject {
    /// Whether its endpoints are the Pods that it selects; else they are somebody else's to tell.
    pub fn follows_pods(&self) -> bool {
        !self.spec.selector.is_empty() && &*self.spec.kind != "ExternalName"
    }

    /// Whether it has no address of its own.
    pub fn is_headless(&self) -> bool {
        matches!(&*self.spec.cluster_ip, "" | "None")
    }

    /// Whether it selects what bears these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.follows_pods() && selects(&self.spec.selector, labels)
    }

    /// The families of its endpoints, without doubles.
    pub fn families(&self) -> Vec<Family> {
        if !self.spec.ip_families.is_empty() {
            return self.spec.ip_families.clone();
        }
        match self.spec.cluster_ip.parse() {
            Ok(address) => vec![Family::of(&address)],
            Err(_) => vec![Family::IPv4, Family::IPv6],
        }
    }
}

/// Whether labels hold all pairs of a selector.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A port of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Its name, which is the Service port's.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: i32,
    /// What is spoken on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<Arc<str>>,
}

/// The Pod behind an endpoint, or whatever else is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct TargetRef {
    /// Its kind.
    pub kind: Arc<str>,
    /// Its namespace.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub uid: Arc<str>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses, of which clients may take any.
    pub addresses: Vec<Arc<str>>,
    /// Its state.
    pub conditions: Conditions,
    /// Its name in DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Arc<str>>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Arc<str>>,
    /// In which zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// Who should use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hints: Option<Hints>,
}

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Conditions {
    /// It takes new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// It answers, though it may be about to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// It is about to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// Who should use an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Clients in these zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<Named>,
    /// Clients on these nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<Named>,
}

/// A zone or a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Named {
    /// Its name.
    pub name: Arc<str>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "SliceWire")]
pub struct SliceObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its annotations.
    pub annotations: Annotations,
    /// The kind of its addresses.
    pub family: Family,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Their ports, in order.
    pub ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceWire {
    metadata: Annotated,
    address_type: Family,
    #[serde(default, deserialize_with = "or_none")]
    endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "or_none")]
    ports: Vec<Port>,
}

impl From<SliceWire> for SliceObject {
    fn from(wire: SliceWire) -> SliceObject {
        let Annotated { meta: metadata, annotations } = wire.metadata;
        let mut ports = wire.ports;
        ports.sort();
        SliceObject { metadata, annotations, family: wire.address_type, endpoints: wire.endpoints, ports }
    }
}

impl SliceObject {
    /// The name of the Service that it belongs to.
    pub fn service(&self) -> &str {
        self.label(SERVICE_NAME)
    }

    /// A label, empty when it has none.
    pub fn label(&self, key: &str) -> &str {
        self.metadata.labels.get(key).map_or("", |value| value)
    }
}

/// An Endpoints object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "EndpointsWire")]
pub struct EndpointsObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its annotations.
    pub annotations: Annotations,
    /// Addresses and ports: each address serves each port of its subset.
    pub subsets: Vec<Subset>,
}

/// Addresses that have the same ports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Those that are ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Those that are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<Address>,
    /// Their ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// The address itself.
    pub ip: Arc<str>,
    /// Its name in DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Arc<str>>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Arc<str>>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

#[derive(Deserialize)]
struct EndpointsWire {
    metadata: Annotated,
    #[serde(default, deserialize_with = "or_none")]
    subsets: Vec<Subset>,
}

impl From<EndpointsWire> for EndpointsObject {
    fn from(wire: EndpointsWire) -> EndpointsObject {
        let Annotated { meta: metadata, annotations } = wire.metadata;
        EndpointsObject { metadata, annotations, subsets: wire.subsets }
    }
}

/// The metadata that an object keeps when it is written anew.
pub fn kept(meta: &Meta) -> Value {
    json!({
        "namespace": meta.namespace,
        "name": meta.name,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "finalizers": meta.finalizers,
        "ownerReferences": meta.owner_references,
    })
}

macro_rules! objects {
    ($($object:ty: $version:literal $kind:literal $plural:literal;)*) => {$(
        impl Object for $object {
            const API_VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
        }

        impl Projection for $object {
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    )*};
}

objects! {
    ServiceObject: "v1" "Service" "services";
    SliceObject: "discovery.k8s.io/v1" "EndpointSlice" "endpointslices";
    EndpointsObject: "v1" "Endpoints" "endpoints";
}
