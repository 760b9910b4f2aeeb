//! Reads what a plan needs from the server, and does what it says.

use super::Shared;
use super::graph::{FOREGROUND, Identity, ORPHAN, Uid, View, Work};
use super::plan::{self, Live, Owner, Plan};
use crate::worker::Controller;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use minik_client::call::gone_is_fine;
use minik_client::call::{self, PatchKind};
use minik_client::{ClientError, Discovery, Done, Resource};
use minik_component::{Plant, planted};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Owners that are known to be gone for good, for a uid never comes back: as many as upstream remembers.
const REMEMBERED: usize = 500;

/// The worker.
pub struct Collector {
    shared: Arc<Shared>,
    client: kube::Client,
    absent: Mutex<Absent>,
}

#[derive(Default)]
struct Absent {
    known: BTreeSet<Identity>,
    order: VecDeque<Identity>,
}

#[derive(Deserialize)]
struct Wire {
    metadata: WireMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireMeta {
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<String>,
    finalizers: Vec<String>,
    owner_references: Vec<OwnerReference>,
}

/// What looking for an object has found.
enum Found {
    /// It.
    Live(Live),
    /// Nothing, or another of its name.
    Gone,
    /// Nobody knows its kind, for now.
    UnknownKind,
    /// A cluster-wide object names an owner that lives in a namespace: nobody can say which.
    Nowhere,
}

impl Controller for Collector {
    type Key = Work;
    const NAME: &'static str = "garbage_collector";
    const WORKERS: usize = 20;

    async fn reconcile(&self, work: &Work) -> Result<Done, ClientError> {
        let mut complete = self.shared.complete.subscribe();
        // The sender lives as long as this worker; its end ends all work.
        if complete.wait_for(|complete| *complete).await.is_err() {
            return Ok(Done::Ok);
        }
        match work {
            Work::Attempt(uid) => self.attempt(uid).await,
            Work::Orphan(uid) => self.orphan(uid).await,
        }
    }
}

impl Collector {
    /// A worker over what the watches tell.
    pub fn new(shared: Arc<Shared>, client: kube::Client) -> Collector {
        Collector { shared, client, absent: Mutex::default() }
    }

    async fn attempt(&self, uid: &Uid) -> Result<Done, ClientError> {
        let Some(view) = self.shared.graph().view(uid) else { return Ok(Done::Ok) };
        if view.leaving && !view.waiting {
            return Ok(Done::Ok);
        }
        let discovery = self.shared.discovery();
        let (live, resource) = match self.find(&discovery, &view.identity).await? {
            (Found::Live(live), Some(resource)) => (live, resource),
            (Found::Gone, _) => {
                let work = {
                    let mut graph = self.shared.graph();
                    if view.is_virtual { graph.absent(uid) } else { graph.gone(uid) }
                };
                self.shared.push(work);
                return Ok(Done::Ok);
            }
            (Found::Nowhere, _) => return Ok(Done::Ok),
            _ => return Ok(Done::Failed),
        };
        if view.is_virtual {
            // A watch will show it.
            return Ok(Done::Ok);
        }
        let plan = if view.waiting {
            plan::waiting(&view, &live)
        } else {
            let Some(owners) = self.owners(&discovery, &view, &live).await? else { return Ok(Done::Failed) };
            plan::owned(&view, &live, &owners)
        };
        tracing::debug!(object = %view.identity.name, kind = %view.identity.kind, ?plan, "looked at");
        self.apply(&resource, &view.identity, &live, plan).await?;
        Ok(Done::Ok)
    }

    /// The owners of an object as the server has them; `None` when one's kind is not known for now.
    async fn owners(
        &self,
        discovery: &Discovery,
        view: &View,
        live: &Live,
    ) -> Result<Option<Vec<Owner>>, ClientError> {
        let mut owners = Vec::new();
        for owner in &live.owners {
            let identity = Identity {
                api_version: owner.api_version.as_str().into(),
                kind: owner.kind.as_str().into(),
                namespace: view.identity.namespace.clone(),
                name: owner.name.as_str().into(),
                uid: owner.uid.as_str().into(),
            };
            let unseen = || self.shared.graph().view(&identity.uid).is_none_or(|view| view.is_virtual);
            if self.absent().known.contains(&identity) || (planted(Plant::AbsentUnasked) && unseen()) {
                owners.push(Owner::Absent);
                continue;
            }
            owners.push(match self.find(discovery, &identity).await?.0 {
                Found::Live(live) if live.leaving && live.finalizers.iter().any(|one| one == FOREGROUND) => {
                    Owner::Waiting
                }
                // One that cannot be looked for must not be taken for gone.
                Found::Live(_) | Found::Nowhere => Owner::Solid,
                Found::Gone => {
                    self.absent().remember(identity);
                    Owner::Absent
                }
                Found::UnknownKind => return Ok(None),
            });
        }
        Ok(Some(owners))
    }

    fn absent(&self) -> std::sync::MutexGuard<'_, Absent> {
        // Each change is complete before anything can panic.
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find(
        &self,
        discovery: &Discovery,
        identity: &Identity,
    ) -> Result<(Found, Option<Resource>), ClientError> {
        let Some(resource) = discovery.of_kind(&identity.api_version, &identity.kind) else {
            return Ok((Found::UnknownKind, None));
        };
        if resource.namespaced && identity.namespace.is_empty() {
            return Ok((Found::Nowhere, None));
        }
        let path = resource.object(&identity.namespace, &identity.name);
        let found = match call::get_as::<Wire>(&self.client, &path, METADATA).await {
            Ok(wire) if wire.metadata.uid == *identity.uid => Found::Live(Live {
                uid: wire.metadata.uid,
                resource_version: wire.metadata.resource_version,
                leaving: wire.metadata.deletion_timestamp.is_some(),
                finalizers: wire.metadata.finalizers,
                owners: wire.metadata.owner_references,
            }),
            Ok(_) => Found::Gone,
            Err(error) if call::refusal(&error) == Some(404) => Found::Gone,
            Err(error) => return Err(error),
        };
        Ok((found, Some(resource.clone())))
    }

    async fn apply(
        &self,
        resource: &Resource,
        identity: &Identity,
        live: &Live,
        plan: Plan,
    ) -> Result<(), ClientError> {
        let path = resource.object(&identity.namespace, &identity.name);
        match plan {
            Plan::Nothing(_) => Ok(()),
            Plan::Attempt(uids) => {
                self.shared.push(uids.into_iter().map(Work::Attempt).collect());
                Ok(())
            }
            Plan::RemoveFinalizer(finalizer) => self.remove_finalizer(&path, live, finalizer).await,
            Plan::KeepOwners(owners) => self.write_owners(&path, live, &owners).await,
            Plan::Delete { policy, unblock } => {
                let mut preconditions = json!({"uid": live.uid, "resourceVersion": live.resource_version});
                if let Some(owners) = unblock {
                    self.write_owners(&path, live, &owners).await?;
                    preconditions = json!({"uid": live.uid});
                }
                let options = json!({
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "propagationPolicy": policy,
                    "preconditions": preconditions,
                });
                tracing::info!(%path, policy, "deleting what has no owner any more");
                gone_is_fine(call::delete(&self.client, &path, &options).await)
            }
        }
    }

    async fn write_owners(
        &self,
        path: &str,
        live: &Live,
        owners: &[OwnerReference],
    ) -> Result<(), ClientError> {
        self.patch(path, live, "ownerReferences", json!(owners)).await
    }

    async fn remove_finalizer(&self, path: &str, live: &Live, finalizer: &str) -> Result<(), ClientError> {
        let rest: Vec<&String> = live.finalizers.iter().filter(|one| *one != finalizer).collect();
        self.patch(path, live, "finalizers", json!(rest)).await
    }

    async fn patch(&self, path: &str, live: &Live, field: &str, value: Value) -> Result<(), ClientError> {
        let mut patch = json!({"metadata": {"uid": live.uid, "resourceVersion": live.resource_version}});
        patch["metadata"][field] = value;
        gone_is_fine(call::patch::<Value>(&self.client, path, PatchKind::Merge, &patch).await)
    }

    /// Has every dependent forget an owner, then lets the owner go.
    async fn orphan(&self, uid: &Uid) -> Result<Done, ClientError> {
        let Some(view) = self.shared.graph().view(uid) else { return Ok(Done::Ok) };
        let discovery = self.shared.discovery();
        for dependent in &view.dependents {
            let (Found::Live(live), Some(resource)) = self.find(&discovery, &dependent.identity).await?
            else {
                continue;
            };
            let rest: Vec<_> = live.owners.iter().filter(|owner| *owner.uid != **uid).cloned().collect();
            if rest.len() < live.owners.len() {
                let path = resource.object(&dependent.identity.namespace, &dependent.identity.name);
                self.write_owners(&path, &live, &rest).await?;
            }
        }
        if let (Found::Live(live), Some(resource)) = self.find(&discovery, &view.identity).await?
            && live.finalizers.iter().any(|one| one == ORPHAN)
        {
            let path = resource.object(&view.identity.namespace, &view.identity.name);
            self.remove_finalizer(&path, &live, ORPHAN).await?;
        }
        Ok(Done::Ok)
    }
}

impl Absent {
    fn remember(&mut self, identity: Identity) {
        if self.known.insert(identity.clone()) {
            self.order.push_back(identity);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
