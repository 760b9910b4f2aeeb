//! Registers the Node and keeps its status and lease up to date.

use super::object::{Health, NodeFacts};
use super::renew_lease;
use k8s_openapi::api::core::v1 as api;
use minik_client::EventType::Normal;
use minik_client::call::{self, PatchKind};
use minik_client::{Backoff, ClientError, EventRecorder, ObjectRef};
use minik_component::{Chance, Clock, Shutdown, chain};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the node's state is looked at, and its lease renewed.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often an unchanged status is told again.
const TELL_EVERY: Duration = Duration::from_secs(300);
const NODES: &str = "/api/v1/nodes";

/// Keeps the Node object.
pub struct NodeKeeper {
    /// What it says.
    pub facts: NodeFacts,
    /// How the node is, looked at when it is told.
    pub health: watch::Receiver<Health>,
    /// Whether the object is made.
    pub register: bool,
    /// Told when the node becomes ready, and when it no longer is.
    pub recorder: EventRecorder,
    /// The client.
    pub client: kube::Client,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
}

impl NodeKeeper {
    /// Registers the node and keeps it, until `shutdown`.
    pub async fn run(mut self, shutdown: Shutdown) {
        // Cancel-safe: what is cut off is done again after a restart.
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(7));
        let mut node = loop {
            match self.register().await {
                Ok(node) => break node,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot register the node yet");
                    tokio::time::sleep(backoff.next(&*self.chance)).await;
                }
            }
        };
        tracing::info!(node = self.facts.name, "the node is registered");
        self.event("Starting", "Starting kubelet.");
        let mut was_ready = None;
        let (mut lease, mut told_at) = (None, Duration::ZERO);
        loop {
            let uid = node.metadata.uid.as_deref();
            match renew_lease(&self.client, (&self.facts.name, uid), lease.take(), self.clock.now()).await {
                Ok(renewed) => lease = Some(renewed),
                Err(error) => tracing::warn!(error = chain(&error), "cannot renew the node's lease"),
            }
            let force = self.clock.elapsed().saturating_sub(told_at) >= TELL_EVERY || told_at.is_zero();
            match self.update(&node, force).await {
                Ok(Some(updated)) => (node, told_at) = (updated, self.clock.elapsed()),
                Ok(None) => {}
                Err(error) if call::refusal(&error) == Some(404) => match self.register().await {
                    Ok(again) => node = again,
                    Err(error) => tracing::warn!(error = chain(&error), "cannot register the node again"),
                },
                Err(error) => tracing::warn!(error = chain(&error), "cannot update the node's status"),
            }
            let is_ready = self.health.borrow().unready.is_empty();
            if was_ready.replace(is_ready) != Some(is_ready) {
                let reason = if is_ready { "NodeReady" } else { "NodeNotReady" };
                self.event(reason, &format!("Node {} status is now: {reason}", self.facts.name));
            }
            self.wait().await;
        }
    }

    fn event(&self, reason: &str, words: &str) {
        // Upstream's kubelet names a node by its name here, too: it tells before it knows the identity.
        let name = self.facts.name.clone();
        let about = ObjectRef { kind: "Node".into(), uid: name.clone(), name, ..ObjectRef::default() };
        self.recorder.event(&about, Normal, reason, "", words);
    }

    /// Until the next look, or until the node's health has changed.
    async fn wait(&mut self) {
        let until = tokio::time::Instant::now() + LOOK_EVERY;
        // Cancel-safe: a change that was not seen is still there.
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            Ok(()) = self.health.changed() => {}
        }
    }

    async fn register(&mut self) -> Result<api::Node, ClientError> {
        let path = format!("{NODES}/{}", self.facts.name);
        if !self.register {
            return call::get(&self.client, &path).await;
        }
        let health = self.health.borrow_and_update().clone();
        match call::post(&self.client, NODES, &self.facts.object(&health, self.clock.now())).await {
            Err(error) if call::refusal(&error) == Some(409) => {}
            other => return other,
        }
        let node: api::Node = call::get(&self.client, &path).await?;
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let wanted = self.facts.own_labels();
        let missing: std::collections::BTreeMap<_, _> =
            wanted.into_iter().filter(|(name, value)| labels.get(name) != Some(value)).collect();
        if missing.is_empty() {
            return Ok(node);
        }
        let patch = json!({"metadata": {"labels": missing}});
        call::patch(&self.client, &path, PatchKind::Strategic, &patch).await
    }

    /// Tells the status if it has changed, or in any case.
    async fn update(&mut self, node: &api::Node, force: bool) -> Result<Option<api::Node>, ClientError> {
        let health = self.health.borrow_and_update().clone();
        let before = node.status.clone().unwrap_or_default();
        let conditions = before.conditions.clone().unwrap_or_default();
        let status = self.facts.status(&health, &conditions, self.clock.now());
        if !force && same(&status, &before) {
            return Ok(None);
        }
        let mut patch = json!({ "status": status });
        // The list of addresses is replaced, not merged.
        if let Some(Value::Array(addresses)) = patch.pointer_mut("/status/addresses") {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
        let path = format!("{NODES}/{}/status", self.facts.name);
        call::patch(&self.client, &path, PatchKind::Strategic, &patch).await.map(Some)
    }
}

/// Whether two statuses say the same but for heartbeats.
fn same(status: &api::NodeStatus, before: &api::NodeStatus) -> bool {
    let still = |status: &api::NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        (
            status.addresses,
            status.allocatable,
            status.capacity,
            status.conditions,
            status.images.unwrap_or_default(),
            status.node_info,
        )
    };
    still(status) == still(before)
}
