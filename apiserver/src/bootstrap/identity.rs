//! What each server tells of itself: a Lease in kube-system that it renews, by which others know how many there are.

use jiff::{SignedDuration, Timestamp};
use minik_apimachinery::time;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The namespace of the Leases.
pub const NAMESPACE: &str = "kube-system";
/// The label of those that servers of this kind keep.
pub const LABEL: &str = "apiserver.kubernetes.io/identity";
/// What it says.
pub const KIND: &str = "kube-apiserver";
/// How long a server counts that does not renew, in seconds.
const DURATION: i64 = 3600;
/// Letters of RFC 4648, small.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The name of a server's Lease: `apiserver-` and a hash of where it is. Several may run on one machine.
pub fn name(host: &str, advertised: &str) -> String {
    let hash = Sha256::digest(format!("{host} {advertised}"));
    let bits = hash.iter().take(16).flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let bits: Vec<u8> = bits.collect();
    let letter = |five: &[u8]| {
        let number = five.iter().fold(0, |number, bit| number << 1 | bit) << (5 - five.len());
        char::from(BASE32[usize::from(number)])
    };
    format!("apiserver-{}", bits.chunks(5).map(letter).collect::<String>())
}

/// The Lease of a server. `process` tells one life of it from the next.
pub fn lease(name: &str, host: &str, process: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": {LABEL: KIND, "kubernetes.io/hostname": host},
        },
        "spec": {
            "holderIdentity": format!("{name}_{process}"), "leaseDurationSeconds": DURATION,
            "renewTime": time::micros(now),
        },
    })
}

/// The stored Lease renewed; `None` when that was done just now.
pub fn renewed(wanted: &Value, live: &Value, now: Timestamp, period: SignedDuration) -> Option<Value> {
    let same = live["spec"]["holderIdentity"] == wanted["spec"]["holderIdentity"];
    if same && renew_time(live).is_some_and(|time| now.duration_since(time) < period) {
        return None;
    }
    let mut next = live.clone();
    next["spec"] = wanted["spec"].clone();
    next["metadata"]["labels"] = wanted["metadata"]["labels"].clone();
    Some(next)
}

/// Whether the server of a Lease has not been heard of for too long.
pub fn is_expired(lease: &Value, now: Timestamp) -> bool {
    let seconds = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(0);
    renew_time(lease).is_none_or(|time| now.duration_since(time) > SignedDuration::from_secs(seconds))
}

fn renew_time(lease: &Value) -> Option<Timestamp> {
    lease["spec"]["renewTime"].as_str().and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_in_time_and_expires() {
        let name = name("host", "10.0.0.1:6443");
        assert_eq!(name.len(), "apiserver-".len() + 26);
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        assert_ne!(name, super::name("host", "10.0.0.2:6443"));
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (one, later) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:10Z"));
        let ten = SignedDuration::from_secs(10);
        let live = lease(&name, "host", "a", one);
        assert_eq!(renewed(&lease(&name, "host", "a", one), &live, one, ten), None);
        let next = renewed(&lease(&name, "host", "a", later), &live, later, ten).unwrap();
        assert_eq!(next["spec"]["renewTime"], "2026-01-01T00:00:10.000000Z");
        assert!(renewed(&lease(&name, "host", "b", one), &live, one, ten).is_some(), "another process");
        assert!(!is_expired(&live, later) && is_expired(&live, at("2026-01-01T01:00:01Z")));
    }
}
