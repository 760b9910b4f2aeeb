//! Ends Pods that nobody else ends, or that must leave their node.

use crate::objects::{Object, PodObject};
use jiff::Timestamp;
use minik_client::ClientError;
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use serde_json::{Value, json};

/// The condition of a Pod that is ended for another reason than its own.
pub fn disrupted(pod: &PodObject, reason: &str, message: &str, now: Timestamp) -> Value {
    json!([{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": format!("{now:.0}"),
        "observedGeneration": pod.metadata.generation,
    }])
}

/// Writes the last status of a Pod, if there is one to be told, and deletes it, with its own grace or another. One that
/// is gone is fine.
///
/// # Errors
/// When the server refuses or cannot be asked.
pub async fn end(
    client: &kube::Client,
    pod: &PodObject,
    status: Option<Value>,
    grace_seconds: Option<i64>,
) -> Result<(), ClientError> {
    if let Some(status) = status {
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        let path = format!("{}/status", pod.path());
        gone_is_fine(call::patch::<Value>(client, &path, PatchKind::Strategic, &patch).await)?;
    }
    let mut options =
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod.metadata.uid}});
    if let Some(seconds) = grace_seconds {
        options["gracePeriodSeconds"] = seconds.into();
    }
    gone_is_fine(call::delete(client, &pod.path(), &options).await)
}
