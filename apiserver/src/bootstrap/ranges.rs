//! The ServiceCIDR `kubernetes`: the ranges that the servers were started with, as an object.

use crate::Cidr;
use jiff::Timestamp;
use minik_apimachinery::time;
use serde_json::{Value, json};

/// Its name.
pub const NAME: &str = "kubernetes";

/// The object of these ranges.
pub fn service_cidr(ranges: &[Cidr]) -> Value {
    let cidrs: Vec<String> = ranges.iter().map(Cidr::to_string).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": NAME, "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": cidrs},
    })
}

/// The stored object with its condition; `None` when it has it. What a server with other ranges wrote stays: all use both.
pub fn made_ready(live: &Value, now: Timestamp) -> Option<Value> {
    let conditions = live.pointer("/status/conditions").and_then(Value::as_array);
    if conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True") {
        return None;
    }
    let mut next = live.clone();
    next["status"]["conditions"] = json!([{
        "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
        "lastTransitionTime": time::seconds(now),
    }]);
    Some(next)
}
