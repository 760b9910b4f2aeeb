//! nftables over netlink: elements of sets and maps, read and changed many at a time in one transaction, and simple rules.
//! Whole tables are loaded as text ([`crate::nft`]).
//!
//! The protocol: <https://docs.kernel.org/networking/netlink_spec/nftables.html>

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};

use crate::netfilter::{Netfilter, attribute, attributes, message, nest, number, put, put_text, text};
use crate::{Error, NetNs, Result};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const NEW_ELEMENT: u16 = SUBSYSTEM << 8 | 12;
const GET_ELEMENT: u16 = SUBSYSTEM << 8 | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM << 8 | 14;
const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;

// Attributes, by the kernel's names.
const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const GENERATION_ID: u16 = 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_USERDATA: u16 = 6;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const VERDICT_DROP: i32 = 0;
const VERDICT_GOTO: i32 = -4;

/// Elements in one message end before this many bytes: the list's attribute counts its length in 16 bits.
const PIECE_BYTES: usize = 48 * 1024;

/// How often a set is read that the kernel makes larger meanwhile. That takes some milliseconds, as one reading does.
const GROWTH_TRIES: usize = 32;

/// An address family's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, `ip`.
    Ip,
    /// IPv6, `ip6`.
    Ip6,
}

impl Family {
    /// As the nft language names it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }

    fn number(self) -> u8 {
        match self {
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }
}

/// A set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetName<'a> {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: &'a str,
    /// The set.
    pub set: &'a str,
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A value, its parts padded to four bytes each.
    Value(Vec<u8>),
    /// Goes on in a chain.
    Goto(String),
    /// Drops the packet.
    Drop,
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The key, its parts padded to four bytes each. Those of an interval are its first.
    pub key: Vec<u8>,
    /// The last of an interval.
    pub key_end: Option<Vec<u8>>,
    /// A map's value.
    pub data: Option<Data>,
    /// A text for readers of `nft list`.
    pub comment: Option<String>,
}

impl Element {
    /// What tells it from the set's others.
    fn range(&self) -> (&[u8], Option<&[u8]>) {
        (&self.key, self.key_end.as_deref())
    }
}

/// One step of a rule. Registers hold four bytes each, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads the transport protocol's number.
    TransportProtocol {
        /// Into this register.
        register: u32,
    },
    /// Loads bytes of the network header.
    Network {
        /// From here in the header.
        offset: u32,
        /// So many.
        length: u32,
        /// Into this register, and those after it.
        register: u32,
    },
    /// Loads the destination port.
    DestinationPort {
        /// Into this register.
        register: u32,
    },
    /// Loads the source of the connection's first packet.
    OriginalSource {
        /// Into this register, and those after it.
        register: u32,
    },
    /// Loads where the connection's first packet was sent to.
    OriginalDestination {
        /// Into this register, and those after it.
        register: u32,
    },
    /// Loads to which port that was.
    OriginalPort {
        /// Into this register.
        register: u32,
    },
    /// Puts an element into a map, or makes it last anew; its key is in the first registers.
    Update {
        /// The map.
        map: String,
        /// The value is in this register, and those after it.
        value: u32,
        /// How long it lasts, in milliseconds.
        timeout_ms: u64,
    },
    /// Draws a number.
    Random {
        /// From so many.
        count: u32,
        /// The least of them.
        offset: u32,
        /// Into this register.
        register: u32,
    },
    /// Looks up the key in the first registers; a rule ends where it is not found. The value takes the key's place.
    Lookup {
        /// The map.
        map: String,
    },
    /// Translates the destination to the address in the first registers and the port after it.
    TranslateDestination,
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// Kind, flags, family and body of each message.
    messages: Vec<(u16, u16, u8, Vec<u8>)>,
}

impl Batch {
    /// Adds elements.
    pub fn add(&mut self, set: SetName<'_>, elements: &[Element]) {
        self.pieces(NEW_ELEMENT, NLM_F_CREATE, set, elements);
    }

    /// Deletes elements; only their keys count.
    pub fn delete(&mut self, set: SetName<'_>, elements: &[Element]) {
        self.pieces(DELETE_ELEMENT, 0, set, elements);
    }

    /// Adds a chain that others jump to, with one rule.
    pub fn add_chain(&mut self, (family, table): (Family, &str), chain: &str, rule: &[Expression]) {
        let mut body = Vec::new();
        put_text(&mut body, CHAIN_TABLE, table);
        put_text(&mut body, CHAIN_NAME, chain);
        self.messages.push((NEW_CHAIN, NLM_F_CREATE, family.number(), body));
        let mut body = Vec::new();
        put_text(&mut body, RULE_TABLE, table);
        put_text(&mut body, RULE_CHAIN, chain);
        nest(&mut body, RULE_EXPRESSIONS, |body| {
            for expression in rule {
                nest(body, LIST_ELEM, |body| write_expression(body, family, expression));
            }
        });
        self.messages.push((NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, family.number(), body));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn pieces(&mut self, kind: u16, flags: u16, set: SetName<'_>, elements: &[Element]) {
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            let mut body = set_attributes(set);
            nest(&mut body, LIST_ELEMENTS, |body| {
                while body.len() < PIECE_BYTES
                    && let Some(element) = rest.next()
                {
                    nest(body, LIST_ELEM, |body| write(body, element, kind == NEW_ELEMENT));
                }
            });
            self.messages.push((kind, flags, set.family.number(), body));
        }
    }
}

/// The kernel's number of the first register of four bytes.
const FIRST_REGISTER: u32 = 8;

/// An expression by its name and its attributes, which bear the kernel's numbers.
fn write_expression(bytes: &mut Vec<u8>, family: Family, expression: &Expression) {
    const META_L4PROTO: u32 = 16;
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    const RANDOM: u32 = 1;
    const DESTINATION: u32 = 1;
    const UPDATE: u32 = 1;
    const CT_PROTO_DST: u32 = 12;
    let (ct_source, ct_destination, port) = match family {
        Family::Ip => (19, 20, 1),
        Family::Ip6 => (21, 22, 4),
    };
    let n = |attribute: u16, number: u32| (attribute, number.to_be_bytes().to_vec());
    let at = |attribute: u16, register: u32| n(attribute, FIRST_REGISTER + register);
    let named = |attribute: u16, name: &str| (attribute, [name.as_bytes(), &[0]].concat());
    // Of the original direction, which is 0.
    let ct = |key: u32, register: u32| ("ct", vec![at(1, register), n(2, key), (3, vec![0])]);
    let (name, numbers) = match expression {
        Expression::TransportProtocol { register } => ("meta", vec![at(1, *register), n(2, META_L4PROTO)]),
        Expression::Network { offset, length, register } => {
            ("payload", vec![at(1, *register), n(2, NETWORK), n(3, *offset), n(4, *length)])
        }
        Expression::DestinationPort { register } => {
            ("payload", vec![at(1, *register), n(2, TRANSPORT), n(3, 2), n(4, 2)])
        }
        Expression::OriginalSource { register } => ct(ct_source, *register),
        Expression::OriginalDestination { register } => ct(ct_destination, *register),
        Expression::OriginalPort { register } => ct(CT_PROTO_DST, *register),
        Expression::Update { map, value, timeout_ms } => {
            let timeout = (6, timeout_ms.to_be_bytes().to_vec());
            ("dynset", vec![named(1, map), n(3, UPDATE), at(4, 0), at(5, *value), timeout])
        }
        Expression::Random { count, offset, register } => {
            ("numgen", vec![at(1, *register), n(2, *count), n(3, RANDOM), n(4, *offset)])
        }
        Expression::Lookup { map } => ("lookup", vec![named(1, map), at(2, 0), at(3, 0)]),
        Expression::TranslateDestination => {
            let family = n(2, u32::from(family.number()));
            ("nat", vec![n(1, DESTINATION), family, at(3, 0), at(4, 0), at(5, port), at(6, port)])
        }
    };
    put_text(bytes, EXPR_NAME, name);
    nest(bytes, EXPR_DATA, |bytes| {
        numbers.iter().for_each(|(attribute, value)| put(bytes, *attribute, value));
    });
}

fn set_attributes(set: SetName<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_text(&mut bytes, LIST_TABLE, set.table);
    put_text(&mut bytes, LIST_SET, set.set);
    bytes
}

fn write(bytes: &mut Vec<u8>, element: &Element, whole: bool) {
    nest(bytes, ELEM_KEY, |bytes| put(bytes, DATA_VALUE, &element.key));
    if let Some(end) = &element.key_end {
        nest(bytes, ELEM_KEY_END, |bytes| put(bytes, DATA_VALUE, end));
    }
    if !whole {
        return;
    }
    let verdict = |bytes: &mut Vec<u8>, code: i32, chain: Option<&str>| {
        nest(bytes, DATA_VERDICT, |bytes| {
            put(bytes, VERDICT_CODE, &code.to_be_bytes());
            chain.into_iter().for_each(|chain| put_text(bytes, VERDICT_CHAIN, chain));
        });
    };
    if let Some(data) = &element.data {
        nest(bytes, ELEM_DATA, |bytes| match data {
            Data::Value(value) => put(bytes, DATA_VALUE, value),
            Data::Goto(chain) => verdict(bytes, VERDICT_GOTO, Some(chain)),
            Data::Drop => verdict(bytes, VERDICT_DROP, None),
        });
    }
    if let Some(comment) = &element.comment {
        // What nft keeps there: a kind (0, a comment), a length, the text with its zero.
        let text = &comment.as_bytes()[..comment.len().min(127)];
        put(bytes, ELEM_USERDATA, &[&[0, text.len() as u8 + 1], text, &[0]].concat());
    }
}

pub(crate) fn read(bytes: &[u8]) -> Element {
    let mut element = Element::default();
    for (kind, value) in attributes(bytes) {
        match kind {
            ELEM_KEY => element.key = attribute(value, DATA_VALUE).to_vec(),
            ELEM_KEY_END => element.key_end = Some(attribute(value, DATA_VALUE).to_vec()),
            ELEM_DATA => {
                let verdict = attribute(value, DATA_VERDICT);
                element.data = Some(match attribute(verdict, VERDICT_CODE) {
                    [] => Data::Value(attribute(value, DATA_VALUE).to_vec()),
                    code if number(code) as i32 == VERDICT_DROP => Data::Drop,
                    _ => Data::Goto(text(attribute(verdict, VERDICT_CHAIN))),
                });
            }
            _ => {}
        }
    }
    element
}

/// A long-lived socket to nftables, bound to the network namespace that it was opened in.
#[derive(Debug)]
pub struct NfTables(Netfilter);

impl NfTables {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<NfTables> {
        Netfilter::open().map(NfTables)
    }

    /// Opens a socket in another namespace.
    pub fn open_in(ns: &NetNs) -> Result<NfTables> {
        Netfilter::open_in(ns).map(NfTables)
    }

    /// Applies a batch: all of it or nothing.
    ///
    /// # Errors
    /// The kernel's first refusal: ENOENT when a table, set or an element to be deleted is not there, EEXIST when an
    /// element to be added is there with another value.
    pub fn commit(&mut self, batch: &Batch) -> Result<()> {
        let mut bytes = Vec::new();
        let edge = (0, SUBSYSTEM);
        message(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, self.0.next(), edge, |_| {});
        let mut last = 0;
        for (position, (kind, flags, family, body)) in batch.messages.iter().enumerate() {
            last = self.0.next();
            let ack = if position + 1 == batch.messages.len() { NLM_F_ACK } else { 0 };
            message(&mut bytes, *kind, NLM_F_REQUEST | flags | ack, last, (*family, 0), |bytes| {
                bytes.extend_from_slice(body);
            });
        }
        if batch.is_empty() {
            return Ok(());
        }
        message(&mut bytes, BATCH_END, NLM_F_REQUEST, self.0.next(), edge, |_| {});
        self.0.send(&bytes)?;
        self.0.acknowledged("change nftables elements", last)
    }

    /// All elements of a set, in the order of their keys.
    ///
    /// The kernel grows a hash set some time after the transaction that filled it. A dump meanwhile has some elements
    /// twice and misses as many others, and the repetition is the only sign of it: then it is asked for anew.
    ///
    /// # Errors
    /// ENOENT when there is no such set.
    pub fn elements(&mut self, set: SetName<'_>) -> Result<Vec<Element>> {
        let what = format!("list nftables elements of {} {} {}", set.family.name(), set.table, set.set);
        let attributes_of_set = set_attributes(set);
        for _ in 0..GROWTH_TRIES {
            let request = (GET_ELEMENT, set.family.number(), &attributes_of_set[..]);
            let mut found: Vec<Element> = self.0.dump(&what, request, Vec::new, |found, answer| {
                let list = attribute(answer.attributes, LIST_ELEMENTS);
                found.extend(attributes(list).map(|(_, element)| read(element)));
                Ok(())
            })?;
            found.sort_unstable_by(|a, b| a.range().cmp(&b.range()));
            if !found.windows(2).any(|pair| pair[0].range() == pair[1].range()) {
                return Ok(found);
            }
        }
        Err(Error::Answer { what, reason: "the set grew while it was read, again and again".into() })
    }

    /// A table's comment (empty if it has none), or nothing if there is no such table.
    pub fn table_comment(&mut self, family: Family, table: &str) -> Result<Option<String>> {
        let mut attributes = Vec::new();
        put_text(&mut attributes, TABLE_NAME, table);
        let what = format!("get nftables table {} {table}", family.name());
        let found = self.0.get(&what, (GET_TABLE, family.number(), &attributes), |answer| {
            // As with elements: kind, length, text.
            match attribute(answer.attributes, TABLE_USERDATA) {
                [0, length, rest @ ..] => text(&rest[..usize::from(*length).min(rest.len())]),
                _ => String::new(),
            }
        });
        match found {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// The names of a table's chains.
    pub fn chains(&mut self, family: Family, table: &str) -> Result<Vec<String>> {
        self.0.dump("list nftables chains", (GET_CHAIN, family.number(), &[]), Vec::new, |found, answer| {
            if text(attribute(answer.attributes, CHAIN_TABLE)) == table {
                found.push(text(attribute(answer.attributes, CHAIN_NAME)));
            }
            Ok(())
        })
    }

    /// How many rules a table has.
    pub fn rules(&mut self, family: Family, table: &str) -> Result<usize> {
        let mut asked = Vec::new();
        put_text(&mut asked, RULE_TABLE, table);
        self.0.dump(
            "list nftables rules",
            (GET_RULE, family.number(), &asked),
            || 0,
            |count, answer| {
                *count += usize::from(text(attribute(answer.attributes, RULE_TABLE)) == table);
                Ok(())
            },
        )
    }

    /// The number of the rule set's state: it changes with every transaction of anyone in this namespace.
    pub fn generation(&mut self) -> Result<u32> {
        self.0.get("get nftables generation", (GET_GENERATION, 0, &[]), |answer| {
            number(attribute(answer.attributes, GENERATION_ID))
        })
    }
}
