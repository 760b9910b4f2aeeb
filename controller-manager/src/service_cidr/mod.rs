//! A range of Services' addresses is ready from its creation on, and goes only when no address depends on it
//! (<https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>).

mod plan;

use crate::objects::{Condition, Object};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use minik_client::{Change, ClientError, Done, Meta, ObjectKey, Projection};
use minik_component::Clock;
use plan::{Plan, plan};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// What keeps a range.
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// A ServiceCIDR.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrObject {
    /// Its metadata.
    pub metadata: Meta,
    /// What is asked for.
    pub spec: Spec,
    /// What is told.
    pub status: Status,
}

/// What is asked of a range.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// One range, or one of each family.
    pub cidrs: Vec<Arc<str>>,
}

/// What is told of a range.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether it is ready.
    pub conditions: Vec<Condition>,
}

impl Projection for ServiceCidrObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for ServiceCidrObject {
    const API_VERSION: &'static str = "networking.k8s.io/v1";
    const KIND: &'static str = "ServiceCIDR";
    const PLURAL: &'static str = "servicecidrs";
}

struct ServiceCidrs {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let (keys, all) = (queue.clone(), setup.caches.service_cidrs.clone());
    setup.watches.service_cidrs.add_handler(move |change| {
        keys.add(change.object().metadata.key());
        // One that waits for its end may be covered by this one now.
        add_ending(&keys, &all.list());
    });
    let (keys, all) = (queue.clone(), setup.caches.service_cidrs.clone());
    setup.watches.ip_addresses.add_handler(move |change| {
        if matches!(change, Change::Deleted(_)) {
            add_ending(&keys, &all.list());
        }
    });
    let client = setup.identities.client("service-cidrs-controller");
    let (caches, clock) = (setup.caches.clone(), setup.config.clock.clone());
    setup.controller(ServiceCidrs { client, caches, clock }, queue);
}

fn add_ending(keys: &minik_client::WorkQueue<ObjectKey>, all: &[Arc<ServiceCidrObject>]) {
    for one in all.iter().filter(|one| one.metadata.deletion_timestamp.is_some()) {
        keys.add(one.metadata.key());
    }
}

impl Controller for ServiceCidrs {
    type Key = ObjectKey;
    const NAME: &'static str = "service_cidr_controller";
    const WORKERS: usize = 1;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.service_cidrs.list().iter().map(|one| one.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(range) = self.caches.service_cidrs.get(key) else { return Ok(Done::Ok) };
        let addresses = self.caches.ip_addresses.list();
        let addresses = addresses.iter().map(|one| &*one.metadata.name);
        let plan = plan(&range, &self.caches.service_cidrs.list(), addresses, self.clock.now());
        match plan {
            Plan::Nothing => {}
            Plan::Wait(left) => return Ok(Done::After(left)),
            Plan::Keep(finalizers) | Plan::LetGo(finalizers) => {
                let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": range.metadata.resource_version}});
                self.patch(&range.path(), &patch).await?;
            }
            Plan::Tell(condition) => {
                let patch =
                    json!({"metadata": {"uid": range.metadata.uid}, "status": {"conditions": [condition]}});
                self.patch(&format!("{}/status", range.path()), &patch).await?;
            }
        }
        Ok(Done::Ok)
    }
}

impl ServiceCidrs {
    async fn patch(&self, path: &str, patch: &Value) -> Result<(), ClientError> {
        // Its own change brings it back here for what comes next.
        gone_is_fine(call::patch::<Value>(&self.client, path, PatchKind::Merge, patch).await)
    }
}
