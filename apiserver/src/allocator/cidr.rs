//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

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

    pub(super) fn family(&self) -> &'static str {
        if self.v6 { "IPv6" } else { "IPv4" }
    }

    /// Addresses that can be given: not the first, and of IPv4 not the last. No more than can be looked through.
    pub(super) fn offsets(&self) -> RangeInclusive<u128> {
        let size = 1u128 << self.bits.min(20);
        let last = if !self.v6 && self.bits <= 20 { size - 2 } else { size - 1 };
        1..=last
    }

    pub(super) fn at(&self, offset: u128) -> IpAddr {
        let value = self.first + offset;
        if self.v6 { IpAddr::V6(Ipv6Addr::from(value)) } else { IpAddr::V4(Ipv4Addr::from(value as u32)) }
    }

    /// The first address that can be given: that of the `kubernetes` Service.
    pub fn first(&self) -> IpAddr {
        self.at(1)
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
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

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.v6 { 128 } else { 32 };
        write!(f, "{}/{}", self.at(0), width - self.bits)
    }
}
