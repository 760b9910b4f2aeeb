//! Whether a node takes a Pod, one question at a time.

use crate::node::{Node, NodeState};
use crate::pod::{HostPort, Pod};
use crate::reason::Reason;
use crate::taints::{self, Effect};

/// The Pod names no node, or this one.
///
/// # Errors
/// The reason against the node; so do the others here.
pub fn node_name(pod: &Pod, node: &Node) -> Result<(), Reason> {
    if pod.node_name.as_ref().is_none_or(|name| *name == node.name) { Ok(()) } else { Err(Reason::NodeName) }
}

/// The node is not cordoned, or the Pod tolerates that.
pub fn node_unschedulable(pod: &Pod, node: &Node) -> Result<(), Reason> {
    let tolerated = || pod.tolerations.iter().any(|one| one.tolerates(&taints::unschedulable()));
    if !node.unschedulable || tolerated() { Ok(()) } else { Err(Reason::Unschedulable) }
}

/// The Pod tolerates the node's taints.
pub fn taint_toleration(pod: &Pod, node: &Node) -> Result<(), Reason> {
    match taints::untolerated(&node.taints, &pod.tolerations, &[Effect::NoSchedule, Effect::NoExecute]) {
        Some(_) => Err(Reason::Taint),
        None => Ok(()),
    }
}

/// The Pod's node selector and required node affinity allow the node.
pub fn node_affinity(pod: &Pod, node: &Node) -> Result<(), Reason> {
    if pod.allows_node(&node.name, &node.labels) { Ok(()) } else { Err(Reason::NodeAffinity) }
}

/// The Pod's host ports are free.
pub fn host_ports(pod: &Pod, state: &NodeState) -> Result<(), Reason> {
    let taken = |wanted: &HostPort| state.used_ports().any(|used| used.conflicts(wanted));
    if pod.host_ports.iter().any(taken) { Err(Reason::HostPorts) } else { Ok(()) }
}

/// Enough is left of everything that the Pod asks for.
///
/// # Errors
/// Every resource of which too little is left.
pub fn resources(pod: &Pod, state: &NodeState) -> Result<(), Vec<Reason>> {
    let mut reasons = Vec::new();
    let (used, capacity) = (state.pods().len() as i64, state.node.most_pods);
    if used + 1 > capacity {
        reasons.push(Reason::TooManyPods { used, capacity });
    }
    let (asked, had, all) = (&pod.requests.asked, state.requested(), &state.node.allocatable);
    for (name, requested) in asked.amounts().filter(|(_, requested)| *requested > 0) {
        let of = |resources: &crate::Resources| match name {
            "cpu" => resources.cpu_milli,
            "memory" => resources.memory_bytes,
            "ephemeral-storage" => resources.ephemeral_storage_bytes,
            other => resources.others.get(other).copied().unwrap_or(0),
        };
        let (used, capacity) = (of(had), of(all));
        if requested > capacity - used {
            reasons.push(Reason::Insufficient { resource: name.into(), requested, used, capacity });
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

/// All of the questions above, in the scheduler's order; the first that is answered with no ends it.
///
/// # Errors
/// What speaks against the node.
pub fn fits(pod: &Pod, state: &NodeState) -> Result<(), Vec<Reason>> {
    let node = &*state.node;
    node_name(pod, node)
        .and_then(|()| node_unschedulable(pod, node))
        .and_then(|()| taint_toleration(pod, node))
        .and_then(|()| node_affinity(pod, node))
        .and_then(|()| host_ports(pod, state))
        .map_err(|reason| vec![reason])?;
    resources(pod, state)
}
