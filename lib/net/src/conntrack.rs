//! Connections that the kernel follows, listed and forgotten over netlink.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST};

use crate::netfilter::{Netfilter, attribute, message, put};
use crate::{NetNs, Result};

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;

// Attributes, by the kernel's names.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;

const NLA_F_NESTED: u16 = 0x8000;

/// A connection, from its first packet's point of view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The protocol's number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Where the first packet was sent to.
    pub destination: IpAddr,
    /// To which port.
    pub port: u16,
    /// Who answers: another than the destination if that was translated.
    pub answers: IpAddr,
    /// The kernel's description, to delete it by.
    family: u8,
    original: Vec<u8>,
    id: Vec<u8>,
}

/// A socket to connection tracking, bound to the network namespace that it was opened in.
#[derive(Debug)]
pub struct Conntrack(Netfilter);

impl Conntrack {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Conntrack> {
        Netfilter::open().map(Conntrack)
    }

    /// Opens a socket in another namespace.
    pub fn open_in(ns: &NetNs) -> Result<Conntrack> {
        Netfilter::open_in(ns).map(Conntrack)
    }

    /// The connections that `wanted` says yes to, of both address families.
    pub fn flows(&mut self, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>> {
        self.0.dump("list connections", (GET, 0, &[]), Vec::new, |found, answer| {
            found.extend(read(answer.family, answer.attributes).filter(&wanted));
            Ok(())
        })
    }

    /// Forgets a connection; one that is gone is no error. Its next packet is judged as the first of a new one.
    pub fn forget(&mut self, flow: &Flow) -> Result<()> {
        let sequence = self.0.next();
        let mut bytes = Vec::new();
        message(&mut bytes, DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, (flow.family, 0), |bytes| {
            put(bytes, TUPLE_ORIG | NLA_F_NESTED, &flow.original);
            put(bytes, ID, &flow.id);
        });
        self.0.send(&bytes)?;
        match self.0.acknowledged("forget a connection", sequence) {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }
}

pub(crate) fn read(family: u8, attributes: &[u8]) -> Option<Flow> {
    let (original, reply) = (attribute(attributes, TUPLE_ORIG), attribute(attributes, TUPLE_REPLY));
    let proto = attribute(original, TUPLE_PROTO);
    Some(Flow {
        protocol: *attribute(proto, PROTO_NUM).first()?,
        destination: address(attribute(original, TUPLE_IP), IP_V4_DST, IP_V6_DST)?,
        port: u16::from_be_bytes(attribute(proto, PROTO_DST_PORT).try_into().ok()?),
        answers: address(attribute(reply, TUPLE_IP), IP_V4_SRC, IP_V6_SRC)?,
        family,
        original: original.to_vec(),
        id: attribute(attributes, ID).to_vec(),
    })
}

fn address(bytes: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    let four: Option<[u8; 4]> = attribute(bytes, v4).try_into().ok();
    let sixteen = || -> Option<[u8; 16]> { attribute(bytes, v6).try_into().ok() };
    four.map(IpAddr::from).or_else(|| sixteen().map(IpAddr::from))
}
