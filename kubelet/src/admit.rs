//! Whether the node takes a Pod that was bound to it
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>).

use crate::core::memory::Verdict;
use crate::pod::{PodObject, list};
use minik_placement::{Node, NodeState, Pod, Reason, fit};
use std::sync::Arc;

/// Sysctls that a Pod may set: they reach no further than its own namespaces.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Says why a Pod is refused; `None` takes it. `others` are the Pods that the node has taken already.
pub fn admit(
    pod: &PodObject,
    node: &Arc<Node>,
    others: &[Arc<Pod>],
    unsafe_sysctls: &[String],
) -> Option<Verdict> {
    let refuse = |reason: &str, message: String| {
        Some(Verdict {
            reason: reason.to_owned(),
            message: format!("Pod was rejected: {message}"),
            refused: true,
            grace_seconds: None,
        })
    };
    if let Some(name) = forbidden_sysctl(pod, unsafe_sysctls) {
        return refuse("SysctlForbidden", format!("forbidden sysctl: {name:?} not allowlisted"));
    }
    if let Some(os) = pod.spec.os.as_ref().filter(|os| os.name != "linux") {
        return refuse(
            "PodOSNotSupported",
            format!("Failed to admit pod as the OS field doesn't match node OS ({})", os.name),
        );
    }
    let mut state = NodeState::new(node.clone());
    for other in others.iter().filter(|other| other.uid != pod.placement.uid && !other.finished) {
        state.add(other.clone());
    }
    let wanted = &pod.placement;
    if let Err(reasons) = fit::resources(wanted, &state)
        && let Some((reason, message)) = reasons.iter().find_map(shortage)
    {
        return refuse(&reason, message);
    }
    if fit::node_affinity(wanted, node).is_err() {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return refuse("NodeAffinity", message.to_owned());
    }
    if fit::node_name(wanted, node).is_err() {
        let message = "Predicate NodeName failed: node(s) didn't match the requested node name";
        return refuse("NodeName", message.to_owned());
    }
    if fit::host_ports(wanted, &state).is_err() {
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return refuse("NodePorts", message.to_owned());
    }
    None
}

fn shortage(reason: &Reason) -> Option<(String, String)> {
    match reason {
        Reason::TooManyPods { used, capacity } => Some((
            "OutOfpods".to_owned(),
            format!(
                "Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {capacity}"
            ),
        )),
        Reason::Insufficient { resource, requested, used, capacity } => Some((
            format!("OutOf{resource}"),
            format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        )),
        _ => None,
    }
}

fn forbidden_sysctl<'a>(pod: &'a PodObject, allowed: &[String]) -> Option<&'a str> {
    let context = pod.spec.security_context.as_ref()?;
    let fits = |name: &str| {
        SAFE_SYSCTLS.contains(&name)
            || allowed.iter().any(|one| match one.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == one,
            })
    };
    list(&context.sysctls).iter().map(|one| one.name.as_str()).find(|name| !fits(&name.replace('/', ".")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value, want: Option<(&str, &str)>) {
        let node = json!({"metadata": {"name": "n", "labels": {"a": "b"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}}});
        let node: Arc<Node> = Arc::new(serde_json::from_str(&node.to_string()).unwrap());
        let of = |name: &str, spec: serde_json::Value| -> PodObject {
            let object = json!({"metadata": {"name": name, "namespace": "s", "uid": name}, "spec": spec});
            serde_json::from_str(&object.to_string()).unwrap()
        };
        let other = of(
            "other",
            json!({"nodeName": "n", "containers": [{"name": "c",
            "ports": [{"containerPort": 1, "hostPort": 80}], "resources": {"requests": {"cpu": "1500m"}}}]}),
        );
        let got = admit(&of("p", spec), &node, &[other.placement], &["kernel.x*".to_owned()]);
        let got = got.as_ref().map(|verdict| (verdict.reason.as_str(), verdict.message.as_str()));
        assert_eq!(got, want);
    }

    #[test]
    fn pods_are_taken_or_refused() {
        let with = |container: serde_json::Value| json!({"nodeName": "n", "containers": [container]});
        check(with(json!({"name": "c"})), None);
        let cpu = "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000";
        check(with(json!({"name": "c", "resources": {"requests": {"cpu": "1"}}})), Some(("OutOfcpu", cpu)));
        let ports = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        check(
            with(json!({"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]})),
            Some(("NodePorts", ports)),
        );
        let affinity = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        check(
            json!({"nodeName": "n", "nodeSelector": {"no": "such"}, "containers": [{"name": "c"}]}),
            Some(("NodeAffinity", affinity)),
        );
        let sysctl = |name: &str| json!({"nodeName": "n", "containers": [{"name": "c"}], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        let words = "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted";
        check(sysctl("kernel.msgmax"), Some(("SysctlForbidden", words)));
        check(sysctl("kernel.xyz"), None);
        check(sysctl("net.ipv4.tcp_syncookies"), None);
    }
}
