//! The netfilter netlink socket that nftables and conntrack share, and how its messages are laid out.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::netlink::{acknowledgement_text, refused};
use crate::{Error, NetNs, Result};

/// The kernel's largest answer datagram.
const ANSWER_BYTES: usize = 64 * 1024;
/// The kernel answers before a send returns; only a message that it does not answer at all would make us wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What a send may hold beside its bytes.
const OVERHEAD_BYTES: usize = 4096;
/// A dump that another change ran into is begun again this often.
const DUMP_TRIES: usize = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE: u16 = 0x3fff;

/// A socket bound to the network namespace that it was opened in. One request at a time.
#[derive(Debug)]
pub(crate) struct Netfilter {
    socket: OwnedFd,
    sequence: u32,
    send_bytes: usize,
}

/// One message from the kernel: its attributes, after the family header.
pub(crate) struct Answer<'a> {
    pub family: u8,
    pub attributes: &'a [u8],
}

impl Netfilter {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Netfilter> {
        let open = || -> rustix::io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC;
            let socket =
                socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
            Ok(socket)
        };
        let socket = open().map_err(|error| Error::Socket(error.into()))?;
        Ok(Netfilter { socket, sequence: 0, send_bytes: 0 })
    }

    /// Opens a socket in another namespace.
    pub fn open_in(ns: &NetNs) -> Result<Netfilter> {
        ns.run(Netfilter::open)?
    }

    /// The next message's number.
    pub fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends messages in one datagram.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let socket = |error: rustix::io::Errno| Error::Socket(error.into());
        if bytes.len() + OVERHEAD_BYTES > self.send_bytes {
            self.send_bytes = (bytes.len() + OVERHEAD_BYTES).next_power_of_two();
            set_socket_send_buffer_size_force(&self.socket, self.send_bytes).map_err(socket)?;
        }
        send(&self.socket, bytes, SendFlags::empty()).map(drop).map_err(socket)
    }

    /// Reads the answers up to the one to `last`.
    ///
    /// # Errors
    /// The first refusal among them.
    pub fn acknowledged(&mut self, what: &str, last: u32) -> Result<()> {
        let mut failure = None;
        let mut open = true;
        while open {
            self.receive(what, |header, message| {
                if header.kind == NLMSG_ERROR {
                    open &= header.sequence != last;
                    if let Some(error) = error_of(what, message) {
                        failure.get_or_insert(error);
                    }
                }
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Asks for all that fit `attributes`, handing each answer to `each`. What a change ran into is asked for anew:
    /// `begin` tells that answers start from the first again.
    ///
    /// # Errors
    /// The kernel's refusal; ENOENT when what is asked of does not exist.
    pub fn dump<S>(
        &mut self,
        what: &str,
        request: (u16, u8, &[u8]),
        begin: impl Fn() -> S,
        mut each: impl FnMut(&mut S, Answer<'_>) -> Result<()>,
    ) -> Result<S> {
        let (kind, family, attributes) = request;
        for _ in 0..DUMP_TRIES {
            let sequence = self.next();
            let mut bytes = Vec::new();
            message(&mut bytes, kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, (family, 0), |bytes| {
                bytes.extend_from_slice(attributes);
            });
            self.send(&bytes)?;
            let mut found = begin();
            let (mut done, mut torn, mut failure) = (false, false, None);
            while !done {
                self.receive(what, |header, message| {
                    if header.sequence != sequence {
                        return;
                    }
                    torn |= header.flags & NLM_F_DUMP_INTR != 0;
                    match header.kind {
                        NLMSG_ERROR => {
                            failure = failure.take().or(error_of(what, message));
                            done = true;
                        }
                        NLMSG_DONE => {
                            // A dump may fail on its way: the end then bears the number.
                            failure = failure.take().or(error_of(what, message));
                            done = true;
                        }
                        _ if failure.is_none() && message.len() >= 20 => {
                            let answer = Answer { family: message[16], attributes: &message[20..] };
                            failure = each(&mut found, answer).err();
                        }
                        _ => {}
                    }
                })?;
            }
            match failure {
                Some(error) => return Err(error),
                None if torn => {}
                None => return Ok(found),
            }
        }
        Err(Error::Answer {
            what: what.to_owned(),
            reason: "it changed while it was read, again and again".into(),
        })
    }

    /// Asks for one thing.
    pub fn get<T>(
        &mut self,
        what: &str,
        request: (u16, u8, &[u8]),
        mut read: impl FnMut(Answer<'_>) -> T,
    ) -> Result<T> {
        let (kind, family, attributes) = request;
        let sequence = self.next();
        let mut bytes = Vec::new();
        message(&mut bytes, kind, NLM_F_REQUEST | NLM_F_ACK, sequence, (family, 0), |bytes| {
            bytes.extend_from_slice(attributes);
        });
        self.send(&bytes)?;
        let (mut found, mut failure, mut open) = (None, None, true);
        while open {
            self.receive(what, |header, message| {
                if header.sequence != sequence {
                    return;
                }
                if header.kind == NLMSG_ERROR {
                    failure = error_of(what, message);
                    open = false;
                } else if message.len() >= 20 {
                    found = Some(read(Answer { family: message[16], attributes: &message[20..] }));
                }
            })?;
        }
        match (failure, found) {
            (Some(error), _) => Err(error),
            (None, Some(found)) => Ok(found),
            (None, None) => Err(Error::Answer { what: what.to_owned(), reason: "nothing came".into() }),
        }
    }

    /// One datagram of answers.
    fn receive(&mut self, what: &str, mut each: impl FnMut(Header, &[u8])) -> Result<()> {
        let mut answer = vec![0; ANSWER_BYTES];
        let length = loop {
            match recv(&self.socket, &mut answer[..], RecvFlags::empty()) {
                Ok((length, _)) => break length,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::Socket(error.into())),
            }
        };
        messages(what, &answer[..length], |message| {
            let word = |at: usize| {
                u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]])
            };
            let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
            each(Header { kind: half(4), flags: half(6), sequence: word(8) }, message);
            Ok(())
        })
    }
}

/// The messages of a datagram, each of at least a header's 16 bytes.
pub(crate) fn messages(what: &str, mut rest: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    while let Some(length) =
        rest.get(..16).map(|head| u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize)
    {
        if length < 16 || length > rest.len() {
            let reason = format!("a message claims {length} of {} bytes", rest.len());
            return Err(Error::Answer { what: what.to_owned(), reason });
        }
        each(&rest[..length])?;
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Ok(())
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The refusal in an NLMSG_ERROR (or at the end of a dump), if it is none of success.
pub(crate) fn error_of(what: &str, message: &[u8]) -> Option<Error> {
    let code = message.get(16..20).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    (code != 0).then(|| {
        refused(what, io::Error::from_raw_os_error(code.wrapping_neg()), acknowledgement_text(message))
    })
}

/// Appends a message with the family header of netfilter.
pub(crate) fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
    body(bytes);
    let length = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Appends an attribute.
pub(crate) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).expect("attributes are written in pieces below 64 KiB");
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends a text with its final zero.
pub(crate) fn put_text(bytes: &mut Vec<u8>, kind: u16, text: &str) {
    put(bytes, kind, &[text.as_bytes(), &[0]].concat());
}

/// Appends an attribute that holds others.
pub(crate) fn nest(bytes: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    put(bytes, kind | NLA_F_NESTED, &[]);
    body(bytes);
    let length = u16::try_from(bytes.len() - start).expect("attributes are written in pieces below 64 KiB");
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// The attributes in some bytes; reading ends at the first that is broken.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & NLA_TYPE;
        let value = rest.get(4..length)?;
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some((kind, value))
    })
}

/// The first attribute of a kind, empty if there is none.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> &[u8] {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value)).unwrap_or_default()
}

/// An attribute's text, without its final zero.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// An attribute's number, as netfilter writes it.
pub(crate) fn number(value: &[u8]) -> u32 {
    value.try_into().map_or(0, u32::from_be_bytes)
}
