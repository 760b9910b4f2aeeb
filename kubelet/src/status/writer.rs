//! Tells the API statuses of Pods, only what has changed, the newest only; deletes Pods that have ended.

use super::conditions::OWNED;
use crate::pod::{PodObject, Uid};
use k8s_openapi::api::core::v1 as api;
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, Done, WorkQueue};
use minik_component::{Chance, Shutdown, chain};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Statuses told at once; a Pod's are told one after the other.
const WRITERS: usize = 8;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Fields of a Pod's status that the kubelet answers for.
const FIELDS: [&str; 16] = [
    "phase",
    "conditions",
    "message",
    "reason",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
    "resources",
    "allocatedResources",
];
/// Lists of which a patch gives the whole: an address that is gone must go.
const REPLACED: [&str; 2] = ["hostIPs", "podIPs"];

#[derive(Clone)]
struct Entry {
    path: String,
    /// As the API has it, with its revision.
    known: (Value, u64),
    wanted: Value,
    /// Whether to delete the Pod once its status is told.
    delete: bool,
    is_gone: bool,
}

/// Tells statuses.
#[derive(Clone)]
pub struct StatusWriter {
    entries: Arc<Mutex<BTreeMap<Uid, Entry>>>,
    queue: WorkQueue<Uid>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    metadata: WrittenMeta,
    #[serde(default)]
    status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMeta {
    #[serde(default)]
    resource_version: String,
}

fn revision(text: &str) -> u64 {
    text.parse().unwrap_or(u64::MAX)
}

impl StatusWriter {
    /// A writer; run it with [`StatusWriter::run`].
    pub fn new(chance: Arc<dyn Chance>) -> StatusWriter {
        StatusWriter { entries: Arc::default(), queue: WorkQueue::new(FIRST_WAIT, LONGEST_WAIT, chance) }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uid, Entry>> {
        // Each change is complete before anything can panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wants this status to be the Pod's; `delete` when nothing of the Pod is left and the API may forget it.
    pub fn tell(&self, pod: &PodObject, status: &api::PodStatus, delete: bool) {
        let wanted = value(status);
        let known = (value(&pod.status), revision(&pod.meta.resource_version));
        let mut entries = self.entries();
        let entry = entries.entry(pod.uid().clone()).or_insert_with(|| Entry {
            path: pod.path(),
            known: known.clone(),
            wanted: Value::Null,
            delete: false,
            is_gone: false,
        });
        if known.1 > entry.known.1 {
            entry.known = known;
        }
        if entry.wanted == wanted
            && entry.delete == delete
            && patch(&entry.known.0, &wanted).is_none()
            && !delete
        {
            return;
        }
        entry.wanted = wanted;
        entry.delete |= delete;
        drop(entries);
        self.queue.add(pod.uid().clone());
    }

    /// Forgets a Pod that the API no longer has.
    pub fn forget(&self, uid: &Uid) {
        self.entries().remove(uid);
    }

    /// Writes until `shutdown`.
    pub async fn run(self, client: kube::Client, shutdown: Shutdown) {
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let (writer, client) = (self.clone(), client.clone());
            writers.spawn(async move {
                while let Some(uid) = writer.queue.next().await {
                    let outcome = writer.write(&client, &uid).await;
                    writer.queue.done(uid, outcome);
                }
            });
        }
        shutdown.requested().await;
        self.queue.close();
        while writers.join_next().await.is_some() {}
    }

    async fn write(&self, client: &kube::Client, uid: &Uid) -> Done {
        let Some(entry) = self.entries().get(uid).filter(|entry| !entry.is_gone).cloned() else {
            return Done::Ok;
        };
        if let Some(status) = patch(&entry.known.0, &entry.wanted) {
            let change = json!({"metadata": {"uid": &**uid}, "status": status});
            let path = format!("{}/status", entry.path);
            match call::patch::<Written>(client, &path, PatchKind::Strategic, &change).await {
                Ok(written) => {
                    minik_fault::point("kubelet.status.told");
                    let known = (written.status, revision(&written.metadata.resource_version));
                    if let Some(entry) = self.entries().get_mut(uid).filter(|entry| entry.known.1 < known.1) {
                        entry.known = known;
                    }
                }
                Err(error) => return self.failed(uid, &entry.path, &error),
            }
        }
        if entry.delete {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                "preconditions": {"uid": &**uid}});
            match call::delete(client, &entry.path, &options).await {
                Ok(_) => {
                    minik_fault::point("kubelet.pod.deleted");
                    self.gone(uid);
                }
                Err(error) => return self.failed(uid, &entry.path, &error),
            }
        }
        Done::Ok
    }

    fn gone(&self, uid: &Uid) {
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.is_gone = true;
        }
    }

    fn failed(&self, uid: &Uid, path: &str, error: &ClientError) -> Done {
        match call::refusal(error) {
            // Gone, or another of the same name: nobody is to be told.
            Some(404 | 409) => {
                self.gone(uid);
                Done::Ok
            }
            _ => {
                tracing::warn!(path, error = chain(error), "cannot tell a Pod's status yet");
                Done::Failed
            }
        }
    }
}

fn value(status: &api::PodStatus) -> Value {
    // A status is plain data: it always has a JSON form.
    serde_json::to_value(status).unwrap_or_default()
}

/// What a strategic merge patch must say to make `wanted` of `known`; `None` when nothing.
fn patch(known: &Value, wanted: &Value) -> Option<Value> {
    let mut changes = Map::new();
    for field in FIELDS {
        let (before, after) = (known.get(field), wanted.get(field));
        if field == "conditions" {
            changes.extend(conditions(before, after).map(|list| (field.to_owned(), list)));
            continue;
        }
        match (before, after) {
            (before, after) if before == after => {}
            (Some(_), None) => drop(changes.insert(field.to_owned(), Value::Null)),
            (_, Some(after)) => {
                let mut after = after.clone();
                if let (true, Value::Array(list)) = (REPLACED.contains(&field), &mut after) {
                    list.insert(0, json!({"$patch": "replace"}));
                }
                changes.insert(field.to_owned(), after);
            }
            (None, None) => {}
        }
    }
    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// The conditions that have changed; those of others are left alone.
fn conditions(before: Option<&Value>, after: Option<&Value>) -> Option<Value> {
    let empty = Vec::new();
    let of = |list: Option<&Value>| list.and_then(Value::as_array).unwrap_or(&empty).clone();
    let (before, after) = (of(before), of(after));
    let find = |list: &[Value], kind: &Value| list.iter().find(|one| one["type"] == *kind).cloned();
    let is_owned = |one: &Value| one["type"].as_str().is_some_and(|kind| OWNED.contains(&kind));
    let same = |a: &Value, b: &Value| {
        let still = |one: &Value| {
            let mut one = one.clone();
            if let Some(one) = one.as_object_mut() {
                one.retain(|_, value| !value.is_null());
            }
            one
        };
        still(a) == still(b)
    };
    let mut changes: Vec<Value> = after
        .iter()
        .filter(|one| is_owned(one) || one["type"] == "DisruptionTarget")
        .filter(|one| find(&before, &one["type"]).is_none_or(|before| !same(&before, one)))
        .map(|one| {
            // What is not said any more goes.
            let (mut one, before) = (one.clone(), find(&before, &one["type"]).unwrap_or_default());
            for field in ["reason", "message"] {
                if one.get(field).is_none() && before.get(field).is_some() {
                    one[field] = Value::Null;
                }
            }
            one
        })
        .collect();
    let gone = before.iter().filter(|one| is_owned(one) && find(&after, &one["type"]).is_none());
    changes.extend(gone.map(|one| json!({"type": one["type"], "$patch": "delete"})));
    (!changes.is_empty()).then_some(Value::Array(changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told() {
        let known = json!({"phase": "Pending", "podIPs": [{"ip": "a"}], "nominatedNodeName": "n", "reason": "x",
            "conditions": [{"type": "Ready", "status": "False", "reason": "r", "lastProbeTime": null},
                {"type": "Other", "status": "True"}, {"type": "PodScheduled", "status": "True"}]});
        assert_eq!(patch(&known, &known), None);
        let wanted = json!({"phase": "Running", "podIPs": [{"ip": "b"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]});
        let want = json!({"phase": "Running", "podIPs": [{"$patch": "replace"}, {"ip": "b"}], "reason": null,
            "conditions": [{"type": "Ready", "status": "True", "reason": null},
                {"type": "PodScheduled", "$patch": "delete"}]});
        assert_eq!(patch(&known, &wanted), Some(want));
    }
}
