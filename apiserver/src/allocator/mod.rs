//! Addresses and ports of Services: what is given, what is free.
//!
//! ```text
//!  request ─> pick (here, from what the caches hold) ─> claim (in the store: the first of several servers has it) ─> Service
//!             release (what a Service no longer holds) <─ change, deletion          repair (every minute): whatever leaked
//! ```
//!
//! An address is claimed by an IPAddress object of its name, node ports by bits of one RangeAllocation, both as upstream's
//! servers do, so that several servers never give the same twice. What a request was given and has not stored yet is
//! reserved until the request ends.

mod cidr;
mod claim;
mod counts;
mod ports;
mod repair;

pub use cidr::Cidr;
pub(crate) use claim::Owner;
pub use counts::Counts;
pub(crate) use repair::Leaks;

use crate::world::Follower;
use counts::Scope;
use minik_component::Chance;
use minik_registry::{AllocationError, Allocator, Held, held_by_service};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The folder of Services in the store.
pub(crate) const SERVICES: &str = "services/specs";
const ADDRESSES: &str = "ipaddresses";
const RANGES: &str = "servicecidrs";
/// Tries to find a free one by chance before looking at each.
const GUESSES: usize = 64;

#[derive(Default)]
struct Taken {
    /// By Service: what it holds.
    held: BTreeMap<(String, String), Held>,
    addresses: BTreeMap<IpAddr, usize>,
    ports: BTreeMap<u16, usize>,
    /// Addresses with an object.
    claimed: BTreeSet<IpAddr>,
    /// Ports that were marked in the store when that was last looked at: claims of others that are not stored yet, and leaks.
    marked: BTreeSet<u16>,
    reserved_addresses: BTreeSet<IpAddr>,
    reserved_ports: BTreeSet<u16>,
    /// Ranges of ServiceCIDR objects that are ready.
    ranges: BTreeMap<String, Vec<Cidr>>,
}

impl Taken {
    fn change(&mut self, key: (String, String), now: Option<Held>, counts: &Counts) {
        let before = match now.clone() {
            Some(held) => self.held.insert(key, held),
            None => self.held.remove(&key),
        };
        let ips = |held: &Option<Held>| -> Vec<IpAddr> {
            held.iter().flat_map(|held| &held.cluster_ips).filter_map(|ip| ip.parse().ok()).collect()
        };
        let ports = |held: &Option<Held>| -> Vec<u16> {
            held.iter().flat_map(|held| held.node_ports.clone()).collect()
        };
        for ip in ips(&now).into_iter().filter(|ip| take(&mut self.addresses, *ip)) {
            counts.holds(ip, 1);
        }
        ports(&now).into_iter().filter(|port| take(&mut self.ports, *port)).for_each(drop);
        for ip in ips(&before).into_iter().filter(|ip| give_back(&mut self.addresses, ip)) {
            counts.holds(ip, -1);
        }
        ports(&before).iter().filter(|port| give_back(&mut self.ports, port)).for_each(drop);
        counts.ports_held(self.ports.len());
    }

    fn has_address(&self, ip: &IpAddr) -> bool {
        self.addresses.contains_key(ip) || self.claimed.contains(ip) || self.reserved_addresses.contains(ip)
    }

    fn has_port(&self, port: &u16) -> bool {
        self.ports.contains_key(port) || self.reserved_ports.contains(port)
    }
}

/// Counts one more; whether it is the first.
fn take<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) -> bool {
    let count = counts.entry(key).or_insert(0);
    *count += 1;
    *count == 1
}

/// Counts one less; whether it was the last.
fn give_back<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    *count == 0 && counts.remove(key).is_some()
}

/// What all Services of the cluster share.
pub struct Allocators {
    ranges: Vec<Cidr>,
    families: Vec<&'static str>,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
    chance: Arc<dyn Chance>,
    counts: Counts,
    /// One change of the store's port bits at a time in this server: they would only undo each other's tries.
    changing_ports: tokio::sync::Mutex<()>,
}

impl Allocators {
    /// Gives from these ranges; the first is of the default family.
    pub fn new(
        ranges: Vec<Cidr>,
        ports: RangeInclusive<u16>,
        chance: Arc<dyn Chance>,
        counts: Counts,
    ) -> Arc<Allocators> {
        let families = ranges.iter().map(Cidr::family).collect();
        Arc::new(Allocators {
            ranges,
            families,
            ports,
            taken: Mutex::default(),
            chance,
            counts,
            changing_ports: tokio::sync::Mutex::new(()),
        })
    }

    /// What one request uses. A request that is only tried is refused a port for being taken, not for its number, as stock
    /// has it. A second attempt avoids what the first found to be another's.
    pub fn begin(self: &Arc<Self>, tried: bool, attempt: usize) -> Allocation {
        let avoided = if attempt == 0 { BTreeSet::new() } else { self.taken().marked.clone() };
        Allocation { from: self.clone(), addresses: Vec::new(), ports: Vec::new(), avoided, tried }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Each change is complete before anything can panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number of a range for which `free` holds: by chance, else the first. The first numbers come last, since they are
    /// what people ask for by name.
    fn pick(&self, range: RangeInclusive<u128>, band: u128, free: impl Fn(u128) -> bool) -> Option<u128> {
        let (start, end) = (*range.start(), *range.end());
        let upper = (start + band).min(end);
        let size = (end - upper + 1) as u64;
        let guesses = (0..GUESSES).map(|_| upper + u128::from(self.chance.below(size)));
        guesses.chain(upper..=end).chain(start..upper).find(|number| free(*number))
    }

    /// All ranges of a family: those that the server was started with, then those of objects.
    fn ranges(&self, taken: &Taken, family: &str) -> Vec<Cidr> {
        let more = taken.ranges.values().flatten().filter(|range| !self.ranges.contains(range));
        self.ranges.iter().chain(more).filter(|range| range.family() == family).copied().collect()
    }

    /// Whether any range has an address.
    fn in_range(&self, ip: IpAddr) -> bool {
        let taken = self.taken();
        self.ranges.iter().chain(taken.ranges.values().flatten()).any(|range| range.has(ip))
    }
}

/// How many of a range's first numbers are kept for those who ask for them by name: `size / step`, from 16 to `most`.
fn band(size: u128, step: u128, most: u128) -> u128 {
    if size < 16 { 0 } else { (size / step).clamp(16, most) }
}

/// The ranges of a ServiceCIDR, none unless it is ready and stays.
fn ready_ranges(object: &Value) -> Vec<Cidr> {
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let ready = list("/status/conditions").any(|one| one["type"] == "Ready" && one["status"] == "True");
    if !ready || object.pointer("/metadata/deletionTimestamp").is_some() {
        return Vec::new();
    }
    list("/spec/cidrs").filter_map(|cidr| Cidr::parse(cidr.as_str()?).ok()).collect()
}

impl Follower for Allocators {
    fn wants(&self, folder: &str) -> bool {
        matches!(folder, SERVICES | ADDRESSES | RANGES)
    }

    fn put(&self, folder: &str, object: &Value) {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = text("/metadata/name");
        let mut taken = self.taken();
        match folder {
            SERVICES => {
                taken.change((text("/metadata/namespace"), name), Some(held_by_service(object)), &self.counts)
            }
            RANGES => drop(taken.ranges.insert(name, ready_ranges(object))),
            _ => taken.claimed.extend(name.parse::<IpAddr>().ok()),
        }
    }

    fn remove(&self, folder: &str, namespace: &str, name: &str) {
        let mut taken = self.taken();
        match folder {
            SERVICES => taken.change((namespace.to_owned(), name.to_owned()), None, &self.counts),
            RANGES => drop(taken.ranges.remove(name)),
            _ => drop(name.parse::<IpAddr>().map(|ip| taken.claimed.remove(&ip))),
        }
    }
}

/// What one request was given. Reservations end with it, since stored Services hold what they hold by themselves.
pub struct Allocation {
    from: Arc<Allocators>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    avoided: BTreeSet<u16>,
    tried: bool,
}

impl Allocation {
    /// Whether anything was given.
    pub fn gave(&self) -> bool {
        !self.addresses.is_empty() || !self.ports.is_empty()
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.gave() {
            let mut taken = self.from.taken();
            self.addresses.iter().for_each(|ip| _ = taken.reserved_addresses.remove(ip));
            self.ports.iter().for_each(|port| _ = taken.reserved_ports.remove(port));
        }
    }
}

impl Allocator for Allocation {
    fn families(&self) -> &[&'static str] {
        &self.from.families
    }

    fn cluster_ip(&mut self, family: &str, wanted: Option<&str>) -> Result<String, AllocationError> {
        let mut taken = self.from.taken();
        let ranges = self.from.ranges(&taken, family);
        let free = |ip: &IpAddr| !taken.has_address(ip);
        let found = match wanted {
            Some(text) => {
                let ip: Option<IpAddr> = text.parse().ok();
                let range = ranges.iter().find(|range| ip.is_some_and(|ip| range.has(ip)));
                let found = ip.zip(range).ok_or(AllocationError::OutOfRange);
                found.and_then(|(ip, _)| Some(ip).filter(free).ok_or(AllocationError::Taken))
            }
            None if ranges.is_empty() => Err(AllocationError::OutOfRange),
            None => {
                let pick = |range: &Cidr| {
                    let offsets = range.offsets();
                    let band = band(offsets.end() + 1, 16, 256);
                    self.from.pick(offsets, band, |at| free(&range.at(at))).map(|at| range.at(at))
                };
                ranges.iter().find_map(pick).ok_or(AllocationError::Full)
            }
        };
        let range = ranges.first().map(Cidr::to_string).unwrap_or_default();
        self.from.counts.gave_address(&range, Scope::of(wanted.is_some()), found.is_ok());
        let ip = found?;
        taken.reserved_addresses.insert(ip);
        drop(taken);
        self.addresses.push(ip);
        Ok(ip.to_string())
    }

    fn node_port(&mut self, wanted: Option<i32>) -> Result<i32, AllocationError> {
        let range = self.from.ports.clone();
        let in_range = |port: &i32| u16::try_from(*port).is_ok_and(|port| range.contains(&port));
        if let Some(port) = wanted.filter(|port| !in_range(port)) {
            return if self.tried { Ok(port) } else { Err(AllocationError::OutOfRange) };
        }
        let wanted = wanted.and_then(|port| u16::try_from(port).ok());
        let mut taken = self.from.taken();
        let free = |port: &u16| !taken.has_port(port) && !self.avoided.contains(port);
        let found = match wanted {
            Some(port) => Some(port).filter(free).ok_or(AllocationError::Taken),
            None => {
                let wide = u128::from(*range.start())..=u128::from(*range.end());
                let band = band(wide.end() - wide.start() + 1, 32, 128);
                let found = self.from.pick(wide, band, |port| free(&(port as u16)));
                found.map(|port| port as u16).ok_or(AllocationError::Full)
            }
        };
        self.from.counts.gave_port(Scope::of(wanted.is_some()), found.is_ok());
        let port = found?;
        taken.reserved_ports.insert(port);
        drop(taken);
        self.ports.push(port);
        Ok(port.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minik_component::SeededChance;
    use serde_json::json;

    fn allocators(range: &str) -> Arc<Allocators> {
        let (ranges, ports) = (vec![Cidr::parse(range).unwrap()], 30000..=30001);
        let counts = Counts::new(&ranges, &ports, &prometheus::Registry::new()).unwrap();
        Allocators::new(ranges, ports, Arc::new(SeededChance::new(1)), counts)
    }

    fn service(name: &str, ip: &str, port: u16) -> Value {
        json!({"metadata": {"namespace": "n", "name": name}, "spec": {"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"port": 80, "nodePort": port}]}})
    }

    #[test]
    fn all_of_a_range_is_given_and_no_more() {
        let all = allocators("10.0.0.0/29");
        let mut one = all.begin(false, 0);
        let mut given: Vec<String> = (0..6).map(|_| one.cluster_ip("IPv4", None).unwrap()).collect();
        given.sort();
        assert_eq!((given[0].as_str(), given[5].as_str()), ("10.0.0.1", "10.0.0.6"));
        assert_eq!(one.cluster_ip("IPv4", None), Err(AllocationError::Full));
        drop(one);
        assert_eq!(all.begin(false, 0).cluster_ip("IPv4", Some("10.0.0.3")).unwrap(), "10.0.0.3");
    }

    #[test]
    fn what_a_stored_service_holds_is_taken_until_it_goes() {
        let all = allocators("10.0.0.0/29");
        all.put(SERVICES, &service("a", "10.0.0.2", 30000));
        let mut one = all.begin(false, 0);
        assert_eq!(one.cluster_ip("IPv4", Some("10.0.0.2")), Err(AllocationError::Taken));
        assert_eq!(one.cluster_ip("IPv4", Some("10.0.0.7")), Err(AllocationError::OutOfRange));
        assert_eq!(one.node_port(Some(30000)), Err(AllocationError::Taken));
        assert_eq!(one.node_port(None), Ok(30001));
        all.put(SERVICES, &service("a", "10.0.0.2", 30000));
        all.remove(SERVICES, "n", "a");
        assert_eq!(one.cluster_ip("IPv4", Some("10.0.0.2")).unwrap(), "10.0.0.2");
    }

    #[test]
    fn an_object_of_its_name_takes_an_address() {
        let all = allocators("10.0.0.0/29");
        all.put(ADDRESSES, &json!({"metadata": {"name": "10.0.0.2"}}));
        let mut one = all.begin(false, 0);
        assert_eq!(one.cluster_ip("IPv4", Some("10.0.0.2")), Err(AllocationError::Taken));
        all.remove(ADDRESSES, "", "10.0.0.2");
        assert!(one.cluster_ip("IPv4", Some("10.0.0.2")).is_ok());
    }

    #[test]
    fn ranges_of_objects_are_added_once_they_are_ready() {
        let all = allocators("10.0.0.0/29");
        let range = |status: &str| {
            json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.1.0.0/24"]},
                "status": {"conditions": [{"type": "Ready", "status": status}]}})
        };
        all.put(RANGES, &range("False"));
        assert_eq!(
            all.begin(false, 0).cluster_ip("IPv4", Some("10.1.0.9")),
            Err(AllocationError::OutOfRange)
        );
        all.put(RANGES, &range("True"));
        assert!(all.begin(false, 0).cluster_ip("IPv4", Some("10.1.0.9")).is_ok());
        let mut one = all.begin(false, 0);
        let given: Vec<String> = (0..7).map(|_| one.cluster_ip("IPv4", None).unwrap()).collect();
        assert!(given[6].starts_with("10.1.0."), "the first range is full: {given:?}");
    }

    #[test]
    fn what_people_ask_for_by_name_is_given_last() {
        let all = allocators("10.0.0.0/24");
        let mut one = all.begin(false, 0);
        for _ in 0..254 - 16 {
            let ip: std::net::Ipv4Addr = one.cluster_ip("IPv4", None).unwrap().parse().unwrap();
            assert!(ip.octets()[3] > 16, "{ip}");
        }
        assert_eq!(one.cluster_ip("IPv4", None).unwrap(), "10.0.0.1");
    }
}
