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
/// Between two renewals.
const PERIOD: SignedDuration = SignedDuration::from_secs(10);
/// From when on a Lease that is not renewed may be taken over by a server at the same place.
const LEFT: SignedDuration = SignedDuration::from_secs(30);
/// Letters of RFC 4648, small.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The name of a server's Lease: `apiserver-` and a hash of where it is, and which of several there.
pub fn name(host: &str, advertised: &str, number: usize) -> String {
    let hash = Sha256::digest(format!("{host} {advertised} {number}"));
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

/// What is to be done about a stored Lease.
#[derive(Debug, PartialEq)]
pub enum Renewal {
    /// It was renewed just now.
    Done,
    /// Another server keeps it.
    Anothers,
    /// To be written.
    Due(Value),
}

/// The stored Lease renewed.
pub fn renewed(wanted: &Value, live: &Value, now: Timestamp) -> Renewal {
    let own = live["spec"]["holderIdentity"] == wanted["spec"]["holderIdentity"];
    let age = renew_time(live).map_or(SignedDuration::MAX, |time| now.duration_since(time));
    if age < if own { PERIOD } else { LEFT } {
        return if own { Renewal::Done } else { Renewal::Anothers };
    }
    let mut next = live.clone();
    next["spec"] = wanted["spec"].clone();
    next["metadata"]["labels"] = wanted["metadata"]["labels"].clone();
    Renewal::Due(next)
}

/// Whether a Lease is that of a process.
pub fn is_of(lease: &Value, process: &str) -> bool {
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    holder.rsplit_once('_').is_some_and(|(_, holder)| holder == process)
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
        let name = name("host", "10.0.0.1:6443", 0);
        assert_eq!(name.len(), "apiserver-".len() + 26);
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        assert_ne!(name, super::name("host", "10.0.0.2:6443", 0));
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let (one, later) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:10Z"));
        let live = lease(&name, "host", "a", one);
        assert_eq!(renewed(&lease(&name, "host", "a", one), &live, one), Renewal::Done);
        let Renewal::Due(next) = renewed(&lease(&name, "host", "a", later), &live, later) else {
            panic!("it is not renewed")
        };
        assert_eq!(next["spec"]["renewTime"], "2026-01-01T00:00:10.000000Z");
        let other = lease(&name, "host", "b", later);
        assert_eq!(renewed(&other, &live, later), Renewal::Anothers);
        assert!(matches!(renewed(&other, &live, at("2026-01-01T00:00:30Z")), Renewal::Due(_)));
        assert!(!is_expired(&live, later) && is_expired(&live, at("2026-01-01T01:00:01Z")));
    }
}
