//! The addresses of a cluster: one free /16, split the same way in every cluster.
//!
//! ```text
//!  B.0.0/24     nodes and the cluster's own addresses: .1 the API, .2 the host, .10 the first node
//!  B.16.0/20    Services: .16.1 the API, .16.10 the DNS
//!  B.128.0/17   Pods: a /24 a node, the upper half for nodes on other machines
//! ```

use crate::error::{Error, Result};
use minik_net::Cidr;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// The ranges of a cluster, named by the first two octets of its /16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges {
    block: [u8; 2],
}

impl Ranges {
    /// The first candidate that overlaps nothing in use.
    ///
    /// # Errors
    /// When all are in use.
    pub fn choose(in_use: &[Cidr]) -> Result<Ranges> {
        let ten = (64..=239).map(|second| Ranges { block: [10, second] });
        let other = (16..=31).map(|second| Ranges { block: [172, second] });
        ten.chain(other)
            .find(|ranges| !in_use.iter().any(|used| used.overlaps(&ranges.whole())))
            .ok_or(Error::Full { what: "/16 range in 10.64.0.0 to 10.239.0.0 or 172.16.0.0/12" })
    }

    fn at(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.block[0], self.block[1], third, fourth)
    }

    fn range(self, third: u8, prefix_len: u8) -> Cidr {
        Cidr::new(IpAddr::V4(self.at(third, 0)), prefix_len).expect("a prefix of IPv4 is at most 32")
    }

    /// All of it.
    pub fn whole(self) -> Cidr {
        self.range(0, 16)
    }

    /// The nodes' link.
    pub fn link(self) -> Cidr {
        self.range(0, 24)
    }

    /// The Services.
    pub fn services(self) -> Cidr {
        self.range(16, 20)
    }

    /// The Service of the API.
    pub fn api_service(self) -> Ipv4Addr {
        self.at(16, 1)
    }

    /// The Service of the DNS.
    pub fn dns_service(self) -> Ipv4Addr {
        self.at(16, 10)
    }

    /// The API's own address, on the bridge.
    pub fn api(self) -> Ipv4Addr {
        self.at(0, 1)
    }

    /// The host's address on the nodes' link: their way out.
    pub fn host(self) -> Ipv4Addr {
        self.at(0, 2)
    }

    /// A node's address.
    pub fn node(self, index: u8) -> Ipv4Addr {
        self.at(0, 10 + index)
    }

    /// The Pods of all nodes, those on other machines too.
    pub fn all_pods(self) -> Cidr {
        self.range(128, 17)
    }

    /// The Pods of nodes on other machines.
    pub fn joined_pods(self) -> Cidr {
        self.range(192, 18)
    }

    /// The range of the Pods of a node on this machine.
    pub fn pods(self, index: u8) -> Cidr {
        self.range(128 + index, 24)
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> String {
        ranges.whole().to_string()
    }
}

impl TryFrom<String> for Ranges {
    type Error = String;

    fn try_from(text: String) -> Result<Ranges, String> {
        match text.parse::<Cidr>().map(|cidr| (cidr.address(), cidr.prefix_len())) {
            Ok((IpAddr::V4(address), 16)) => {
                let [first, second, ..] = address.octets();
                Ok(Ranges { block: [first, second] })
            }
            _ => Err(format!("{text:?} is no IPv4 range of prefix length 16")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(in_use: &[&str], chosen: &str) {
        let in_use: Vec<Cidr> = in_use.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(Ranges::choose(&in_use).unwrap().whole().to_string(), chosen, "beside {in_use:?}");
    }

    #[test]
    fn a_range_avoids_what_is_in_use() {
        check(&[], "10.64.0.0/16");
        check(&["192.0.2.0/24", "10.64.3.0/24"], "10.65.0.0/16");
        check(&["10.0.0.0/8"], "172.16.0.0/16");
        check(&["10.64.0.0/10", "10.128.0.0/9", "172.16.0.0/15"], "172.18.0.0/16");
        let all: Vec<Cidr> =
            ["10.0.0.0/8", "172.16.0.0/12"].iter().map(|text| text.parse().unwrap()).collect();
        assert!(Ranges::choose(&all).is_err());
    }

    #[test]
    fn parts_do_not_overlap_and_are_kept() {
        let ranges = Ranges::choose(&[]).unwrap();
        let last = ranges.pods(crate::config::MOST_NODES - 1);
        let parts = [ranges.link(), ranges.services(), ranges.pods(0), last, ranges.joined_pods()];
        for (i, one) in parts.iter().enumerate() {
            assert!(ranges.whole().overlaps(one));
            assert!(!parts[i + 1..].iter().any(|other| other.overlaps(one)), "{parts:?}");
        }
        assert!(ranges.all_pods().overlaps(&parts[2]) && ranges.all_pods().overlaps(&parts[4]));
        assert!(ranges.services().contains(ranges.dns_service().into()));
        let kept: Ranges = serde_json::from_str(&serde_json::to_string(&ranges).unwrap()).unwrap();
        assert_eq!(kept, ranges);
    }
}
