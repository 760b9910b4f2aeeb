//! Rolls a Deployment's Pods from one template to another, by ReplicaSets that it scales
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>).
//!
//! ```text
//!  Deployments, ReplicaSets ──> key ──> claim ──> plan (pure) ──> create, scale, delete ReplicaSets ──> status
//! ```
//!
//! Invariants:
//! - Never more Pods than asked for and `maxSurge`, never fewer available than asked for without `maxUnavailable`, as
//!   far as what is done here decides.
//! - `Recreate`: nothing new before all old Pods have ended.
//! - A name follows from its template, so that a ReplicaSet is never made twice.

mod apply;
mod plan;
#[cfg(test)]
mod props;
mod rolling;
mod sets;
mod status;

use crate::objects::{DeploymentObject, Object, PodObject, ReplicaSetObject, StrategyType, whole_seconds};
use crate::owners::claim;
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use minik_client::{Change, ClientError, Done, EventRecorder, Meta, ObjectKey, WorkQueue};
use minik_component::{Clock, Plant, planted};
use plan::Snapshot;
use std::collections::BTreeSet;
use std::sync::Arc;

struct Deployments {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
    recorder: EventRecorder,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let keys = queue.clone();
    setup.watches.deployments.add_handler(move |change| keys.add(change.object().metadata.key()));
    let follower = Arc::new(Follower { queue: queue.clone(), caches: setup.caches.clone() });
    let sets = follower.clone();
    setup.watches.replica_sets.add_handler(move |change| sets.set(change));
    setup.watches.pods.add_handler(move |change| follower.pod(change));
    let client = setup.identities.client("deployment-controller");
    let controller = Deployments {
        recorder: setup.recorder("deployment-controller", &client),
        client,
        caches: setup.caches.clone(),
        clock: setup.config.clock.clone(),
    };
    setup.controller(controller, queue);
}

/// Sees what becomes of ReplicaSets and Pods.
struct Follower {
    queue: WorkQueue<ObjectKey>,
    caches: Caches,
}

impl Follower {
    fn set(&self, change: &Change<ReplicaSetObject>) {
        if let Change::Updated { old, new } = change
            && new.status.available_replicas.abs_diff(old.status.available_replicas) > 1
            && planted(Plant::OneStepAtATime)
        {
            return;
        }
        self.add(change.object());
        if let Change::Updated { old, new } = change
            && old.metadata.controller() != new.metadata.controller()
        {
            self.add(old);
        }
    }

    /// Whose it is, or whose it may be.
    fn add(&self, set: &ReplicaSetObject) {
        match set.metadata.controller() {
            Some(_) => self.queue_owner(&set.metadata, DeploymentObject::KIND),
            None => {
                for deployment in self.caches.deployments.in_namespace(&set.metadata.namespace) {
                    if deployment.spec.selector.selector.matches(&set.metadata.labels) {
                        self.queue.add(deployment.metadata.key());
                    }
                }
            }
        }
    }

    fn queue_owner(&self, meta: &Meta, kind: &str) {
        if let Some(owner) = meta.controller().filter(|owner| &*owner.kind == kind) {
            self.queue.add(ObjectKey { namespace: meta.namespace.clone(), name: owner.name.clone() });
        }
    }

    /// The end of a Pod may be what a Deployment waits for that recreates.
    fn pod(&self, change: &Change<PodObject>) {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && !pod.has_ended() {
            return;
        }
        let Some(owner) = pod.metadata.controller().filter(|owner| &*owner.kind == ReplicaSetObject::KIND)
        else {
            return;
        };
        let key = ObjectKey { namespace: pod.metadata.namespace.clone(), name: owner.name.clone() };
        let Some(set) = self.caches.replica_sets.get(&key) else { return };
        let Some(owner) = set.metadata.controller() else { return };
        let key = ObjectKey { namespace: key.namespace, name: owner.name.clone() };
        let recreates = |one: &DeploymentObject| one.spec.strategy.kind == StrategyType::Recreate;
        if self.caches.deployments.get(&key).is_some_and(|one| recreates(&one)) {
            self.queue.add(key);
        }
    }
}

impl Controller for Deployments {
    type Key = ObjectKey;
    const NAME: &'static str = "deployment";
    const WORKERS: usize = 5;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.deployments.list().iter().map(|one| one.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(deployment) = self.caches.deployments.get(key) else { return Ok(Done::Ok) };
        let meta = &deployment.metadata;
        let claims = claim(meta, &deployment.spec.selector.selector, self.caches.sets_of(meta));
        let sets = claims.settle(&*deployment, &self.client).await?;
        let running = match deployment.spec.strategy.kind {
            StrategyType::Recreate => self.running(&sets),
            StrategyType::RollingUpdate => BTreeSet::new(),
        };
        let is_changed = meta.generation > deployment.status.observed_generation;
        let overlaps = if is_changed { self.overlaps(&deployment) } else { None };
        let snapshot = Snapshot { deployment: &deployment, sets: &sets, running: &running, overlaps };
        let plan = plan::plan(&snapshot, whole_seconds(self.clock.now()));
        tracing::debug!(%key, why = plan.why, "planned");
        self.apply(&deployment, &plan).await?;
        Ok(plan.again.map_or(Done::Ok, Done::After))
    }
}

impl Deployments {
    /// Another Deployment of the namespace with which it shares labels.
    fn overlaps(&self, deployment: &DeploymentObject) -> Option<Arc<str>> {
        let selects = |one: &DeploymentObject, other: &DeploymentObject| {
            one.spec.selector.selector.matches(&other.spec.template.labels)
        };
        let all = self.caches.deployments.in_namespace(&deployment.metadata.namespace);
        let other = all.iter().find(|other| {
            let is_other = other.metadata.uid != deployment.metadata.uid;
            is_other && (selects(deployment, other) || selects(other, deployment))
        });
        other.map(|other| other.metadata.name.clone())
    }

    /// The uids of those that have Pods which have not ended.
    fn running(&self, sets: &[Arc<ReplicaSetObject>]) -> BTreeSet<Arc<str>> {
        let runs = |uid: &Arc<str>| self.caches.controlled_pods(uid).iter().any(|pod| !pod.has_ended());
        sets.iter().map(|set| set.metadata.uid.clone()).filter(runs).collect()
    }
}
