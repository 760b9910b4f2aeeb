//! The built-in network: a routed veth and an address of its own (/32) for each Pod, no bridge.
//!
//! The Pod's default route leads to a link-local gateway that answers nothing: both ends know each other's hardware
//! address beforehand. Addresses in use are files named by the address that hold the sandbox's id. A link goes with the
//! Pod's namespace and is never deleted; an address is used again once its link has gone, which the kernel does some time
//! after the namespace's last process has ended.

use super::{NetworkError, failed};
use crate::record::{clear_half_written, write_whole};
use minik_net::{Cidr, NetNs, Netlink, Request, Route, Veth};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The Pods' gateway, on every veth.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The hardware address of every veth's end in the node.
const GATEWAY_MAC: [u8; 6] = [0xee; 6];
/// The Pod's end.
const POD_LINK: &str = "eth0";

#[derive(Debug)]
pub(super) struct Builtin {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cidr: Option<Cidr>,
    /// Addresses in use and by which sandbox.
    used: BTreeMap<IpAddr, String>,
    /// Addresses given back whose links may still be there, and the links' names.
    leaving: BTreeMap<IpAddr, String>,
    /// The address that was given out last: the next one comes after it, so that one is not used again at once.
    last: Option<IpAddr>,
    /// The largest packet that the node's way out takes, in bytes.
    mtu: Option<u32>,
}

impl Builtin {
    pub(super) fn open(folder: &Path, cidr: Option<&str>) -> Result<Builtin, NetworkError> {
        std::fs::create_dir_all(folder).map_err(failed("create", folder))?;
        clear_half_written(folder);
        let mut used = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(failed("read", folder))?.flatten() {
            let path = entry.path();
            let Some(Ok(address)) = entry.file_name().to_str().map(str::parse) else { continue };
            used.insert(address, std::fs::read_to_string(&path).map_err(failed("read", &path))?);
        }
        let (leaving, mtu) = survey(&used)?;
        let state = State { used, leaving, mtu, ..State::default() };
        let builtin = Builtin { folder: folder.to_owned(), state: Mutex::new(state) };
        if let Some(cidr) = cidr {
            builtin.set_cidr(cidr)?;
        }
        Ok(builtin)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the map usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_cidr(&self, text: &str) -> Result<(), NetworkError> {
        let cidr: Cidr = text.parse().map_err(|_| NetworkError::Cidr(text.to_owned()))?;
        if !cidr.address().is_ipv4() {
            return Err(NetworkError::Cidr(text.to_owned()));
        }
        self.state().cidr = Some(cidr.network());
        Ok(())
    }

    pub(super) fn ready(&self) -> Result<(), NetworkError> {
        match self.state().cidr {
            Some(_) => Ok(()),
            None => Err(NetworkError::NotReady("no pod CIDR is known".into())),
        }
    }

    pub(super) fn holders(&self) -> Vec<String> {
        self.state().used.values().cloned().collect()
    }

    /// An address for the sandbox: the one that it has, or a free one.
    fn reserve(&self, sandbox: &str) -> Result<IpAddr, NetworkError> {
        let mut state = self.state();
        if let Some((address, _)) = state.used.iter().find(|(_, holder)| *holder == sandbox) {
            return Ok(*address);
        }
        let Some(cidr) = state.cidr else {
            return Err(NetworkError::NotReady("no pod CIDR is known".into()));
        };
        // The first address is the network's, the last one the broadcast's; the second is left to the node.
        let (first, count) = (2, cidr.size().saturating_sub(3));
        let start = state
            .last
            .and_then(|last| cidr.index_of(last))
            .map_or(0, |index| index.saturating_sub(first) + 1);
        let candidates = (0..count).filter_map(|step| cidr.nth(first + (start + step) % count));
        let mut free = None;
        for address in candidates.filter(|address| !state.used.contains_key(address)) {
            if let Some(link) = state.leaving.get(&address)
                && Netlink::open()?.link(link)?.is_some()
            {
                continue;
            }
            free = Some(address);
            break;
        }
        let address = free.ok_or_else(|| NetworkError::Full(cidr.to_string()))?;
        state.leaving.remove(&address);
        let name = address.to_string();
        write_whole(&self.folder, &name, sandbox.as_bytes())
            .map_err(failed("write", &self.folder.join(&name)))?;
        state.used.insert(address, sandbox.to_owned());
        state.last = Some(address);
        Ok(address)
    }

    pub(super) fn remove(&self, sandbox: &str) -> Result<(), NetworkError> {
        let mut state = self.state();
        let held: Vec<_> =
            state.used.iter().filter(|(_, holder)| *holder == sandbox).map(|(address, _)| *address).collect();
        for address in held {
            let path = self.folder.join(address.to_string());
            let removed = std::fs::remove_file(&path);
            minik_fault::point("network.given_back");
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {
                    state.used.remove(&address);
                    state.leaving.insert(address, host_link(sandbox));
                }
            }
        }
        Ok(())
    }

    pub(super) fn add(&self, sandbox: &str, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        let address = self.reserve(sandbox)?;
        let mtu = self.state().mtu;
        match join(sandbox, address, netns, mtu) {
            Ok(()) => Ok(vec![address]),
            Err(error) => {
                self.remove(sandbox)?;
                Err(error.into())
            }
        }
    }
}

/// The node's end of a sandbox's veth.
pub(super) fn host_link(sandbox: &str) -> String {
    format!("veth{}", sandbox.get(..11).unwrap_or(sandbox))
}

/// The Pod's hardware address, made of its address.
fn pod_mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x0a, 0x58, a, b, c, d]
        }
        IpAddr::V6(_) => [0x0a, 0x58, 0, 0, 0, 1],
    }
}

/// What there is in the node's namespace: links that lead to addresses which nobody holds, and how large a packet may be on
/// the way out.
fn survey(used: &BTreeMap<IpAddr, String>) -> minik_net::Result<(BTreeMap<IpAddr, String>, Option<u32>)> {
    let mut netlink = Netlink::open()?;
    let (links, routes) = (netlink.links()?, netlink.routes()?);
    let link_of = |index| links.iter().find(|link| Some(link.index) == index);
    let leaving = routes
        .iter()
        .filter(|route| {
            route.destination.prefix_len() == 32 && !used.contains_key(&route.destination.address())
        })
        .filter_map(|route| {
            Some((route.destination.address(), link_of(route.link).filter(|l| l.kind == "veth")?))
        })
        .map(|(address, link)| (address, link.name.clone()))
        .collect();
    let out = routes.iter().find(|route| route.destination == Cidr::default_v4());
    let mtu = out.and_then(|route| link_of(route.link)).map(|link| link.mtu);
    Ok((leaving, mtu))
}

/// The node's end and the Pod's, wired to each other. Doing it again changes nothing.
fn join(sandbox: &str, address: IpAddr, netns: &Path, mtu: Option<u32>) -> minik_net::Result<()> {
    let namespace = NetNs::open(netns)?;
    let mut inside = Netlink::open_in(&namespace)?;
    let (mut host, name, mac) = (Netlink::open()?, host_link(sandbox), pod_mac(address));
    let (near, far) = match inside.link(POD_LINK)? {
        Some(link) => (host.index_of(&name)?, link.index),
        None => {
            let near = host.add_veth(&Veth {
                name: &name,
                peer: POD_LINK,
                peer_netns: Some(&namespace),
                mac: Some(GATEWAY_MAC),
                peer_mac: Some(mac),
                mtu,
            })?;
            (near, inside.index_of(POD_LINK)?)
        }
    };
    minik_fault::point("network.linked");
    inside.add_address(far, Cidr::host(address))?;
    inside.apply(&[
        Request::link_up(1),
        Request::link_up(far),
        Request::add_neighbour(far, GATEWAY, GATEWAY_MAC),
        Request::replace_route(&Route::to(Cidr::host(GATEWAY)).dev(far)),
        Request::replace_route(&Route::to(Cidr::default_v4()).via(GATEWAY).dev(far).onlink()),
    ])?;
    minik_fault::point("network.inside");
    host.apply(&[
        Request::add_neighbour(near, address, mac),
        Request::replace_route(&Route::to(Cidr::host(address)).dev(near)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_out_in_turn_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let builtin = Builtin::open(folder.path(), Some("10.1.2.0/29")).unwrap();
        let text = |sandbox| {
            builtin.reserve(sandbox).map(|address| address.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(text("a"), Ok("10.1.2.2".into()));
        assert_eq!(text("a"), Ok("10.1.2.2".into()));
        assert_eq!(text("b"), Ok("10.1.2.3".into()));
        builtin.remove("a").unwrap();
        assert_eq!(text("c"), Ok("10.1.2.4".into()));
        let again = Builtin::open(folder.path(), Some("10.1.2.0/29")).unwrap();
        assert_eq!(again.holders(), ["b", "c"]);
        for sandbox in ["d", "e", "f"] {
            text(sandbox).unwrap();
        }
        assert_eq!(text("g"), Err("no address is free in 10.1.2.0/29".into()));
    }
}
