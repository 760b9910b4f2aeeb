use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use rtnetlink::packet_route::link::{BridgeStpState, InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use crate::{Cidr, NetNs, Route, RouteKind};

/// One change, ready to be sent: pure data, apart from the number of an open namespace file.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) what: String,
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Veth<'a> {
    /// The name of the end in the socket's namespace.
    pub name: &'a str,
    /// The name of the other end.
    pub peer: &'a str,
    /// The namespace that the other end is made in; without it, the socket's.
    pub peer_netns: Option<&'a NetNs>,
    /// The largest packet of both ends, in bytes; the kernel's default otherwise.
    pub mtu: Option<u32>,
    /// The hardware address of this end.
    pub mac: Option<[u8; 6]>,
    /// The hardware address of the other end.
    pub peer_mac: Option<[u8; 6]>,
}

const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;
const CREATE: u16 = CHANGE | NLM_F_CREATE | NLM_F_EXCL;

impl Request {
    /// Makes a veth pair; this end is up, the other one is left down (the kernel refuses to open it before it has its peer).
    pub fn add_veth(veth: &Veth<'_>) -> Request {
        let mut near = LinkMessageBuilder::<LinkVeth>::new(veth.name, veth.peer).up();
        let mut far = LinkMessageBuilder::<LinkUnspec>::new().name(veth.peer);
        if let Some(mtu) = veth.mtu {
            (near, far) = (near.mtu(mtu), far.mtu(mtu));
        }
        if let Some(mac) = veth.mac {
            near = near.address(mac.to_vec());
        }
        if let Some(mac) = veth.peer_mac {
            far = far.address(mac.to_vec());
        }
        if let Some(ns) = veth.peer_netns {
            far = far.setns_by_fd(ns.raw_fd());
        }
        let message = near.set_info_data(InfoData::Veth(InfoVeth::Peer(far.build()))).build();
        Request {
            what: format!("add veth pair {} - {}", veth.name, veth.peer),
            message: RouteNetlinkMessage::NewLink(message),
            flags: CREATE,
        }
    }

    /// Makes a bridge without spanning tree, so that a new port forwards at once; it is up.
    pub fn add_bridge(name: &str) -> Request {
        let message = LinkBridge::new(name).stp_state(BridgeStpState::Disabled).forward_delay(0).up().build();
        Request {
            what: format!("add bridge {name}"),
            message: RouteNetlinkMessage::NewLink(message),
            flags: CREATE,
        }
    }

    /// Deletes a link, and with a veth end its peer.
    pub fn delete_link(index: u32) -> Request {
        let message = LinkUnspec::new_with_index(index).build();
        Request {
            what: format!("delete link {index}"),
            message: RouteNetlinkMessage::DelLink(message),
            flags: CHANGE,
        }
    }

    /// Brings a link up.
    pub fn link_up(index: u32) -> Request {
        set_link(format!("set link {index} up"), LinkUnspec::new_with_index(index).up().build())
    }

    /// Brings a link down.
    pub fn link_down(index: u32) -> Request {
        set_link(format!("set link {index} down"), LinkUnspec::new_with_index(index).down().build())
    }

    /// Makes a link a port of a bridge.
    pub fn set_master(index: u32, bridge: u32) -> Request {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        set_link(format!("add link {index} to bridge {bridge}"), message)
    }

    /// Sets the largest packet of a link, in bytes.
    pub fn set_mtu(index: u32, mtu: u32) -> Request {
        set_link(format!("set mtu {mtu} of link {index}"), LinkUnspec::new_with_index(index).mtu(mtu).build())
    }

    /// Keeps a free text on a link.
    pub fn set_alias(index: u32, alias: &str) -> Request {
        set_link(format!("set alias of link {index}"), LinkUnspec::new_with_index(index).alias(alias).build())
    }

    /// Renames a link, which must be down.
    pub fn rename(index: u32, name: &str) -> Request {
        set_link(
            format!("rename link {index} to {name}"),
            LinkUnspec::new_with_index(index).name(name).build(),
        )
    }

    /// Moves a link into another namespace, where it arrives down and without addresses.
    pub fn move_link(index: u32, to: &NetNs) -> Request {
        let message = LinkUnspec::new_with_index(index).setns_by_fd(to.raw_fd()).build();
        set_link(format!("move link {index} into {}", to.path().display()), message)
    }

    /// Adds an address to a link.
    pub fn add_address(link: u32, cidr: Cidr) -> Request {
        let message = match cidr.address() {
            IpAddr::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(link)
                .address(v4, cidr.prefix_len())
                .build(),
            IpAddr::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(link)
                .address(v6, cidr.prefix_len())
                .build(),
        };
        Request {
            what: format!("add address {cidr} to link {link}"),
            message: RouteNetlinkMessage::NewAddress(message),
            flags: CREATE,
        }
    }

    /// Removes an address from a link.
    pub fn delete_address(link: u32, cidr: Cidr) -> Request {
        let mut request = Request::add_address(link, cidr);
        request.what = format!("delete address {cidr} from link {link}");
        if let RouteNetlinkMessage::NewAddress(message) = request.message {
            request.message = RouteNetlinkMessage::DelAddress(message);
        }
        request.flags = CHANGE;
        request
    }

    /// Adds a route; one with the same destination and metric is an error.
    pub fn add_route(route: &Route) -> Request {
        Request {
            what: format!("add route {route}"),
            message: RouteNetlinkMessage::NewRoute(route_message(route)),
            flags: CREATE,
        }
    }

    /// Adds a route in place of one with the same destination and metric.
    pub fn replace_route(route: &Route) -> Request {
        Request {
            what: format!("replace route {route}"),
            message: RouteNetlinkMessage::NewRoute(route_message(route)),
            flags: CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
        }
    }

    /// Removes a route.
    pub fn delete_route(route: &Route) -> Request {
        Request {
            what: format!("delete route {route}"),
            message: RouteNetlinkMessage::DelRoute(route_message(route)),
            flags: CHANGE,
        }
    }

    /// Sets a permanent neighbour: packets to the address on this link go to this hardware address, unasked.
    pub fn add_neighbour(link: u32, address: IpAddr, mac: [u8; 6]) -> Request {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(match address {
                IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
                IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
            }),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        Request {
            what: format!("add neighbour {address} on link {link}"),
            message: RouteNetlinkMessage::NewNeighbour(message),
            flags: CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
        }
    }

    /// What it does, for messages.
    pub fn describe(&self) -> &str {
        &self.what
    }
}

fn set_link(what: String, message: LinkMessage) -> Request {
    Request { what, message: RouteNetlinkMessage::SetLink(message), flags: CHANGE }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessageBuilder::<IpAddr>::new().build();
    message.header = RouteHeader {
        address_family: family(route.destination.address()),
        destination_prefix_length: route.destination.prefix_len(),
        table: u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::from(route.protocol),
        // A destination without a next hop is on the link itself.
        scope: if route.gateway.is_none()
            && route.kind == RouteKind::Unicast
            && route.destination.address().is_ipv4()
        {
            RouteScope::Link
        } else {
            RouteScope::Universe
        },
        kind: match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Other(number) => RouteType::from(number),
        },
        ..RouteHeader::default()
    };
    if route.onlink {
        message.header.flags |= rtnetlink::packet_route::route::RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if route.table > u32::from(u8::MAX) {
        attributes.push(RouteAttribute::Table(route.table));
    }
    if route.destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.network().address().into()));
    }
    attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    attributes.extend(route.link.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

/// The attribute that asks for a link by its name.
pub(crate) fn link_by_name(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}
