//! Ports of the node that lead to Pods: one nftables table of the runtime's own, with the ports as elements of maps, so that
//! a Pod adds and removes only what is its own. Nothing outside this file knows of it.
//!
//! A connection to one of the node's addresses, from outside or from the node itself, is looked up first by address, protocol
//! and port, then by protocol and port alone. What a Pod asks of itself through the node, and what the node asks through its
//! loopback, gets the node's address as its source, or the answer would not come back this way.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use minik_net::{nft, sysctl};
use serde::{Deserialize, Serialize};

use super::{HostPort, NetworkError, failed};
use crate::record::{clear_half_written, write_whole};

const FAMILY: &str = "ip";
const TABLE: &str = "minik_hostports";

/// The ports of one node.
#[derive(Debug)]
pub(super) struct Ports {
    folder: PathBuf,
    /// Two Pods at once must not both find that the table is missing.
    changing: Mutex<()>,
}

/// What one sandbox has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mapping {
    address: Ipv4Addr,
    ports: Vec<HostPort>,
}

impl Ports {
    pub(super) fn open(folder: PathBuf) -> Result<Ports, NetworkError> {
        std::fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        clear_half_written(&folder);
        Ok(Ports { folder, changing: Mutex::new(()) })
    }

    /// Leads ports of the node to a Pod whose veth's end in the node is `link`.
    pub(super) fn add(
        &self,
        sandbox: &str,
        link: &str,
        address: IpAddr,
        ports: &[HostPort],
    ) -> Result<(), NetworkError> {
        let ports: Vec<HostPort> = ports.iter().filter(|port| port.host_port != 0).cloned().collect();
        let IpAddr::V4(address) = address else { return Ok(()) };
        if ports.is_empty() {
            return Ok(());
        }
        let mapping = Mapping { address, ports };
        let elements = elements(&mapping)?;
        let path = self.folder.join(sandbox);
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if path.exists() {
            return Ok(());
        }
        // Connections through loopback leave with its address as their source until they are translated.
        sysctl::write(&format!("net/ipv4/conf/{link}/route_localnet"), "1")?;
        let text = serde_json::to_vec(&mapping).map_err(|e| failed("write", &path)(e.into()))?;
        write_whole(&self.folder, sandbox, &text).map_err(failed("write", &path))?;
        minik_fault::point("ports.written");
        let done = ensure_table().and_then(|()| nft::load(&commands("create", &elements)));
        minik_fault::point("ports.loaded");
        if let Err(error) = done {
            std::fs::remove_file(&path).map_err(failed("remove", &path))?;
            // The kernel names no element; the scheduler keeps Pods of one node apart, so that this is rare.
            return Err(match error {
                minik_net::Error::Nft(words) if words.contains("File exists") => {
                    NetworkError::PortTaken(names(&mapping.ports))
                }
                other => other.into(),
            });
        }
        Ok(())
    }

    /// Takes a sandbox's ports back. No error when it has none.
    pub(super) fn remove(&self, sandbox: &str) -> Result<(), NetworkError> {
        let path = self.folder.join(sandbox);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("read", &path)(e)),
        };
        if let Ok(mapping) = serde_json::from_slice::<Mapping>(&text) {
            let script = commands("delete", &elements(&mapping)?);
            match nft::load(&script) {
                // The table went with the node's namespace, in a reboot.
                Err(minik_net::Error::Nft(words)) if words.contains("No such file") => {}
                other => other?,
            }
            minik_fault::point("ports.unloaded");
        }
        std::fs::remove_file(&path).map_err(failed("remove", &path))
    }

    /// The sandboxes that have ports.
    pub(super) fn holders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // One that was being written belongs to nobody yet.
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

/// The table, unless it is there: loading it again would add its rules a second time.
fn ensure_table() -> minik_net::Result<()> {
    match nft::list(&[FAMILY, TABLE]) {
        Ok(_) => Ok(()),
        Err(minik_net::Error::Nft(_)) => nft::load(&table()),
        Err(e) => Err(e),
    }
}

fn table() -> String {
    format!(
        "table {FAMILY} {TABLE} {{
  map any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map one {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  set itself {{ type ipv4_addr . ipv4_addr; }}
  chain translate {{
    dnat ip to ip daddr . meta l4proto . th dport map @one
    dnat ip to meta l4proto . th dport map @any
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump translate; }}
  chain output {{ type nat hook output priority -100; policy accept; fib daddr type local jump translate; }}
  chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr 127.0.0.0/8 masquerade
    ct status dnat ip saddr . ip daddr @itself masquerade
  }}
}}
"
    )
}

/// Map or set, and element.
fn elements(mapping: &Mapping) -> Result<BTreeSet<(&'static str, String, String)>, NetworkError> {
    let address = mapping.address;
    let mut elements = BTreeSet::from([("itself", format!("{address} . {address}"), String::new())]);
    for port in &mapping.ports {
        let protocol = port.protocol.to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(NetworkError::Port(format!("protocol {:?}", port.protocol)));
        }
        let target = format!(" : {address} . {}", port.container_port);
        let key = format!("{protocol} . {}", port.host_port);
        match port.host_ip.as_str() {
            "" | "0.0.0.0" | "::" => elements.insert(("any", key, target)),
            ip => {
                let ip: Ipv4Addr =
                    ip.parse().map_err(|_| NetworkError::Port(format!("host address {ip:?}")))?;
                elements.insert(("one", format!("{ip} . {key}"), target))
            }
        };
    }
    Ok(elements)
}

fn commands(verb: &str, elements: &BTreeSet<(&'static str, String, String)>) -> String {
    let mut script = String::new();
    for (set, key, target) in elements {
        // Deleting goes by the key alone.
        let target = if verb == "delete" { "" } else { target };
        writeln!(script, "{verb} element {FAMILY} {TABLE} {set} {{ {key}{target} }}").ok(); // a String takes everything
    }
    script
}

fn names(ports: &[HostPort]) -> String {
    let names: Vec<String> = ports.iter().map(|p| format!("{}/{}", p.host_port, p.protocol)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u16, protocol: &str) -> HostPort {
        HostPort { protocol: protocol.into(), container_port: 80, host_port, host_ip: host_ip.into() }
    }

    #[test]
    fn a_pod_changes_only_its_own_elements() {
        let mapping = Mapping {
            address: Ipv4Addr::new(10, 1, 2, 3),
            ports: vec![port("", 8080, "TCP"), port("10.0.0.1", 53, "udp")],
        };
        let elements = elements(&mapping).unwrap();
        assert_eq!(
            commands("create", &elements),
            "create element ip minik_hostports any { tcp . 8080 : 10.1.2.3 . 80 }\n\
             create element ip minik_hostports itself { 10.1.2.3 . 10.1.2.3 }\n\
             create element ip minik_hostports one { 10.0.0.1 . udp . 53 : 10.1.2.3 . 80 }\n"
        );
        assert!(commands("delete", &elements).contains("any { tcp . 8080 }"));
        let odd = |host_ip, protocol| {
            super::elements(&Mapping { ports: vec![port(host_ip, 1, protocol)], ..mapping.clone() })
                .unwrap_err()
                .to_string()
        };
        assert_eq!(odd("", "icmp"), "a host port cannot have protocol \"icmp\"");
        assert_eq!(odd("fd00::1", "tcp"), "a host port cannot have host address \"fd00::1\"");
    }
}
