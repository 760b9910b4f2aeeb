//! Writes what a plan says.

use super::Deployments;
use super::plan::Plan;
use super::sets::Set;
use crate::objects::{
    Annotations, DeploymentObject, DeploymentStatus, Object, ReplicaSetObject, TEMPLATE_HASH, status_update,
    whole_seconds,
};
use crate::worker::is_terminating;
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, EventType};
use minik_component::{Plant, chain, planted};
use serde_json::{Value, json};

impl Deployments {
    pub(super) async fn apply(&self, deployment: &DeploymentObject, plan: &Plan) -> Result<(), ClientError> {
        if let Some(set) = &plan.create {
            self.create(deployment, set).await?;
        }
        for set in &plan.update {
            let (path, patch) = (set.object.path(), change_of(set));
            call::patch::<Value>(&self.client, &path, PatchKind::Merge, &patch).await?;
        }
        for set in &plan.delete {
            let preconditions =
                json!({"uid": set.metadata.uid, "resourceVersion": set.metadata.resource_version});
            let options =
                json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
            gone_is_fine(call::delete(&self.client, &set.path(), &options).await)?;
        }
        for (kind, reason, note) in &plan.events {
            self.recorder.event(&deployment.reference(), *kind, reason, "", note);
        }
        match &plan.status {
            None => Ok(()),
            Some((annotations, status)) => self.write(deployment, annotations, status).await,
        }
    }

    async fn write(
        &self,
        deployment: &DeploymentObject,
        annotations: &Annotations,
        status: &DeploymentStatus,
    ) -> Result<(), ClientError> {
        let path = format!("{}/status", deployment.path());
        let object = status_update(deployment, annotations, json!(status));
        gone_is_fine(call::put::<Value>(&self.client, &path, &object).await)
    }

    async fn create(&self, deployment: &DeploymentObject, set: &Set) -> Result<(), ClientError> {
        let path = ReplicaSetObject::collection(&deployment.metadata.namespace);
        let error = match call::post::<Value>(&self.client, &path, &object_of(deployment, set)).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if call::refusal(&error) == Some(409) {
            let there: ReplicaSetObject = call::get(&self.client, &set.object.path()).await?;
            if collided(deployment, &there) {
                let count = deployment.status.collision_count.unwrap_or(0) + 1;
                let status = DeploymentStatus { collision_count: Some(count), ..deployment.status.clone() };
                self.write(deployment, &deployment.annotations, &status).await?;
            }
            // It is seen soon, or made under another name.
            return Err(error);
        }
        if !is_terminating(&error) {
            self.tell_failure(deployment, set, &error).await?;
        }
        Err(error)
    }

    async fn tell_failure(
        &self,
        deployment: &DeploymentObject,
        set: &Set,
        error: &ClientError,
    ) -> Result<(), ClientError> {
        const REASON: &str = "ReplicaSetCreateError";
        let why = match error {
            ClientError::Call(kube::Error::Api(status)) => status.message.clone(),
            other => chain(other).to_string(),
        };
        let note = format!("Failed to create new replica set \"{}\": {why}", set.name());
        self.recorder.event(&deployment.reference(), EventType::Warning, REASON, "", &note);
        let now = whole_seconds(self.clock.now());
        let status = super::plan::failed(&deployment.status, (REASON, note), now);
        self.write(deployment, &deployment.annotations, &status).await
    }
}

/// Whether a ReplicaSet of the wanted name is not the wanted one.
fn collided(deployment: &DeploymentObject, there: &ReplicaSetObject) -> bool {
    let own = there.metadata.controller().is_some_and(|owner| owner.uid == deployment.metadata.uid);
    !own || !there.spec.template.is_like(&deployment.spec.template)
}

/// What a ReplicaSet is created from.
fn object_of(deployment: &DeploymentObject, set: &Set) -> Value {
    let template = &set.object.spec.template;
    let hash = template.labels.get(TEMPLATE_HASH).map_or("", |hash| &**hash);
    json!({
        "apiVersion": ReplicaSetObject::API_VERSION,
        "kind": ReplicaSetObject::KIND,
        "metadata": {
            "name": set.name(),
            "namespace": deployment.metadata.namespace,
            "labels": template.labels,
            "annotations": set.annotations,
            "ownerReferences": [deployment.owner_reference()],
        },
        "spec": {
            "replicas": set.replicas,
            "minReadySeconds": set.min_ready_seconds,
            "selector": deployment.spec.selector.with_label(TEMPLATE_HASH, hash),
            "template": template.with_labels(&template.labels),
        },
    })
}

/// What is changed of a ReplicaSet; refused when it has changed meanwhile.
fn change_of(set: &Set) -> Value {
    let known = &set.object.metadata.resource_version;
    let revision = (!planted(Plant::ScaledUnconditionally)).then_some(known);
    json!({
        "metadata": {"resourceVersion": revision, "annotations": set.annotations},
        "spec": {"replicas": set.replicas, "minReadySeconds": set.min_ready_seconds},
    })
}
