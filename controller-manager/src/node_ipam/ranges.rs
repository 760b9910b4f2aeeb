//! Ranges of addresses of one size within a larger one.

use std::fmt::Display;
use std::net::IpAddr;

/// A range of addresses, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u128,
    /// Bits of an address, and of the part that is common.
    bits: u32,
    prefix: u32,
}

impl Range {
    /// Reads `10.0.0.0/24`.
    pub fn read(text: &str) -> Option<Range> {
        let (address, prefix) = text.split_once('/')?;
        let (number, bits) = number(address.parse().ok()?);
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits)?;
        let first = number & !low(bits - prefix);
        Some(Range { first, bits, prefix })
    }

    /// Whether an address is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        let (number, bits) = number(address);
        bits == self.bits && (self.first..=self.last()).contains(&number)
    }

    fn last(&self) -> u128 {
        self.first | low(self.bits - self.prefix)
    }
}

/// An address as a number, and how many bits that has.
fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

/// A number whose lowest `count` bits are set.
fn low(count: u32) -> u128 {
    1u128.checked_shl(count).map_or(u128::MAX, |one| one - 1)
}

/// The ranges that nodes are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    whole: Range,
    /// Bits of a node's range.
    prefix: u32,
}

/// Numbers of ranges, from and to.
pub type Taken = (u128, u128);

impl Ranges {
    /// Those of a size within a whole.
    ///
    /// # Errors
    /// Why there are none.
    pub fn new(whole: &str, prefix: u32) -> Result<Ranges, String> {
        let range = Range::read(whole).ok_or_else(|| format!("{whole:?} is no range of addresses"))?;
        if prefix < range.prefix || prefix > range.bits {
            return Err(format!("{whole} has no ranges of /{prefix}"));
        }
        Ok(Ranges { whole: range, prefix })
    }

    fn last(&self) -> u128 {
        low(self.prefix - self.whole.prefix)
    }

    /// The range with a number.
    pub fn name(&self, number: u128) -> String {
        let bits = self.whole.bits;
        let first = self.whole.first | number.checked_shl(bits - self.prefix).unwrap_or(0);
        let address: &dyn Display = match u32::try_from(first) {
            Ok(first) if bits == 32 => &std::net::Ipv4Addr::from(first),
            _ => &std::net::Ipv6Addr::from(first),
        };
        format!("{address}/{}", self.prefix)
    }

    /// The numbers of those that a range overlaps with.
    pub fn taken(&self, range: &str) -> Option<Taken> {
        let range = Range::read(range).filter(|range| range.bits == self.whole.bits)?;
        if range.last() < self.whole.first || range.first > self.whole.last() {
            return None;
        }
        let size = self.whole.bits - self.prefix;
        let number = |address: u128| {
            (address.clamp(self.whole.first, self.whole.last()) - self.whole.first)
                .checked_shr(size)
                .unwrap_or(0)
        };
        Some((number(range.first), number(range.last())))
    }

    /// The first that is free, from a number on, then from the beginning.
    pub fn free(&self, taken: &mut [Taken], from: u128) -> Option<u128> {
        taken.sort_unstable();
        let gap = |from: u128| {
            let mut next = from;
            for (first, last) in taken.iter().filter(|(_, last)| *last >= from) {
                if *first > next {
                    break;
                }
                next = next.max(last.checked_add(1)?);
            }
            (next <= self.last()).then_some(next)
        };
        gap(from).or_else(|| gap(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_counted_and_named() {
        let ranges = Ranges::new("10.244.0.0/16", 24).unwrap();
        assert_eq!(ranges.name(0), "10.244.0.0/24");
        assert_eq!(ranges.name(255), "10.244.255.0/24");
        assert_eq!(ranges.taken("10.244.3.0/24"), Some((3, 3)));
        assert_eq!(ranges.taken("10.244.2.128/25"), Some((2, 2)));
        assert_eq!(ranges.taken("10.0.0.0/8"), Some((0, 255)));
        assert_eq!(ranges.taken("10.245.0.0/24"), None);
        assert_eq!(ranges.taken("fd00::/64"), None);
        assert_eq!(ranges.taken("x"), None);
        let six = Ranges::new("fd00:10::/48", 64).unwrap();
        assert_eq!(six.name(1), "fd00:10:0:1::/64");
        assert_eq!(six.taken("fd00:10:0:7::/64"), Some((7, 7)));
        for (whole, prefix) in [("10.0.0.0/24", 16), ("10.0.0.0/24", 33), ("10.0.0.0", 24), ("a/8", 24)] {
            assert!(Ranges::new(whole, prefix).is_err(), "{whole} {prefix}");
        }
        assert_eq!(Ranges::new("10.0.0.0/24", 24).unwrap().free(&mut [], 0), Some(0));
    }

    #[test]
    fn the_next_is_taken_until_there_is_none() {
        let ranges = Ranges::new("10.0.0.0/22", 24).unwrap();
        assert_eq!(ranges.free(&mut [(1, 1), (0, 0)], 0), Some(2));
        assert_eq!(ranges.free(&mut [(2, 3)], 2), Some(0));
        assert_eq!(ranges.free(&mut [(0, 1), (3, 3)], 3), Some(2));
        assert_eq!(ranges.free(&mut [(0, 3)], 0), None);
        assert_eq!(ranges.free(&mut [(0, 0), (1, 1), (2, 2), (3, 3)], 1), None);
    }

    proptest! {
        #[test]
        fn what_is_free_overlaps_with_nothing(
            names in prop::collection::vec((0u8..16, 20u32..=28), 0..12),
            from in 0u128..16,
        ) {
            let ranges = Ranges::new("10.0.0.0/20", 24).unwrap();
            let mut taken: Vec<Taken> =
                names.iter().filter_map(|(third, prefix)| ranges.taken(&format!("10.0.{third}.0/{prefix}"))).collect();
            let all = taken.clone();
            let free = |number: u128| !all.iter().any(|(first, last)| (*first..=*last).contains(&number));
            match ranges.free(&mut taken, from) {
                Some(number) => prop_assert!(number < 16 && free(number)),
                None => prop_assert!(!(0..16).any(free)),
            }
        }
    }
}
