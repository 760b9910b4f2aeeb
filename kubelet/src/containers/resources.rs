//! Requests and limits as the kernel is told them.

use crate::pod::{Kind, PodObject, Qos};
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use minik_apimachinery::quantity::Quantity;
use minik_cri::v1;
use std::collections::BTreeMap;

const FEWEST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;
const PERIOD_US: i64 = 100_000;
const SMALLEST_QUOTA_US: i64 = 1_000;
/// From this priority on a Pod is critical for its node.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Weight of thousandths of a core.
pub fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(FEWEST_SHARES, MOST_SHARES)
}

/// Microseconds of each period that thousandths of a core come to; 0 for no limit.
pub fn quota(milli: i64) -> i64 {
    if milli <= 0 { 0 } else { (milli * PERIOD_US / 1000).max(SMALLEST_QUOTA_US) }
}

/// A container's limits, for the runtime.
pub fn container_resources(
    pod: &PodObject,
    container: &api::Container,
    memory_capacity_bytes: i64,
) -> v1::LinuxContainerResources {
    let amounts = Amounts::of(container);
    let request = if amounts.cpu_request == 0 { amounts.cpu_limit } else { amounts.cpu_request };
    v1::LinuxContainerResources {
        cpu_shares: shares(request),
        cpu_quota: quota(amounts.cpu_limit),
        cpu_period: PERIOD_US,
        memory_limit_in_bytes: amounts.memory_limit,
        oom_score_adj: oom_score(pod, container, memory_capacity_bytes),
        ..Default::default()
    }
}

/// A container's amounts: thousandths of a core, and bytes; 0 where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Requested.
    pub cpu_request: i64,
    /// At most.
    pub cpu_limit: i64,
    /// Requested.
    pub memory_request: i64,
    /// At most.
    pub memory_limit: i64,
}

impl Amounts {
    /// Those of a container.
    pub fn of(container: &api::Container) -> Amounts {
        Amounts::of_requirements(&container.resources.clone().unwrap_or_default())
    }

    /// Those of requirements.
    pub fn of_requirements(resources: &api::ResourceRequirements) -> Amounts {
        let read = |list: &Option<BTreeMap<String, ApiQuantity>>, name: &str| {
            let quantity = list.as_ref().and_then(|list| list.get(name));
            quantity.and_then(|quantity| quantity.0.parse::<Quantity>().ok())
        };
        let milli = |list, name| read(list, name).map_or(0, |quantity: Quantity| quantity.milli_value());
        let bytes = |list, name| read(list, name).map_or(0, |quantity: Quantity| quantity.value());
        Amounts {
            cpu_request: milli(&resources.requests, "cpu"),
            cpu_limit: milli(&resources.limits, "cpu"),
            memory_request: bytes(&resources.requests, "memory"),
            memory_limit: bytes(&resources.limits, "memory"),
        }
    }
}

/// How soon the kernel ends a container's processes when memory runs out.
fn oom_score(pod: &PodObject, container: &api::Container, capacity_bytes: i64) -> i64 {
    if pod.spec.priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY) {
        return -997;
    }
    match pod.qos() {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = Amounts::of(container).memory_request;
            let score = 1000
                - i64::try_from(i128::from(request) * 1000 / i128::from(capacity_bytes.max(1)))
                    .unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// The limits of a Pod as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// Weight.
    pub cpu_shares: i64,
    /// Microseconds a period; 0 for no limit.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Bytes; 0 for no limit.
    pub memory_bytes: i64,
}

/// The Pod's limits: its own, or the sum of its containers' where all have one.
pub fn pod_limits(pod: &PodObject) -> PodLimits {
    let mut sum = Amounts::default();
    let (mut cpu_bounded, mut memory_bounded) = (true, true);
    let mut greediest_init = Amounts::default();
    for (kind, container) in pod.containers().filter(|(kind, _)| *kind != Kind::Ephemeral) {
        let one = Amounts::of(container);
        cpu_bounded &= one.cpu_limit > 0;
        memory_bounded &= one.memory_limit > 0;
        let into = if kind == Kind::Init { &mut greediest_init } else { &mut sum };
        let combine = |a: i64, b: i64| if kind == Kind::Init { a.max(b) } else { a.saturating_add(b) };
        into.cpu_request = combine(into.cpu_request, one.cpu_request);
        into.cpu_limit = combine(into.cpu_limit, one.cpu_limit);
        into.memory_limit = combine(into.memory_limit, one.memory_limit);
    }
    let own = pod.spec.resources.clone().map(|own| Amounts::of_requirements(&own)).unwrap_or_default();
    let request = sum.cpu_request.max(greediest_init.cpu_request);
    let cpu_request = if own.cpu_request > 0 { own.cpu_request } else { request };
    let cpu_limit = match own.cpu_limit {
        0 if cpu_bounded => sum.cpu_limit.max(greediest_init.cpu_limit),
        own => own,
    };
    let memory_bytes = match own.memory_limit {
        0 if memory_bounded => sum.memory_limit.max(greediest_init.memory_limit),
        own => own,
    };
    let weight = if cpu_request == 0 { cpu_limit } else { cpu_request };
    let is_poor = pod.qos() == Qos::BestEffort;
    PodLimits {
        cpu_shares: if is_poor { FEWEST_SHARES } else { shares(weight) },
        cpu_quota: quota(cpu_limit),
        cpu_period: PERIOD_US,
        memory_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value) -> PodObject {
        let object = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn limits_become_kernel_figures() {
        let pod = pod(json!([
            {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "500m", "memory": "2Gi"}}},
            {"name": "b"}]));
        let a = container_resources(&pod, &pod.spec.containers[0], 4 << 30);
        assert_eq!((a.cpu_shares, a.cpu_quota, a.memory_limit_in_bytes), (256, 50_000, 2 << 30));
        assert_eq!(a.oom_score_adj, 750);
        let b = container_resources(&pod, &pod.spec.containers[1], 4 << 30);
        assert_eq!((b.cpu_shares, b.cpu_quota, b.memory_limit_in_bytes, b.oom_score_adj), (2, 0, 0, 999));
        let all = pod_limits(&pod);
        assert_eq!((all.cpu_shares, all.cpu_quota, all.memory_bytes), (256, 0, 0));
    }

    #[test]
    fn a_guaranteed_pod_is_limited_as_a_whole() {
        let resources =
            json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}});
        let pod = pod(json!([{"name": "a", "resources": resources}, {"name": "b", "resources": resources}]));
        assert_eq!(pod.qos(), Qos::Guaranteed);
        let all = pod_limits(&pod);
        assert_eq!((all.cpu_shares, all.cpu_quota, all.memory_bytes), (2048, 200_000, 128 << 20));
    }
}
