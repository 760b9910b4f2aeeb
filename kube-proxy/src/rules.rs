//! What the kernel is to be told of a Service: pure, and the same for every backend.

use crate::objects::{Protocol, Service, ServicePort, Slice, SliceEndpoint};
use minik_net::Cidr;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Where clients send to. An unspecified address stands for those of the node: a node port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // their names say it
pub struct Frontend {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Where a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // their names say it
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

/// A frontend's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// By its traffic policy.
    Own,
    /// For Pods and this node itself, which a frontend with external policy Local sends anywhere.
    Everywhere,
}

/// How connections to a frontend are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Treatment {
    /// Masquerades what comes from outside the cluster.
    Cluster,
    /// Masquerades all.
    External,
    /// Keeps the client's address; Pods and the node itself go by [`List::Everywhere`].
    Local,
}

/// One fact in the kernel, by what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// An address that NodePorts listen on.
    NodePortAddress(IpAddr),
    /// A range of Services' addresses: what goes to those that no Service has is dropped.
    ServiceRange(Cidr),
    /// An address whose unknown ports are refused.
    ClusterIp(IpAddr),
    /// An endpoint that may meet itself behind a frontend.
    Hairpin(IpAddr),
    /// A frontend that connections are translated for: [`Value::Treat`].
    Frontend(Frontend),
    /// How many endpoints it has: [`Value::Count`].
    Count(Frontend, List),
    /// One of them: [`Value::Endpoint`].
    Slot(Frontend, List, u16),
    /// A frontend without endpoints: [`Value::Reject`] or [`Value::Drop`].
    Missing(Frontend),
    /// A frontend whose clients keep their endpoint: [`Value::Seconds`].
    Sticky(Frontend),
    /// A frontend that only some may use.
    Guarded(Frontend),
    /// Some who may use it.
    Source(Frontend, Cidr),
}

/// What is said about an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the entries' docs say it
pub enum Value {
    Treat(Treatment),
    Count(u16),
    Endpoint(Endpoint),
    Reject,
    Drop,
    Seconds(u32),
    /// It is there, that is all.
    Present,
}

/// What a rendering depends on beside the Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The node's name. Where it is empty no endpoint is near, so that the policies Local mean nothing.
    pub node: Arc<str>,
    /// Its zone.
    pub zone: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The endpoints of a port that this node may use.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usable {
    /// By policy Cluster.
    cluster: BTreeSet<Endpoint>,
    /// By policy Local.
    local: BTreeSet<Endpoint>,
    /// The Service has some, here or elsewhere.
    any: bool,
}

/// What the kernel is to be told of a Service. `slots` tells which endpoint stands in a place by now: one that stays an
/// endpoint keeps its place, so that a change of one endpoint changes few entries.
pub fn render(
    service: &Service,
    slices: &[Arc<Slice>],
    place: &Place,
    slots: &dyn Fn(Frontend, List, u16) -> Option<Endpoint>,
) -> Vec<(Entry, Value)> {
    let mut out = Vec::new();
    for &cluster_ip in &service.cluster_ips {
        out.push((Entry::ClusterIp(cluster_ip), Value::Present));
        for port in &service.ports {
            let endpoints = endpoints(cluster_ip.is_ipv4(), port, slices);
            let usable = usable(service, port, &endpoints, place);
            let near = |address: &IpAddr| {
                let on = endpoints.iter().find(|(endpoint, _)| endpoint.address == *address);
                on.is_some_and(|(_, endpoint)| endpoint.node.as_ref().is_none_or(|node| *node == place.node))
            };
            let addresses = usable.cluster.iter().chain(&usable.local).map(|endpoint| endpoint.address);
            let hairpins = addresses.filter(|address| !place.node.is_empty() && near(address));
            out.extend(hairpins.map(|address| (Entry::Hairpin(address), Value::Present)));
            frontends(&mut out, (service, port, cluster_ip), &usable, place, slots);
        }
    }
    out.sort_unstable_by_key(|(entry, _)| *entry);
    // Two ports may share an endpoint's address.
    out.dedup_by_key(|(entry, _)| *entry);
    out
}

fn frontends(
    out: &mut Vec<(Entry, Value)>,
    (service, port, cluster_ip): (&Service, &ServicePort, IpAddr),
    usable: &Usable,
    place: &Place,
    slots: &dyn Fn(Frontend, List, u16) -> Option<Endpoint>,
) {
    let (internal_local, external_local) = policies(service, place);
    let family = |address: &&IpAddr| address.is_ipv4() == cluster_ip.is_ipv4();
    let frontend = |address, port_number| Frontend { address, protocol: port.protocol, port: port_number };
    let mut one = |frontend: Frontend, treatment: Treatment, local: bool| {
        let own = if local { &usable.local } else { &usable.cluster };
        let everywhere = (treatment == Treatment::Local).then_some(&usable.cluster);
        if own.is_empty() {
            let value = if usable.any { Value::Drop } else { Value::Reject };
            out.push((Entry::Missing(frontend), value));
        }
        if !own.is_empty() || everywhere.is_some_and(|all| !all.is_empty()) {
            out.push((Entry::Frontend(frontend), Value::Treat(treatment)));
            let seconds = service.affinity_seconds;
            out.extend(seconds.map(|seconds| (Entry::Sticky(frontend), Value::Seconds(seconds))));
        }
        list(out, frontend, List::Own, own, slots);
        everywhere.into_iter().for_each(|all| list(out, frontend, List::Everywhere, all, slots));
    };
    one(frontend(cluster_ip, port.port), Treatment::Cluster, internal_local);
    let treatment = if external_local { Treatment::Local } else { Treatment::External };
    for &address in service.external_ips.iter().filter(family) {
        one(frontend(address, port.port), treatment, external_local);
    }
    for &address in service.load_balancer_ips.iter().filter(family) {
        one(frontend(address, port.port), treatment, external_local);
    }
    if port.node_port != 0 {
        one(frontend(unspecified(cluster_ip.is_ipv4()), port.node_port), treatment, external_local);
    }
    for &address in service.load_balancer_ips.iter().filter(family) {
        guard(out, frontend(address, port.port), service, place);
    }
}

/// The policies internal and external, as far as they mean something here.
fn policies(service: &Service, place: &Place) -> (bool, bool) {
    let node = !place.node.is_empty();
    (node && service.internal_local, node && service.external_local)
}

/// The address that stands for the node's own of a family.
pub fn unspecified(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn list(
    out: &mut Vec<(Entry, Value)>,
    frontend: Frontend,
    list: List,
    wanted: &BTreeSet<Endpoint>,
    slots: &dyn Fn(Frontend, List, u16) -> Option<Endpoint>,
) {
    let count = u16::try_from(wanted.len()).unwrap_or(u16::MAX);
    let mut rest = wanted.clone();
    let kept: Vec<Option<Endpoint>> =
        (0..count).map(|slot| slots(frontend, list, slot).filter(|endpoint| rest.remove(endpoint))).collect();
    let mut rest = rest.into_iter();
    for (slot, kept) in (0..count).zip(kept) {
        // As many places as endpoints: a place that kept none is filled by one that had none.
        let endpoint = kept.or_else(|| rest.next());
        out.extend(endpoint.map(|endpoint| (Entry::Slot(frontend, list, slot), Value::Endpoint(endpoint))));
    }
    if count > 0 {
        out.push((Entry::Count(frontend, list), Value::Count(count)));
    }
}

/// Lets only some use a load balancer's address.
fn guard(out: &mut Vec<(Entry, Value)>, frontend: Frontend, service: &Service, place: &Place) {
    if service.source_ranges.is_empty() {
        return;
    }
    out.push((Entry::Guarded(frontend), Value::Present));
    let v4 = frontend.address.is_ipv4();
    let mut ranges: Vec<Cidr> = service.source_ranges.iter().map(Cidr::network).collect();
    // A node that has the address itself uses it as its source.
    if place.addresses.iter().any(|address| ranges.iter().any(|range| range.contains(*address))) {
        ranges.extend(service.load_balancer_ips.iter().map(|address| Cidr::host(*address)));
    }
    ranges.retain(|range| range.address().is_ipv4() == v4);
    out.extend(widest(ranges).into_iter().map(|range| (Entry::Source(frontend, range), Value::Present)));
}

/// The ranges that lie in no other: the kernel refuses those that overlap, and the wider one says it all.
pub fn widest(mut ranges: Vec<Cidr>) -> Vec<Cidr> {
    ranges.sort_unstable_by_key(|range| (range.prefix_len(), *range));
    let mut kept: Vec<Cidr> = Vec::new();
    for range in ranges {
        if !kept.iter().any(|wider| wider.contains(range.address())) {
            kept.push(range);
        }
    }
    kept
}

/// A port's endpoints of one family. One that stands in two slices counts once: as ready if one says so.
fn endpoints<'a>(
    v4: bool,
    port: &ServicePort,
    slices: &'a [Arc<Slice>],
) -> Vec<(Endpoint, &'a SliceEndpoint)> {
    let mut found: Vec<(Endpoint, &SliceEndpoint)> = Vec::new();
    for slice in slices {
        let named = slice.ports.iter().filter(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == &*port.name
                && candidate.protocol.unwrap_or_default() == port.protocol
        });
        for number in named.filter_map(|port| port.port) {
            let family = slice.endpoints.iter().filter(|endpoint| endpoint.address.is_ipv4() == v4);
            found.extend(family.map(|e| (Endpoint { address: e.address, port: number }, e)));
        }
    }
    found.sort_by_key(|(endpoint, slice)| (*endpoint, !slice.ready, !slice.serving));
    found.dedup_by_key(|(endpoint, _)| *endpoint);
    found
}

/// Which endpoints this node may use: ready ones, or, where there are none, those that still serve while they end.
fn usable(
    service: &Service,
    port: &ServicePort,
    endpoints: &[(Endpoint, &SliceEndpoint)],
    place: &Place,
) -> Usable {
    let outside =
        port.node_port != 0 || !service.external_ips.is_empty() || !service.load_balancer_ips.is_empty();
    let (internal_local, external_local) = policies(service, place);
    let ends = |endpoint: &SliceEndpoint| endpoint.serving && endpoint.terminating;
    let near = |endpoint: &SliceEndpoint| endpoint.node.as_ref() == Some(&place.node);
    let some = |wanted: &dyn Fn(&SliceEndpoint) -> bool| -> BTreeSet<Endpoint> {
        endpoints.iter().filter(|(_, e)| wanted(e)).map(|(endpoint, _)| *endpoint).collect()
    };
    let mut usable = Usable::default();
    if !internal_local || outside {
        let topology = Topology::of(endpoints, place);
        usable.cluster = some(&|endpoint| endpoint.ready && topology.allows(endpoint, place));
        if usable.cluster.is_empty() {
            usable.cluster = some(&ends);
        }
        usable.any = !usable.cluster.is_empty();
    }
    if internal_local || (external_local && outside) {
        usable.any |= endpoints.iter().any(|(_, endpoint)| endpoint.ready || ends(endpoint));
        usable.local = some(&|endpoint| endpoint.ready && near(endpoint));
        if usable.local.is_empty() {
            usable.local = some(&|endpoint| ends(endpoint) && near(endpoint));
        }
    }
    usable
}

/// Whether endpoints' hints are heeded: only where every ready endpoint has them and one is for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    None,
    SameNode,
    SameZone,
}

impl Topology {
    fn of(endpoints: &[(Endpoint, &SliceEndpoint)], place: &Place) -> Topology {
        let ready = || endpoints.iter().map(|(_, endpoint)| endpoint).filter(|endpoint| endpoint.ready);
        let heeded = |hints: &dyn Fn(&SliceEndpoint) -> &[Arc<str>], here: &Arc<str>| {
            ready().all(|endpoint| !hints(endpoint).is_empty())
                && ready().any(|endpoint| hints(endpoint).contains(here))
        };
        if heeded(&|endpoint| &endpoint.for_nodes, &place.node) {
            Topology::SameNode
        } else if heeded(&|endpoint| &endpoint.for_zones, &place.zone) {
            Topology::SameZone
        } else {
            Topology::None
        }
    }

    fn allows(self, endpoint: &SliceEndpoint, place: &Place) -> bool {
        match self {
            Topology::None => true,
            Topology::SameNode => endpoint.for_nodes.contains(&place.node),
            Topology::SameZone => endpoint.for_zones.contains(&place.zone),
        }
    }
}

/// The frontends of a Service over UDP, each with the addresses that may answer for it: connections that others answer
/// are to be forgotten. Policies and topology do not count, so that a change of them breaks no connection.
pub fn datagram_flows(service: &Service, slices: &[Arc<Slice>]) -> Vec<(Frontend, BTreeSet<IpAddr>)> {
    let mut found = Vec::new();
    for cluster_ip in &service.cluster_ips {
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            let v4 = cluster_ip.is_ipv4();
            let endpoints = endpoints(v4, port, slices);
            let serving = endpoints.iter().filter(|(_, endpoint)| endpoint.serving);
            let answering: BTreeSet<IpAddr> = serving.map(|(endpoint, _)| endpoint.address).collect();
            if answering.is_empty() {
                continue;
            }
            let outside = service.external_ips.iter().chain(&service.load_balancer_ips);
            let addresses = outside.filter(|address| address.is_ipv4() == v4).chain([cluster_ip]);
            let node_port = (port.node_port != 0).then_some((unspecified(v4), port.node_port));
            let frontends = addresses.map(|address| (*address, port.port)).chain(node_port);
            found.extend(frontends.map(|(address, number)| {
                (Frontend { address, protocol: Protocol::Udp, port: number }, answering.clone())
            }));
        }
    }
    found
}

/// How many ready endpoints of a Service are on this node.
pub fn local_ready(slices: &[Arc<Slice>], place: &Place) -> usize {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let near = endpoints.filter(|e| e.ready && e.node.as_ref() == Some(&place.node));
    near.map(|endpoint| endpoint.address).collect::<BTreeSet<IpAddr>>().len()
}
