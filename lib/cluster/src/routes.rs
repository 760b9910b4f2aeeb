//! Routes to the Pods of nodes on other machines: made when such a node has a range, taken away when it is gone.
//!
//! ```text
//!  Nodes (informer) ──> plan (pure): range ──> next hop ──> the kernel's routes within the cluster's ranges, made equal
//! ```
//! A node on a link of this machine is the next hop itself. All others are reached by way of the machine that serves the
//! API: the nodes there have addresses that nobody else knows.

use crate::config::ClusterConfig;
use crate::error::Result;
use crate::network::host_link;
use minik_client::{Informer, Meta, Projection, Source};
use minik_component::{Shutdown, SystemChance, chain};
use minik_net::{Cidr, Netlink, Route};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Notify;

/// A Node, as far as its routes go.
#[derive(Debug, Clone, Deserialize)]
struct RouteNode {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<Address>,
}

#[derive(Debug, Clone, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Projection for RouteNode {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Where each range is reached by, given the networks on this machine's links.
fn plan(
    config: &ClusterConfig,
    nodes: &[Arc<RouteNode>],
    links: &[Cidr],
) -> BTreeMap<String, (Cidr, IpAddr)> {
    let on_link = |address: &IpAddr| links.iter().any(|link| link.contains(*address));
    let server = config.joined.as_ref().and_then(|joined| joined.gateway()).filter(on_link);
    let mut routes = BTreeMap::new();
    let mut add = |range: Cidr, hop: IpAddr| {
        routes.insert(range.to_string(), (range, hop));
    };
    if let Some(server) = server {
        add(config.ranges.link(), server);
        add(config.ranges.services(), server);
    }
    for node in nodes {
        let is_own = config.nodes.iter().any(|own| *own.name == *node.metadata.name);
        let range = node.spec.pod_cidr.as_ref().and_then(|text| text.parse::<Cidr>().ok());
        let Some(range) = range.filter(|range| !is_own && config.ranges.all_pods().overlaps(range)) else {
            continue;
        };
        let internal = node.status.addresses.iter().find(|address| address.kind == "InternalIP");
        let address = internal.and_then(|internal| internal.address.parse::<IpAddr>().ok());
        match address.filter(on_link).or(server) {
            Some(hop) => add(range, hop),
            None => tracing::warn!(node = &*node.metadata.name, "no link of this machine leads to the node"),
        }
    }
    routes
}

/// Makes the kernel's routes within the cluster's ranges equal to what is planned; those of the own bridge stay.
fn reconcile(config: &ClusterConfig, cluster: &str, nodes: &[Arc<RouteNode>]) -> Result<()> {
    let mut kernel = Netlink::open()?;
    let own = kernel.link(&host_link(cluster))?.map(|link| link.index);
    let addresses = kernel.addresses()?;
    let links: Vec<Cidr> = addresses
        .iter()
        .filter(|address| Some(address.link) != own && address.cidr.prefix_len() > 0)
        .map(|address| address.cidr.network())
        .collect();
    let planned = plan(config, nodes, &links);
    for route in stale(&mut kernel, config, own)? {
        let is_planned =
            planned.get(&route.destination.to_string()).is_some_and(|(_, hop)| route.gateway == Some(*hop));
        if !is_planned {
            kernel.delete_route(&route)?;
        }
    }
    for (range, hop) in planned.into_values() {
        kernel.replace_route(&Route::to(range).via(hop))?;
    }
    Ok(())
}

/// The routes into the cluster's ranges by way of other machines.
fn stale(kernel: &mut Netlink, config: &ClusterConfig, own: Option<u32>) -> Result<Vec<Route>> {
    let whole = config.ranges.whole();
    let ours = |route: &Route| {
        route.gateway.is_some()
            && whole.contains(route.destination.address())
            && route.destination.prefix_len() > whole.prefix_len()
            && (own.is_none() || route.link != own)
    };
    Ok(kernel.routes()?.into_iter().filter(ours).collect())
}

/// Takes all of them away.
pub(crate) fn remove(config: &ClusterConfig, cluster: &str) -> Result<()> {
    let mut kernel = Netlink::open()?;
    let own = kernel.link(&host_link(cluster))?.map(|link| link.index);
    for route in stale(&mut kernel, config, own)? {
        kernel.delete_route(&route)?;
    }
    Ok(())
}

/// Follows the Nodes until `shutdown`.
pub(crate) async fn follow(
    config: Arc<ClusterConfig>,
    cluster: String,
    client: kube::Client,
    shutdown: Shutdown,
) {
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    let nodes =
        Informer::<RouteNode>::builder(Source::all("/api/v1/nodes")).on_change(move |_| notify.notify_one());
    let seen = nodes.informer();
    let keep = async {
        seen.synced().await;
        loop {
            let (config, cluster, nodes) = (config.clone(), cluster.clone(), seen.list());
            let done = tokio::task::spawn_blocking(move || reconcile(&config, &cluster, &nodes)).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(error = chain(&error), "cannot make the routes to other machines")
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
            changed.notified().await;
        }
    };
    // Cancel-safe: what is cut off is done again after a restart.
    tokio::select! {
        () = nodes.run(client, Arc::new(SystemChance), shutdown.clone()) => {}
        () = keep => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Joined, Ports, Wanted};
    use crate::ranges::Ranges;

    fn node(name: &str, range: &str, address: &str) -> Arc<RouteNode> {
        let addresses = serde_json::json!([{"type": "InternalIP", "address": address}]);
        let node = serde_json::json!({
            "metadata": {"name": name}, "spec": {"podCIDR": range}, "status": {"addresses": addresses},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn check(joined: Option<&str>, expected: &[&str]) {
        let wanted =
            Wanted { name: "c".into(), nodes: Some(u8::from(joined.is_none())), ..Wanted::default() };
        let ports = Ports { api: 6443, control: Vec::new() };
        let mut config = ClusterConfig::new(&wanted, "/bin".into(), Ranges::choose(&[]).unwrap(), ports);
        config.joined = joined.map(|server| Joined { server: format!("https://{server}:6443") });
        let nodes = [
            node("c-0", "10.64.128.0/24", "10.64.0.10"),
            node("far", "10.64.192.0/24", "192.0.2.7"),
            node("behind", "10.64.193.0/24", "198.51.100.1"),
            node("fake-0", "", "198.18.0.1"),
        ];
        let routes = plan(&config, &nodes, &["192.0.2.0/24".parse().unwrap()]);
        let lines: Vec<String> = routes.values().map(|(range, hop)| format!("{range} via {hop}")).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn who_is_on_a_link_is_reached_directly_and_all_others_by_the_server() {
        check(None, &["10.64.192.0/24 via 192.0.2.7"]);
        check(
            Some("192.0.2.1"),
            &[
                "10.64.0.0/24 via 192.0.2.1",
                "10.64.128.0/24 via 192.0.2.1",
                "10.64.16.0/20 via 192.0.2.1",
                "10.64.192.0/24 via 192.0.2.7",
                "10.64.193.0/24 via 192.0.2.1",
            ],
        );
    }
}
