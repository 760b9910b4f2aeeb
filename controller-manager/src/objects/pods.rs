//! What is kept of a Pod.

use super::{Annotated, Condition, Object};
use minik_client::{Meta, Projection};
use minik_placement::taints::Toleration;
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::Arc;

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PodWire")]
pub struct PodObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Where it runs, empty when nowhere yet.
    pub node: Arc<str>,
    /// What it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Its phase.
    pub phase: Arc<str>,
    /// Why it is in that phase.
    pub reason: Arc<str>,
    /// Whether it is Ready.
    pub ready: bool,
    /// Since when it is Ready, as far as is known.
    pub ready_since: Option<jiff::Timestamp>,
    /// When it last became Ready or ceased to be, as far as is known.
    pub ready_changed: Option<jiff::Timestamp>,
    /// Since when somebody other than its kubelet says that it is to be disrupted.
    pub disruption_target: Option<jiff::Timestamp>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its name in DNS.
    pub hostname: Arc<str>,
    /// The Service below which it is named in DNS.
    pub subdomain: Arc<str>,
    /// The ports of its containers that have names.
    pub ports: Vec<NamedPort>,
    /// When it was given its node, as far as is known.
    pub bound_at: Option<jiff::Timestamp>,
    /// What its deletion costs beside that of others of its owner.
    pub deletion_cost: i32,
    /// The most that one of its containers was restarted, and one of its sidecars.
    pub restarts: (i32, i32),
}

/// A port of a container that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Arc<str>,
    /// Its number.
    pub port: i32,
}

#[derive(Deserialize)]
struct PodWire {
    metadata: Annotated<PodAnnotations>,
    #[serde(default)]
    spec: PodSpecWire,
    #[serde(default)]
    status: PodStatusWire,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodAnnotations {
    #[serde(rename = "controller.kubernetes.io/pod-deletion-cost")]
    deletion_cost: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpecWire {
    node_name: Arc<str>,
    tolerations: Vec<Toleration>,
    hostname: Arc<str>,
    subdomain: Arc<str>,
    containers: Vec<ContainerWire>,
    init_containers: Vec<ContainerWire>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerWire {
    name: Arc<str>,
    restart_policy: Arc<str>,
    ports: Vec<PortWire>,
}

impl ContainerWire {
    fn is_sidecar(&self) -> bool {
        &*self.restart_policy == "Always"
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PortWire {
    name: Arc<str>,
    protocol: Arc<str>,
    container_port: i32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatusWire {
    phase: Arc<str>,
    reason: Arc<str>,
    conditions: Vec<Condition>,
    #[serde(rename = "podIP")]
    pod_ip: Arc<str>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<IpWire>,
    container_statuses: Vec<ContainerStatusWire>,
    init_container_statuses: Vec<ContainerStatusWire>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IpWire {
    ip: Arc<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatusWire {
    name: Arc<str>,
    restart_count: i32,
}

impl PodWire {
    fn restarts(&self) -> (i32, i32) {
        let sidecar = |one: &&ContainerStatusWire| {
            let named = self.spec.init_containers.iter().find(|container| container.name == one.name);
            named.is_some_and(ContainerWire::is_sidecar)
        };
        let containers = self.status.container_statuses.iter().map(|one| one.restart_count);
        let sidecars =
            self.status.init_container_statuses.iter().filter(sidecar).map(|one| one.restart_count);
        (containers.max().unwrap_or(0), sidecars.max().unwrap_or(0))
    }

    fn ips(&self) -> Vec<IpAddr> {
        let status = &self.status;
        let all = status.pod_ips.iter().map(|one| &one.ip).chain([&status.pod_ip]);
        let mut ips: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
        // The single one is the first of the others.
        if ips.len() > 1 && status.pod_ips.len() < ips.len() {
            ips.pop();
        }
        ips
    }

    /// Those of containers that run on come before those of sidecars.
    fn ports(&self) -> Vec<NamedPort> {
        let sidecars = self.spec.init_containers.iter().filter(|one| one.is_sidecar());
        let ports = self.spec.containers.iter().chain(sidecars).flat_map(|one| &one.ports);
        let named = |port: &PortWire| NamedPort {
            name: port.name.clone(),
            protocol: if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() },
            port: port.container_port,
        };
        ports.filter(|port| !port.name.is_empty()).map(named).collect()
    }
}

impl From<PodWire> for PodObject {
    fn from(wire: PodWire) -> PodObject {
        let condition = |kind: &str| {
            wire.status.conditions.iter().find(|one| &*one.kind == kind && &*one.status == "True")
        };
        let target = condition("DisruptionTarget").filter(|one| &*one.reason != "TerminationByKubelet");
        let ready = wire.status.conditions.iter().find(|one| &*one.kind == "Ready");
        PodObject {
            disruption_target: target.and_then(|one| one.last_transition_time),
            ready_changed: ready.and_then(|one| one.last_transition_time),
            ips: wire.ips(),
            ports: wire.ports(),
            restarts: wire.restarts(),
            ready: condition("Ready").is_some(),
            ready_since: condition("Ready").and_then(|one| one.last_transition_time),
            bound_at: condition("PodScheduled")
                .and_then(|one| one.last_transition_time)
                .or(wire.metadata.meta.creation_timestamp),
            deletion_cost: wire.metadata.annotations.deletion_cost.parse().unwrap_or(0),
            metadata: wire.metadata.meta,
            node: wire.spec.node_name,
            hostname: wire.spec.hostname,
            subdomain: wire.spec.subdomain,
            tolerations: wire.spec.tolerations,
            phase: wire.status.phase,
            reason: wire.status.reason,
        }
    }
}

impl PodObject {
    /// Whether all its containers have ended for good.
    pub fn has_ended(&self) -> bool {
        matches!(&*self.phase, "Succeeded" | "Failed")
    }
}

impl Object for PodObject {
    const API_VERSION: &'static str = "v1";
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
}

impl Projection for PodObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
