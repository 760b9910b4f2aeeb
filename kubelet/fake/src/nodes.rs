//! The Node objects and their Leases.

use crate::addresses;
use crate::config::Config;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, segment};
use minik_component::chain;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// The version that the nodes say they are: the API's.
const VERSION: &str = "v1.37.2";
/// What marks them as ours.
const MARK: (&str, &str) = ("minik.dev/node", "fake");
const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// How long others believe in a node after its last renewal.
const DURATION_SECONDS: i32 = 40;
/// The same.
pub const SILENCE: Duration = Duration::from_secs(DURATION_SECONDS as u64);

/// The name of a node.
pub fn name(config: &Config, index: u32) -> String {
    format!("{}{index}", config.prefix)
}

/// The index of a node of ours.
pub fn index(config: &Config, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(config.prefix.as_str())?;
    digits.parse().ok().filter(|index: &u32| *index < config.nodes && index.to_string() == digits)
}

/// A node as it registers.
fn node(config: &Config, index: u32, now: Timestamp) -> api::Node {
    let name = name(config, index);
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let own = [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        MARK,
    ];
    let mut labels: BTreeMap<String, String> = own.map(|(key, value)| (key.into(), value.into())).into();
    labels.extend(config.labels.0.clone());
    let address =
        |type_: &str, address: &str| api::NodeAddress { type_: type_.into(), address: address.into() };
    let has: BTreeMap<String, Quantity> = config
        .capacity
        .0
        .iter()
        .map(|(resource, amount)| (resource.clone(), Quantity(amount.clone())))
        .collect();
    api::Node {
        metadata: ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..Default::default() },
        spec: None,
        status: Some(api::NodeStatus {
            capacity: Some(has.clone()),
            allocatable: Some(has),
            addresses: Some(vec![
                address("InternalIP", &addresses::of_node(index).to_string()),
                address("Hostname", &name),
            ]),
            conditions: Some(conditions(now)),
            node_info: Some(api::NodeSystemInfo {
                architecture: arch.into(),
                operating_system: "linux".into(),
                kubelet_version: VERSION.into(),
                container_runtime_version: format!("minik-fake://{}", env!("CARGO_PKG_VERSION")),
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}

fn conditions(now: Timestamp) -> Vec<api::NodeCondition> {
    let one = |kind: &str, status: &str, reason: &str| api::NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
        ..Default::default()
    };
    vec![
        one("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        one("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        one("PIDPressure", "False", "KubeletHasSufficientPID"),
        one("Ready", "True", "KubeletReady"),
    ]
}

/// Registers a node, or says that it lives if it is there.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn register(client: &kube::Client, config: &Config, index: u32) -> Result<(), ClientError> {
    let now = config.clock.now();
    let fresh = node(config, index, now);
    match call::post::<api::Node>(client, NODES, &fresh).await {
        Err(error) if call::refusal(&error) == Some(409) => {
            let path = format!("{NODES}/{}/status", segment(&name(config, index)));
            let change = json!({"status": fresh.status});
            call::patch::<api::Node>(client, &path, PatchKind::Strategic, &change).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// Renews a node's Lease, making it if it is not there.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn renew(client: &kube::Client, config: &Config, index: u32) -> Result<(), ClientError> {
    let (name, now) = (name(config, index), MicroTime(config.clock.now()));
    let path = format!("{LEASES}/{}", segment(&name));
    let change = json!({"spec": {"renewTime": now}});
    match call::patch::<coordination::Lease>(client, &path, PatchKind::Merge, &change).await {
        Err(error) if call::refusal(&error) == Some(404) => {}
        other => return other.map(drop),
    }
    let spec = coordination::LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        renew_time: Some(now),
        ..Default::default()
    };
    let metadata =
        ObjectMeta { name: Some(name), namespace: Some("kube-node-lease".into()), ..Default::default() };
    let lease = coordination::Lease { metadata, spec: Some(spec) };
    call::post::<coordination::Lease>(client, LEASES, &lease).await.map(drop)
}

/// Deletes nodes of ours that are not wanted any more.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn remove_others(client: &kube::Client, config: &Config) -> Result<(), ClientError> {
    let path = format!("{NODES}?labelSelector={}%3D{}", MARK.0.replace('/', "%2F"), MARK.1);
    let found: k8s_openapi::List<api::Node> = call::get(client, &path).await?;
    let names = found.items.into_iter().filter_map(|node| node.metadata.name);
    for name in names.filter(|name| name.starts_with(&config.prefix) && index(config, name).is_none()) {
        if let Err(error) = call::delete(client, &format!("{NODES}/{}", segment(&name)), &json!({})).await {
            tracing::warn!(node = name, error = chain(&error), "a node that is not wanted stays");
        }
    }
    Ok(())
}
