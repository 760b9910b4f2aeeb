//! Addresses of Pods: unique, leading nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// 100.64.0.0/10, the shared address space (RFC 6598): on one machine hardly ever in use.
const FIRST: u32 = u32::from_be_bytes([100, 64, 0, 0]);
const COUNT: u32 = 1 << 22;

/// Which Pod has which address.
#[derive(Debug, Default)]
pub struct Addresses {
    by_uid: BTreeMap<Arc<str>, u32>,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Addresses {
    /// A Pod has this address already.
    pub fn hold(&mut self, uid: &Arc<str>, address: &str) {
        let Ok(address) = address.parse::<Ipv4Addr>() else { return };
        let Some(number) = u32::from(address).checked_sub(FIRST).filter(|number| *number < COUNT) else {
            return;
        };
        if self.taken.insert(number) {
            self.by_uid.insert(uid.clone(), number);
        }
    }

    /// The address of a Pod, a new one if it has none; `None` when four million are taken.
    pub fn of(&mut self, uid: &Arc<str>) -> Option<Ipv4Addr> {
        if let Some(number) = self.by_uid.get(uid) {
            return Some(Ipv4Addr::from(FIRST + number));
        }
        // An address rests as long as possible before it is given out again.
        let number = (0..COUNT)
            .map(|step| (self.next + step) % COUNT)
            .find(|number| *number != 0 && !self.taken.contains(number))?;
        self.next = (number + 1) % COUNT;
        self.taken.insert(number);
        self.by_uid.insert(uid.clone(), number);
        Some(Ipv4Addr::from(FIRST + number))
    }

    /// A Pod is gone.
    pub fn release(&mut self, uid: &Arc<str>) {
        if let Some(number) = self.by_uid.remove(uid) {
            self.taken.remove(&number);
        }
    }
}

/// The address of a node: from 198.18.0.0/15, which is kept for measuring (RFC 2544).
pub fn of_node(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes([198, 18, 0, 1]) + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_given_twice() {
        let mut addresses = Addresses::default();
        addresses.hold(&"a".into(), "100.64.0.1");
        addresses.hold(&"elsewhere".into(), "10.0.0.1");
        let second = addresses.of(&"b".into()).unwrap();
        assert_eq!(second.to_string(), "100.64.0.2");
        assert_eq!(addresses.of(&"b".into()), Some(second));
        addresses.release(&"b".into());
        assert_eq!(addresses.of(&"c".into()).unwrap().to_string(), "100.64.0.3");
    }
}
