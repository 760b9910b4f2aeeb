//! A Node.

use super::events;
use super::writer::{Writer, age, time};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, NodeStatus, NodeSystemInfo, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use minik_apimachinery::quantity::Quantity as Amount;
use std::collections::BTreeMap;

/// All about it, and about the Pods that it has.
pub fn describe(
    node: &Node,
    lease: Result<&Lease, String>,
    pods: &[Pod],
    about: Option<&[Event]>,
    now: Timestamp,
) -> String {
    let mut writer = Writer::default();
    let status = node.status.clone().unwrap_or_default();
    head(node, lease, &mut writer);
    conditions(&status, &mut writer);
    writer.line(0, "Addresses:");
    for address in status.addresses.as_deref().unwrap_or_default() {
        writer.field(1, &address.type_, &address.address);
    }
    amounts("Capacity", status.capacity.as_ref(), &mut writer);
    amounts("Allocatable", status.allocatable.as_ref(), &mut writer);
    if let Some(info) = &status.node_info {
        system(info, &mut writer);
    }
    let spec = node.spec.clone().unwrap_or_default();
    for (name, value) in [("PodCIDR", &spec.pod_cidr), ("ProviderID", &spec.provider_id)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            writer.field(0, name, value);
        }
    }
    if let Some(cidrs) = spec.pod_cidrs.filter(|cidrs| !cidrs.is_empty()) {
        writer.field(0, "PodCIDRs", &cidrs.join(","));
    }
    let allocatable = status.allocatable.unwrap_or_default();
    table(pods, &allocatable, now, &mut writer);
    events::write(about, now, &mut writer);
    writer.text()
}

fn head(node: &Node, lease: Result<&Lease, String>, writer: &mut Writer) {
    let meta = &node.metadata;
    let spec = node.spec.clone().unwrap_or_default();
    const ROLE: &str = "node-role.kubernetes.io/";
    let labels = meta.labels.clone().unwrap_or_default();
    let mut roles: Vec<String> = labels
        .keys()
        .filter_map(|key| key.strip_prefix(ROLE))
        .filter(|role| !role.is_empty())
        .map(str::to_owned)
        .collect();
    roles.extend(labels.get("kubernetes.io/role").filter(|role| !role.is_empty()).cloned());
    writer.field(0, "Name", meta.name.as_deref().unwrap_or_default());
    writer.field(0, "Roles", &if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") });
    writer.map(0, "Labels", meta.labels.as_ref(), "=");
    writer.map(0, "Annotations", meta.annotations.as_ref(), ": ");
    let created = meta.creation_timestamp.as_ref().map(|at| time(at.0)).unwrap_or_default();
    writer.field(0, "CreationTimestamp", &created);
    let mut taints = spec.taints.clone().unwrap_or_default();
    taints.sort_by(|a, b| (&a.effect, &a.key).cmp(&(&b.effect, &b.key)));
    let taint = |taint: &k8s_openapi::api::core::v1::Taint| match taint.value.as_deref().unwrap_or_default() {
        "" => format!("{}:{}", taint.key, taint.effect),
        value => format!("{}={value}:{}", taint.key, taint.effect),
    };
    let taints: Vec<String> = taints.iter().map(taint).collect();
    writer.many(0, "Taints", &taints);
    writer.field(0, "Unschedulable", &spec.unschedulable.unwrap_or(false).to_string());
    let lease = match lease {
        Ok(lease) => lease.spec.as_ref(),
        Err(why) => return writer.field(0, "Lease", &format!("Failed to get lease: {why}")),
    };
    writer.line(0, "Lease:");
    let holder = lease.and_then(|spec| spec.holder_identity.clone()).unwrap_or_else(|| "<unset>".into());
    writer.field(1, "HolderIdentity", &holder);
    let at = |at: Option<Timestamp>| at.map_or_else(|| "<unset>".to_owned(), time);
    writer.field(1, "AcquireTime", &at(lease.and_then(|spec| spec.acquire_time.as_ref()).map(|at| at.0)));
    writer.field(1, "RenewTime", &at(lease.and_then(|spec| spec.renew_time.as_ref()).map(|at| at.0)));
}

fn conditions(status: &NodeStatus, writer: &mut Writer) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    writer.line(0, "Conditions:");
    writer.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    writer.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for one in conditions {
        let at = |at: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            // A time that was never told is Go's zero.
            at.as_ref().map_or_else(|| "Mon, 01 Jan 0001 00:00:00 +0000".to_owned(), |at| time(at.0))
        };
        let cells = [
            one.type_.clone(),
            one.status.clone(),
            at(&one.last_heartbeat_time),
            at(&one.last_transition_time),
            one.reason.clone().unwrap_or_default(),
            one.message.clone().unwrap_or_default(),
        ];
        writer.line(1, &cells.join(" \t"));
    }
}

fn amounts(name: &str, amounts: Option<&BTreeMap<String, Quantity>>, writer: &mut Writer) {
    let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) else { return };
    writer.line(0, &format!("{name}:"));
    amounts.iter().for_each(|(resource, amount)| writer.field(1, resource, &amount.0));
}

fn system(info: &NodeSystemInfo, writer: &mut Writer) {
    writer.line(0, "System Info:");
    for (name, value) in [
        ("Machine ID", &info.machine_id),
        ("System UUID", &info.system_uuid),
        ("Boot ID", &info.boot_id),
        ("Kernel Version", &info.kernel_version),
        ("OS Image", &info.os_image),
        ("Operating System", &info.operating_system),
        ("Architecture", &info.architecture),
        ("Container Runtime Version", &info.container_runtime_version),
        ("Kubelet Version", &info.kubelet_version),
    ] {
        writer.field(1, name, value);
    }
    if !info.kube_proxy_version.is_empty() {
        writer.field(1, "Kube-Proxy Version", &info.kube_proxy_version);
    }
}

/// What Pods ask for and may use of one resource.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    requests: i128,
    limits: i128,
}

/// In thousandths; what is no quantity counts nothing.
fn milli(amount: Option<&Quantity>) -> i128 {
    amount
        .and_then(|amount| amount.0.parse::<Amount>().ok())
        .map_or(0, |amount| i128::from(amount.milli_value()))
}

/// What one Pod asks for of a resource: its containers and sidecars together, or its largest init container.
fn of_pod(pod: &Pod, resource: &str) -> Sum {
    let spec = pod.spec.clone().unwrap_or_default();
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let resources = container.resources.clone().unwrap_or_default();
        Sum {
            requests: milli(resources.requests.unwrap_or_default().get(resource)),
            limits: milli(resources.limits.unwrap_or_default().get(resource)),
        }
    };
    let add = |a: Sum, b: Sum| Sum { requests: a.requests + b.requests, limits: a.limits + b.limits };
    let most = |a: Sum, b: Sum| Sum { requests: a.requests.max(b.requests), limits: a.limits.max(b.limits) };
    let mut sum = spec.containers.iter().map(of).fold(Sum::default(), add);
    let (mut sidecars, mut peak) = (Sum::default(), Sum::default());
    for container in spec.init_containers.as_deref().unwrap_or_default() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = add(sidecars, of(container));
            peak = most(peak, sidecars);
        } else {
            peak = most(peak, add(sidecars, of(container)));
        }
    }
    sum = most(add(sum, sidecars), peak);
    let overhead = milli(spec.overhead.unwrap_or_default().get(resource));
    let limits = if sum.limits > 0 { sum.limits + overhead } else { 0 };
    Sum { requests: sum.requests + overhead, limits }
}

fn percent(amount: i128, allocatable: i128) -> i128 {
    if allocatable > 0 { amount * 100 / allocatable } else { 0 }
}

/// An amount in thousandths, as a quantity.
fn written(resource: &str, milli: i128) -> String {
    if resource == "cpu" {
        return if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") };
    }
    let bytes = milli / 1000;
    const UNITS: [(&str, i128); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    let unit = UNITS.iter().find(|(_, size)| bytes != 0 && bytes % size == 0);
    unit.map_or_else(|| bytes.to_string(), |(unit, size)| format!("{}{unit}", bytes / size))
}

fn table(pods: &[Pod], allocatable: &BTreeMap<String, Quantity>, now: Timestamp, writer: &mut Writer) {
    writer.line(0, &format!("Non-terminated Pods:\t({} in total)", pods.len()));
    writer.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    writer.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let total = |resource: &str| milli(allocatable.get(resource));
    for pod in pods {
        let (cpu, memory) = (of_pod(pod, "cpu"), of_pod(pod, "memory"));
        let share = |resource: &str, amount: i128| {
            format!("{} ({}%)", written(resource, amount), percent(amount, total(resource)))
        };
        let created = pod.metadata.creation_timestamp.as_ref();
        let cells = [
            pod.metadata.namespace.clone().unwrap_or_default(),
            pod.metadata.name.clone().unwrap_or_default(),
            String::new(),
            share("cpu", cpu.requests),
            share("cpu", cpu.limits),
            share("memory", memory.requests),
            share("memory", memory.limits),
            created.map_or_else(|| "<unknown>".to_owned(), |at| age(at.0, now)),
        ];
        writer.line(1, &cells.join("\t"));
    }
    writer.line(0, "Allocated resources:");
    writer.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    writer.line(1, "Resource\tRequests\tLimits");
    writer.line(1, "--------\t--------\t------");
    let mut resources = vec!["cpu", "memory", "ephemeral-storage"];
    resources.extend(
        allocatable
            .keys()
            .map(String::as_str)
            .filter(|one| !resources.contains(one) && *one != "pods")
            .collect::<Vec<_>>(),
    );
    for resource in resources {
        let add = |a: Sum, b: Sum| Sum { requests: a.requests + b.requests, limits: a.limits + b.limits };
        let sum = pods.iter().map(|pod| of_pod(pod, resource)).fold(Sum::default(), add);
        let share =
            |amount: i128| format!("{} ({}%)", written(resource, amount), percent(amount, total(resource)));
        writer.line(1, &format!("{resource}\t{}\t{}", share(sum.requests), share(sum.limits)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_described_in_kubectls_layout() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux", "node-role.kubernetes.io/control-plane": ""}, "creationTimestamp": "2026-11-24T08:00:00Z"},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]},
            "status": {"capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"}, "allocatable": {"cpu": "2", "memory": "2Gi", "pods": "110"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status", "lastHeartbeatTime": "2026-11-24T09:00:00Z", "lastTransitionTime": "2026-11-24T08:00:01Z"}],
                "nodeInfo": {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.18", "osImage": "Debian", "operatingSystem": "linux", "architecture": "amd64", "containerRuntimeVersion": "minik://0.1.0", "kubeletVersion": "v1.37.0", "kubeProxyVersion": ""}},
        })).unwrap();
        let lease: Lease = serde_json::from_value(json!({"metadata": {}, "spec": {"holderIdentity": "n1", "renewTime": "2026-11-24T09:00:00.000000Z"}})).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-11-24T08:59:00Z"}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": {"memory": "1Gi"}}}]}})).unwrap();
        insta::assert_snapshot!(describe(
            &node,
            Ok(&lease),
            &[pod],
            Some(&[]),
            "2026-11-24T09:01:00Z".parse().unwrap()
        ));
    }
}
