//! The `kubernetes` Service and its EndpointSlice, by which Pods find the apiservers. Each server keeps a short-lived
//! record of its address; the slice has the addresses of all records.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The name of the Service and of its slice.
pub const NAME: &str = "kubernetes";
/// The namespace of both.
pub const NAMESPACE: &str = "default";
const PORT: u16 = 443;

/// The Service of servers that listen on `port`, reached at the first address of the range.
pub fn service(cluster_ip: IpAddr, port: u16) -> Value {
    let family = if cluster_ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ip.to_string(), "clusterIPs": [cluster_ip.to_string()],
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": PORT, "protocol": "TCP", "targetPort": port}],
        },
    })
}

/// The stored Service with the ports that it should have; `None` when it has them.
pub fn service_update(wanted: &Value, live: &Value) -> Option<Value> {
    if live["spec"]["ports"] == wanted["spec"]["ports"] && live["spec"]["type"] == wanted["spec"]["type"] {
        return None;
    }
    let mut next = live.clone();
    next["spec"]["ports"] = wanted["spec"]["ports"].clone();
    next["spec"]["type"] = wanted["spec"]["type"].clone();
    Some(next)
}

/// The slice of servers at these addresses, of which those of the first one's family count.
pub fn slice(addresses: &BTreeSet<IpAddr>, port: u16) -> Value {
    let is_v4 = addresses.first().is_none_or(IpAddr::is_ipv4);
    let one_family = addresses.iter().filter(|address| address.is_ipv4() == is_v4);
    let endpoints: Vec<Value> = one_family
        .map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": if is_v4 { "IPv4" } else { "IPv6" },
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// The stored slice with what it should say; `None` when it says so.
pub fn slice_update(wanted: &Value, live: &Value) -> Option<Value> {
    let mut next = live.clone();
    for field in ["endpoints", "ports"] {
        next[field] = wanted[field].clone();
    }
    next["metadata"]["labels"]["kubernetes.io/service-name"] = NAME.into();
    (next != *live).then_some(next)
}

/// The Endpoints of servers at these addresses, for clients that know no slices; nobody mirrors them.
pub fn endpoints(addresses: &BTreeSet<IpAddr>, port: u16) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    })
}

/// The stored Endpoints with what they should say; `None` when they say so.
pub fn endpoints_update(wanted: &Value, live: &Value) -> Option<Value> {
    let mut next = live.clone();
    next["subsets"] = wanted["subsets"].clone();
    next["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"] = "true".into();
    (next != *live).then_some(next)
}

/// A server's record, in the form that upstream's servers keep: Endpoints with the one address.
pub fn record(address: IpAddr) -> Vec<u8> {
    json!({
        "kind": "Endpoints", "apiVersion": "v1", "metadata": {},
        "subsets": [{"addresses": [{"ip": address.to_string()}]}],
    })
    .to_string()
    .into_bytes()
}

/// Addresses that the slice may have: those by which a Pod can reach something.
pub fn can_be_published(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn the_slice_follows_the_servers() {
        let one = slice(&addresses(&["10.0.0.1"]), 6443);
        let two = slice(&addresses(&["10.0.0.2", "10.0.0.1"]), 6443);
        assert_eq!(slice_update(&one, &one), None);
        let next = slice_update(&two, &one).unwrap();
        assert_eq!(next["endpoints"][1]["addresses"][0], "10.0.0.2");
        assert_eq!(slice_update(&two, &next), None);
    }

    #[test]
    fn only_ports_of_the_service_are_put_right() {
        let wanted = service("10.96.0.1".parse().unwrap(), 6443);
        let mut live = service("10.96.0.1".parse().unwrap(), 6444);
        live["metadata"]["labels"] = json!({"mine": "1"});
        let next = service_update(&wanted, &live).unwrap();
        assert_eq!(next["spec"]["ports"][0]["targetPort"], 6443);
        assert_eq!(next["metadata"]["labels"], json!({"mine": "1"}));
        assert_eq!(service_update(&wanted, &next), None);
    }

    #[test]
    fn nobody_reaches_a_loopback_address() {
        let can = |address: &str| can_be_published(address.parse().unwrap());
        assert!(can("10.0.0.1") && can("fd00::1"));
        assert!(!can("127.0.0.1") && !can("0.0.0.0") && !can("169.254.1.1") && !can("::1"));
    }
}
