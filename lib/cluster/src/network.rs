//! The cluster's network on this machine.
//!
//! ```text
//!   node NAME-0 (netns)          cluster (netns)              host
//!   eth0 B.0.10/24 ── veth ── br0 B.0.1/24 ── veth ── mk-… B.0.2/24, routes to the Pods of each node and, by the
//!   default via B.0.2            the API's socket     first node, to the Services; nft: masquerade
//! ```
//! Nodes and host share one link, so nothing is forwarded in the cluster's namespace. Links end with their namespaces.

use crate::config::{ClusterConfig, Node};
use crate::error::{Result, file, system};
use crate::layout::Layout;
use crate::ranges::Ranges;
use crate::routes;
use minik_net::{Cidr, NetNs, Netlink, Route, Veth, nft, sysctl};
use rustix::fd::OwnedFd;
use rustix::mount::mount_bind;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, TcpListener};

const BRIDGE: &str = "br0";
const TABLE_FAMILY: &str = "ip";
/// What kube-proxy and the runtime have in a node's network.
const NODE_TABLES: &[(&str, &str)] =
    &[("ip", "kube-proxy"), ("ip6", "kube-proxy"), ("ip", "minik_hostports")];

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
    inside.replace_route(&Route::to(Cidr::default_v4()).via(ranges.host().into()).dev(bridge))?;
    host.add_address(link, on_link(ranges.host()))?;
    for node in &config.nodes {
        add_node(layout, config, node)?;
    }
    nft::load(&rules(&layout.name, Some(&name), ranges))?;
    Ok(())
}

/// On a machine that has joined: the node's network is the machine's own.
pub(crate) fn build_joined(layout: &Layout, config: &ClusterConfig) -> Result<()> {
    for node in &config.nodes {
        let pin = layout.node(&node.name).pin("net");
        crate::config::write_file(&pin, b"", 0o644)?;
        mount_bind("/proc/thread-self/ns/net", &pin).map_err(file("pin", &pin))?;
    }
    Ok(nft::load(&rules(&layout.name, None, config.ranges))?)
}

/// Takes away what the node had in the machine's own network.
pub(crate) fn remove_joined(layout: &Layout, config: &ClusterConfig) -> Result<()> {
    for node in &config.nodes {
        NetNs::unpin(&layout.node(&node.name).pin("net"))?;
    }
    routes::remove(config, &layout.name)?;
    for (family, table) in NODE_TABLES {
        nft::delete_table(family, table)?;
    }
    Ok(nft::delete_table(TABLE_FAMILY, &table(&layout.name))?)
}

/// Builds a node's part; the cluster's is there, and those of the nodes before it in the list.
pub(crate) fn add_node(layout: &Layout, config: &ClusterConfig, node: &Node) -> Result<()> {
    let prefix_len = config.ranges.link().prefix_len();
    let own_address = Cidr::new(node.address.into(), prefix_len).expect("an IPv4 prefix");
    let cluster = NetNs::open(layout.net())?;
    let mut inside = Netlink::open_in(&cluster)?;
    let ns = NetNs::create_pinned(&layout.node(&node.name).pin("net"))?;
    let mut own = Netlink::open_in(&ns)?;
    own.loopback_up()?;
    let port = &format!("n-{}", node.address.octets()[3]);
    let eth0 =
        own.add_veth(&Veth { name: "eth0", peer: port, peer_netns: Some(&cluster), ..Veth::default() })?;
    let bridge = inside.index_of(BRIDGE)?;
    plug(&mut inside, bridge, port)?;
    own.add_address(eth0, own_address)?;
    own.replace_route(&Route::to(Cidr::default_v4()).via(config.ranges.host().into()).dev(eth0))?;
    ns.run(|| {
        sysctl::write("net/ipv4/ip_forward", "1")?;
        // What the host sends to a Service may go on to another node, over the same link: no reason to tell it.
        ["all", "eth0"]
            .iter()
            .try_for_each(|conf| sysctl::write(&format!("net/ipv4/conf/{conf}/send_redirects"), "0"))
    })??;
    let pods = pod_range(node)?;
    inside.replace_route(&Route::to(pods).via(node.address.into()).dev(bridge))?;
    let mut host = Netlink::open()?;
    let link = host.index_of(&host_link(&layout.name))?;
    host.replace_route(&Route::to(pods).via(node.address.into()).dev(link))?;
    for other in config.nodes.iter().take_while(|other| other.name != node.name) {
        own.replace_route(&Route::to(pod_range(other)?).via(other.address.into()).dev(eth0))?;
        let mut others = Netlink::open_in(&NetNs::open(layout.node(&other.name).pin("net"))?)?;
        let link = others.index_of("eth0")?;
        others.replace_route(&Route::to(pods).via(node.address.into()).dev(link))?;
    }
    route_services(layout, config)
}

/// The host reaches Services by way of the first node, whose kube-proxy serves it like any client from outside.
fn route_services(layout: &Layout, config: &ClusterConfig) -> Result<()> {
    let mut host = Netlink::open()?;
    let route = Route::to(config.ranges.services()).dev(host.index_of(&host_link(&layout.name))?);
    match config.nodes.first() {
        Some(first) => Ok(host.replace_route(&route.via(first.address.into()))?),
        None => match host.delete_route(&route) {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        },
    }
}

/// Takes a node's part away, as far as it is there. It is no longer in the description, and its processes are gone.
pub(crate) fn remove_node(layout: &Layout, config: &ClusterConfig, node: &Node) -> Result<()> {
    // Its link ends with its namespace, and with the link the far end.
    NetNs::unpin(&layout.node(&node.name).pin("net"))?;
    let pods = pod_range(node)?;
    let forget = |mut from: Netlink, link: &str| -> Result<()> {
        let link = from.index_of(link)?;
        match from.delete_route(&Route::to(pods).via(node.address.into()).dev(link)) {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    };
    forget(Netlink::open_in(&NetNs::open(layout.net())?)?, BRIDGE)?;
    forget(Netlink::open()?, &host_link(&layout.name))?;
    for other in &config.nodes {
        forget(Netlink::open_in(&NetNs::open(layout.node(&other.name).pin("net"))?)?, "eth0")?;
    }
    route_services(layout, config)
}

fn pod_range(node: &Node) -> Result<Cidr> {
    let text = node.pod_cidr.as_deref().unwrap_or_default();
    let wrong = || std::io::Error::new(std::io::ErrorKind::InvalidData, text);
    text.parse().map_err(|_| system("read a node's Pod range")(wrong()))
}

fn plug(inside: &mut Netlink, bridge: u32, port: &str) -> Result<()> {
    let index = inside.index_of(port)?;
    inside.set_master(index, bridge)?;
    Ok(inside.set_up(index)?)
}

/// Egress bears the host's address; what stays inside keeps its own. A packet for a Service that comes back from a node
/// was not served there, and must not go round. A machine that has joined has no link of the cluster's own.
fn rules(cluster: &str, link: Option<&str>, ranges: Ranges) -> String {
    let (table, whole, services) = (table(cluster), ranges.whole(), ranges.services());
    let (elsewhere, unserved) = match link {
        None => (String::new(), String::new()),
        Some(link) => (
            format!("oifname != \"{link}\" "),
            format!(
                "\tchain unserved {{\n\
                 \t\ttype filter hook forward priority filter; policy accept;\n\
                 \t\tiifname \"{link}\" ip daddr {services} reject with icmp host-unreachable\n\
                 \t}}\n"
            ),
        ),
    };
    format!(
        "table {TABLE_FAMILY} {table} {{\n\
         \tchain egress {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {whole} ip daddr != {whole} {elsewhere}masquerade\n\
         \t}}\n{unserved}}}\n"
    )
}

/// Takes all of it away, as far as it is there. Processes inside are gone already.
pub(crate) fn remove(layout: &Layout, config: &ClusterConfig) -> Result<()> {
    let name = host_link(&layout.name);
    routes::remove(config, &layout.name)?;
    // The link's end takes its addresses and routes with it.
    Netlink::open()?.delete_link(&name)?;
    for node in &config.nodes {
        NetNs::unpin(&layout.node(&node.name).pin("net"))?;
    }
    NetNs::unpin(&layout.net())?;
    nft::delete_table(TABLE_FAMILY, &table(&layout.name))?;
    Ok(())
}

/// Opens the API's listening sockets: for this machine, for its nodes, and for those on others.
pub(crate) fn api_sockets(layout: &Layout, config: &ClusterConfig) -> Result<Vec<OwnedFd>> {
    let port = config.ports.api;
    let bind = |address: IpAddr| TcpListener::bind((address, port));
    let local = bind(Ipv4Addr::LOCALHOST.into());
    let mut sockets = vec![local.map_err(system("listen on the API's port of 127.0.0.1"))?.into()];
    if config.networked {
        let opened = NetNs::open(layout.net())?.run(|| bind(config.ranges.api().into()))?;
        sockets
            .push(opened.map_err(system("listen on the API's address in the cluster's namespace"))?.into());
    }
    if let Some(address) = config.api_address {
        sockets.push(bind(address).map_err(system("listen on --api-address"))?.into());
    }
    Ok(sockets)
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
