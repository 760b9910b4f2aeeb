//! Addresses and ports of Services: what is given, what is free.
//!
//! What stored Services hold is followed through the watch cache, so a restart rebuilds it by itself. What a request was
//! given and has not stored yet is reserved until the request ends.

use crate::world::Follower;
use minik_component::Chance;
use minik_registry::{AllocationError, Allocator, Held, held_by_service};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The folder of Services in the store.
const SERVICES: &str = "services/specs";
/// Tries to find a free one by chance before looking at each.
const GUESSES: usize = 64;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    first: u128,
    bits: u8,
    v6: bool,
}

impl Cidr {
    /// Reads `10.96.0.0/16`; bits behind the prefix are ignored.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Cidr, String> {
        let bad = || format!("{text:?} is no range of addresses: write ADDRESS/BITS, as in 10.96.0.0/16");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        let (value, width, v6) = match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32, false),
            IpAddr::V6(v6) => (u128::from(v6), 128, true),
        };
        if length > width || width - length < 2 {
            return Err(bad());
        }
        let bits = width - length;
        let first = if bits == 128 { 0 } else { value >> bits << bits };
        Ok(Cidr { first, bits, v6 })
    }

    fn family(&self) -> &'static str {
        if self.v6 { "IPv6" } else { "IPv4" }
    }

    /// Addresses that can be given: not the first, and of IPv4 not the last. No more than can be looked through.
    fn offsets(&self) -> RangeInclusive<u128> {
        let size = 1u128 << self.bits.min(20);
        let last = if !self.v6 && self.bits <= 20 { size - 2 } else { size - 1 };
        1..=last
    }

    fn at(&self, offset: u128) -> IpAddr {
        let value = self.first + offset;
        if self.v6 { IpAddr::V6(Ipv6Addr::from(value)) } else { IpAddr::V4(Ipv4Addr::from(value as u32)) }
    }

    /// The first address that can be given: that of the `kubernetes` Service.
    pub fn first(&self) -> IpAddr {
        self.at(1)
    }

    fn has(&self, address: IpAddr) -> bool {
        let (value, v6) = match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), false),
            IpAddr::V6(v6) => (u128::from(v6), true),
        };
        v6 == self.v6
            && value.checked_sub(self.first).is_some_and(|offset| {
                offset >= 1 && (self.bits >= 127 || offset < (1 << self.bits) - u128::from(!self.v6))
            })
    }
}

#[derive(Default)]
struct Taken {
    /// By Service: what it holds.
    held: BTreeMap<(String, String), Held>,
    addresses: BTreeMap<IpAddr, usize>,
    ports: BTreeMap<u16, usize>,
    reserved_addresses: BTreeSet<IpAddr>,
    reserved_ports: BTreeSet<u16>,
}

impl Taken {
    fn change(&mut self, key: (String, String), now: Option<Held>) {
        let before = match now.clone() {
            Some(held) => self.held.insert(key, held),
            None => self.held.remove(&key),
        };
        for ip in now.iter().flat_map(|held| &held.cluster_ips).filter_map(|ip| ip.parse().ok()) {
            *self.addresses.entry(ip).or_insert(0) += 1;
        }
        for port in now.iter().flat_map(|held| &held.node_ports) {
            *self.ports.entry(*port).or_insert(0) += 1;
        }
        for ip in before.iter().flat_map(|held| &held.cluster_ips).filter_map(|ip| ip.parse::<IpAddr>().ok())
        {
            give_back(&mut self.addresses, &ip);
        }
        for port in before.iter().flat_map(|held| &held.node_ports) {
            give_back(&mut self.ports, port);
        }
    }
}

fn give_back<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What all Services of the cluster share.
pub struct Allocators {
    ranges: Vec<Cidr>,
    families: Vec<&'static str>,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
    chance: Arc<dyn Chance>,
}

impl Allocators {
    /// Gives from these ranges; the first is of the default family.
    pub fn new(ranges: Vec<Cidr>, ports: RangeInclusive<u16>, chance: Arc<dyn Chance>) -> Arc<Allocators> {
        let families = ranges.iter().map(Cidr::family).collect();
        Arc::new(Allocators { ranges, families, ports, taken: Mutex::default(), chance })
    }

    /// What one request uses. A request that is only tried is refused a port for being taken, not for its number, as stock
    /// has it.
    pub fn begin(self: &Arc<Self>, tried: bool) -> Allocation {
        Allocation { from: self.clone(), addresses: Vec::new(), ports: Vec::new(), tried }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Each change is complete before anything can panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number of a range for which `free` holds: by chance, else the first.
    fn pick(&self, range: RangeInclusive<u128>, free: impl Fn(u128) -> bool) -> Option<u128> {
        let size = (range.end() - range.start() + 1) as u64;
        let guesses = (0..GUESSES).map(|_| range.start() + u128::from(self.chance.below(size)));
        guesses.chain(range.clone()).find(|number| free(*number))
    }
}

impl Follower for Allocators {
    fn wants(&self, folder: &str) -> bool {
        folder == SERVICES
    }

    fn put(&self, _folder: &str, object: &Value) {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (text("/metadata/namespace"), text("/metadata/name"));
        self.taken().change(key, Some(held_by_service(object)));
    }

    fn remove(&self, _folder: &str, namespace: &str, name: &str) {
        self.taken().change((namespace.to_owned(), name.to_owned()), None);
    }
}

/// What one request was given; given back when it ends, since stored Services hold what they hold by themselves.
pub struct Allocation {
    from: Arc<Allocators>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
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
        let range = self.from.ranges.iter().find(|range| range.family() == family);
        let range = range.ok_or(AllocationError::OutOfRange)?;
        let mut taken = self.from.taken();
        let free = |ip: &IpAddr| !taken.addresses.contains_key(ip) && !taken.reserved_addresses.contains(ip);
        let ip = match wanted {
            Some(text) => {
                let ip = text.parse().ok().filter(|ip| range.has(*ip)).ok_or(AllocationError::OutOfRange)?;
                Some(ip).filter(free).ok_or(AllocationError::Taken)?
            }
            None => {
                let found = self.from.pick(range.offsets(), |offset| free(&range.at(offset)));
                range.at(found.ok_or(AllocationError::Full)?)
            }
        };
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
        let free = |port: &u16| !taken.ports.contains_key(port) && !taken.reserved_ports.contains(port);
        let port = match wanted {
            Some(port) => Some(port).filter(free).ok_or(AllocationError::Taken)?,
            None => {
                let wide = u128::from(*range.start())..=u128::from(*range.end());
                let found = self.from.pick(wide, |port| free(&(port as u16)));
                found.ok_or(AllocationError::Full)? as u16
            }
        };
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
        Allocators::new(vec![Cidr::parse(range).unwrap()], 30000..=30001, Arc::new(SeededChance::new(1)))
    }

    fn service(name: &str, ip: &str, port: u16) -> Value {
        json!({"metadata": {"namespace": "n", "name": name}, "spec": {"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{"port": 80, "nodePort": port}]}})
    }

    #[test]
    fn all_of_a_range_is_given_and_no_more() {
        let all = allocators("10.0.0.0/29");
        let mut one = all.begin(false);
        let mut given: Vec<String> = (0..6).map(|_| one.cluster_ip("IPv4", None).unwrap()).collect();
        given.sort();
        assert_eq!((given[0].as_str(), given[5].as_str()), ("10.0.0.1", "10.0.0.6"));
        assert_eq!(one.cluster_ip("IPv4", None), Err(AllocationError::Full));
        drop(one);
        assert_eq!(all.begin(false).cluster_ip("IPv4", Some("10.0.0.3")).unwrap(), "10.0.0.3");
    }

    #[test]
    fn what_a_stored_service_holds_is_taken_until_it_goes() {
        let all = allocators("10.0.0.0/29");
        all.put(SERVICES, &service("a", "10.0.0.2", 30000));
        let mut one = all.begin(false);
        assert_eq!(one.cluster_ip("IPv4", Some("10.0.0.2")), Err(AllocationError::Taken));
        assert_eq!(one.cluster_ip("IPv4", Some("10.0.0.7")), Err(AllocationError::OutOfRange));
        assert_eq!(one.node_port(Some(30000)), Err(AllocationError::Taken));
        assert_eq!(one.node_port(None), Ok(30001));
        all.put(SERVICES, &service("a", "10.0.0.2", 30000));
        all.remove(SERVICES, "n", "a");
        assert_eq!(one.cluster_ip("IPv4", Some("10.0.0.2")).unwrap(), "10.0.0.2");
    }
}
