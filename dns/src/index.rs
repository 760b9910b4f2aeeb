//! What names stand for, kept in the form that questions are asked in: an answer costs what is in it.

use crate::objects::{Port, Service, Slice};
use minik_client::{Change, ObjectKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Services and their endpoints by name, and names by address.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Entry>>,
    cluster_ips: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    endpoint_ips: BTreeMap<IpAddr, BTreeSet<(ObjectKey, Arc<str>)>>,
}

/// What is known of a Service's name. There may be slices before there is a Service.
#[derive(Debug, Default)]
pub struct Entry {
    service: Option<Arc<Service>>,
    slices: BTreeMap<Arc<str>, Arc<Slice>>,
    endpoints: BTreeMap<Arc<str>, Vec<Ready>>,
}

/// An endpoint that takes connections.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its address.
    pub address: IpAddr,
    /// The slice that has its ports.
    slice: Arc<Slice>,
}

impl Ready {
    /// Its ports.
    pub fn ports(&self) -> &[Port] {
        &self.slice.ports
    }
}

impl Entry {
    /// The Service.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_deref()
    }

    /// The ready endpoints, by hostname; an endpoint without one is named after its address.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, &Ready)> {
        self.endpoints.iter().flat_map(|(name, all)| all.iter().map(|one| (&**name, one)))
    }

    /// The ready endpoints of a hostname.
    pub fn endpoints_of(&self, hostname: &str) -> impl Iterator<Item = (&str, &Ready)> {
        let found = self.endpoints.get_key_value(hostname);
        found.into_iter().flat_map(|(name, all)| all.iter().map(|one| (&**name, one)))
    }

    fn collect(&mut self) {
        self.endpoints.clear();
        for slice in self.slices.values() {
            for endpoint in &slice.endpoints {
                let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
                let Some(address) = address.filter(|_| endpoint.conditions.ready != Some(false)) else {
                    continue;
                };
                let hostname = match endpoint.hostname.is_empty() {
                    true => dashed(address).into(),
                    false => endpoint.hostname.clone(),
                };
                self.endpoints.entry(hostname).or_default().push(Ready { address, slice: slice.clone() });
            }
        }
    }
}

/// An address as a label.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

impl Index {
    /// The entry of a Service, which may have no Service yet.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// Whether any Service is in a namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let entries = self.namespaces.get(namespace);
        entries.is_some_and(|entries| entries.values().any(|entry| entry.service.is_some()))
    }

    /// The Services that have an address as cluster IP.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        self.cluster_ips.get(&address).into_iter().flatten()
    }

    /// The Services that have a ready endpoint at an address, with its hostname.
    pub fn endpoints_at(&self, address: IpAddr) -> impl Iterator<Item = &(ObjectKey, Arc<str>)> {
        self.endpoint_ips.get(&address).into_iter().flatten()
    }

    /// Takes a change of a Service.
    pub fn service(&mut self, change: &Change<Service>) {
        let (old, new) = match change {
            Change::Added(new) => (None, Some(new)),
            Change::Updated { old, new } => (Some(old), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        let key = change.object().metadata.key();
        for address in old.iter().flat_map(|old| old.addresses()) {
            remove(&mut self.cluster_ips, address, &key);
        }
        for address in new.iter().flat_map(|new| new.addresses()) {
            self.cluster_ips.entry(address).or_default().insert(key.clone());
        }
        self.entry(&key, |entry| entry.service = new.map(|new| (*new).clone()));
    }

    /// Takes a change of an EndpointSlice.
    pub fn slice(&mut self, change: &Change<Slice>) {
        let (old, new) = match change {
            Change::Added(new) => (None, Some(new)),
            Change::Updated { old, new } => (Some(old), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        let name = &change.object().metadata.name;
        let (before, after) = (old.and_then(|old| old.service()), new.and_then(|new| new.service()));
        if let Some(key) = before.filter(|before| after.as_ref() != Some(before)) {
            self.endpoints_change(&key, |entry| drop(entry.slices.remove(name)));
        }
        if let (Some(key), Some(new)) = (after, new) {
            self.endpoints_change(&key, |entry| drop(entry.slices.insert(name.clone(), new.clone())));
        }
    }

    fn endpoints_change(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Entry)) {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let addresses = |entry: &Entry| {
            entry
                .endpoints
                .iter()
                .flat_map(|(name, all)| all.iter().map(|one| (one.address, name.clone())))
                .collect::<Vec<_>>()
        };
        self.entry(key, |entry| {
            before = addresses(entry);
            change(entry);
            entry.collect();
            after = addresses(entry);
        });
        for (address, hostname) in before {
            remove(&mut self.endpoint_ips, address, &(key.clone(), hostname));
        }
        for (address, hostname) in after {
            self.endpoint_ips.entry(address).or_default().insert((key.clone(), hostname));
        }
    }

    /// Changes an entry; an entry about which nothing is left is no more.
    fn entry(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Entry)) {
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        let entry = namespace.entry(key.name.clone()).or_default();
        change(entry);
        if entry.service.is_none() && entry.slices.is_empty() {
            namespace.remove(&key.name);
        }
        if namespace.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
    }
}

fn remove<T: Ord>(map: &mut BTreeMap<IpAddr, BTreeSet<T>>, address: IpAddr, value: &T) {
    if let Some(values) = map.get_mut(&address) {
        values.remove(value);
        if values.is_empty() {
            map.remove(&address);
        }
    }
}
