//! Empties a namespace that is being deleted, then lets it go
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>).
//!
//! ```text
//!  deletion asked for ──> sweep: delete what each resource has there, Pods first ──> Survey ──> plan
//!        ^                                                                              │
//!        └── an object has gone, or a while has passed <── something remains ───────────┤
//!                                                          nothing remains: finalize <──┘
//! ```

mod plan;
mod sweep;

use crate::objects::{Condition, NamespaceObject};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, queue};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use minik_client::call::gone_is_fine;
use minik_client::{Change, ClientError, Done, ObjectKey, WorkQueue, call, segment};
use minik_component::Clock;
use plan::{FINALIZER, Next};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// After an object has gone, others may go too: they are looked at together.
const GATHER: Duration = Duration::from_millis(100);

/// Tells the controller that an object of a namespace has gone.
#[derive(Clone)]
pub struct Departures {
    queue: WorkQueue<String>,
    caches: Caches,
}

impl Departures {
    /// Looks at the namespace again if it waits for that.
    pub fn gone(&self, namespace: &str) {
        let found = self.caches.namespaces.get(&ObjectKey::cluster(namespace));
        if found.is_some_and(|found| !found.is_active()) {
            self.queue.add_after(namespace.to_owned(), GATHER);
        }
    }
}

struct Namespaces {
    client: kube::Client,
    caches: Caches,
    clock: Arc<dyn Clock>,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) -> Departures {
    let queue = queue::<String>(&setup.config.chance);
    let keys = queue.clone();
    setup.watches.namespaces.add_handler(move |change| {
        let namespace = change.object();
        if !matches!(change, Change::Deleted(_)) && namespace.metadata.deletion_timestamp.is_some() {
            keys.add(namespace.metadata.name.to_string());
        }
    });
    let client = setup.identities.client("namespace-controller");
    let (caches, clock) = (setup.caches.clone(), setup.config.clock.clone());
    setup.controller(Namespaces { client, caches, clock }, queue.clone());
    Departures { queue, caches: setup.caches.clone() }
}

impl Controller for Namespaces {
    type Key = String;
    const NAME: &'static str = "namespace";
    const WORKERS: usize = 10;

    fn all(&self) -> Vec<String> {
        self.caches.namespaces.list().iter().map(|one| one.metadata.name.to_string()).collect()
    }

    async fn reconcile(&self, name: &String) -> Result<Done, ClientError> {
        let Some(namespace) = self.caches.namespaces.get(&ObjectKey::cluster(name)) else {
            return Ok(Done::Ok);
        };
        let Some(deleted_at) = namespace.metadata.deletion_timestamp else { return Ok(Done::Ok) };
        if !namespace.finalizers().iter().any(|one| &**one == FINALIZER) {
            return Ok(Done::Ok);
        }
        if !namespace.is_terminating() {
            self.write_status(&namespace, None).await?;
        }
        let survey = sweep::sweep(&self.client, name).await?;
        let now = self.clock.now();
        if let Some(conditions) = plan::conditions(&survey, namespace.conditions(), now) {
            self.write_status(&namespace, Some(conditions)).await?;
        }
        let next = plan::next(&survey, deleted_at, now);
        tracing::debug!(namespace = name, reason = next.reason(), "swept");
        match next {
            Next::Finalize => {
                self.finalize(&namespace).await?;
                Ok(Done::Ok)
            }
            Next::Again { after, .. } => Ok(Done::After(after)),
            Next::Failed { .. } => Ok(Done::Failed),
        }
    }
}

impl Namespaces {
    /// The namespace as it is now, unless it is gone or another.
    async fn read(&self, namespace: &NamespaceObject) -> Result<Option<Namespace>, ClientError> {
        match call::get::<Namespace>(&self.client, &path(namespace)).await {
            Ok(found) if found.metadata.uid.as_deref() == Some(&namespace.metadata.uid) => Ok(Some(found)),
            Ok(_) => Ok(None),
            Err(error) if call::refusal(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the phase Terminating, and conditions.
    async fn write_status(
        &self,
        namespace: &NamespaceObject,
        conditions: Option<Vec<Condition>>,
    ) -> Result<(), ClientError> {
        let Some(mut found) = self.read(namespace).await? else { return Ok(()) };
        let status = found.status.get_or_insert_default();
        status.phase = Some("Terminating".to_owned());
        if let Some(conditions) = conditions {
            status.conditions = Some(conditions.into_iter().map(written).collect());
        }
        let path = format!("{}/status", path(namespace));
        gone_is_fine(call::put::<Value>(&self.client, &path, &found).await)
    }

    /// Takes our finalizer away; the server then removes the namespace.
    async fn finalize(&self, namespace: &NamespaceObject) -> Result<(), ClientError> {
        let Some(mut found) = self.read(namespace).await? else { return Ok(()) };
        if let Some(finalizers) = found.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|one| one != FINALIZER);
        }
        let path = format!("{}/finalize", path(namespace));
        gone_is_fine(call::put::<Value>(&self.client, &path, &found).await)
    }
}

fn path(namespace: &NamespaceObject) -> String {
    format!("/api/v1/namespaces/{}", segment(&namespace.metadata.name))
}

fn written(condition: Condition) -> NamespaceCondition {
    NamespaceCondition {
        type_: condition.kind.to_string(),
        status: condition.status.to_string(),
        reason: Some(condition.reason.to_string()),
        message: Some(condition.message.to_string()),
        last_transition_time: condition.last_transition_time.map(Time),
    }
}
