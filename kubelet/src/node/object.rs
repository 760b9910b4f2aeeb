//! The Node object's content: pure, from the machine and its health.

use super::machine::{FileSystem, Machine};
use super::thresholds::Thresholds;
use crate::config::TaintFlag;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use minik_client::{Meta, Projection};
use minik_cri::v1;
use serde::Deserialize;
use serde::de::Error;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The version that the kubelet says it is: the API's that it keeps to.
pub const VERSION: &str = "v1.37.2";

/// What a Node says that seldom changes.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Port of its API; 0 for none.
    pub port: u16,
    /// How many Pods it takes.
    pub max_pods: u32,
    /// The runtime's name and version.
    pub runtime: (String, String),
    /// Further labels.
    pub labels: Vec<(String, String)>,
    /// Taints when it registers.
    pub taints: Vec<TaintFlag>,
    /// Range of its Pods when it registers.
    pub pod_cidr: Option<String>,
    /// The file system of Pods' folders.
    pub file_system: FileSystem,
    /// From when on something runs short; so much is kept from Pods.
    pub thresholds: Thresholds,
    /// What the runtime can do.
    pub features: v1::StatusResponse,
}

/// What others in the process want to be told of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeUpdate {
    /// Its Pod range, once it has one.
    pub pod_cidr: Option<String>,
    /// Its identity.
    pub uid: Option<String>,
}

/// The Node as the API has it, as far as placement reads it.
#[derive(Debug, Clone)]
pub struct NodeObject {
    /// Its metadata.
    pub meta: Meta,
    /// What placement reads.
    pub placement: Arc<minik_placement::Node>,
    /// The range of its Pods, once it has one.
    pub pod_cidr: Option<String>,
}

impl<'de> Deserialize<'de> for NodeObject {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<NodeObject, D::Error> {
        #[derive(Deserialize)]
        struct WithMeta {
            metadata: Meta,
            #[serde(default)]
            spec: WithRange,
        }
        #[derive(Default, Deserialize)]
        struct WithRange {
            #[serde(rename = "podCIDR")]
            pod_cidr: Option<String>,
        }
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let WithMeta { metadata, spec } = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        let placement = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        Ok(NodeObject { meta: metadata, placement: Arc::new(placement), pod_cidr: spec.pod_cidr })
    }
}

impl NodeObject {
    /// What others want to be told of it.
    pub fn update(&self) -> NodeUpdate {
        NodeUpdate { pod_cidr: self.pod_cidr.clone(), uid: Some(self.meta.uid.to_string()) }
    }
}

impl Projection for NodeObject {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// How a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why it is not ready; empty when it is.
    pub unready: Vec<String>,
    /// Memory runs short.
    pub memory_pressure: bool,
    /// The disk runs short.
    pub disk_pressure: bool,
    /// Process identities run short.
    pub pid_pressure: bool,
    /// Images that are there, the largest first, fifty at most.
    pub images: Vec<(Vec<String>, u64)>,
}

impl NodeFacts {
    /// Labels that the kubelet answers for.
    pub fn own_labels(&self) -> BTreeMap<String, String> {
        let arch = self.machine.architecture.clone();
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", self.name.clone()),
            ("kubernetes.io/os", "linux".into()),
            ("kubernetes.io/arch", arch.clone()),
            ("beta.kubernetes.io/os", "linux".into()),
            ("beta.kubernetes.io/arch", arch),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        labels.extend(self.labels.iter().cloned());
        labels
    }

    /// The Node as it registers.
    pub fn object(&self, health: &Health, now: Timestamp) -> api::Node {
        let taints: Vec<api::Taint> = self
            .taints
            .iter()
            .map(|taint| api::Taint {
                key: taint.key.clone(),
                value: (!taint.value.is_empty()).then(|| taint.value.clone()),
                effect: taint.effect.clone(),
                time_added: None,
            })
            .collect();
        let annotations = ("volumes.kubernetes.io/controller-managed-attach-detach", "true");
        api::Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.own_labels()),
                annotations: Some(BTreeMap::from([(annotations.0.to_owned(), annotations.1.to_owned())])),
                ..Default::default()
            },
            spec: Some(api::NodeSpec {
                taints: (!taints.is_empty()).then_some(taints),
                pod_cidr: self.pod_cidr.clone(),
                pod_cidrs: self.pod_cidr.clone().map(|cidr| vec![cidr]),
                ..Default::default()
            }),
            status: Some(self.status(health, &[], now)),
        }
    }

    /// The Node as placement reads it, before the API has it.
    pub fn placement(&self, now: Timestamp) -> Arc<minik_placement::Node> {
        let text = serde_json::to_string(&self.object(&Health::default(), now)).unwrap_or_default();
        Arc::new(serde_json::from_str(&text).unwrap_or_default())
    }

    /// The Node's status.
    pub fn status(&self, health: &Health, before: &[api::NodeCondition], now: Timestamp) -> api::NodeStatus {
        let mut addresses: Vec<api::NodeAddress> = self
            .ips
            .iter()
            .map(|ip| api::NodeAddress { type_: "InternalIP".into(), address: ip.clone() })
            .collect();
        addresses.push(api::NodeAddress { type_: "Hostname".into(), address: self.name.clone() });
        let endpoint = (self.port != 0).then(|| api::NodeDaemonEndpoints {
            kubelet_endpoint: Some(api::DaemonEndpoint { port: self.port.into() }),
        });
        api::NodeStatus {
            addresses: Some(addresses),
            allocatable: Some(self.resources()),
            capacity: Some(self.capacity()),
            conditions: Some(conditions(health, before, now)),
            daemon_endpoints: endpoint,
            images: Some(
                health
                    .images
                    .iter()
                    .map(|(names, bytes)| api::ContainerImage {
                        names: Some(names.clone()),
                        size_bytes: Some(*bytes as i64),
                    })
                    .collect(),
            ),
            node_info: Some(self.info()),
            features: self.features.features.as_ref().map(|features| api::NodeFeatures {
                supplemental_groups_policy: Some(features.supplemental_groups_policy),
            }),
            runtime_handlers: self.handlers(),
            ..Default::default()
        }
    }

    /// What the node has for Pods.
    pub fn resources(&self) -> BTreeMap<String, Quantity> {
        let (memory, disk) = (self.machine.memory_bytes.max(0) as u64, self.file_system.capacity_bytes);
        let (kept_memory, kept_disk) = self.thresholds.reserved(memory, disk);
        self.list(memory.saturating_sub(kept_memory), disk.saturating_sub(kept_disk))
    }

    /// What the node has in all.
    fn capacity(&self) -> BTreeMap<String, Quantity> {
        self.list(self.machine.memory_bytes.max(0) as u64, self.file_system.capacity_bytes)
    }

    fn list(&self, memory_bytes: u64, disk_bytes: u64) -> BTreeMap<String, Quantity> {
        // In whole kibibytes, as upstream tells it.
        let kibibytes = |bytes: u64| binary(bytes as i64 / 1024 * 1024);
        let mut list = vec![
            ("cpu".to_owned(), self.machine.cpu_quantity()),
            ("memory".to_owned(), kibibytes(memory_bytes)),
            ("ephemeral-storage".to_owned(), kibibytes(disk_bytes)),
            ("pods".to_owned(), self.max_pods.to_string()),
        ];
        let pages = self.machine.huge_pages.iter();
        list.extend(pages.map(|(one, all)| (format!("hugepages-{}", binary(*one)), binary(*all))));
        list.into_iter().map(|(name, quantity)| (name, Quantity(quantity))).collect()
    }

    fn handlers(&self) -> Option<Vec<api::NodeRuntimeHandler>> {
        let handlers = &self.features.runtime_handlers;
        let stated = |handler: &v1::RuntimeHandler| api::NodeRuntimeHandler {
            name: Some(handler.name.clone()),
            features: handler.features.as_ref().map(|features| api::NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        };
        (!handlers.is_empty()).then(|| handlers.iter().map(stated).collect())
    }

    fn info(&self) -> api::NodeSystemInfo {
        let machine = &self.machine;
        api::NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("{}://{}", self.runtime.0, self.runtime.1),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            running_in_user_namespace: None,
            os_image: machine.os_image.clone(),
            // Stock leaves it out where there is none.
            swap: (machine.swap_bytes > 0)
                .then_some(api::NodeSwapStatus { capacity: Some(machine.swap_bytes) }),
            system_uuid: if machine.system_uuid.is_empty() {
                machine.machine_id.clone()
            } else {
                machine.system_uuid.clone()
            },
        }
    }
}

fn binary(bytes: i64) -> String {
    use minik_apimachinery::quantity::{Format, Quantity};
    Quantity::from_whole(bytes, Format::BinarySi).to_string()
}

fn conditions(health: &Health, before: &[api::NodeCondition], now: Timestamp) -> Vec<api::NodeCondition> {
    let pressure =
        |kind, is_under: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
            let (reason, message) = if is_under { yes } else { no };
            (kind, is_under, reason, message.to_owned())
        };
    let ready = health.unready.is_empty();
    let all = [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        (
            "Ready",
            ready,
            if ready { "KubeletReady" } else { "KubeletNotReady" },
            if ready { "kubelet is posting ready status".into() } else { health.unready.join(", ") },
        ),
    ];
    let time = Time(crate::status::whole_seconds(now));
    all.into_iter()
        .map(|(kind, is_true, reason, message)| {
            let status = if is_true { "True" } else { "False" };
            let same = before.iter().find(|one| one.type_ == kind && one.status == status);
            let since = same.and_then(|one| one.last_transition_time.clone());
            api::NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(time.clone()),
                last_transition_time: Some(since.unwrap_or_else(|| time.clone())),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_the_time_of_their_change() {
        let facts = NodeFacts { name: "n".into(), max_pods: 110, ..NodeFacts::default() };
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = facts.status(&Health::default(), &[], at(10)).conditions.unwrap();
        let bad = Health { unready: vec!["the runtime is down".into()], ..Health::default() };
        let second = facts.status(&bad, &first, at(20)).conditions.unwrap();
        let times = |list: &[api::NodeCondition]| -> Vec<(String, i64)> {
            let time = |one: &api::NodeCondition| one.last_transition_time.as_ref().unwrap().0.as_second();
            list.iter().map(|one| (format!("{}={}", one.type_, one.status), time(one))).collect()
        };
        assert_eq!(times(&second)[2], ("PIDPressure=False".into(), 10));
        assert_eq!(times(&second)[3], ("Ready=False".into(), 20));
        assert_eq!(second[3].message.as_deref(), Some("the runtime is down"));
        assert_eq!(facts.resources()["pods"].0, "110");
    }
}
