//! Creates and deletes Pods, many at a time.

use super::ReplicaSets;
use super::plan::Failure;
use crate::objects::{Object, PodObject, ReplicaSetObject};
use crate::worker::is_terminating;
use futures::future::join_all;
use minik_client::{ClientError, EventType, PartialObject, call};
use minik_component::{Plant, chain, generate_name, planted};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Tries to create a Pod, and the pause after the first.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

impl ReplicaSets {
    /// Creates Pods in batches that double, so that what fails for all fails for few.
    pub(super) async fn create(
        &self,
        set: &ReplicaSetObject,
        count: usize,
    ) -> Result<(), (Failure, ClientError)> {
        let uid = &set.metadata.uid;
        self.expectations.expect(uid, count, BTreeSet::new(), self.clock.elapsed());
        let body = pod_of(set);
        let path = PodObject::collection(&set.metadata.namespace);
        let (mut left, mut size) = (count, 1);
        while left > 0 {
            let batch = size.min(left);
            let posted = (0..batch).map(|_| self.create_one(&path, &body));
            let mut failed = None;
            for result in join_all(posted).await {
                match result {
                    Ok(pod) => self.tell(
                        set,
                        EventType::Normal,
                        "SuccessfulCreate",
                        &format!("Created pod: {}", pod.metadata.name),
                    ),
                    Err(error) => {
                        if !planted(Plant::FailedCreationExpected) {
                            self.expectations.created(uid, 1);
                        }
                        failed = Some(error);
                    }
                }
            }
            left -= batch;
            if let Some(error) = failed {
                self.expectations.created(uid, left);
                // Then all its Pods go, and so will it.
                return if is_terminating(&error) { Ok(()) } else { Err(self.failure(set, "Create", error)) };
            }
            size *= 2;
        }
        Ok(())
    }

    /// Creates a Pod. When no answer says what became of it, it is asked for again under the same name: one Pod too many
    /// would be as wrong as one too few.
    async fn create_one(&self, path: &str, body: &Value) -> Result<PartialObject, ClientError> {
        let mut body = body.clone();
        let prefix = body["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        let mut name = generate_name(&prefix, &*self.chance);
        let (mut tries, mut unsure) = (0, false);
        loop {
            body["metadata"]["name"] = name.clone().into();
            let posted = call::post::<PartialObject>(&self.client, path, &body).await;
            let Err(error) = posted else { return posted };
            tries += 1;
            match call::refusal(&error) {
                // It was created after all; what is read has the name.
                Some(409) if unsure => return call::get(&self.client, &format!("{path}/{name}")).await,
                Some(409) if tries < TRIES => name = generate_name(&prefix, &*self.chance),
                code @ (None | Some(429 | 500..)) if tries < TRIES => {
                    unsure |= code != Some(429);
                    if planted(Plant::RetriedUnderNewName) {
                        name = generate_name(&prefix, &*self.chance);
                    }
                    tokio::time::sleep(PAUSE * tries).await;
                }
                // One that may be there must not be made a second time.
                _ if unsure => {
                    let found = call::get(&self.client, &format!("{path}/{name}")).await;
                    return found.map_err(|_| error);
                }
                _ => return Err(error),
            }
        }
    }

    pub(super) async fn delete(
        &self,
        set: &ReplicaSetObject,
        pods: &[Arc<PodObject>],
    ) -> Result<(), (Failure, ClientError)> {
        let uid = &set.metadata.uid;
        let going = pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        self.expectations.expect(uid, 0, going, self.clock.elapsed());
        let deletions = pods.iter().map(|pod| async move {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod.metadata.uid}});
            (pod, call::delete(&self.client, &pod.path(), &options).await)
        });
        let mut failed = None;
        for (pod, result) in join_all(deletions).await {
            match result {
                Ok(_) => self.tell(
                    set,
                    EventType::Normal,
                    "SuccessfulDelete",
                    &format!("Deleted pod: {}", pod.metadata.name),
                ),
                Err(error) => {
                    self.expectations.deleted(uid, &pod.metadata.uid);
                    // Gone already, or another of its name is there.
                    if !matches!(call::refusal(&error), Some(404 | 409)) {
                        failed = Some(error);
                    }
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(self.failure(set, "Delete", error)))
    }

    fn failure(&self, set: &ReplicaSetObject, what: &str, error: ClientError) -> (Failure, ClientError) {
        let (reason, doing) = match what {
            "Create" => ("FailedCreate", "creating"),
            _ => ("FailedDelete", "deleting"),
        };
        let message = match &error {
            ClientError::Call(kube::Error::Api(status)) => status.message.clone(),
            other => chain(other).to_string(),
        };
        self.tell(set, EventType::Warning, reason, &format!("Error {doing}: {message}"));
        (Failure { reason, message }, error)
    }

    fn tell(&self, set: &ReplicaSetObject, kind: EventType, reason: &str, note: &str) {
        self.recorder.event(&set.reference(), kind, reason, "", note);
    }
}

/// What every Pod of the ReplicaSet is created from.
fn pod_of(set: &ReplicaSetObject) -> Value {
    let mut pod = set.spec.template.with_labels(&set.spec.template.labels);
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    let metadata = &mut pod["metadata"];
    metadata["generateName"] = format!("{}-", set.metadata.name).into();
    metadata["namespace"] = json!(set.metadata.namespace);
    metadata["ownerReferences"] = json!([set.owner_reference()]);
    pod
}
