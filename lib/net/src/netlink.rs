use std::io;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::netfilter::messages;
use crate::request::link_by_name;
use crate::{Address, Cidr, Error, Link, Neighbour, NetNs, Request, Result, Route, Rule, Veth};

/// The kernel's largest answer datagram; a message never spans two.
const ANSWER_BYTES: usize = 64 * 1024;
/// The marker of an acknowledgement that carries attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The attribute with the kernel's sentence in an acknowledgement.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A routing netlink socket, bound to the network namespace that it was opened in. One request at a time.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    answer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Netlink> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Both only make answers better: short, and with the kernel's sentence.
            drop(socket.set_cap_ack(true));
            drop(socket.set_ext_ack(true));
            Ok(socket)
        };
        Ok(Netlink {
            socket: open().map_err(Error::Socket)?,
            sequence: 0,
            answer: Vec::with_capacity(ANSWER_BYTES),
        })
    }

    /// Opens a socket in another namespace.
    pub fn open_in(ns: &NetNs) -> Result<Netlink> {
        ns.run(Netlink::open)?
    }

    /// Sends changes in one system call; the kernel does them in order and goes on after a failure.
    ///
    /// # Errors
    /// The first failure, with what was attempted.
    pub fn apply(&mut self, requests: &[Request]) -> Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            self.push(&mut bytes, request.message.clone(), request.flags);
        }
        if requests.is_empty() {
            return Ok(());
        }
        self.send(&bytes)?;
        let mut failure = None;
        let mut open = requests.len();
        while open > 0 {
            let what = &requests[requests.len() - open].what;
            for (message, acknowledgement) in self.receive(what)? {
                let position = message.header.sequence_number.wrapping_sub(first) as usize;
                let (NetlinkPayload::Error(error), Some(request)) = (message.payload, requests.get(position))
                else {
                    continue;
                };
                open -= 1;
                if error.code.is_some() && failure.is_none() {
                    failure = Some(refused(&request.what, error.to_io(), acknowledgement));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Makes a veth pair and returns this end's index; this end is up, the other is still down.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<u32> {
        self.apply(&[Request::add_veth(veth)])?;
        self.index_of(veth.name)
    }

    /// Makes a bridge, up, and returns its index.
    pub fn add_bridge(&mut self, name: &str) -> Result<u32> {
        self.apply(&[Request::add_bridge(name)])?;
        self.index_of(name)
    }

    /// Deletes a link by name; a missing one is no error. Returns whether it was there.
    pub fn delete_link(&mut self, name: &str) -> Result<bool> {
        let Some(link) = self.link(name)? else { return Ok(false) };
        match self.apply(&[Request::delete_link(link.index)]) {
            Err(e) if e.is_not_found() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Brings the namespace's loopback up.
    pub fn loopback_up(&mut self) -> Result<()> {
        // Index 1 is loopback in every network namespace.
        self.apply(&[Request::link_up(1)])
    }

    /// Brings a link up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.apply(&[Request::link_up(index)])
    }

    /// Makes a link a port of a bridge.
    pub fn set_master(&mut self, index: u32, bridge: u32) -> Result<()> {
        self.apply(&[Request::set_master(index, bridge)])
    }

    /// Adds an address to a link; one that is there already is no error.
    pub fn add_address(&mut self, link: u32, cidr: Cidr) -> Result<()> {
        match self.apply(&[Request::add_address(link, cidr)]) {
            Err(e) if e.is_exists() => Ok(()),
            other => other,
        }
    }

    /// Adds a route, in place of one with the same destination and metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.apply(&[Request::replace_route(route)])
    }

    /// Removes a route; a missing one is no error.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        match self.apply(&[Request::delete_route(route)]) {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Sets a permanent neighbour.
    pub fn add_neighbour(&mut self, link: u32, address: std::net::IpAddr, mac: [u8; 6]) -> Result<()> {
        self.apply(&[Request::add_neighbour(link, address, mac)])
    }

    /// The link with this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let what = format!("get link {name}");
        match self.query(&what, RouteNetlinkMessage::GetLink(link_by_name(name)), NLM_F_REQUEST | NLM_F_ACK) {
            Ok(found) => Ok(found.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(Link::from_message(link)),
                _ => None,
            })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The index of the link with this name.
    ///
    /// # Errors
    /// ENODEV when there is none.
    pub fn index_of(&mut self, name: &str) -> Result<u32> {
        self.link(name)?.map(|link| link.index).ok_or_else(|| Error::Refused {
            what: format!("find link {name}"),
            source: io::Error::from_raw_os_error(libc::ENODEV),
            detail: String::new(),
        })
    }

    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let found = self.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(Link::from_message(link)),
                _ => None,
            })
            .collect())
    }

    /// All addresses of the namespace, both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let found =
            self.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => Address::from_message(address),
                _ => None,
            })
            .collect())
    }

    /// All routes of the namespace, all tables, both families; cached ones are left out.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let found = self.dump("list routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Route::from_message(route),
                _ => None,
            })
            .collect())
    }

    /// All neighbours of the namespace that have an IP address.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let found =
            self.dump("list neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => Neighbour::from_message(neighbour),
                _ => None,
            })
            .collect())
    }

    /// All policy routing rules of the namespace.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let found = self.dump("list rules", RouteNetlinkMessage::GetRule(RuleMessage::default()))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(rule) => Some(Rule::from_message(rule)),
                _ => None,
            })
            .collect())
    }

    fn dump(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        self.query(what, message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// Sends one question and gathers what comes until the kernel says that this was all.
    fn query(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let mut bytes = Vec::new();
        let sequence = self.push(&mut bytes, message, flags);
        self.send(&bytes)?;
        let mut found = Vec::new();
        loop {
            for (message, acknowledgement) in self.receive(what)? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        return Err(refused(what, error.to_io(), acknowledgement));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Appends a message to a datagram and returns its sequence number.
    fn push(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        // Messages start at multiples of four bytes.
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + message.buffer_len()]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        self.socket.send(bytes, 0).map(drop).map_err(Error::Socket)
    }

    /// One datagram of answers, each with its own bytes' acknowledgement text.
    fn receive(&mut self, what: &str) -> Result<Vec<(NetlinkMessage<RouteNetlinkMessage>, String)>> {
        self.answer.clear();
        loop {
            match self.socket.recv(&mut self.answer, 0) {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Socket(e)),
            }
        }
        let mut found = Vec::new();
        messages(what, &self.answer, |bytes| {
            found.push(read(what, bytes)?);
            Ok(())
        })?;
        Ok(found)
    }
}

/// A message, and the kernel's sentence in it.
pub(crate) fn read(what: &str, bytes: &[u8]) -> Result<(NetlinkMessage<RouteNetlinkMessage>, String)> {
    let message = NetlinkMessage::deserialize(bytes)
        .map_err(|error| Error::Answer { what: what.to_owned(), reason: error.to_string() })?;
    Ok((message, acknowledgement_text(bytes)))
}

/// The kernel's sentence in an NLMSG_ERROR message (headers of 16 and 4 + 16 bytes, then attributes), or nothing.
pub(crate) fn acknowledgement_text(message: &[u8]) -> String {
    let flags = u16::from_ne_bytes([message[6], message[7]]);
    let is_error = u16::from_ne_bytes([message[4], message[5]]) == 2;
    let mut rest = message.get(36..).unwrap_or_default();
    while is_error && flags & NLM_F_ACK_TLVS != 0 && rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        if length < 4 || length > rest.len() {
            break;
        }
        if kind == NLMSGERR_ATTR_MSG {
            let text = String::from_utf8_lossy(&rest[4..length]);
            return text.trim_end_matches('\0').to_owned();
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    String::new()
}

pub(crate) fn refused(what: &str, source: io::Error, sentence: String) -> Error {
    let detail = if sentence.is_empty() { sentence } else { format!(": {sentence}") };
    Error::Refused { what: what.to_owned(), source, detail }
}
