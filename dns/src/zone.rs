//! What a question about the cluster's names, or about the addresses behind them, is answered with.
//!
//! The forms of names: <https://github.com/kubernetes/dns/blob/master/docs/specification.md>

use crate::index::{Entry, Index, Ready};
use crate::objects::Port;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;

/// How long answers may be kept, in seconds: what kubeadm asks of CoreDNS.
pub const TTL: u32 = 30;
/// How long it may be kept that there is nothing: a Service that is made now is soon asked for again.
const NEGATIVE_TTL: u32 = 5;
/// The version of the names' schema hardly ever changes.
const VERSION_TTL: u32 = 28_800;
const SCHEMA_VERSION: &str = "1.1.0";
/// The Service that is this server.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");
/// How many ExternalName Services may stand for each other in a row.
const LONGEST_CHAIN: usize = 8;

/// A question: a name in lower case, and what is asked of it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name in lower case.
    pub lower: &'a Name,
    /// The name as it was written, which answers repeat.
    pub written: &'a Name,
    /// What is asked for.
    pub kind: RecordType,
}

/// What is known of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Others know.
    Elsewhere,
    /// All that there is.
    Here(Reply),
    /// The answer begins so; the rest is what others know of this name.
    Follow(Vec<Record>, Name),
}

/// An answer in full.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Whether there is such a name.
    pub code: ResponseCode,
    /// The records that were asked for.
    pub answers: Vec<Record>,
    /// Records that will be asked for next.
    pub additionals: Vec<Record>,
    /// The zone's own record, where nothing was found.
    pub authorities: Vec<Record>,
}

impl Reply {
    /// An answer that is a code alone.
    pub fn failure(code: ResponseCode) -> Reply {
        Reply { code, answers: Vec::new(), additionals: Vec::new(), authorities: Vec::new() }
    }
}

/// The cluster's zone.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
}

/// What a name below the zone stands for.
enum Found<'a> {
    /// There is no such name.
    Nothing,
    /// A name with nothing at it.
    Empty,
    /// Addresses, with a port each where there is one, and the name that has the address.
    Targets(Vec<Target<'a>>),
    /// Another name.
    Alias(Name),
    /// A text.
    Version,
    /// The zone itself.
    Apex,
}

#[derive(Clone, Copy)]
struct Target<'a> {
    address: IpAddr,
    port: Option<u16>,
    /// Labels before `namespace.svc.zone`: an endpoint's hostname, if it has one, and the Service.
    hostname: Option<&'a str>,
    service: (&'a str, &'a str),
}

impl Zone {
    /// The zone of a domain.
    pub fn new(domain: Name) -> Zone {
        Zone { domain }
    }

    /// Its name.
    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// The answer to a question.
    pub fn answer(&self, index: &Index, question: Question<'_>) -> Verdict {
        if self.domain.zone_of(question.lower) {
            return self.forward(index, question);
        }
        match question.lower.parse_arpa_name() {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => self.reverse(index, question, net.addr()),
            _ => Verdict::Elsewhere,
        }
    }

    fn forward(&self, index: &Index, question: Question<'_>) -> Verdict {
        if matches!(question.kind, RecordType::AXFR | RecordType::IXFR) {
            return Verdict::Here(Reply::failure(ResponseCode::Refused));
        }
        let (mut chain, mut name) = (Vec::new(), question.lower.clone());
        loop {
            let written = if chain.is_empty() { question.written } else { &name };
            let next = match self.find(index, &name) {
                Found::Nothing if chain.is_empty() => {
                    return Verdict::Here(self.empty(ResponseCode::NXDomain));
                }
                Found::Nothing | Found::Empty => return self.reply(chain, Vec::new()),
                Found::Apex => return self.apex(index, question),
                Found::Version => {
                    if question.kind == RecordType::TXT {
                        let text = RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]));
                        chain.push(Record::from_rdata(written.clone(), VERSION_TTL, text));
                    }
                    return self.reply(chain, Vec::new());
                }
                Found::Targets(targets) if question.kind == RecordType::SRV => {
                    return self.srv(written, &targets);
                }
                Found::Targets(targets) => {
                    push_addresses(&mut chain, written, question.kind, &targets);
                    return self.reply(chain, Vec::new());
                }
                Found::Alias(next) => next,
            };
            // As CoreDNS: what an ExternalName Service stands for has no ports.
            if question.kind == RecordType::SRV {
                return self.reply(Vec::new(), Vec::new());
            }
            let alias = RData::CNAME(CNAME(next.clone()));
            chain.push(Record::from_rdata(written.clone(), TTL, alias));
            if question.kind == RecordType::CNAME || chain.len() >= LONGEST_CHAIN {
                return self.reply(chain, Vec::new());
            }
            name = next.to_lowercase();
            if !self.domain.zone_of(&name) {
                return Verdict::Follow(chain, next);
            }
        }
    }

    /// Finds what stands at a name, in lower case, of the zone.
    fn find<'a>(&self, index: &'a Index, name: &Name) -> Found<'a> {
        let own = usize::from(name.num_labels() - self.domain.num_labels());
        let mut labels = [""; 5];
        if own > labels.len() {
            return Found::Nothing;
        }
        // From the zone downwards: svc, namespace, service, and what is before it.
        for (at, label) in name.iter().take(own).enumerate() {
            let Ok(label) = std::str::from_utf8(label) else { return Found::Nothing };
            labels[own - 1 - at] = label;
        }
        match &labels[..own] {
            [] => Found::Apex,
            ["svc" | "pod" | "dns"] => Found::Empty,
            ["dns-version"] => Found::Version,
            ["dns", "ns"] => match index.get(DNS_SERVICE.0, DNS_SERVICE.1) {
                Some(entry) => service(entry, Wanted::default()),
                None => Found::Nothing,
            },
            ["svc", namespace] if index.has_namespace(namespace) => Found::Empty,
            ["pod", _] => Found::Empty,
            ["pod", namespace, address] => pod(namespace, address),
            ["svc", namespace, name, before @ ..] => {
                let wanted = match before {
                    [] => Wanted::default(),
                    [hostname] => Wanted { hostname: Some(hostname), ..Wanted::default() },
                    [protocol, port] => match (protocol.strip_prefix('_'), port.strip_prefix('_')) {
                        (Some(protocol), Some(port)) => {
                            Wanted { port: Some((port, protocol)), ..Wanted::default() }
                        }
                        _ => return Found::Nothing,
                    },
                    _ => return Found::Nothing,
                };
                index.get(namespace, name).map_or(Found::Nothing, |entry| service(entry, wanted))
            }
            _ => Found::Nothing,
        }
    }

    fn name_of(&self, hostname: Option<&str>, (namespace, service): (&str, &str)) -> Option<Name> {
        let labels = hostname.into_iter().chain([service, namespace, "svc"]);
        // Names of objects are labels already; together they may still be too long to be a name.
        Name::from_labels(labels.map(str::as_bytes)).ok()?.append_domain(&self.domain).ok()
    }

    fn srv(&self, written: &Name, targets: &[Target<'_>]) -> Verdict {
        let with_port = targets.iter().filter(|target| target.port.is_some()).count().max(1);
        let weight = (100 / with_port).max(1) as u16;
        let (mut answers, mut additionals): (Vec<Record>, Vec<Record>) = (Vec::new(), Vec::new());
        for target in targets {
            let (Some(port), Some(name)) = (target.port, self.name_of(target.hostname, target.service))
            else {
                continue;
            };
            let srv = RData::SRV(SRV::new(0, weight, port, name.clone()));
            push_new(&mut answers, Record::from_rdata(written.clone(), TTL, srv));
            push_new(&mut additionals, Record::from_rdata(name, TTL, target.address.into()));
        }
        self.reply(answers, additionals)
    }

    fn apex(&self, index: &Index, question: Question<'_>) -> Verdict {
        match question.kind {
            RecordType::SOA => self.reply(vec![self.soa()], Vec::new()),
            RecordType::NS => {
                let server = self.server();
                let answer = Record::from_rdata(self.domain.clone(), TTL, RData::NS(NS(server.clone())));
                let service = index.get(DNS_SERVICE.0, DNS_SERVICE.1).and_then(Entry::service);
                let addresses = service.into_iter().flat_map(|service| service.addresses());
                let additionals =
                    addresses.map(|address| Record::from_rdata(server.clone(), TTL, address.into()));
                self.reply(vec![answer], additionals.collect())
            }
            _ => self.reply(Vec::new(), Vec::new()),
        }
    }

    fn reverse(&self, index: &Index, question: Question<'_>, address: IpAddr) -> Verdict {
        let services = index.services_at(address).take(1).map(|key| (None, key));
        let endpoints = index.endpoints_at(address).map(|(key, hostname)| (Some(&**hostname), key));
        let mut names: Vec<Name> = services
            .filter_map(|(hostname, key)| self.name_of(hostname, (&key.namespace, &key.name)))
            .collect();
        if names.is_empty() {
            names = endpoints
                .filter_map(|(hostname, key)| self.name_of(hostname, (&key.namespace, &key.name)))
                .collect();
        }
        if names.is_empty() {
            return Verdict::Elsewhere;
        }
        let pointers = names.into_iter().filter(|_| question.kind == RecordType::PTR);
        let answers =
            pointers.map(|name| Record::from_rdata(question.written.clone(), TTL, RData::PTR(PTR(name))));
        self.reply(answers.collect(), Vec::new())
    }

    fn reply(&self, answers: Vec<Record>, additionals: Vec<Record>) -> Verdict {
        let empty = self.empty(ResponseCode::NoError);
        let authorities = if answers.is_empty() { empty.authorities } else { Vec::new() };
        Verdict::Here(Reply { answers, additionals, authorities, ..empty })
    }

    fn empty(&self, code: ResponseCode) -> Reply {
        Reply { code, answers: Vec::new(), additionals: Vec::new(), authorities: vec![self.soa()] }
    }

    fn soa(&self) -> Record {
        let mailbox = below(&self.domain, &["hostmaster"]);
        // Nobody transfers the zone, so its serial number tells nobody anything.
        let soa = SOA::new(self.server(), mailbox, 1, 7200, 1800, 86_400, NEGATIVE_TTL);
        Record::from_rdata(self.domain.clone(), NEGATIVE_TTL, RData::SOA(soa))
    }

    fn server(&self) -> Name {
        below(&self.domain, &["ns", "dns"])
    }
}

/// A name below a domain; the domain itself where that would be too long for a name.
fn below(domain: &Name, labels: &[&str]) -> Name {
    let name = Name::from_labels(labels.iter().map(|label| label.as_bytes()));
    name.and_then(|name| name.append_domain(domain)).unwrap_or_else(|_| domain.clone())
}

/// What is asked for below a Service's name.
#[derive(Default)]
struct Wanted<'a> {
    hostname: Option<&'a str>,
    /// Name and protocol.
    port: Option<(&'a str, &'a str)>,
}

impl Wanted<'_> {
    fn takes(&self, port: &Port) -> bool {
        self.port.is_none_or(|(name, protocol)| {
            *name == *port.name && port.protocol.eq_ignore_ascii_case(protocol)
        })
    }
}

fn service<'a>(entry: &'a Entry, wanted: Wanted<'_>) -> Found<'a> {
    let Some(service) = entry.service() else { return Found::Nothing };
    let key = (&*service.metadata.namespace, &*service.metadata.name);
    if &*service.spec.kind == "ExternalName" {
        let plain = wanted.hostname.is_none() && wanted.port.is_none();
        return external(&service.spec.external_name).filter(|_| plain).map_or(Found::Nothing, Found::Alias);
    }
    let mut targets = Vec::new();
    let mut endpoint = |(hostname, ready): (&'a str, &Ready)| {
        let target = Target { address: ready.address, port: None, hostname: Some(hostname), service: key };
        if ready.ports().is_empty() && wanted.port.is_none() {
            targets.push(target);
        }
        let ports = ready.ports().iter().filter(|port| wanted.takes(port));
        targets.extend(ports.map(|port| Target { port: port.port, ..target }));
    };
    if let Some(hostname) = wanted.hostname {
        entry.endpoints_of(hostname).for_each(&mut endpoint);
    } else if service.is_headless() {
        entry.endpoints().for_each(&mut endpoint);
    } else {
        let ports = service.spec.ports.iter().filter(|port| wanted.takes(port));
        let addresses: Vec<IpAddr> = service.addresses().collect();
        let all = ports.flat_map(|port| addresses.iter().map(move |address| (port.port, *address)));
        targets.extend(all.map(|(port, address)| Target { address, port, hostname: None, service: key }));
        if targets.is_empty() && wanted.port.is_none() {
            // One that has got no address yet.
            return Found::Empty;
        }
    }
    if targets.is_empty() { Found::Nothing } else { Found::Targets(targets) }
}

/// The name that an ExternalName Service stands for; an address is none.
fn external(text: &str) -> Option<Name> {
    if text.is_empty() || text.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The address that a Pod's name is made of; whether there is such a Pod is not asked.
fn pod<'a>(namespace: &str, label: &str) -> Found<'a> {
    let four = label.matches('-').count() == 3 && !label.contains("--");
    let address = label.replace('-', if four { "." } else { ":" });
    match address.parse() {
        Ok(address) if !namespace.is_empty() => {
            Found::Targets(vec![Target { address, port: None, hostname: None, service: ("", "") }])
        }
        _ => Found::Nothing,
    }
}

fn push_addresses(chain: &mut Vec<Record>, written: &Name, kind: RecordType, targets: &[Target<'_>]) {
    let mut addresses: Vec<IpAddr> = targets.iter().map(|target| target.address).collect();
    addresses.retain(|address| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    });
    // One with several ports is there several times.
    addresses.sort_unstable();
    addresses.dedup();
    chain.extend(
        addresses.into_iter().map(|address| Record::from_rdata(written.clone(), TTL, address.into())),
    );
}

fn push_new(records: &mut Vec<Record>, record: Record) {
    if !records.contains(&record) {
        records.push(record);
    }
}

#[cfg(test)]
mod tests;
