//! What is looked at of each object, read straight from the stored bytes.

use minik_client::Meta;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A Pod.
#[derive(Debug, Deserialize)]
pub struct PodSeen {
    pub metadata: Meta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Arc<str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Arc<str>,
    #[serde(rename = "podIP")]
    pod_ip: Arc<str>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: Arc<str>,
    status: Arc<str>,
}

fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|one| &*one.kind == kind && &*one.status == "True")
}

impl PodSeen {
    pub fn node(&self) -> &str {
        &self.spec.node_name
    }

    pub fn ip(&self) -> &str {
        &self.status.pod_ip
    }

    pub fn phase(&self) -> &str {
        &self.status.phase
    }

    /// Whether its containers have ended for good.
    pub fn is_over(&self) -> bool {
        ["Succeeded", "Failed"].contains(&self.phase())
    }

    /// Whether it counts for whoever wants Pods.
    pub fn lives(&self) -> bool {
        !self.is_over() && self.metadata.deletion_timestamp.is_none()
    }

    /// Whether it counts as available.
    pub fn is_ready(&self) -> bool {
        self.lives() && is_true(&self.status.conditions, "Ready")
    }

    pub fn owner(&self) -> &str {
        owner(&self.metadata)
    }
}

/// The uid of what controls an object; empty when nothing does.
pub fn owner(meta: &Meta) -> &str {
    meta.controller().map_or("", |owner| &owner.uid)
}

/// A ReplicaSet.
#[derive(Debug, Deserialize)]
pub struct SetSeen {
    pub metadata: Meta,
    spec: SetSpec,
    #[serde(default)]
    status: SetStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SetStatus {
    observed_generation: i64,
    replicas: i64,
}

#[derive(Debug, Deserialize)]
struct SetSpec {
    replicas: i64,
}

impl SetSeen {
    pub fn replicas(&self) -> i64 {
        self.spec.replicas
    }

    /// Whether its controller has seen what it asks for, and has seen that it is so.
    pub fn is_observed(&self) -> bool {
        self.status.observed_generation == self.metadata.generation && self.status.replicas == self.replicas()
    }

    pub fn leaves(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// A Deployment.
#[derive(Debug, Deserialize)]
pub struct DeploymentSeen {
    pub metadata: Meta,
    pub spec: DeploymentSpec,
    #[serde(default)]
    pub status: DeploymentStatus,
}

#[derive(Debug, Deserialize)]
pub struct DeploymentSpec {
    pub replicas: i64,
    #[serde(default)]
    pub strategy: Strategy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    #[serde(rename = "type")]
    pub kind: String,
    pub rolling_update: Rolling,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rolling {
    pub max_surge: Value,
    pub max_unavailable: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    pub observed_generation: i64,
    pub replicas: i64,
    pub updated_replicas: i64,
    pub available_replicas: i64,
}

/// A Node's health.
#[derive(Debug, Deserialize)]
pub struct NodeSeen {
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
}

impl NodeSeen {
    /// Whether it is ready, and everybody has taken note.
    pub fn is_well(&self) -> bool {
        is_true(&self.status.conditions, "Ready") && self.spec.taints.is_empty()
    }
}

/// A Service's addresses and ports.
#[derive(Debug, Deserialize)]
pub struct ServiceSeen {
    spec: ServiceSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "clusterIPs", default)]
    cluster_ips: Vec<String>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    node_port: u16,
    #[serde(default)]
    protocol: String,
}

impl ServiceSeen {
    /// What nobody else may have.
    pub fn claims(&self) -> BTreeSet<String> {
        let addresses = self.spec.cluster_ips.iter().filter(|one| *one != "None").cloned();
        let ports = self.spec.ports.iter().filter(|port| port.node_port != 0);
        addresses.chain(ports.map(|port| format!("{}/{}", port.node_port, port.protocol))).collect()
    }
}

/// An EndpointSlice.
#[derive(Debug, Deserialize)]
pub struct SliceSeen {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    conditions: EndpointConditions,
    target_ref: Option<Target>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointConditions {
    ready: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Target {
    uid: Arc<str>,
}

impl SliceSeen {
    /// The uids of the Pods that it says are ready.
    pub fn ready(&self) -> impl Iterator<Item = &Arc<str>> {
        let ready = self.endpoints.iter().filter(|one| one.conditions.ready);
        ready.filter_map(|one| one.target_ref.as_ref().map(|target| &target.uid))
    }
}
