//! Evicts Pods from nodes whose NoExecute taints they do not tolerate, or no longer
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions>).

use crate::ending::{disrupted, end};
use crate::objects::{NodeObject, Object, PodObject, Taint};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use jiff::Timestamp;
use minik_client::{ClientError, Done, EventRecorder, EventType, ObjectKey};
use minik_component::Clock;
use minik_placement::taints::{Effect, Taint as Placed, Toleration};
use prometheus::IntCounter;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is to be done with a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    /// It may stay.
    Stay,
    /// It may stay for so long after it met the taints.
    For(Duration),
}

/// How long a Pod may stay on a node with these taints, from when it met them.
fn plan(tolerations: &[Toleration], taints: &[Taint]) -> Plan {
    let mut longest = None::<Duration>;
    for taint in taints.iter().filter(|taint| &*taint.effect == "NoExecute") {
        let placed = Placed { key: taint.key.clone(), value: taint.value.clone(), effect: Effect::NoExecute };
        let mut tolerating = tolerations.iter().filter(|one| one.tolerates(&placed)).peekable();
        if tolerating.peek().is_none() {
            return Plan::For(Duration::ZERO);
        }
        for seconds in tolerating.filter_map(|one| one.toleration_seconds) {
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            longest = Some(longest.map_or(limit, |other| other.min(limit)));
        }
    }
    longest.map_or(Plan::Stay, Plan::For)
}

/// When a Pod met the taints of its node, as far as they tell.
fn met(pod: &PodObject, taints: &[Taint], now: Timestamp) -> Timestamp {
    let added =
        taints.iter().filter(|taint| &*taint.effect == "NoExecute").filter_map(|taint| taint.time_added);
    let known = added.max().unwrap_or(now);
    known.max(pod.bound_at.unwrap_or(known)).min(now)
}

struct TaintEviction {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
    recorder: EventRecorder,
    evicted: IntCounter,
    /// How long Pods had stayed when they were seen first, and when that was, by uid, of those that may stay for a while:
    /// from then on the wall clock, which may be set at any time, does not count.
    since: Mutex<BTreeMap<Arc<str>, (Duration, Duration)>>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let keys = queue.clone();
    setup.watches.pods.add_handler(move |change| {
        let pod = change.object();
        if !pod.node.is_empty() {
            keys.add(pod.metadata.key());
        }
    });
    let (keys, caches) = (queue.clone(), setup.caches.clone());
    setup.watches.nodes.add_handler(move |change| {
        if let minik_client::Change::Updated { old, new } = change
            && old.spec.taints == new.spec.taints
        {
            return;
        }
        for pod in caches.pods_on(&change.object().metadata.name) {
            keys.add(pod.metadata.key());
        }
    });
    let client = setup.identities.client("node-controller");
    let controller = TaintEviction {
        recorder: setup.recorder("taint-eviction-controller", &client),
        client,
        caches: setup.caches.clone(),
        clock: setup.config.clock.clone(),
        evicted: setup.metrics.evicted.clone(),
        since: Mutex::default(),
    };
    setup.controller(controller, queue);
}

impl Controller for TaintEviction {
    type Key = ObjectKey;
    const NAME: &'static str = "taint-eviction-controller";
    const WORKERS: usize = 8;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.pods.list().iter().map(|one| one.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let Some(pod) = self.caches.pods.get(key) else { return Ok(Done::Ok) };
        let uid = &pod.metadata.uid;
        let node: Option<Arc<NodeObject>> = self.caches.node(&pod.node);
        let taints = node.as_ref().map_or(&[][..], |node| &node.spec.taints);
        let limit = match plan(&pod.tolerations, taints) {
            Plan::For(limit) if pod.metadata.deletion_timestamp.is_none() => limit,
            _ => {
                self.forget(uid);
                return Ok(Done::Ok);
            }
        };
        let now = self.clock.now();
        let today = self.clock.elapsed();
        let stayed = || Duration::try_from(now.duration_since(met(&pod, taints, now))).unwrap_or_default();
        let (before, since) = *self.since().entry(uid.clone()).or_insert_with(|| (stayed(), today));
        let stayed = before + today.saturating_sub(since);
        if let Some(left) = limit.checked_sub(stayed).filter(|left| !left.is_zero()) {
            return Ok(Done::After(left));
        }
        self.evict(&pod, now).await?;
        self.forget(uid);
        Ok(Done::Ok)
    }
}

impl TaintEviction {
    fn since(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, (Duration, Duration)>> {
        // Each change is complete before anything can panic.
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, uid: &str) {
        self.since().remove(uid);
    }

    async fn evict(&self, pod: &PodObject, now: Timestamp) -> Result<(), ClientError> {
        let key = pod.metadata.key();
        tracing::info!(pod = %key, node = %pod.node, "evicting for a NoExecute taint");
        let note = format!("Marking for deletion Pod {key}");
        self.recorder.event(&pod.reference(), EventType::Normal, "TaintManagerEviction", "", &note);
        let words = "Taint manager: deleting due to NoExecute taint";
        let status = json!({"conditions": disrupted(pod, "DeletionByTaintManager", words, now)});
        end(&self.client, pod, Some(status), None).await?;
        self.evicted.inc();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taints(keys: &[&str]) -> Vec<Taint> {
        let taint = |key: &&str| match key.strip_suffix('!') {
            Some(key) => Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() },
            None => Taint { key: (*key).into(), effect: "NoSchedule".into(), ..Taint::default() },
        };
        keys.iter().map(taint).collect()
    }

    fn check(tolerations: &[(&str, Option<i64>)], keys: &[&str], wanted: Option<u64>) {
        let tolerations: Vec<Toleration> = tolerations
            .iter()
            .map(|(key, seconds)| {
                serde_json::from_value(
                    json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds}),
                )
                .unwrap()
            })
            .collect();
        let wanted = wanted.map_or(Plan::Stay, |seconds| Plan::For(Duration::from_secs(seconds)));
        assert_eq!(plan(&tolerations, &taints(keys)), wanted, "{tolerations:?} {keys:?}");
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_all() {
        check(&[], &[], None);
        check(&[], &["a"], None);
        check(&[], &["a!"], Some(0));
        check(&[("a", None)], &["a!"], None);
        check(&[("a", None)], &["a!", "b!"], Some(0));
        check(&[("a", Some(300)), ("b", None)], &["a!", "b!"], Some(300));
        check(&[("a", Some(300)), ("b", Some(60))], &["a!", "b!"], Some(60));
        check(&[("a", Some(300)), ("b", Some(60))], &["a!"], Some(300));
        check(&[("a", Some(-5))], &["a!"], Some(0));
    }

    #[test]
    fn time_counts_from_the_later_of_taint_and_binding() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut pod: PodObject = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        let mut taints = taints(&["a!"]);
        assert_eq!(met(&pod, &taints, at(100)), at(100), "nothing is known");
        taints[0].time_added = Some(at(50));
        assert_eq!(met(&pod, &taints, at(100)), at(50));
        pod.bound_at = Some(at(70));
        assert_eq!(met(&pod, &taints, at(100)), at(70));
        pod.bound_at = Some(at(700));
        assert_eq!(met(&pod, &taints, at(100)), at(100), "clocks differ");
    }
}
