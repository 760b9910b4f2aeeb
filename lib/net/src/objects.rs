use std::fmt;
use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::RuleMessage;

use crate::Cidr;

/// A network link as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of the link, unique in its namespace.
    pub index: u32,
    /// The link's name.
    pub name: String,
    /// "veth", "bridge", ...; empty for loopback and hardware.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// A carrier is there: both ends of a veth pair are up.
    pub running: bool,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Hardware address, six bytes for Ethernet.
    pub mac: Vec<u8>,
    /// The bridge that it belongs to.
    pub master: Option<u32>,
    /// For veth: the peer's index, in its own namespace.
    pub peer: Option<u32>,
    /// For veth: the local id of the peer's namespace, when that is another one.
    pub peer_netns_id: Option<i32>,
    /// Free text set by whoever made the link.
    pub alias: Option<String>,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address and its prefix.
    pub cidr: Cidr,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwards it.
    #[default]
    Unicast,
    /// Drops it silently.
    Blackhole,
    /// Answers that the network cannot be reached.
    Unreachable,
    /// Any other kind, by the kernel's number; only seen in lists.
    Other(u8),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; a prefix of length 0 is the default route.
    pub destination: Cidr,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The outgoing link's index.
    pub link: Option<u32>,
    /// The preferred source address.
    pub source: Option<IpAddr>,
    /// The gateway is reachable on the link although no address there covers it.
    pub onlink: bool,
    /// Smaller wins among equal destinations.
    pub metric: Option<u32>,
    /// The largest packet on this route, in bytes.
    pub mtu: Option<u32>,
    /// The routing table; 254 is main.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Who made it (2 kernel, 3 boot, 4 static).
    pub protocol: u8,
}

/// The main routing table.
pub(crate) const TABLE_MAIN: u32 = 254;

impl Route {
    /// A plain route in the main table; set the other fields as needed.
    pub fn to(destination: Cidr) -> Route {
        Route {
            destination,
            gateway: None,
            link: None,
            source: None,
            onlink: false,
            metric: None,
            mtu: None,
            table: TABLE_MAIN,
            kind: RouteKind::Unicast,
            protocol: RouteProtocol::Static.into(),
        }
    }

    /// Through a next hop.
    pub fn via(mut self, gateway: IpAddr) -> Route {
        self.gateway = Some(gateway);
        self
    }

    /// Out of a link.
    pub fn dev(mut self, link: u32) -> Route {
        self.link = Some(link);
        self
    }

    /// With a preferred source address.
    pub fn src(mut self, source: IpAddr) -> Route {
        self.source = Some(source);
        self
    }

    /// With a next hop that no address on the link covers.
    pub fn onlink(mut self) -> Route {
        self.onlink = true;
        self
    }
}

/// A neighbour: which hardware address an IP address has on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The link's index.
    pub link: u32,
    /// The IP address.
    pub address: IpAddr,
    /// The hardware address, if known.
    pub mac: Vec<u8>,
    /// Set by hand; never asked for nor forgotten.
    pub permanent: bool,
}

/// A policy routing rule, in the kernel's terms; for comparisons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(pub String);

impl Link {
    pub(crate) fn from_message(message: &LinkMessage) -> Link {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            ..Link::default()
        };
        let mut lower = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name.clone(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => link.mac = mac.clone(),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns_id = Some(*id),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::LinkInfo(infos) => link.kind = kind_of(infos),
                _ => {}
            }
        }
        link.peer = lower.filter(|_| link.kind == "veth");
        link
    }
}

fn kind_of(infos: &[LinkInfo]) -> String {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    });
    kind.unwrap_or_default()
}

impl Address {
    pub(crate) fn from_message(message: &AddressMessage) -> Option<Address> {
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                // IFA_LOCAL is the link's own address on point-to-point links, where IFA_ADDRESS is the peer's.
                AddressAttribute::Local(ip) => address = Some(*ip),
                AddressAttribute::Address(ip) => address = address.or(Some(*ip)),
                _ => {}
            }
        }
        Some(Address { link: message.header.index, cidr: Cidr::new(address?, message.header.prefix_len)? })
    }
}

impl Route {
    pub(crate) fn from_message(message: &RouteMessage) -> Option<Route> {
        let header = &message.header;
        let any = match u8::from(header.address_family) {
            family if i32::from(family) == libc::AF_INET => Cidr::default_v4(),
            family if i32::from(family) == libc::AF_INET6 => Cidr::default_v6(),
            _ => return None,
        };
        let mut route = Route::to(any);
        route.table = u32::from(header.table);
        route.protocol = header.protocol.into();
        route.kind = match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::BlackHole => RouteKind::Blackhole,
            RouteType::Unreachable => RouteKind::Unreachable,
            other => RouteKind::Other(other.into()),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => {
                    route.destination = Cidr::new(ip_of(to)?, header.destination_prefix_length)?;
                }
                RouteAttribute::Gateway(gateway) => route.gateway = ip_of(gateway),
                RouteAttribute::PrefSource(source) => route.source = ip_of(source),
                RouteAttribute::Oif(link) => route.link = Some(*link),
                RouteAttribute::Priority(metric) => route.metric = Some(*metric),
                RouteAttribute::Table(table) => route.table = *table,
                _ => {}
            }
        }
        Some(route)
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

impl Neighbour {
    pub(crate) fn from_message(message: &NeighbourMessage) -> Option<Neighbour> {
        let mut address = None;
        let mut mac = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6))
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.clone(),
                _ => {}
            }
        }
        let permanent = message.header.state == NeighbourState::Permanent;
        Some(Neighbour { link: message.header.ifindex, address: address?, mac, permanent })
    }
}

impl Rule {
    pub(crate) fn from_message(message: &RuleMessage) -> Rule {
        Rule(format!("{message:?}"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = self.link {
            write!(f, " dev {link}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        match self.kind {
            RouteKind::Unicast => Ok(()),
            kind => write!(f, " {kind:?}"),
        }
    }
}
