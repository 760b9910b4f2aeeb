//! The quality of service that a Pod's requests and limits give it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::quantity::Quantity;

use crate::quantity::{amount, zero};
use crate::view::items;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn class(spec: &api::PodSpec) -> &'static str {
    // What the Pod says as a whole outweighs its containers.
    let own = spec.resources.as_ref().filter(|r| {
        r.requests.as_ref().is_some_and(|m| !m.is_empty()) || r.limits.as_ref().is_some_and(|m| !m.is_empty())
    });
    let containers = spec.containers.iter().chain(items(&spec.init_containers)).map(|c| c.resources.as_ref());
    let all: Vec<Option<&api::ResourceRequirements>> = match own {
        Some(own) => vec![Some(own)],
        None => containers.collect(),
    };
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    for requirements in all {
        add(&mut requests, requirements.and_then(|r| r.requests.as_ref()));
        let limited = add(&mut limits, requirements.and_then(|r| r.limits.as_ref()));
        guaranteed &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let same = requests.len() == limits.len() && requests.iter().all(|(name, q)| limits.get(name) == Some(q));
    if guaranteed && same { "Guaranteed" } else { "Burstable" }
}

/// Adds CPU and memory; answers how many of the two were given.
fn add<'a>(sums: &mut BTreeMap<&'a str, Quantity>, amounts: Option<&'a super::resources::Amounts>) -> usize {
    let mut given = 0;
    for (name, written) in amounts.into_iter().flatten() {
        let quantity = amount(written);
        if !matches!(name.as_str(), "cpu" | "memory") || !quantity.sign().is_gt() {
            continue;
        }
        given += 1;
        let sum = sums.entry(name).or_insert_with(zero);
        *sum = sum.add(&quantity);
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: serde_json::Value) -> api::PodSpec {
        serde_json::from_value(serde_json::json!({"containers": [{"name": "a", "resources": resources}]}))
            .unwrap()
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        use serde_json::json;
        assert_eq!(class(&pod(json!({}))), "BestEffort");
        assert_eq!(class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let all = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(class(&pod(all)), "Guaranteed");
        assert_eq!(class(&pod(json!({"limits": {"cpu": "1"}}))), "Burstable");
        assert_eq!(class(&pod(json!({"limits": {"ephemeral-storage": "1"}}))), "BestEffort");
    }
}
