use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the length of its network prefix: `10.1.2.3/24`, `fd00::1/64`.
///
/// The address keeps its host bits; [`Cidr::network`] drops them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

/// Why a text is no CIDR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct ParseCidrError(String);

impl Cidr {
    /// An address and a prefix length; `None` when the length exceeds the address.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Cidr> {
        let limit = if address.is_ipv4() { 32 } else { 128 };
        (prefix_len <= limit).then_some(Cidr { address, prefix_len })
    }

    /// The address alone: /32 or /128.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, prefix_len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// `0.0.0.0/0`.
    pub fn default_v4() -> Cidr {
        Cidr { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix_len: 0 }
    }

    /// `::/0`.
    pub fn default_v6() -> Cidr {
        Cidr { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix_len: 0 }
    }

    /// The address, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// The same network with all host bits zero.
    pub fn network(&self) -> Cidr {
        self.nth(0).map_or(*self, |address| Cidr { address, ..*self })
    }

    /// Whether the address lies in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && bits(address) & self.mask() == bits(self.address) & self.mask()
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        if self.prefix_len <= other.prefix_len {
            self.contains(other.address)
        } else {
            other.contains(self.address)
        }
    }

    /// How many addresses the network holds (saturating).
    pub fn size(&self) -> u128 {
        1u128.checked_shl(u32::from(self.width() - self.prefix_len)).unwrap_or(u128::MAX)
    }

    /// The network's `n`th address, counted from its first; `None` past its end.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        if n >= self.size() {
            return None;
        }
        let value = (bits(self.address) & self.mask()) + n;
        Some(match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(value as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(value)),
        })
    }

    /// The position of an address in the network; `None` when it lies outside.
    pub fn index_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| bits(address) - (bits(self.address) & self.mask()))
    }

    fn width(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn mask(&self) -> u128 {
        let host_bits = u32::from(self.width() - self.prefix_len);
        let all = if self.address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
        all & u128::MAX.checked_shl(host_bits).unwrap_or(0)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Cidr, ParseCidrError> {
        let parse = || {
            let (address, prefix_len) = text.split_once('/')?;
            if prefix_len.is_empty() || !prefix_len.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Cidr::new(address.parse().ok()?, prefix_len.parse().ok()?)
        };
        parse().ok_or_else(|| ParseCidrError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.168.1.7/32", "fd00::/64", "::/0", "::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/+8", "x/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_and_finds_addresses() {
        let net = cidr("10.1.2.3/24");
        assert_eq!(net.network(), cidr("10.1.2.0/24"));
        assert_eq!(net.size(), 256);
        assert_eq!(net.nth(5), Some("10.1.2.5".parse().unwrap()));
        assert_eq!(net.nth(256), None);
        assert_eq!(net.index_of("10.1.2.255".parse().unwrap()), Some(255));
        assert_eq!(net.index_of("10.1.3.0".parse().unwrap()), None);
        assert!(!net.contains("::a01:203".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").overlaps(&net) && net.overlaps(&cidr("10.0.0.0/8")));
        assert!(!net.overlaps(&cidr("10.1.3.0/24")));
        assert_eq!(cidr("::/0").size(), u128::MAX);
    }

    proptest! {
        #[test]
        fn nth_and_index_are_inverse(base: u32, prefix in 8u8..=32, n: u32) {
            let net = Cidr::new(IpAddr::V4(base.into()), prefix).unwrap();
            let n = u128::from(n) % net.size();
            let address = net.nth(n).unwrap();
            prop_assert!(net.contains(address));
            prop_assert_eq!(net.index_of(address), Some(n));
        }
    }
}
