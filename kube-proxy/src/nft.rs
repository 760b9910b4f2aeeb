//! How the entries look in nftables: pure. One table a family with the same few chains for all Services; what differs
//! from Service to Service stands in maps, so that a change of one changes a few elements.
//!
//! ```text
//!  prerouting, output ─> services ─ service-ips, service-nodeports ─> cluster | external | local   marks for masquerade
//!                                                                       │ affinity: the endpoint of before
//!                                       counts: how many endpoints ─> lb-N ─ endpoints[frontend, random N] ─> dnat
//!  input, postrouting ─> remember (affinity), masquerade
//!  input, forward, output (filter) ─> check: no endpoints? unknown port of a cluster IP?
//! ```

use crate::config::Settings;
use crate::objects::Protocol;
use crate::rules::{Endpoint, Entry, Frontend, List, Treatment, Value, unspecified};
use minik_net::Cidr;
use minik_net::nftables::{Batch, Data, Element, Expression, Family};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Chains for this many endpoints are there from the start; more come in such steps.
pub const COUNT_STEP: u16 = 16;
/// Places of the second list come after all that the first may have.
const EVERYWHERE: u32 = 1 << 16;
/// Counts changes of the rules that are not written as text.
const FORMAT: u32 = 1;
/// Marks packets for masquerade, as upstream does.
const MARK: &str = "0x4000";

/// The sets and maps, and the type of each, `ADDR` standing for the family's.
pub const SETS: [(&str, &str, &str); 18] = [
    ("set", "nodeport-ips", "type ADDR;"),
    ("set", "cluster-ips", "type ADDR;"),
    ("set", "service-ranges", "type ADDR . inet_proto; flags interval;"),
    ("set", "hairpin", "type ADDR . ADDR;"),
    ("map", "service-ips", "type ADDR . inet_proto . inet_service : verdict;"),
    ("map", "service-nodeports", "type inet_proto . inet_service : verdict;"),
    ("map", "counts", "type ADDR . inet_proto . inet_service : verdict;"),
    ("map", "counts-everywhere", "type ADDR . inet_proto . inet_service : verdict;"),
    ("map", "nodeport-counts", "type inet_proto . inet_service : verdict;"),
    ("map", "nodeport-counts-everywhere", "type inet_proto . inet_service : verdict;"),
    (
        "map",
        "endpoints",
        "typeof IP daddr . meta l4proto . th dport . numgen random mod 65536 : IP daddr . th dport;",
    ),
    (
        "map",
        "nodeport-endpoints",
        "typeof meta l4proto . th dport . numgen random mod 65536 : IP daddr . th dport;",
    ),
    ("map", "no-endpoint-services", "type ADDR . inet_proto . inet_service : verdict;"),
    ("map", "no-endpoint-nodeports", "type inet_proto . inet_service : verdict;"),
    ("map", "affinity-services", "type ADDR . inet_proto . inet_service : verdict;"),
    ("map", "affinity-nodeports", "type inet_proto . inet_service : verdict;"),
    ("set", "firewall-ips", "type ADDR . inet_proto . inet_service;"),
    ("set", "firewall-allowed", "type ADDR . inet_proto . inet_service . ADDR; flags interval;"),
];

/// The map from client and frontend to endpoint that the kernel itself fills.
pub const AFFINITY: &str = "affinity";

/// The chains; `IP` and `ADDR` stand for the family's words, `KEY` and `PORT` for how frontends are looked up.
const CHAINS: &str = "
  map affinity { type ADDR . ADDR . inet_proto . inet_service : ADDR . inet_service; size 65535; flags dynamic,timeout; timeout 3h; }
  chain masquerade-later { meta mark set meta mark or MARK; }
  chain refuse { reject; }
  chain sticky { dnat IP to IP saddr . KEY map @affinity; }
  chain cluster { OUTSIDE KEY_STICKY vmap @counts; }
  chain external { jump masquerade-later; KEY_STICKY vmap @counts; }
  chain local { NEAR everywhere; KEY_STICKY vmap @counts; }
  chain everywhere { KEY_STICKY vmap @counts-everywhere; }
  chain np-external { jump masquerade-later; PORT_STICKY vmap @nodeport-counts; }
  chain np-local { NEAR np-everywhere; PORT_STICKY vmap @nodeport-counts; }
  chain np-everywhere { PORT_STICKY vmap @nodeport-counts-everywhere; }
  chain services { KEY vmap @service-ips; NODE PORT vmap @service-nodeports; }
  chain prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain output { type nat hook output priority -100; jump services; }
  chain remember { REMEMBER }
  chain input { type nat hook input priority 100; ct status dnat jump remember; }
  chain postrouting { type nat hook postrouting priority srcnat;
    ct status dnat jump remember;
    ct status dnat IP saddr . IP daddr @hairpin masquerade fully-random;
    meta mark and MARK == 0 return;
    meta mark set meta mark xor MARK;
    masquerade fully-random;
  }
  chain check { KEY vmap @no-endpoint-services; NODE PORT vmap @no-endpoint-nodeports; }
  chain check-ports { IP daddr @cluster-ips reject; IP daddr . meta l4proto @service-ranges drop; }
  chain filter-input { type filter hook input priority filter; ct state new jump check; }
  chain filter-forward { type filter hook forward priority filter; ct state new jump check; ct state new jump check-ports; }
  chain filter-output { type filter hook output priority filter; ct state new jump check; ct state new jump check-ports; }
  chain firewall { KEY . IP saddr @firewall-allowed return; KEY @firewall-ips drop; }
  chain firewall-prerouting { type filter hook prerouting priority -110; ct state new jump firewall; }
  chain firewall-output { type filter hook output priority -110; ct state new jump firewall; }
";

/// The text of a family's table without its elements, and the comment that tells it from another version's.
pub fn skeleton(family: Family, settings: &Settings) -> (String, String) {
    let v4 = family == Family::Ip;
    let mut text = String::new();
    for (kind, name, body) in SETS {
        writeln!(text, "  {kind} {name} {{ {body} }}").expect("a String takes all");
    }
    let mut remember = String::new();
    for protocol in ["tcp", "udp", "sctp"] {
        let port = "meta l4proto . ct original proto-dst";
        writeln!(remember, "meta l4proto {protocol} ct original IP daddr . {port} vmap @affinity-services;")
            .expect("a String takes all");
        writeln!(remember, "meta l4proto {protocol} {port} vmap @affinity-nodeports;")
            .expect("a String takes all");
    }
    let ranges: Vec<String> =
        settings.cluster_cidrs.iter().filter(|cidr| is_of(cidr, family)).map(Cidr::to_string).collect();
    let ranges = ranges.join(", ");
    let outside = match (settings.masquerade_all, ranges.is_empty()) {
        (true, _) => "jump masquerade-later;".to_owned(),
        (false, true) => String::new(),
        (false, false) => format!("IP saddr != {{ {ranges} }} jump masquerade-later;"),
    };
    let pods = if ranges.is_empty() { String::new() } else { format!("IP saddr {{ {ranges} }} goto TO;") };
    let near = format!("{pods} fib saddr type local jump masquerade-later; fib saddr type local goto TO;");
    let node = match settings.all_addresses(family) {
        true if v4 => "fib daddr type local IP daddr != 127.0.0.0/8",
        true => "fib daddr type local IP daddr != ::1",
        false => "IP daddr @nodeport-ips",
    };
    text.push_str(
        &CHAINS
            .replace("NEAR everywhere;", &near.replace("TO", "everywhere"))
            .replace("NEAR np-everywhere;", &near.replace("TO", "np-everywhere"))
            .replace("OUTSIDE", &outside)
            .replace("REMEMBER", &remember)
            .replace("NODE", node)
            .replace("KEY_STICKY", "jump sticky; KEY")
            .replace("PORT_STICKY", "jump sticky; PORT")
            .replace("KEY", "IP daddr . PORT")
            .replace("PORT", "meta l4proto . th dport"),
    );
    let text = words(&text, family);
    let mut hasher = DefaultHasher::new();
    (&text, FORMAT).hash(&mut hasher);
    let comment = format!("minik kube-proxy {:016x}", hasher.finish());
    (text, comment)
}

fn is_of(cidr: &Cidr, family: Family) -> bool {
    cidr.address().is_ipv4() == (family == Family::Ip)
}

fn words(text: &str, family: Family) -> String {
    let (ip, address) = match family {
        Family::Ip => ("ip", "ipv4_addr"),
        Family::Ip6 => ("ip6", "ipv6_addr"),
    };
    text.replace("IP ", &format!("{ip} "))
        .replace("ADDR", address)
        .replace("MARK", MARK)
        .replace("; ", ";\n    ")
}

/// Adds the chains that choose among `count` endpoints: for addresses and node ports, for both lists.
pub fn add_count(batch: &mut Batch, family: Family, table: &str, count: u16) {
    let (offset, length) = destination(family);
    let address = [Expression::Network { offset, length, register: 0 }];
    let kinds = [("", "endpoints", &address[..], length / 4), ("np-", "nodeport-endpoints", &[], 0)];
    for (prefix, map, address, register) in kinds {
        for (name, offset) in [("lb", 0), ("all", EVERYWHERE)] {
            let rest = [
                Expression::TransportProtocol { register },
                Expression::DestinationPort { register: register + 1 },
                Expression::Random { count: count.into(), offset, register: register + 2 },
                Expression::Lookup { map: map.to_owned() },
                Expression::TranslateDestination,
            ];
            batch.add_chain((family, table), &format!("{prefix}{name}-{count}"), &[address, &rest].concat());
        }
    }
}

/// How many rules [`add_count`] makes for each count.
pub const RULES_PER_COUNT: usize = 4;

/// Adds the chain that remembers a client's endpoint for a time. (The nft program cannot lay this out for version 6: it
/// places each part of a key in steps of 16 bytes, of which there are four.)
pub fn add_remember(batch: &mut Batch, family: Family, table: &str, seconds: u32) {
    let (offset, length) = destination(family);
    let words = length / 4;
    let rule = [
        Expression::OriginalSource { register: 0 },
        Expression::OriginalDestination { register: words },
        Expression::TransportProtocol { register: 2 * words },
        Expression::OriginalPort { register: 2 * words + 1 },
        Expression::Network { offset, length, register: 2 * words + 2 },
        Expression::DestinationPort { register: 3 * words + 2 },
        Expression::Update {
            map: AFFINITY.to_owned(),
            value: 2 * words + 2,
            timeout_ms: u64::from(seconds) * 1000,
        },
    ];
    batch.add_chain((family, table), &format!("remember-{seconds}"), &rule);
}

/// Where a packet's destination stands in the network header, and how long it is.
fn destination(family: Family) -> (u32, u32) {
    if family == Family::Ip { (16, 4) } else { (24, 16) }
}

/// The number of a place in a list.
fn place(list: List, slot: u16) -> u32 {
    match list {
        List::Own => u32::from(slot),
        List::Everywhere => EVERYWHERE + u32::from(slot),
    }
}

/// The family of the table that an entry stands in.
pub fn family_of(entry: &Entry) -> Family {
    let address = match entry {
        Entry::NodePortAddress(address) | Entry::ClusterIp(address) | Entry::Hairpin(address) => address,
        Entry::ServiceRange(range) => &range.address(),
        Entry::Frontend(of)
        | Entry::Count(of, _)
        | Entry::Slot(of, ..)
        | Entry::Missing(of)
        | Entry::Sticky(of)
        | Entry::Guarded(of)
        | Entry::Source(of, _) => &of.address,
    };
    if address.is_ipv4() { Family::Ip } else { Family::Ip6 }
}

/// The set that an entry stands in.
pub fn set_of(entry: &Entry) -> &'static str {
    let by =
        |of: &Frontend, address, node_port| if of.address.is_unspecified() { node_port } else { address };
    match entry {
        Entry::NodePortAddress(_) => "nodeport-ips",
        Entry::ServiceRange(_) => "service-ranges",
        Entry::ClusterIp(_) => "cluster-ips",
        Entry::Hairpin(_) => "hairpin",
        Entry::Frontend(of) => by(of, "service-ips", "service-nodeports"),
        Entry::Count(of, List::Own) => by(of, "counts", "nodeport-counts"),
        Entry::Count(of, List::Everywhere) => by(of, "counts-everywhere", "nodeport-counts-everywhere"),
        Entry::Slot(of, ..) => by(of, "endpoints", "nodeport-endpoints"),
        Entry::Missing(of) => by(of, "no-endpoint-services", "no-endpoint-nodeports"),
        Entry::Sticky(of) => by(of, "affinity-services", "affinity-nodeports"),
        Entry::Guarded(_) => "firewall-ips",
        Entry::Source(..) => "firewall-allowed",
    }
}

/// The element that says it.
pub fn element(entry: &Entry, value: &Value) -> Element {
    let mut key = Vec::new();
    let mut key_end = None;
    match entry {
        Entry::NodePortAddress(address) | Entry::ClusterIp(address) => put_address(&mut key, *address),
        Entry::Hairpin(address) => {
            put_address(&mut key, *address);
            put_address(&mut key, *address);
        }
        Entry::Slot(of, list, slot) => {
            put_frontend(&mut key, of);
            key.extend_from_slice(&place(*list, *slot).to_ne_bytes());
        }
        Entry::Source(of, range) => {
            put_frontend(&mut key, of);
            let mut end = key.clone();
            put_address(&mut key, range.network().address());
            put_address(&mut end, last(range));
            key_end = Some(end);
        }
        Entry::ServiceRange(range) => {
            // Of all protocols: netlink knows ranges only as parts of a longer key without more ado.
            let mut end = Vec::new();
            put_address(&mut key, range.network().address());
            put_address(&mut end, last(range));
            key.extend_from_slice(&[0; 4]);
            end.extend_from_slice(&[u8::MAX, 0, 0, 0]);
            key_end = Some(end);
        }
        Entry::Frontend(of)
        | Entry::Count(of, _)
        | Entry::Missing(of)
        | Entry::Sticky(of)
        | Entry::Guarded(of) => put_frontend(&mut key, of),
    }
    Element { key, key_end, data: data(entry, value), comment: None }
}

fn data(entry: &Entry, value: &Value) -> Option<Data> {
    let chain = |address: String| match entry {
        Entry::Frontend(of) | Entry::Count(of, _) if of.address.is_unspecified() => {
            Data::Goto(format!("np-{address}"))
        }
        _ => Data::Goto(address),
    };
    Some(match (value, entry) {
        (Value::Present, _) => return None,
        (Value::Treat(Treatment::Cluster), _) => chain("cluster".into()),
        (Value::Treat(Treatment::External), _) => chain("external".into()),
        (Value::Treat(Treatment::Local), _) => chain("local".into()),
        (Value::Count(count), Entry::Count(_, List::Everywhere)) => chain(format!("all-{count}")),
        (Value::Count(count), _) => chain(format!("lb-{count}")),
        (Value::Seconds(seconds), _) => chain(format!("remember-{seconds}")),
        (Value::Reject, _) => chain("refuse".into()),
        (Value::Drop, _) => Data::Drop,
        (Value::Endpoint(endpoint), _) => {
            let mut bytes = Vec::new();
            put_address(&mut bytes, endpoint.address);
            put_port(&mut bytes, endpoint.port);
            Data::Value(bytes)
        }
    })
}

/// A range's last address.
fn last(range: &Cidr) -> IpAddr {
    range.nth(range.size() - 1).unwrap_or(range.address())
}

/// The range from a first to a last address.
fn range(first: IpAddr, end: IpAddr) -> Option<Cidr> {
    let longest = if first.is_ipv4() { 32 } else { 128 };
    let mut ranges = (0..=longest).filter_map(|length| Cidr::new(first, length));
    ranges.find(|range| range.network().address() == first && last(range) == end)
}

fn put_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
    }
}

fn put_port(bytes: &mut Vec<u8>, port: u16) {
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0; 2]);
}

fn put_frontend(bytes: &mut Vec<u8>, frontend: &Frontend) {
    if !frontend.address.is_unspecified() {
        put_address(bytes, frontend.address);
    }
    let number = match frontend.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    bytes.extend_from_slice(&[number, 0, 0, 0]);
    put_port(bytes, frontend.port);
}

/// Reads an element of a set back; nothing if it is none that this program writes.
pub fn read(family: Family, set: &str, element: &Element) -> Option<(Entry, Value)> {
    let mut key = Reader { rest: &element.key, family };
    let entry = match set {
        "nodeport-ips" => Entry::NodePortAddress(key.address()?),
        "cluster-ips" => Entry::ClusterIp(key.address()?),
        "hairpin" => Entry::Hairpin(key.address()?),
        "service-ips" | "service-nodeports" => Entry::Frontend(key.frontend(set)?),
        "counts" | "nodeport-counts" => Entry::Count(key.frontend(set)?, List::Own),
        "counts-everywhere" | "nodeport-counts-everywhere" => {
            Entry::Count(key.frontend(set)?, List::Everywhere)
        }
        "endpoints" | "nodeport-endpoints" => {
            let of = key.frontend(set)?;
            let number = u32::from_ne_bytes(key.take()?);
            let list = if number < EVERYWHERE { List::Own } else { List::Everywhere };
            Entry::Slot(of, list, u16::try_from(number % EVERYWHERE).ok()?)
        }
        "no-endpoint-services" | "no-endpoint-nodeports" => Entry::Missing(key.frontend(set)?),
        "affinity-services" | "affinity-nodeports" => Entry::Sticky(key.frontend(set)?),
        "firewall-ips" => Entry::Guarded(key.frontend(set)?),
        "firewall-allowed" => {
            let (of, first) = (key.frontend(set)?, key.address()?);
            let mut end = Reader { rest: element.key_end.as_deref()?, family };
            end.frontend(set)?;
            Entry::Source(of, range(first, end.address()?)?)
        }
        "service-ranges" => {
            let mut end = Reader { rest: element.key_end.as_deref()?, family };
            Entry::ServiceRange(range(key.address()?, end.address()?)?)
        }
        _ => return None,
    };
    Some((entry, value(family, &entry, element.data.as_ref())?))
}

fn value(family: Family, entry: &Entry, data: Option<&Data>) -> Option<Value> {
    let read = match data {
        None => Value::Present,
        Some(Data::Drop) => Value::Drop,
        Some(Data::Value(bytes)) => {
            let mut reader = Reader { rest: bytes, family };
            Value::Endpoint(Endpoint { address: reader.address()?, port: reader.port()? })
        }
        Some(Data::Goto(chain)) => {
            let name = chain.strip_prefix("np-").unwrap_or(chain);
            match (name, name.rsplit_once('-')) {
                ("cluster", _) => Value::Treat(Treatment::Cluster),
                ("external", _) => Value::Treat(Treatment::External),
                ("local", _) => Value::Treat(Treatment::Local),
                ("refuse", _) => Value::Reject,
                (_, Some(("lb" | "all", count))) => Value::Count(count.parse().ok()?),
                (_, Some(("remember", seconds))) => Value::Seconds(seconds.parse().ok()?),
                _ => return None,
            }
        }
    };
    // What is written back for it must be what stands there.
    (self::data(entry, &read).as_ref() == data).then_some(read)
}

/// A client's remembered endpoint, as the kernel keeps it: the frontend by the address that the client used.
pub fn read_affinity(family: Family, element: &Element) -> Option<(Frontend, Endpoint)> {
    let mut key = Reader { rest: &element.key, family };
    key.address()?;
    let frontend = key.frontend(AFFINITY)?;
    let Some(Data::Value(bytes)) = &element.data else { return None };
    let mut data = Reader { rest: bytes, family };
    Some((frontend, Endpoint { address: data.address()?, port: data.port()? }))
}

struct Reader<'a> {
    rest: &'a [u8],
    family: Family,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*first)
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.family {
            Family::Ip => self.take::<4>().map(IpAddr::from),
            Family::Ip6 => self.take::<16>().map(IpAddr::from),
        }
    }

    fn port(&mut self) -> Option<u16> {
        self.take::<4>().map(|[high, low, ..]| u16::from_be_bytes([high, low]))
    }

    /// The frontend in a key of this set.
    fn frontend(&mut self, set: &str) -> Option<Frontend> {
        let address = match set.contains("nodeport") {
            true => unspecified(self.family == Family::Ip),
            false => self.address()?,
        };
        let protocol = match self.take::<4>()?[0] {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            _ => return None,
        };
        Some(Frontend { address, protocol, port: self.port()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    #[test]
    fn the_tables_text() {
        let mut settings = Config::default().settings;
        settings.cluster_cidrs = ["10.1.0.0/16", "fd01::/48"].map(|cidr| cidr.parse().unwrap()).to_vec();
        insta::assert_snapshot!(skeleton(Family::Ip, &settings).0);
        let comment = |settings: &Settings| skeleton(Family::Ip, settings).1;
        let before = comment(&settings);
        settings.masquerade_all = true;
        assert_ne!(comment(&settings), before);
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn frontend() -> impl Strategy<Value = Frontend> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        let address = prop_oneof![address(), any::<bool>().prop_map(unspecified)];
        (address, protocol, any::<u16>()).prop_map(|(address, protocol, port)| Frontend {
            address,
            protocol,
            port,
        })
    }

    fn same_family(of: &Frontend, bits: [u8; 16]) -> IpAddr {
        match of.address {
            IpAddr::V4(_) => IpAddr::from([bits[0], bits[1], bits[2], bits[3]]),
            IpAddr::V6(_) => IpAddr::from(bits),
        }
    }

    proptest! {
        /// What is written is what is read back.
        #[test]
        fn elements_are_read_back(
            of in frontend(), list in prop_oneof![Just(List::Own), Just(List::Everywhere)],
            number in 1u16.., bits in any::<[u8; 16]>(), length in 0u8..=32, one in address(),
        ) {
            let far = same_family(&of, bits);
            let treatment = match of.address.is_unspecified() || number % 3 > 0 {
                true if number % 2 == 0 => Treatment::External,
                true => Treatment::Local,
                false => Treatment::Cluster,
            };
            let mut cases = vec![
                (Entry::ClusterIp(one), Value::Present), (Entry::Hairpin(one), Value::Present),
                (Entry::NodePortAddress(one), Value::Present),
                (Entry::Frontend(of), Value::Treat(treatment)), (Entry::Count(of, list), Value::Count(number)),
                (Entry::Slot(of, list, number), Value::Endpoint(Endpoint { address: far, port: number })),
                (Entry::Missing(of), Value::Drop), (Entry::Missing(of), Value::Reject),
                (Entry::Sticky(of), Value::Seconds(u32::from(number))),
            ];
            if !of.address.is_unspecified() {
                let range = Cidr::new(far, length).unwrap().network();
                cases.push((Entry::Guarded(of), Value::Present));
                cases.push((Entry::ServiceRange(range), Value::Present));
                cases.push((Entry::Source(of, range), Value::Present));
            }
            for (entry, value) in cases {
                let read = read(family_of(&entry), set_of(&entry), &element(&entry, &value));
                prop_assert_eq!(read, Some((entry, value)));
            }
        }
    }
}
