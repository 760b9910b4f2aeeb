//! Follows whether nodes are alive, and tells it by conditions and taints
//! (<https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller>).
//!
//! ```text
//!  Leases, statuses ── every few seconds ──> Seen: silent for too long? ──> conditions Unknown
//!  a node changes ──> taints for its conditions at once; NoExecute when its zone admits one more
//!                     Pods of a node that is not ready are marked unready
//! ```

mod health;
mod taints;
mod zones;

use crate::config::NodeTimes;
use crate::objects::{Condition, NodeObject, Object, Taint};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use health::Seen;
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use minik_client::{Change, ClientError, Done, EventRecorder, EventType, ObjectKey, ObjectRef, WorkQueue};
use minik_component::{Clock, Shutdown, chain};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use taints::Evict;
use zones::{Turn, Zones};

/// Where kubelets renew their Leases.
const LEASES: &str = "kube-node-lease";
/// Labels that stand for others, for those who still read the old names.
const SAME_LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

struct Nodes {
    shared: Arc<Shared>,
}

struct Shared {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
    times: NodeTimes,
    recorder: EventRecorder,
    queue: WorkQueue<String>,
    zones: Mutex<Zones>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<String>(&setup.config.chance);
    let client = setup.identities.client("node-controller");
    let shared = Arc::new(Shared {
        recorder: setup.recorder("node-controller", &client),
        client,
        caches: setup.caches.clone(),
        clock: setup.config.clock.clone(),
        times: setup.config.nodes.clone(),
        queue: queue.clone(),
        zones: Mutex::default(),
    });
    let (keys, watcher) = (queue.clone(), shared.clone());
    setup.watches.nodes.add_handler(move |change| {
        watcher.tell(change);
        keys.add(change.object().metadata.name.to_string());
    });
    let (keys, caches) = (queue.clone(), setup.caches.clone());
    setup.watches.pods.add_handler(move |change| {
        let pod = change.object();
        if pod.ready && caches.node(&pod.node).is_some_and(|node| is_down(&node)) {
            keys.add(pod.node.to_string());
        }
    });
    let (monitor, shutdown) = (shared.clone(), setup.shutdown.clone());
    setup.part("node monitor", async move { monitor.monitor(shutdown).await });
    setup.controller(Nodes { shared }, queue);
}

/// Whether a node has said, or is said, to be not ready.
fn is_down(node: &NodeObject) -> bool {
    node.ready().is_some_and(|status| status != "True")
}

impl Controller for Nodes {
    type Key = String;
    const NAME: &'static str = "node_lifecycle_controller";
    const WORKERS: usize = 8;

    fn all(&self) -> Vec<String> {
        self.shared.caches.nodes.list().iter().map(|one| one.metadata.name.to_string()).collect()
    }

    async fn reconcile(&self, name: &String) -> Result<Done, ClientError> {
        let shared = &self.shared;
        let Some(node) = shared.caches.node(name) else { return Ok(Done::Ok) };
        let (evict, done) = shared.evict(&node);
        let now = shared.clock.now();
        let taints = taints::plan(&node, evict, now);
        let labels = labels(&node);
        if taints.is_some() || !labels.is_empty() {
            shared.write_node(&node, taints, &labels).await?;
        }
        if is_down(&node) {
            shared.mark_pods_unready(&node, now).await?;
        }
        Ok(done)
    }
}

/// The labels that a node should have beside others.
fn labels(node: &NodeObject) -> BTreeMap<&'static str, Arc<str>> {
    let labels = &node.metadata.labels;
    let wanted =
        SAME_LABELS.iter().filter_map(|(from, to)| labels.get(*from).map(|value| (*to, value.clone())));
    wanted.filter(|(to, value)| labels.get(*to) != Some(value)).collect()
}

impl Shared {
    fn zones(&self) -> MutexGuard<'_, Zones> {
        // Each change is complete before anything can panic.
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: &Change<NodeObject>) {
        let name = &change.object().metadata.name;
        match change {
            Change::Added(node) => {
                self.event(node, "RegisteredNode", &format!("Registered Node {name} in Controller"));
            }
            Change::Deleted(node) => {
                self.event(node, "RemovingNode", &format!("Removing Node {name} from Controller"));
            }
            Change::Updated { old, new } => {
                if old.ready() == Some("True") && is_down(new) {
                    self.event(new, "NodeNotReady", &format!("Node {name} status is now: NodeNotReady"));
                }
            }
        }
    }

    fn event(&self, node: &NodeObject, reason: &str, note: &str) {
        let about = ObjectRef {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.metadata.name.to_string(),
            uid: node.metadata.uid.to_string(),
            ..ObjectRef::default()
        };
        self.recorder.event(&about, EventType::Normal, reason, "", note);
    }

    /// Whether Pods of a node are to be evicted now, and when to ask again.
    fn evict(&self, node: &NodeObject) -> (Evict, Done) {
        let mut zones = self.zones();
        match (taints::asked_by(node), taints::evicted_by(node)) {
            // One that has never said anything keeps what it has.
            (None, _) if node.ready().is_none() => (Evict::AsIs, Done::Ok),
            (None, _) => (Evict::No, Done::Ok),
            _ if zones.all_disrupted() => (Evict::No, Done::Ok),
            // It is being evicted already: only the reason may have changed.
            (Some(key), Some(_)) => (Evict::By(key), Done::Ok),
            (Some(key), None) => match zones.admit(&zones::of(node), self.clock.elapsed()) {
                Ok(()) => (Evict::By(key), Done::Ok),
                Err(Some(wait)) => (Evict::No, Done::After(wait)),
                Err(None) => (Evict::No, Done::Ok),
            },
        }
    }

    async fn write_node(
        &self,
        node: &NodeObject,
        taints: Option<Vec<Taint>>,
        labels: &BTreeMap<&'static str, Arc<str>>,
    ) -> Result<(), ClientError> {
        let meta = &node.metadata;
        let mut patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}});
        if let Some(taints) = taints {
            tracing::info!(node = %meta.name, taints = ?taints.iter().map(|one| (&one.key, &one.effect)).collect::<Vec<_>>(), "tainting");
            patch["spec"] = json!({"taints": whole_seconds(&taints)});
        }
        if !labels.is_empty() {
            patch["metadata"]["labels"] = json!(labels);
        }
        gone_is_fine(call::patch::<Value>(&self.client, &node.path(), PatchKind::Strategic, &patch).await)
    }

    async fn mark_pods_unready(&self, node: &NodeObject, now: jiff::Timestamp) -> Result<(), ClientError> {
        for pod in self.caches.pods_on(&node.metadata.name).into_iter().filter(|pod| pod.ready) {
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": format!("{now:.0}")}]},
            });
            let path = format!("{}/status", pod.path());
            gone_is_fine(call::patch::<Value>(&self.client, &path, PatchKind::Strategic, &patch).await)?;
            let about = pod.reference();
            self.recorder.event(&about, EventType::Warning, "NodeNotReady", "", "Node is not ready");
        }
        Ok(())
    }

    /// Looks at all nodes every so often: silence is nothing that can be watched.
    async fn monitor(&self, shutdown: Shutdown) {
        let mut seen = BTreeMap::<Arc<str>, Seen>::new();
        loop {
            let nodes = self.caches.nodes.list();
            self.look(&nodes, &mut seen).await;
            // Cancel-safe: both arms only wait.
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = tokio::time::sleep(self.times.monitor_period) => {}
            }
        }
    }

    async fn look(&self, nodes: &[Arc<NodeObject>], seen: &mut BTreeMap<Arc<str>, Seen>) {
        let now = self.clock.elapsed();
        seen.retain(|name, _| nodes.iter().any(|node| node.metadata.name == *name));
        for node in nodes {
            let name = &node.metadata.name;
            let lease = self.caches.leases.get(&ObjectKey::new(LEASES, name));
            let renewed = lease.and_then(|lease| lease.spec.renew_time.clone());
            let record = seen.entry(name.clone()).or_insert_with(|| Seen::first(node, renewed.clone(), now));
            record.look(node, renewed, now);
            if now >= record.silent_at(&self.times)
                && let Some(conditions) = health::unknown(node, self.clock.now())
            {
                tracing::warn!(node = %name, "shows no sign of life");
                if let Err(error) = self.write_conditions(node, &conditions).await {
                    tracing::warn!(node = %name, error = chain(&error), "cannot tell that a node is silent");
                }
            }
        }
        let turn = self.zones().look(nodes.iter().map(|node| &**node), &self.times, now);
        if turn == Turn::Back {
            // Nothing could be seen of the others meanwhile: they get their time again.
            for record in seen.values_mut() {
                record.forgive(now);
            }
        }
        if turn != Turn::Same {
            tracing::info!(?turn, "zones");
        }
        for node in nodes.iter().filter(|node| turn != Turn::Same || self.waits(node)) {
            self.queue.add(node.metadata.name.to_string());
        }
    }

    /// Whether a node should be evicted and is not.
    fn waits(&self, node: &NodeObject) -> bool {
        taints::asked_by(node).is_some_and(|asked| taints::evicted_by(node) != Some(asked))
    }

    async fn write_conditions(&self, node: &NodeObject, conditions: &[Condition]) -> Result<(), ClientError> {
        let mut conditions = json!(conditions);
        for condition in conditions.as_array_mut().into_iter().flatten() {
            cut(condition, &["lastTransitionTime", "lastHeartbeatTime"]);
        }
        let meta = &node.metadata;
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {"conditions": conditions},
        });
        let path = format!("{}/status", node.path());
        gone_is_fine(call::patch::<Value>(&self.client, &path, PatchKind::Strategic, &patch).await)
    }
}

/// Taints as they are written: their times have whole seconds.
fn whole_seconds(taints: &[Taint]) -> Value {
    let mut taints = json!(taints);
    for taint in taints.as_array_mut().into_iter().flatten() {
        cut(taint, &["timeAdded"]);
    }
    taints
}

/// Cuts times to whole seconds, as the API writes them.
fn cut(object: &mut Value, fields: &[&str]) {
    for field in fields {
        if let Some(time) = object[*field].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()) {
            object[*field] = format!("{time:.0}").into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_labels_follow_new_ones() {
        let node: NodeObject = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux"}}}))
        .unwrap();
        assert_eq!(labels(&node), BTreeMap::from([("beta.kubernetes.io/arch", "amd64".into())]));
    }

    #[test]
    fn times_are_written_in_whole_seconds() {
        let taint = Taint { time_added: Some("2026-01-01T00:00:00.7Z".parse().unwrap()), ..Taint::default() };
        assert_eq!(whole_seconds(&[taint])[0]["timeAdded"], "2026-01-01T00:00:00Z");
    }
}
