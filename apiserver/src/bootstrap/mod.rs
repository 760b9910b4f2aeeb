//! What a new cluster begins with (namespaces, roles, priority classes), and what the servers keep for others: the
//! `kubernetes` Service, its EndpointSlice, and ConfigMaps.
//!
//! ```text
//!  prepare:  table of objects ─> reconcile (pure) ─> Loopback ─> store      once, before the server is ready
//!  follow:   own record ─> all records ─> EndpointSlice, Endpoints; own Lease   every ten seconds
//!            claims of addresses and ports ─> repair                            every minute
//! ```
//!
//! Everything is written as by a client who may do anything; several servers at once come to the same result.

mod config_maps;
mod identity;
mod masters;
mod objects;
mod ranges;
mod reconcile;

pub use config_maps::Authentication;

use crate::allocator::Leaks;
use crate::api::Api;
use crate::error::{ApiError, Result};
use crate::loopback::{Loopback, Place};
use crate::world::store_error;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use identity::Renewal;
use minik_component::Shutdown;
use minik_storage::{Expect, StorageError};
use reconcile::Write;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Objects that are written at once: the store makes what waits durable together.
const AT_ONCE: usize = 32;
/// Tries of a write that somebody else was faster than.
const TRIES: usize = 5;
/// Between two looks at the servers' records.
const PERIOD: Duration = Duration::from_secs(10);
/// Rounds from one look for leaked addresses and ports to the next: a minute.
const ROUNDS_PER_REPAIR: u64 = 6;
/// How long a record lives that is not renewed.
const RECORD_TTL: Duration = Duration::from_secs(15);
/// How long another server has from its claim to its object, before we try ourselves.
const RACE: Duration = Duration::from_millis(20);
/// Between two tries to make what is missing.
const RETRY: Duration = Duration::from_secs(1);

const CONFIG_MAPS: Place<'_> =
    Place { group: "", version: "v1", plural: "configmaps", namespace: "kube-system" };
const SERVICES: Place<'_> =
    Place { group: "", version: "v1", plural: "services", namespace: masters::NAMESPACE };
const ENDPOINTS: Place<'_> =
    Place { group: "", version: "v1", plural: "endpoints", namespace: masters::NAMESPACE };
const SERVICE_CIDRS: Place<'_> =
    Place { group: "networking.k8s.io", version: "v1", plural: "servicecidrs", namespace: "" };
const LEASES: Place<'_> =
    Place { group: "coordination.k8s.io", version: "v1", plural: "leases", namespace: identity::NAMESPACE };
const SLICES: Place<'_> = Place {
    group: "discovery.k8s.io",
    version: "v1",
    plural: "endpointslices",
    namespace: masters::NAMESPACE,
};

/// Makes what is missing, then keeps what must follow the live servers, until `shutdown`. `prepared` is called once
/// everything is there.
pub async fn run(api: Api, facts: Authentication, prepared: impl FnOnce(), shutdown: Shutdown) {
    let bootstrap = Bootstrap::new(api, facts);
    // Cancel-safe: each write is whole, and the next start makes the rest.
    tokio::select! {
        biased;
        () = shutdown.requested() => return,
        () = bootstrap.prepare() => {}
    }
    prepared();
    bootstrap.follow(shutdown).await;
}

struct Bootstrap {
    api: Api,
    loopback: Loopback,
    facts: Authentication,
    host: String,
    /// Tells this life of the server from the next.
    process: String,
}

impl Bootstrap {
    fn new(api: Api, facts: Authentication) -> Bootstrap {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Bootstrap { loopback: Loopback::new(api.clone()), process: api.new_id(), api, facts, host }
    }

    /// Makes everything, and tries again until it is there.
    async fn prepare(&self) {
        while let Err(error) = self.make_all().await {
            tracing::warn!(%error, "cannot make the objects of a new cluster; trying again");
            // A server that was killed on its way may have left the claim of an address that we need.
            if let Err(error) = self.api.repair_addresses().await {
                tracing::warn!(%error, "cannot repair the claims of addresses");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn make_all(&self) -> Result<()> {
        let (namespaces, others): (Vec<Value>, Vec<Value>) =
            objects::all().into_iter().partition(|object| object["kind"] == "Namespace");
        self.make(namespaces).await?;
        self.make(others).await?;
        self.followed().await
    }

    /// What follows the live servers; at once, so that the store makes it durable together.
    async fn followed(&self) -> Result<()> {
        let kept = futures::try_join!(
            self.config_maps(),
            self.service_cidr(),
            self.service(),
            self.servers(),
            self.identity()
        );
        kept.map(drop)
    }

    async fn make(&self, objects: Vec<Value>) -> Result<()> {
        let mut waiting = objects.into_iter();
        let mut writes: FuturesUnordered<_> =
            waiting.by_ref().take(AT_ONCE).map(|one| self.ensure(one)).collect();
        while let Some(result) = writes.next().await {
            result?;
            writes.extend(waiting.next().map(|one| self.ensure(one)));
        }
        Ok(())
    }

    /// Brings one object of the table to what it should be.
    async fn ensure(&self, wanted: Value) -> Result<()> {
        let Some((place, folder)) = objects::place(&wanted) else { return Ok(()) };
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let mut live = self.api.view().get(folder, place.namespace, name);
        for _ in 0..TRIES {
            let result = match reconcile::reconcile(&wanted, live.as_deref()) {
                Write::Nothing => return Ok(()),
                Write::Create(object) => self.loopback.create(place, object).await,
                Write::Update(object) => self.loopback.update(place, object).await,
                Write::Replace(object) => {
                    self.loopback.delete(place, name).await?;
                    self.loopback.create(place, object).await
                }
            };
            match result {
                Ok(_) => return Ok(()),
                Err(error) => live = self.faster(place, name, error).await?,
            }
        }
        Err(ApiError::Unavailable(format!("{folder} {name:?} is changed all the time")))
    }

    async fn config_maps(&self) -> Result<()> {
        let authentication = config_maps::authentication(&self.facts);
        self.keep(CONFIG_MAPS, "configmaps", &authentication, config_maps::update).await?;
        // It says when tracking began: what is there stays.
        let tracking = config_maps::token_tracking(self.api.now());
        self.keep(CONFIG_MAPS, "configmaps", &tracking, |_, _| None).await
    }

    /// Makes an object, or changes what is there as `update` says.
    async fn keep(
        &self,
        place: Place<'_>,
        folder: &str,
        wanted: &Value,
        update: impl Fn(&Value, &Value) -> Option<Value>,
    ) -> Result<()> {
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let mut live = self.api.view().get(folder, place.namespace, name);
        for _ in 0..TRIES {
            let result = match &live {
                None => self.loopback.create(place, wanted.clone()).await,
                Some(live) => match update(wanted, live) {
                    None => return Ok(()),
                    Some(next) => self.loopback.update(place, next).await,
                },
            };
            match result {
                Ok(_) => return Ok(()),
                Err(error) => live = self.faster(place, name, error).await?,
            }
        }
        Err(ApiError::Unavailable(format!("{folder} {name:?} is changed all the time")))
    }

    /// What somebody made or changed who was faster, so that our write failed; else the write's error. An address that is
    /// taken means the same as a name that is: it is claimed before the object is there, which is then waited for.
    async fn faster(&self, place: Place<'_>, name: &str, error: ApiError) -> Result<Option<Arc<Value>>> {
        let raced = matches!(
            error,
            ApiError::AlreadyExists(_) | ApiError::Conflict { .. } | ApiError::Invalid { .. }
        );
        if !raced {
            return Err(error);
        }
        let live = self.loopback.get(place, name).await?;
        if live.is_none() {
            tokio::time::sleep(RACE).await;
        }
        Ok(live.map(Arc::new))
    }

    /// Keeps what follows the live servers.
    async fn follow(&self, shutdown: Shutdown) {
        let mut leaks = Leaks::new();
        for round in 0u64.. {
            if round.is_multiple_of(ROUNDS_PER_REPAIR) {
                self.api.repair_allocations(&mut leaks).await;
            }
            // Cancel-safe: waiting only.
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                () = tokio::time::sleep(PERIOD) => {}
            }
            if let Err(error) = self.round().await {
                tracing::warn!(%error, "cannot keep the record of this server");
            }
        }
        if let Err(error) = self.leave().await {
            tracing::warn!(%error, "cannot take back the record of this server; it expires by itself");
        }
    }

    async fn round(&self) -> Result<()> {
        self.make(objects::namespaces()).await?;
        self.followed().await
    }

    async fn service_cidr(&self) -> Result<()> {
        let wanted = ranges::service_cidr(&self.api.settings().service_ranges);
        self.keep(SERVICE_CIDRS, "servicecidrs", &wanted, |_, _| None).await?;
        let live = self.loopback.get(SERVICE_CIDRS, ranges::NAME).await?;
        match live.and_then(|live| ranges::made_ready(&live, self.api.now())) {
            Some(next) => match self.loopback.update_part(SERVICE_CIDRS, "status", next).await {
                Ok(_) | Err(ApiError::Conflict { .. }) => Ok(()),
                Err(error) => Err(error),
            },
            None => Ok(()),
        }
    }

    /// Renews the own Lease, and clears away those of servers that are gone for long. Several servers may be reached at one
    /// place: each takes the first name that nobody else keeps.
    async fn identity(&self) -> Result<()> {
        let now = self.api.now();
        for place in 0.. {
            let name = identity::name(&self.host, &self.api.settings().advertised, place);
            let wanted = identity::lease(&name, &self.host, &self.process, now);
            let result = match self.loopback.get(LEASES, &name).await? {
                None => self.loopback.create(LEASES, wanted).await,
                Some(live) => match identity::renewed(&wanted, &live, now) {
                    Renewal::Due(next) => self.loopback.update(LEASES, next).await,
                    Renewal::Done => break,
                    Renewal::Anothers => continue,
                },
            };
            match result {
                Ok(_) => break,
                // Another was faster: the next name.
                Err(ApiError::AlreadyExists(_) | ApiError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.drop_leases(|lease| identity::is_expired(lease, now)).await
    }

    /// Deletes servers' Leases.
    async fn drop_leases(&self, which: impl Fn(&Value) -> bool) -> Result<()> {
        for lease in self.api.view().list("leases", identity::NAMESPACE) {
            let text = |field: &str| lease["metadata"][field].as_str().unwrap_or_default();
            if lease["metadata"]["labels"][identity::LABEL] != identity::KIND || !which(&lease) {
                continue;
            }
            match self.loopback.delete_one(LEASES, text("name"), text("uid")).await {
                Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn service(&self) -> Result<()> {
        let (Some(own), Some(range)) = (self.address(), self.api.settings().service_ranges.first()) else {
            return Ok(());
        };
        let wanted = masters::service(range.first(), own.port());
        self.keep(SERVICES, "services/specs", &wanted, masters::service_update).await
    }

    /// Renews the own record, and publishes all.
    async fn servers(&self) -> Result<()> {
        let Some(own) = self.address().filter(|own| masters::can_be_published(own.ip())) else {
            return Ok(());
        };
        self.renew(own.ip()).await.map_err(|error| store_error(&error))?;
        let mut addresses = self.records().await.map_err(|error| store_error(&error))?;
        addresses.insert(own.ip());
        self.publish(&addresses, own.port()).await
    }

    async fn publish(&self, addresses: &BTreeSet<IpAddr>, port: u16) -> Result<()> {
        let (endpoints, slice) = (masters::endpoints(addresses, port), masters::slice(addresses, port));
        let kept = futures::try_join!(
            self.keep(ENDPOINTS, "services/endpoints", &endpoints, masters::endpoints_update),
            self.keep(SLICES, "endpointslices", &slice, masters::slice_update)
        );
        kept.map(drop)
    }

    /// Takes back the own Lease and record; the last server's address stays published, as it will come back.
    async fn leave(&self) -> Result<()> {
        self.drop_leases(|lease| identity::is_of(lease, &self.process)).await?;
        let Some(own) = self.address().filter(|own| masters::can_be_published(own.ip())) else {
            return Ok(());
        };
        let storage = self.api.world().storage();
        let key = self.key(own.ip());
        if let Some(record) = storage.get(&key).await.map_err(|error| store_error(&error))? {
            match storage.delete(&key, record.revision).await {
                Ok(_) | Err(StorageError::Conflict(_)) => {}
                Err(error) => return Err(store_error(&error)),
            }
        }
        let others = self.records().await.map_err(|error| store_error(&error))?;
        if others.is_empty() { Ok(()) } else { self.publish(&others, own.port()).await }
    }

    /// Where clients are told that this server is.
    fn address(&self) -> Option<SocketAddr> {
        self.api.settings().advertised.parse().ok()
    }

    /// The folder of upstream's servers, so that both kinds see each other.
    fn folder(&self) -> String {
        format!("{}/masterleases/", self.api.settings().prefix)
    }

    fn key(&self, address: IpAddr) -> String {
        format!("{}{address}", self.folder())
    }

    async fn renew(&self, address: IpAddr) -> std::result::Result<(), StorageError> {
        let (storage, key) = (self.api.world().storage(), self.key(address));
        let mut there = storage.get(&key).await?;
        for _ in 0..TRIES {
            let expect = there.as_ref().map_or(Expect::Absent, |record| Expect::At(record.revision));
            match storage.put(&key, Bytes::from(masters::record(address)), expect, Some(RECORD_TTL)).await {
                Err(StorageError::Conflict(other)) => there = other,
                result => return result.map(drop),
            }
        }
        Err(StorageError::Unavailable(format!("{key} is changed all the time")))
    }

    /// The addresses of all records.
    async fn records(&self) -> std::result::Result<BTreeSet<IpAddr>, StorageError> {
        let folder = self.folder();
        let records = self.api.world().storage().list(&folder).await?.records;
        Ok(records.iter().filter_map(|record| record.key.strip_prefix(&*folder)?.parse().ok()).collect())
    }
}

#[cfg(test)]
mod tests;
