//! Budgets of disruption: how many of some Pods may be evicted at once
//! (<https://kubernetes.io/docs/concepts/workloads/pods/disruptions/>).

mod plan;
mod stale;
#[cfg(test)]
mod tests;

use crate::objects::{
    Annotated, Annotations, Condition, IntOrPercent, Object, PodObject, status_update, whole_seconds,
};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use minik_client::call::gone_is_fine;
use minik_client::{
    Change, ClientError, Discovery, Done, EventRecorder, EventType, Meta, ObjectKey, OwnerRef, Projection,
    call,
};
use minik_component::{Clock, chain};
use minik_placement::Selector;
use plan::{Snapshot, failed, needs_scale, plan};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub struct PdbObject {
    /// Its metadata.
    pub metadata: Meta,
    /// Its annotations.
    pub annotations: Annotations,
    /// What is asked for.
    pub spec: PdbSpec,
    /// What is told.
    pub status: PdbStatus,
}

/// What is asked of a budget.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PdbSpec {
    /// How many must be left.
    pub min_available: Option<IntOrPercent>,
    /// How many may be missing.
    pub max_unavailable: Option<IntOrPercent>,
    /// Of which Pods.
    pub selector: Selector,
}

/// What is told of a budget.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PdbStatus {
    /// The generation that this tells about.
    pub observed_generation: i64,
    /// Pods that are about to be evicted, and since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub disrupted_pods: BTreeMap<Arc<str>, jiff::Timestamp>,
    /// How many may be evicted now.
    pub disruptions_allowed: i32,
    /// How many are Ready.
    pub current_healthy: i32,
    /// How many should be.
    pub desired_healthy: i32,
    /// How many there should be.
    pub expected_pods: i32,
    /// Its conditions.
    pub conditions: Vec<PdbCondition>,
}

/// A condition that tells its generation.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PdbCondition {
    /// The condition.
    #[serde(flatten)]
    pub condition: Condition,
    /// The generation that it tells about.
    pub observed_generation: i64,
}

#[derive(Deserialize)]
struct Wire {
    metadata: Annotated,
    #[serde(default)]
    spec: PdbSpec,
    #[serde(default)]
    status: PdbStatus,
}

impl From<Wire> for PdbObject {
    fn from(wire: Wire) -> PdbObject {
        let Annotated { meta: metadata, annotations } = wire.metadata;
        PdbObject { metadata, annotations, spec: wire.spec, status: wire.status }
    }
}

impl Projection for PdbObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Object for PdbObject {
    const API_VERSION: &'static str = "policy/v1";
    const KIND: &'static str = "PodDisruptionBudget";
    const PLURAL: &'static str = "poddisruptionbudgets";
}

struct Disruption {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
    recorder: EventRecorder,
}

/// Adds the controllers.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let keys = queue.clone();
    setup.watches.disruption_budgets.add_handler(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            keys.add(change.object().metadata.key());
        }
    });
    let (keys, budgets) = (queue.clone(), setup.caches.disruption_budgets.clone());
    setup.watches.pods.add_handler(move |change| {
        let (old, new) = match change {
            Change::Updated { old, new } if is_same(old, new) => return,
            Change::Updated { old, new } => (Some(old), new),
            Change::Added(pod) | Change::Deleted(pod) => (None, pod),
        };
        for pdb in budgets.in_namespace(&new.metadata.namespace) {
            let selects = |pod: &Arc<PodObject>| pdb.spec.selector.matches(&pod.metadata.labels);
            if selects(new) || old.is_some_and(selects) {
                keys.add(pdb.metadata.key());
            }
        }
    });
    let client = setup.identities.client("disruption-controller");
    let recorder = setup.recorder("controllermanager", &client);
    let (caches, clock) = (setup.caches.clone(), setup.config.clock.clone());
    setup.controller(Disruption { client, caches, clock, recorder }, queue);
    stale::set_up(setup);
}

/// Whether two states of a Pod are the same to all budgets.
fn is_same(old: &PodObject, new: &PodObject) -> bool {
    let facts = |pod: &PodObject| (pod.ready, pod.metadata.deletion_timestamp.is_some());
    facts(old) == facts(new) && old.metadata.labels == new.metadata.labels
}

impl Controller for Disruption {
    type Key = ObjectKey;
    const NAME: &'static str = "disruption";
    const WORKERS: usize = 2;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.disruption_budgets.list().iter().map(|pdb| pdb.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(pdb) = self.caches.disruption_budgets.get(key) else { return Ok(Done::Ok) };
        let pods = self.caches.pods.in_namespace(&key.namespace);
        let selected = |pod: &Arc<PodObject>| pdb.spec.selector.matches(&pod.metadata.labels);
        let pods: Vec<Arc<PodObject>> = pods.into_iter().filter(selected).collect();
        if pods.is_empty() {
            self.tell(&pdb, EventType::Normal, "NoPods", "No matching pods found");
        }
        let now = whole_seconds(self.clock.now());
        let scale = match needs_scale(&pdb) {
            false => None,
            true => match self.scale(&pdb, &pods).await {
                Ok(scale) => Some(scale),
                Err(why) => {
                    let note = format!("Failed to calculate the number of expected pods: {why}");
                    self.tell(&pdb, EventType::Warning, "CalculateExpectedPodCountFailed", &note);
                    if let Some(status) = failed(&pdb, &why, now) {
                        self.write(&pdb, &status).await?;
                    }
                    return Ok(Done::Failed);
                }
            },
        };
        let plan = plan(&Snapshot { pdb: &pdb, pods: &pods, scale }, now);
        for pod in pods.iter().filter(|pod| plan.overdue.contains(&pod.metadata.name)) {
            let note = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.event(&pod.reference(), EventType::Warning, "NotDeleted", "", &note);
        }
        if let Some(status) = &plan.status {
            self.write(&pdb, status).await?;
        }
        Ok(plan.again.map_or(Done::Ok, Done::After))
    }
}

impl Disruption {
    fn tell(&self, pdb: &PdbObject, kind: EventType, reason: &str, note: &str) {
        self.recorder.event(&pdb.reference(), kind, reason, "", note);
    }

    async fn write(&self, pdb: &PdbObject, status: &PdbStatus) -> Result<(), ClientError> {
        let body = status_update(pdb, &pdb.annotations, json!(status));
        gone_is_fine(call::put::<Value>(&self.client, &format!("{}/status", pdb.path()), &body).await)
    }

    /// How many Pods the owners of these ask for together; why not, in words.
    async fn scale(&self, pdb: &PdbObject, pods: &[Arc<PodObject>]) -> Result<i32, String> {
        let mut scales = BTreeMap::<Arc<str>, i32>::new();
        let mut alone = false;
        for pod in pods {
            let Some(owner) = pod.metadata.owner_references.iter().find(|owner| owner.controller) else {
                alone = true;
                continue;
            };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let found = self.owner(&pod.metadata.namespace, owner).await.map_err(|error| chain(&error))?;
            let (uid, scale) =
                found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.metadata.name))?;
            scales.insert(owner.uid.clone(), 0);
            scales.insert(uid, scale);
        }
        if alone {
            let note = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB \
                cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
                \".spec.minAvailable\" field of the PDB to an integer value.";
            self.tell(pdb, EventType::Warning, "UnmanagedPods", note);
        }
        Ok(scales.values().fold(0, |sum, scale| sum.saturating_add(*scale)))
    }

    /// The identity and the scale of an owner, or of the owner's: a ReplicaSet's Deployment.
    async fn owner(&self, namespace: &str, owner: &OwnerRef) -> Result<Option<(Arc<str>, i32)>, ClientError> {
        if (&*owner.api_version, &*owner.kind) != ("apps/v1", "ReplicaSet") {
            return self.scale_of(namespace, owner).await;
        }
        let Some(set) = self.caches.replica_sets.get(&ObjectKey::new(namespace, &owner.name)) else {
            return Ok(None);
        };
        if set.metadata.uid != owner.uid {
            return Ok(None);
        }
        let above = set.metadata.owner_references.iter().find(|above| above.controller);
        let Some(above) = above.filter(|above| &*above.kind == "Deployment") else {
            return Ok(Some((owner.uid.clone(), set.replicas())));
        };
        let deployment = self.caches.deployments.get(&ObjectKey::new(namespace, &above.name));
        let deployment = deployment.filter(|deployment| deployment.metadata.uid == above.uid);
        Ok(deployment.map(|deployment| (above.uid.clone(), deployment.spec.replicas())))
    }

    /// What an owner of any kind with a scale asks for.
    async fn scale_of(
        &self,
        namespace: &str,
        owner: &OwnerRef,
    ) -> Result<Option<(Arc<str>, i32)>, ClientError> {
        #[derive(Deserialize)]
        struct Scale {
            metadata: Meta,
            #[serde(default)]
            spec: ScaleSpec,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct ScaleSpec {
            replicas: i32,
        }
        let discovery = Discovery::fetch(&self.client).await?;
        let Some(kind) = discovery.of_kind(&owner.api_version, &owner.kind) else { return Ok(None) };
        let path = format!("{}/scale", kind.object(namespace, &owner.name));
        match call::get::<Scale>(&self.client, &path).await {
            Ok(scale) if scale.metadata.uid == owner.uid => {
                Ok(Some((owner.uid.clone(), scale.spec.replicas)))
            }
            Ok(_) => Ok(None),
            Err(error) if call::refusal(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
