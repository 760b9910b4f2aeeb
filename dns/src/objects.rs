//! The projections that are kept of what the API serves.

use minik_client::{Meta, ObjectKey, Projection};
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::sync::Arc;

/// The label that names the Service of an EndpointSlice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: ServiceSpec,
}

/// What was asked for of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// The name that an ExternalName Service stands for.
    pub external_name: Arc<str>,
    /// `None` for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Arc<str>,
    /// All cluster IPs.
    #[serde(rename = "clusterIPs", deserialize_with = "null_as_none")]
    pub cluster_ips: Vec<Arc<str>>,
    /// Its ports.
    #[serde(deserialize_with = "null_as_none")]
    pub ports: Vec<Port>,
}

/// A port of a Service or an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Port {
    /// Its name, empty for a sole port without.
    #[serde(deserialize_with = "null_as_none")]
    pub name: Arc<str>,
    /// TCP, UDP or SCTP.
    #[serde(deserialize_with = "null_as_none")]
    pub protocol: Arc<str>,
    /// Its number; an EndpointSlice may leave it out.
    pub port: Option<u16>,
}

impl Projection for Service {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Service {
    /// Whether it has no address of its own.
    pub fn is_headless(&self) -> bool {
        &*self.spec.cluster_ip == "None"
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let sole = match self.spec.cluster_ips.is_empty() {
            true => std::slice::from_ref(&self.spec.cluster_ip),
            false => &*self.spec.cluster_ips,
        };
        // "None" and the empty string are no addresses.
        sole.iter().filter_map(|address| address.parse().ok())
    }
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Slice {
    /// Its metadata.
    pub metadata: Meta,
    /// IPv4, IPv6 or FQDN.
    pub address_type: Arc<str>,
    /// Its endpoints.
    #[serde(deserialize_with = "null_as_none")]
    pub endpoints: Vec<Endpoint>,
    /// The ports of each.
    #[serde(deserialize_with = "null_as_none")]
    pub ports: Vec<Port>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses; consumers use the first.
    pub addresses: Vec<Arc<str>>,
    /// Its state.
    pub conditions: Conditions,
    /// Its name below the Service's.
    #[serde(deserialize_with = "null_as_none")]
    pub hostname: Arc<str>,
    /// Where it runs.
    #[serde(deserialize_with = "null_as_none")]
    pub node_name: Arc<str>,
}

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Whether it takes connections; absent means yes.
    pub ready: Option<bool>,
}

impl Projection for Slice {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Slice {
    /// The Service that it belongs to.
    pub fn service(&self) -> Option<ObjectKey> {
        let name = self.metadata.labels.get(SERVICE_NAME)?.clone();
        Some(ObjectKey { namespace: self.metadata.namespace.clone(), name })
    }
}

/// Reads `null` as the value that an absent field has.
fn null_as_none<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}
