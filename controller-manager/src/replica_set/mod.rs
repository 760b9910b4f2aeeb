//! Keeps as many Pods of a template as a ReplicaSet asks for
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>).
//!
//! ```text
//!  Pods, ReplicaSets ──> key ──> claim ── expectations met ──> plan ──> create or delete Pods ──> status
//! ```

mod apply;
mod plan;
mod rank;

use crate::expectations::{EXPECTED_WITHIN, Expectations};
use crate::objects::{Object, PodObject, ReplicaSetObject, status_update, whole_seconds};
use crate::owners::claim;
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use minik_client::call::gone_is_fine;
use minik_client::{Change, ClientError, Done, EventRecorder, ObjectKey, WorkQueue, call};
use minik_component::{Chance, Clock, Plant, planted};
use plan::{Failure, Plan, Snapshot};
use serde_json::{Value, json};
use std::sync::Arc;

struct ReplicaSets {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    recorder: EventRecorder,
    expectations: Arc<Expectations>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let expectations = Arc::<Expectations>::default();
    let (keys, known) = (queue.clone(), expectations.clone());
    setup.watches.replica_sets.add_handler(move |change| {
        if let Change::Deleted(set) = change {
            known.forget(&set.metadata.uid);
        }
        keys.add(change.object().metadata.key());
    });
    let follower =
        Follower { queue: queue.clone(), expectations: expectations.clone(), caches: setup.caches.clone() };
    setup.watches.pods.add_handler(move |change| follower.pod(change));
    let client = setup.identities.client("replicaset-controller");
    let controller = ReplicaSets {
        recorder: setup.recorder("replicaset-controller", &client),
        client,
        caches: setup.caches.clone(),
        clock: setup.config.clock.clone(),
        chance: setup.config.chance.clone(),
        expectations,
    };
    setup.controller(controller, queue);
}

/// Sees what becomes of Pods.
struct Follower {
    queue: WorkQueue<ObjectKey>,
    expectations: Arc<Expectations>,
    caches: Caches,
}

impl Follower {
    fn pod(&self, change: &Change<PodObject>) {
        let pod = change.object();
        let owner = pod.metadata.controller();
        if let Some(owner) = owner {
            let leaving = match change {
                Change::Deleted(_) => !planted(Plant::DeletionUnexpected),
                _ => pod.metadata.deletion_timestamp.is_some(),
            };
            if leaving {
                self.expectations.deleted(&owner.uid, &pod.metadata.uid);
            }
            if matches!(change, Change::Added(_)) {
                self.expectations.created(&owner.uid, 1);
            }
        }
        self.add(pod, owner.is_some());
        if let Change::Updated { old, .. } = change
            && old.metadata.controller() != owner
        {
            self.add(old, old.metadata.controller().is_some());
        }
    }

    /// Whose it is, or whose it may be.
    fn add(&self, pod: &PodObject, is_owned: bool) {
        let namespace = &pod.metadata.namespace;
        if is_owned {
            if let Some(owner) =
                pod.metadata.controller().filter(|owner| &*owner.kind == ReplicaSetObject::KIND)
            {
                self.queue.add(ObjectKey { namespace: namespace.clone(), name: owner.name.clone() });
            }
            return;
        }
        for set in self.caches.replica_sets.in_namespace(namespace) {
            if set.spec.selector.matches(&pod.metadata.labels) {
                self.queue.add(set.metadata.key());
            }
        }
    }
}

impl Controller for ReplicaSets {
    type Key = ObjectKey;
    const NAME: &'static str = "replicaset";
    const WORKERS: usize = 5;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.replica_sets.list().iter().map(|set| set.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(set) = self.caches.replica_sets.get(key) else { return Ok(Done::Ok) };
        // Asked before the Pods are read: what is seen later is in what is read later, too.
        let met = self.expectations.met(&set.metadata.uid, self.clock.elapsed());
        if !met && !planted(Plant::NothingExpected) {
            // What is told now would be old; it comes again with what is seen next.
            return Ok(Done::After(EXPECTED_WITHIN));
        }
        let pods = self.caches.pods_of(&set.metadata).into_iter().filter(|pod| !pod.has_ended());
        let (leaving, active): (Vec<_>, Vec<_>) =
            pods.partition(|pod| pod.metadata.deletion_timestamp.is_some());
        let terminating = claim(&set.metadata, &set.spec.selector, leaving).kept.len();
        let active = claim(&set.metadata, &set.spec.selector, active).settle(&*set, &self.client).await?;
        let related = self.related(&set);
        let snapshot = Snapshot { set: &set, active: &active, terminating, related: &related };
        let done = match plan::plan(&snapshot, self.clock.now()) {
            Plan::Nothing(why) => {
                tracing::trace!(%key, why, "no Pods to be created or deleted");
                return self.write(&snapshot, None).await;
            }
            Plan::Create(count) => self.create(&set, count).await,
            Plan::Delete(pods) => self.delete(&set, &pods).await,
        };
        match done {
            // It comes again with what was done, and tells that.
            Ok(()) => Ok(Done::Ok),
            Err((failure, error)) => {
                self.write(&snapshot, Some(&failure)).await?;
                Err(error)
            }
        }
    }
}

impl ReplicaSets {
    /// The Pods of all ReplicaSets that have the same owner, or its own when it has none.
    fn related(&self, set: &ReplicaSetObject) -> Vec<Arc<PodObject>> {
        let pods = |set: &ReplicaSetObject| self.caches.controlled_pods(&set.metadata.uid);
        match set.metadata.controller() {
            None => pods(set),
            Some(owner) => self.caches.controlled_sets(&owner.uid).iter().flat_map(|set| pods(set)).collect(),
        }
    }

    /// Writes the status, when it changes.
    async fn write(&self, snapshot: &Snapshot<'_>, failure: Option<&Failure>) -> Result<Done, ClientError> {
        let set = snapshot.set;
        let (status, next) = plan::status(snapshot, failure, whole_seconds(self.clock.now()));
        if set.status != status {
            let path = format!("{}/status", set.path());
            let object = status_update(set, &set.annotations, json!(status));
            gone_is_fine(call::put::<Value>(&self.client, &path, &object).await)?;
        }
        Ok(next.map_or(Done::Ok, Done::After))
    }
}
