//! The cluster's network on this machine.
//!
//! ```text
//!   node NAME-0 (netns)          cluster (netns)              host
//!   eth0 B.0.10/24 ── veth ── br0 B.0.1/24 ── veth ── mk-… B.0.2/24, routes to the Pods, nft: masquerade
//!   default via B.0.2            the API's socket
//! ```
//! Nodes and host share one link, so nothing is forwarded in the cluster's namespace. Links end with their namespaces.

use crate::config::ClusterConfig;
use crate::error::{Error, Result};
use crate::layout::Layout;
use minik_net::{Cidr, NetNs, Netlink, Route, Veth, nft, sysctl};
use sha2::{Digest, Sha256};
use std::net::IpAddr;

const BRIDGE: &str = "br0";
const TABLE_FAMILY: &str = "ip";

/// The name of the host's end; the kernel allows 15 characters.
pub(crate) fn host_link(cluster: &str) -> String {
    if cluster.len() <= 12 {
        return format!("mk-{cluster}");
    }
    let sum = Sha256::digest(cluster);
    let [a, b, c, ..] = <[u8; 32]>::from(sum);
    format!("mk-{}{a:02x}{b:02x}{c:02x}", &cluster[..6])
}

fn table(cluster: &str) -> String {
    format!("minik-{cluster}")
}

/// The ranges that cannot be used: the host's routes but for the default one.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn host_ranges() -> Result<Vec<Cidr>> {
    let routes = Netlink::open()?.routes()?;
    Ok(routes.into_iter().map(|route| route.destination).filter(|cidr| cidr.prefix_len() > 0).collect())
}

/// Builds all of it; nothing of it is there yet.
pub(crate) fn build(layout: &Layout, config: &ClusterConfig) -> Result<()> {
    let ranges = config.ranges;
    let on_link = |address: std::net::Ipv4Addr| {
        Cidr::new(IpAddr::V4(address), ranges.link().prefix_len()).expect("an IPv4 prefix")
    };
    let cluster = NetNs::create_pinned(&layout.net())?;
    let mut inside = Netlink::open_in(&cluster)?;
    inside.loopback_up()?;
    let bridge = inside.add_bridge(BRIDGE)?;
    inside.add_address(bridge, on_link(ranges.api()))?;
    let mut host = Netlink::open()?;
    let name = host_link(&layout.name);
    let link =
        host.add_veth(&Veth { name: &name, peer: "host", peer_netns: Some(&cluster), ..Veth::default() })?;
    plug(&mut inside, bridge, "host")?;
    host.add_address(link, on_link(ranges.host()))?;
    for node in &config.nodes {
        let ns = NetNs::create_pinned(&layout.node(&node.name).pin("net"))?;
        let mut own = Netlink::open_in(&ns)?;
        own.loopback_up()?;
        let port = &format!("n-{}", node.address.octets()[3]);
        let eth0 =
            own.add_veth(&Veth { name: "eth0", peer: port, peer_netns: Some(&cluster), ..Veth::default() })?;
        plug(&mut inside, bridge, port)?;
        own.add_address(eth0, on_link(node.address))?;
        own.replace_route(&Route::to(Cidr::default_v4()).via(ranges.host().into()).dev(eth0))?;
        ns.run(|| sysctl::write("net/ipv4/ip_forward", "1"))??;
        let pods = pod_range(node)?;
        host.replace_route(&Route::to(pods).via(node.address.into()).dev(link))?;
        for other in config.nodes.iter().filter(|other| other.name != node.name) {
            own.replace_route(&Route::to(pod_range(other)?).via(other.address.into()).dev(eth0))?;
        }
    }
    nft::load(&rules(&layout.name, &name, ranges.whole()))?;
    Ok(())
}

fn pod_range(node: &crate::config::Node) -> Result<Cidr> {
    let source = |_| std::io::Error::new(std::io::ErrorKind::InvalidData, node.pod_cidr.clone());
    node.pod_cidr
        .parse()
        .map_err(|error| Error::System { what: "read a node's Pod range", source: source(error) })
}

fn plug(inside: &mut Netlink, bridge: u32, port: &str) -> Result<()> {
    let index = inside.index_of(port)?;
    inside.set_master(index, bridge)?;
    Ok(inside.set_up(index)?)
}

/// Egress bears the host's address; what stays inside keeps its own.
fn rules(cluster: &str, link: &str, whole: Cidr) -> String {
    let table = table(cluster);
    format!(
        "table {TABLE_FAMILY} {table} {{\n\
         \tchain egress {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {whole} ip daddr != {whole} oifname != \"{link}\" masquerade\n\
         \t}}\n\
         }}\n"
    )
}

/// Takes all of it away, as far as it is there. Processes inside are gone already.
pub(crate) fn remove(layout: &Layout, config: &ClusterConfig) -> Result<()> {
    let name = host_link(&layout.name);
    // The link's end takes its addresses and routes with it.
    Netlink::open()?.delete_link(&name)?;
    for node in &config.nodes {
        NetNs::unpin(&layout.node(&node.name).pin("net"))?;
    }
    NetNs::unpin(&layout.net())?;
    nft::delete_table(TABLE_FAMILY, &table(&layout.name))?;
    Ok(())
}

/// Opens a listening socket in the cluster's namespace, on the API's own address.
pub(crate) fn api_socket(layout: &Layout, config: &ClusterConfig) -> Result<std::net::TcpListener> {
    let address = (config.ranges.api(), config.ports.api);
    let opened = NetNs::open(layout.net())?.run(|| std::net::TcpListener::bind(address))?;
    opened.map_err(crate::error::system("listen on the API's address in the cluster's namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_differ() {
        assert_eq!(host_link("minik"), "mk-minik");
        let (one, two) = (host_link("a-rather-long-name-1"), host_link("a-rather-long-name-2"));
        assert!(one.len() <= 15 && two.len() <= 15, "{one} {two}");
        assert_ne!(one, two);
    }
}
