//! What must hold after every write, whoever wrote: kept from the store itself.

use minik_placement::{Node, NodeState, Pod, fit};
use minik_storage::Change;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The objects as they are, and what was wrong.
#[derive(Default)]
pub struct Ledger(Mutex<State>);

#[derive(Default)]
struct State {
    objects: BTreeMap<Arc<str>, Value>,
    /// The bounds that each Deployment, by uid, must keep.
    bounds: BTreeMap<String, Bounds>,
    wrong: Vec<String>,
    trace: DefaultHasher,
}

/// How many Pods a Deployment may have, and how many must be available: as every spec since it last came to rest allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    most: i64,
    least: i64,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write was done.
    pub fn note(&self, change: &Change) {
        let mut state = self.state();
        (change.revision.0, &*change.key, change.value.as_deref()).hash(&mut state.trace);
        let object = change.value.as_ref().and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
        let before = match object {
            Some(object) => state.objects.insert(change.key.clone(), object),
            None => state.objects.remove(&change.key),
        };
        let mut path = change.key.trim_start_matches("/registry/").split('/');
        match (path.next(), path.next()) {
            (Some("pods"), _) => state.pod(&change.key, before.as_ref()),
            (Some("services"), Some("specs")) => state.service(&change.key),
            (Some("deployments"), _) => state.deployment(&change.key),
            _ => {}
        }
    }

    /// What was wrong, in order.
    pub fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    /// A number that stands for everything that was written, in order.
    pub fn trace(&self) -> u64 {
        self.state().trace.finish()
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn owner(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().find(|one| one["controller"] == true).map_or("", |one| text(one, "/uid"))
}

fn lives(pod: &Value) -> bool {
    let over = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    !over && pod["metadata"]["deletionTimestamp"].is_null()
}

fn ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    lives(pod) && conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// A number of Pods, or a share of the replicas.
fn share(value: &Value, replicas: i64, up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number;
    }
    let percent: i64 = value.as_str().and_then(|text| text.strip_suffix('%')?.parse().ok()).unwrap_or(25);
    let scaled = replicas * percent;
    if up { (scaled + 99) / 100 } else { scaled / 100 }
}

impl State {
    fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a Value> {
        let from: Arc<str> = folder.into();
        self.objects.range(from..).take_while(move |(key, _)| key.starts_with(folder)).map(|(_, value)| value)
    }

    fn pod(&mut self, key: &Arc<str>, before: Option<&Value>) {
        let Some(pod) = self.objects.get(key).cloned() else { return self.owners_bounds(before) };
        let node = text(&pod, "/spec/nodeName");
        let old = before.filter(|old| old["metadata"]["uid"] == pod["metadata"]["uid"]);
        let old_node = old.map_or("", |old| text(old, "/spec/nodeName"));
        if !old_node.is_empty() && old_node != node {
            self.wrong.push(format!("{key} was bound to {old_node} and is now to {node:?}"));
        }
        if !node.is_empty() && old_node.is_empty() {
            self.fits(key, &pod, node);
        }
        self.owners_bounds(Some(&pod));
    }

    /// The Pods of a node may not ask for more than it has.
    fn fits(&mut self, key: &Arc<str>, pod: &Value, node: &str) {
        let Some(object) = self.objects.get(format!("/registry/minions/{node}").as_str()) else {
            return self.wrong.push(format!("{key} is bound to {node}, which is not there"));
        };
        let Ok(read) = serde_json::from_value::<Node>(object.clone()) else { return };
        let mut state = NodeState::new(Arc::new(read));
        let uid = text(pod, "/metadata/uid");
        let over = |pod: &Value| ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
        let others = self.below("/registry/pods/").filter(|other| {
            text(other, "/spec/nodeName") == node && text(other, "/metadata/uid") != uid && !over(other)
        });
        let others: Vec<Pod> =
            others.filter_map(|other| serde_json::from_value(other.clone()).ok()).collect();
        others.into_iter().for_each(|other| state.add(Arc::new(other)));
        let Ok(own) = serde_json::from_value::<Pod>(pod.clone()) else { return };
        if let Err(reasons) = fit::resources(&own, &state) {
            self.wrong.push(format!("{key} is bound to {node} beyond what it has: {reasons:?}"));
        }
    }

    /// No address and no port belongs to two Services.
    fn service(&mut self, key: &Arc<str>) {
        let Some(service) = self.objects.get(key) else { return };
        let claims = |service: &Value| -> BTreeSet<String> {
            let addresses = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
            let addresses =
                addresses.filter_map(Value::as_str).filter(|one| *one != "None").map(str::to_owned);
            let ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let ports = ports.filter(|port| port["nodePort"].as_i64().is_some_and(|number| number != 0));
            addresses.chain(ports.map(|port| format!("{}/{}", port["nodePort"], port["protocol"]))).collect()
        };
        let own = claims(service);
        let from: Arc<str> = "/registry/services/specs/".into();
        let others = self.objects.range(from.clone()..).take_while(|(other, _)| other.starts_with(&*from));
        let mut twice = Vec::new();
        for (other, value) in others.filter(|(other, _)| *other != key) {
            for claim in claims(value).intersection(&own) {
                twice.push(format!("{claim} belongs to {key} and to {other}"));
            }
        }
        self.wrong.append(&mut twice);
    }

    fn deployment(&mut self, key: &Arc<str>) {
        let Some(deployment) = self.objects.get(key) else { return };
        let uid = text(deployment, "/metadata/uid").to_owned();
        let allowed = allowed(deployment);
        let (status, replicas) = (&deployment["status"], &deployment["spec"]["replicas"]);
        let number = |name: &str| status[name].as_i64().unwrap_or(0);
        let rests = status["observedGeneration"] == deployment["metadata"]["generation"]
            && ["replicas", "updatedReplicas", "availableReplicas"]
                .iter()
                .all(|name| replicas == number(name));
        let bounds = match self.bounds.get(&uid) {
            _ if rests => allowed,
            // Not more must be there than ever was.
            None => Bounds { least: 0, ..allowed },
            Some(before) => {
                Bounds { most: before.most.max(allowed.most), least: before.least.min(allowed.least) }
            }
        };
        self.bounds.insert(uid.clone(), bounds);
        self.check_bounds(&uid);
    }

    /// The bounds of the Deployment whose ReplicaSet owns this Pod.
    fn owners_bounds(&mut self, pod: Option<&Value>) {
        let Some(set) = pod.map(owner) else { return };
        let sets = self.below("/registry/replicasets/");
        let owners: Vec<String> =
            sets.filter(|one| text(one, "/metadata/uid") == set).map(|one| owner(one).to_owned()).collect();
        owners.iter().for_each(|uid| self.check_bounds(uid));
    }

    fn check_bounds(&mut self, uid: &str) {
        let Some(bounds) = self.bounds.get(uid).copied() else { return };
        let sets: BTreeSet<&str> = self
            .below("/registry/replicasets/")
            .filter(|one| owner(one) == uid)
            .map(|one| text(one, "/metadata/uid"))
            .collect();
        let pods: Vec<&Value> =
            self.below("/registry/pods/").filter(|pod| sets.contains(owner(pod)) && lives(pod)).collect();
        let available = pods.iter().filter(|pod| ready(pod)).count() as i64;
        let count = pods.len() as i64;
        if count > bounds.most {
            self.wrong.push(format!("a Deployment ({uid}) has {count} Pods, and may have {}", bounds.most));
        }
        if available < bounds.least {
            let least = bounds.least;
            self.wrong
                .push(format!("a Deployment ({uid}) has {available} available Pods, and must have {least}"));
        }
    }
}

fn allowed(deployment: &Value) -> Bounds {
    let spec = &deployment["spec"];
    let replicas = spec["replicas"].as_i64().unwrap_or(1);
    if !deployment["metadata"]["deletionTimestamp"].is_null() {
        return Bounds { most: i64::MAX, least: 0 };
    }
    match text(spec, "/strategy/type") {
        "Recreate" => Bounds { most: replicas, least: 0 },
        _ => {
            let rolling = &spec["strategy"]["rollingUpdate"];
            let (surge, down) = (
                share(&rolling["maxSurge"], replicas, true),
                share(&rolling["maxUnavailable"], replicas, false),
            );
            let down = if surge == 0 && down == 0 { 1 } else { down };
            Bounds { most: replicas + surge, least: (replicas - down).max(0) }
        }
    }
}
