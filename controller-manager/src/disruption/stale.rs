//! Pods that were to be disrupted and were not: after a while their condition DisruptionTarget is taken back.

use crate::objects::{Object, PodObject, whole_seconds};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use jiff::Timestamp;
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, Done, ObjectKey};
use minik_component::Clock;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Who says that a Pod is to be disrupted deletes it within this time.
const DELETED_WITHIN: Duration = Duration::from_secs(120);

/// How long the condition may stay; `None` when it may stay for good, or there is none.
fn left(pod: &PodObject, now: Timestamp) -> Option<Duration> {
    let since =
        pod.disruption_target.filter(|_| pod.metadata.deletion_timestamp.is_none() && !pod.has_ended())?;
    let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(DELETED_WITHIN.saturating_sub(age))
}

struct Stale {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let keys = queue.clone();
    setup.watches.pods.add_handler(move |change| {
        let pod = change.object();
        if pod.disruption_target.is_some() {
            keys.add(pod.metadata.key());
        }
    });
    let client = setup.identities.client("disruption-controller");
    let (caches, clock) = (setup.caches.clone(), setup.config.clock.clone());
    setup.controller(Stale { client, caches, clock }, queue);
}

impl Controller for Stale {
    type Key = ObjectKey;
    const NAME: &'static str = "stale_pod_disruption";
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(pod) = self.caches.pods.get(key) else { return Ok(Done::Ok) };
        let now = self.clock.now();
        match left(&pod, now) {
            None => return Ok(Done::Ok),
            Some(left) if !left.is_zero() => return Ok(Done::After(left)),
            Some(_) => tracing::info!(pod = %key, "it was to be disrupted and was not"),
        }
        let condition = json!({"type": "DisruptionTarget", "status": "False", "reason": "", "message": "",
            "lastTransitionTime": whole_seconds(now)});
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let path = format!("{}/status", pod.path());
        gone_is_fine(call::patch::<Value>(&self.client, &path, PatchKind::Strategic, &patch).await)?;
        Ok(Done::Ok)
    }
}
