//! Claims in the store: what was picked here becomes ours for all servers, or turns out to be another's.

use super::{Allocation, Allocators, ports};
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::loopback::{Loopback, Place};
use crate::object::Object;
use crate::world::store_error;
use minik_component::{Plant, planted};
use minik_registry::Held;
use minik_storage::{Expect, StorageError};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Tries of a change of the port bits: each that fails means that another server's came to pass.
const TRIES: usize = 200;
pub(super) const IP_ADDRESSES: Place<'_> =
    Place { group: "networking.k8s.io", version: "v1", plural: "ipaddresses", namespace: "" };
/// Who made an IPAddress.
pub(super) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// We, by upstream's name.
pub(super) const MANAGER: &str = "ipallocator.k8s.io";
pub(super) const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// A Service by namespace and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Owner<'_> {
    fn reference(&self) -> Value {
        json!({"resource": "services", "namespace": self.namespace, "name": self.name})
    }
}

/// The object that claims an address for a Service.
pub(super) fn ip_address(ip: IpAddr, owner: Owner<'_>) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "labels": {FAMILY: family(ip), MANAGED_BY: MANAGER},
        },
        "spec": {"parentRef": owner.reference()},
    })
}

pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

impl Allocators {
    fn saw_ports(&self, ports: &BTreeSet<u16>) {
        self.taken().marked = ports.clone();
    }

    /// Ports that Services are known to hold.
    fn held_ports(&self) -> BTreeSet<u16> {
        self.taken().ports.keys().copied().collect()
    }
}

impl Api {
    /// Makes what a request was given its own in the store. False: another server was faster with something of it, which
    /// this server knows now, so that the request picks again.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn claim(&self, given: &Allocation, owner: Owner<'_>) -> Result<bool> {
        if given.tried || !given.gave() {
            return Ok(true);
        }
        for (at, ip) in given.addresses.iter().enumerate() {
            let made = Box::pin(self.loopback().create(IP_ADDRESSES, ip_address(*ip, owner))).await;
            let Err(error) = made else { continue };
            self.free(&given.addresses[..at], &[], owner).await;
            return match error {
                ApiError::AlreadyExists(_) => self.world().fresh().await.map(|()| false),
                error => Err(error),
            };
        }
        if given.ports.is_empty() || planted(Plant::PortUnclaimed) {
            return Ok(true);
        }
        let mut mark = |ports: &mut BTreeSet<u16>| {
            let free = given.ports.iter().all(|port| !ports.contains(port));
            ports.extend(given.ports.iter().filter(|_| free));
            free
        };
        let marked = self.change_ports(&mut mark).await;
        if !matches!(marked, Ok(true)) {
            self.free(&given.addresses, &[], owner).await;
        }
        marked
    }

    /// Takes back what a request claimed whose object was not stored. After an error that leaves that open nothing is taken
    /// back: repair will see.
    pub(crate) async fn unclaim(&self, given: &Allocation, owner: Owner<'_>, error: &StorageError) {
        if !given.tried && given.gave() && !matches!(error, StorageError::Unavailable(_)) {
            self.free(&given.addresses, &given.ports, owner).await;
        }
    }

    /// Frees what a Service held before and does not hold now.
    pub(crate) async fn release(&self, owner: Owner<'_>, before: &Held, now: &Held) {
        let gone = before.cluster_ips.iter().filter(|ip| !now.cluster_ips.contains(ip));
        let ips: Vec<IpAddr> = gone.filter_map(|ip| ip.parse().ok()).collect();
        let gone = before.node_ports.iter().filter(|port| !now.node_ports.contains(port));
        let ports: Vec<u16> = gone.copied().collect();
        self.free(&ips, &ports, owner).await;
    }

    /// Frees addresses that an owner claimed, and ports. What fails is left to repair, which is said.
    async fn free(&self, ips: &[IpAddr], ports: &[u16], owner: Owner<'_>) {
        for ip in ips {
            if let Err(error) = self.free_address(*ip, owner).await {
                tracing::warn!(%ip, %error, "cannot free an address; it will be repaired");
            }
        }
        if ports.is_empty() {
            return;
        }
        let mut take_out =
            |marked: &mut BTreeSet<u16>| ports.iter().filter(|port| marked.remove(port)).count() > 0;
        if let Err(error) = self.change_ports(&mut take_out).await {
            tracing::warn!(?ports, %error, "cannot free node ports; they will be repaired");
        }
    }

    async fn free_address(&self, ip: IpAddr, owner: Owner<'_>) -> Result<()> {
        let name = ip.to_string();
        let Some(live) = self.loopback().get(IP_ADDRESSES, &name).await? else { return Ok(()) };
        let parent = &live["spec"]["parentRef"];
        if parent["namespace"] != owner.namespace || parent["name"] != owner.name {
            return Ok(());
        }
        match Box::pin(self.loopback().delete_one(IP_ADDRESSES, &name, live.meta("uid"))).await {
            Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes the ports that are marked as taken. `change` says whether there is anything to write, and may be called again
    /// with what another server made of them.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn change_ports(
        &self,
        change: &mut (dyn FnMut(&mut BTreeSet<u16>) -> bool + Send),
    ) -> Result<bool> {
        let (all, storage) = (self.allocators(), self.world().storage());
        let _one = all.changing_ports.lock().await;
        let key = format!("{}/{}", self.settings().prefix, ports::KEY);
        let mut there = storage.get(&key).await.map_err(|error| store_error(&error))?;
        for _ in 0..TRIES {
            let mut marked = match &there {
                None => all.held_ports(),
                // What cannot be read is made anew of what Services hold.
                Some(record) => ports::decode(&record.value).unwrap_or_else(|| all.held_ports()),
            };
            let wanted = change(&mut marked);
            all.saw_ports(&marked);
            if !wanted {
                return Ok(false);
            }
            let expect = there.as_ref().map_or(Expect::Absent, |record| Expect::At(record.revision));
            match storage.put(&key, ports::encode(&marked, &all.ports), expect, None).await {
                Ok(revision) => {
                    self.world().wrote(revision);
                    return Ok(true);
                }
                Err(StorageError::Conflict(other)) => there = other,
                Err(error) => return Err(store_error(&error)),
            }
        }
        Err(ApiError::Unavailable(format!("{key} is changed all the time")))
    }

    pub(crate) fn loopback(&self) -> Loopback {
        Loopback::new(self.clone())
    }
}
