//! The Pods of the nodes: what is due is done by workers.

use crate::addresses::{self, Addresses};
use crate::config::Config;
use crate::life::{self, FakePod, Place, Stage, Step};
use crate::nodes;
use minik_client::call::{self, PatchKind, gone_is_fine};
use minik_client::{Change, ClientError, Done, Informer, ObjectKey, WorkQueue, segment};
use minik_component::{Plant, chain, planted};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks whether a node that is cut off is back.
const LOST: Duration = Duration::from_secs(1);

/// The Pods, and what is known of them beside their objects.
pub struct Pods {
    config: Config,
    client: kube::Client,
    known: Informer<FakePod>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    addresses: Addresses,
    /// Each Pod's stage, since when, and its own share of the jitter.
    held: BTreeMap<Arc<str>, (Stage, Duration, f64)>,
}

impl Pods {
    /// None is looked at yet.
    pub fn new(config: Config, client: kube::Client, known: Informer<FakePod>) -> Pods {
        Pods { config, client, known, memory: Mutex::default() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each change is complete before anything can panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a Pod is on a node of ours, and on which.
    fn node_of(&self, pod: &FakePod) -> Option<u32> {
        nodes::index(&self.config, &pod.spec.node_name)
    }

    /// A Pod changed; gives its key when it is ours.
    pub fn observe(&self, change: &Change<FakePod>) -> Option<ObjectKey> {
        let pod = change.object();
        self.node_of(pod)?;
        let mut memory = self.memory();
        if let Change::Deleted(pod) = change {
            memory.addresses.release(&pod.metadata.uid);
            memory.held.remove(&pod.metadata.uid);
            return None;
        }
        if let Change::Updated { old, new } = change
            && old.metadata.uid != new.metadata.uid
        {
            memory.addresses.release(&old.metadata.uid);
            memory.held.remove(&old.metadata.uid);
        }
        if matches!(change, Change::Added(one) if one.metadata.deletion_timestamp.is_some())
            && planted(Plant::LeavingPodUnseen)
        {
            return None;
        }
        if !planted(Plant::AddressesForgotten) {
            memory.addresses.hold(&pod.metadata.uid, &pod.status.pod_ip);
        }
        Some(pod.metadata.key())
    }

    /// Works on keys until the queue is closed.
    pub async fn work(&self, queue: WorkQueue<ObjectKey>) {
        while let Some(key) = queue.next().await {
            let outcome = self.reconcile(&key).await.unwrap_or_else(|error| {
                // Another was faster, and its change will be seen: nothing is wrong.
                if !matches!(call::refusal(&error), Some(404 | 409)) {
                    tracing::warn!(pod = %key, error = chain(&error), "trying again");
                }
                Done::Failed
            });
            queue.done(key, outcome);
        }
    }

    /// Does what is due for one Pod.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(pod) = self.known.get(key) else { return Ok(Done::Ok) };
        let Some(node) = self.node_of(&pod) else { return Ok(Done::Ok) };
        if self.config.lost.is_lost(node) {
            return Ok(Done::After(LOST));
        }
        let rule = self.config.rules.of(&pod.metadata.namespace, &pod.metadata.labels, &pod.images());
        let (held, share) = self.held(&pod);
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            segment(&pod.metadata.namespace),
            segment(&pod.metadata.name)
        );
        match life::next(&pod, &rule, held, share) {
            Step::Rest => Ok(Done::Ok),
            Step::Wait(left) => Ok(Done::After(left)),
            Step::Remove => {
                let only = json!({"uid": pod.metadata.uid});
                let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": only});
                gone_is_fine(call::delete(&self.client, &path, &options).await).map(|()| Done::Ok)
            }
            Step::Become(stage) => {
                let Some(place) = self.place(&pod, node) else {
                    tracing::warn!(pod = %key, "no address is free");
                    return Ok(Done::Failed);
                };
                let status = life::status(&pod, &rule, stage, &place, self.config.clock.now());
                // The status was decided on this revision of the Pod: of a newer one it may be wrong.
                let metadata =
                    json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
                let change = json!({"metadata": metadata, "status": status});
                let path = format!("{path}/status");
                let patch =
                    call::patch::<serde_json::Value>(&self.client, &path, PatchKind::Strategic, &change);
                gone_is_fine(patch.await).map(|()| Done::Ok)
            }
        }
    }

    /// How long a Pod has been in its stage, and its share of the jitter.
    fn held(&self, pod: &FakePod) -> (Duration, f64) {
        let (stage, now) = (pod.stage(), self.config.clock.elapsed());
        let mut memory = self.memory();
        let chance = &self.config.chance;
        let fresh = || (stage, now, chance.fraction());
        let entry = memory.held.entry(pod.metadata.uid.clone()).or_insert_with(fresh);
        if entry.0 != stage {
            *entry = (stage, now, entry.2);
        }
        (now.saturating_sub(entry.1), entry.2)
    }

    fn place(&self, pod: &FakePod, node: u32) -> Option<Place> {
        let host = addresses::of_node(node).to_string();
        let own = match pod.spec.host_network {
            true => host.clone(),
            false => self.memory().addresses.of(&pod.metadata.uid)?.to_string(),
        };
        Some(Place { pod: own, host })
    }
}
