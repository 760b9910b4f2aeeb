//! Deletes Pods that nobody will: those of nodes that are gone, those that were deleted before they had a node, and
//! the oldest of too many that have ended
//! (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection>).

mod plan;

use crate::ending::end;
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use minik_client::{Change, ClientError, Done, ObjectKey, call};
use minik_component::Clock;
use plan::{Cause, Doomed, Snapshot};
use prometheus::IntCounterVec;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Changes are looked at together.
const GATHER: Duration = Duration::from_secs(1);
/// Looked at this often, whatever happens, as upstream does.
const PERIOD: Duration = Duration::from_secs(20);
/// A node must have been gone for this long; its kubelet may be registering it anew.
const QUARANTINE: Duration = Duration::from_secs(40);

struct PodGc {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
    threshold: usize,
    deleted: IntCounterVec,
    /// Since when nodes that Pods name are missing, by the elapsed time.
    missing: Mutex<BTreeMap<Arc<str>, Duration>>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<String>(&setup.config.chance);
    queue.add("pods".to_owned());
    let keys = queue.clone();
    setup.watches.nodes.add_handler(move |change| {
        if matches!(change, Change::Deleted(_)) {
            keys.add_after("pods".to_owned(), GATHER);
        }
    });
    let keys = queue.clone();
    setup.watches.pods.add_handler(move |change| {
        let pod = change.object();
        if pod.metadata.deletion_timestamp.is_some() && pod.node.is_empty() {
            keys.add_after("pods".to_owned(), GATHER);
        }
    });
    let controller = PodGc {
        client: setup.identities.client("pod-garbage-collector"),
        caches: setup.caches.clone(),
        clock: setup.config.clock.clone(),
        threshold: setup.config.terminated_pods,
        deleted: setup.metrics.pods_collected.clone(),
        missing: Mutex::default(),
    };
    setup.controller(controller, queue);
}

impl Controller for PodGc {
    type Key = String;
    const NAME: &'static str = "pod_garbage_collector";
    const WORKERS: usize = 1;

    async fn reconcile(&self, _: &String) -> Result<Done, ClientError> {
        let (pods, nodes) = (self.caches.pods.list(), self.caches.nodes.list());
        let overdue = self.overdue(&plan::missing(&pods, &nodes));
        let mut gone = BTreeSet::new();
        for node in overdue {
            if self.is_gone(&node).await? {
                gone.insert(node);
            }
        }
        let snapshot = Snapshot { pods: &pods, nodes: &nodes, gone: &gone, threshold: self.threshold };
        let mut failed = None;
        for doomed in plan::plan(&snapshot) {
            if let Err(error) = self.delete(&doomed).await {
                failed = Some(error);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Done::After(PERIOD)),
        }
    }
}

impl PodGc {
    /// Those of the missing nodes that have been missing for long enough.
    fn overdue(&self, missing: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        let now = self.clock.elapsed();
        // Each change is complete before anything can panic.
        let mut since = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|node, _| missing.contains(node));
        for node in missing {
            since.entry(node.clone()).or_insert(now);
        }
        since.iter().filter(|(_, since)| now >= **since + QUARANTINE).map(|(node, _)| node.clone()).collect()
    }

    /// Asks the server itself: a cache may lag.
    async fn is_gone(&self, node: &str) -> Result<bool, ClientError> {
        let path = format!("/api/v1/nodes/{}", minik_client::segment(node));
        match call::get::<Value>(&self.client, &path).await {
            Ok(_) => Ok(false),
            Err(error) if call::refusal(&error) == Some(404) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, doomed: &Doomed) -> Result<(), ClientError> {
        let pod = &doomed.pod;
        let key: ObjectKey = pod.metadata.key();
        tracing::info!(pod = %key, cause = doomed.cause.label(), "deleting a Pod that nobody else will");
        let status = plan::last_status(pod, doomed.cause, self.clock.now());
        end(&self.client, pod, status, Some(0)).await?;
        self.deleted.with_label_values(&[doomed.cause.label()]).inc();
        Ok(())
    }
}

impl Cause {
    /// Upstream's name.
    fn label(self) -> &'static str {
        match self {
            Cause::Terminated => "terminated",
            Cause::OutOfService => "out-of-service",
            Cause::Orphaned => "orphaned",
            Cause::Unscheduled => "unscheduled",
        }
    }
}
