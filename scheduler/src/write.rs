//! What the scheduler writes: bindings, conditions, nominations, evictions.

use crate::objects::{PodObject, Scheduled};
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, ObjectRef};
use minik_placement::Pod;
use serde_json::{Value, json};
use std::sync::Arc;

/// Binds a Pod to a node.
pub async fn bind(client: &kube::Client, object: &PodObject, node: &str) -> Result<(), ClientError> {
    let meta = &object.metadata;
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "target": {"kind": "Node", "name": node},
    });
    call::post::<Value>(client, &format!("{}/binding", object.path()), &binding).await.map(drop)
}

/// What is said about a binding that failed.
pub fn bind_failed(error: &ClientError) -> String {
    let words = match error {
        ClientError::Call(kube::Error::Api(status)) => status.message.clone(),
        other => minik_component::chain(other),
    };
    format!("running Bind plugin \"DefaultBinder\": {words}")
}

/// The patch of a Pod's status that tells why it waits and which node it is nominated to (`None` keeps that); `None`
/// when all is said already.
pub fn condition(
    object: &PodObject,
    wanted: &Scheduled,
    nominated: Option<Option<Arc<str>>>,
    now: jiff::Timestamp,
) -> Option<Value> {
    let mut status = serde_json::Map::new();
    if object.scheduled.as_ref() != Some(wanted) {
        let mut condition = json!({
            "type": "PodScheduled",
            "status": wanted.status,
            "reason": wanted.reason,
            "message": wanted.message,
            "observedGeneration": object.metadata.generation,
        });
        let same = object.scheduled.as_ref().is_some_and(|before| before.status == wanted.status);
        if !same {
            condition["lastTransitionTime"] = format!("{now:.0}").into();
        }
        status.insert("conditions".into(), json!([condition]));
    }
    if let Some(nominated) = nominated.filter(|nominated| *nominated != object.pod.nominated_node_name) {
        status.insert("nominatedNodeName".into(), json!(nominated));
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": object.metadata.uid}, "status": status}))
}

/// Patches a status.
pub async fn status(client: &kube::Client, path: &str, patch: &Value) -> Result<(), ClientError> {
    match call::patch::<Value>(client, &format!("{path}/status"), PatchKind::Strategic, patch).await {
        // Gone, or another of the same name: nobody is to be told.
        Err(error) if matches!(call::refusal(&error), Some(404 | 409)) => Ok(()),
        other => other.map(drop),
    }
}

/// Takes back a nomination, for the node is cleared for another now.
pub async fn clear_nomination(client: &kube::Client, pod: &Pod) {
    let patch = json!({"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": null}});
    if let Err(error) = status(client, &path(pod), &patch).await {
        tracing::warn!(pod = %pod.name, error = minik_component::chain(&error), "cannot take back a nomination");
    }
}

/// Marks a Pod as disrupted and deletes it.
pub async fn push_out(
    client: &kube::Client,
    victim: &Pod,
    scheduler: &str,
    now: jiff::Timestamp,
) -> Result<(), ClientError> {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": format!("{now:.0}"),
    });
    let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
    status(client, &path(victim), &patch).await?;
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": victim.uid}});
    match call::delete(client, &path(victim), &options).await {
        Err(error) if matches!(call::refusal(&error), Some(404 | 409)) => Ok(()),
        other => other.map(drop),
    }
}

/// What an event about a Pod refers to.
pub fn reference(pod: &Pod) -> ObjectRef {
    ObjectRef {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        ..ObjectRef::default()
    }
}

fn path(pod: &Pod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}
