//! EndpointSlices of Services that select Pods.
//!
//! What a change of one Pod costs depends on its slice alone: handlers note which Pods changed, slices are found by
//! Pod, and the slices that are planned on are those as last written or seen, whichever is newer.

use super::members::Members;
use super::objects::{SLICES, ServiceObject, SliceObject, TRIGGER_TIME, kept};
use super::pods;
use super::slice_plan::{Input, Place, Plan, Put, plan, pod_of};
use crate::objects::Object;
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, is_terminating};
use jiff::Timestamp;
use minik_client::call::gone_is_fine;
use minik_client::{Change, ClientError, Done, EventRecorder, EventType, Meta, ObjectKey, WorkQueue, call};
use minik_component::{Plant, chain, planted};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of each Service's slices, and what of it is to be looked at.
#[derive(Default)]
pub struct Known(Mutex<BTreeMap<ObjectKey, Service>>);

#[derive(Default)]
struct Service {
    pending: Pending,
    slices: BTreeMap<Arc<str>, Arc<SliceObject>>,
    /// Pod and slice.
    by_pod: BTreeSet<(Arc<str>, Arc<str>)>,
}

/// What is to be looked at.
#[derive(Default)]
struct Pending {
    /// Everything, not only these Pods.
    all: bool,
    pods: BTreeSet<Arc<str>>,
    /// The first of the changes.
    trigger: Option<Timestamp>,
}

impl Service {
    /// Keeps a slice unless a newer state of it is known.
    fn keep(&mut self, slice: &Arc<SliceObject>) -> bool {
        let revision = |slice: &SliceObject| slice.metadata.resource_version.parse::<u64>().ok();
        let name = &slice.metadata.name;
        match self.slices.get(name) {
            Some(known) if known.metadata.uid == slice.metadata.uid && revision(known) >= revision(slice) => {
                return false;
            }
            Some(_) => drop(self.forget(name)),
            None => {}
        }
        let pods = slice.endpoints.iter().filter_map(pod_of);
        self.by_pod.extend(pods.map(|pod| (pod.clone(), name.clone())));
        self.slices.insert(name.clone(), slice.clone());
        true
    }

    fn forget(&mut self, name: &str) -> Option<Arc<SliceObject>> {
        let slice = self.slices.remove(name)?;
        for pod in slice.endpoints.iter().filter_map(pod_of) {
            self.by_pod.remove(&(pod.clone(), slice.metadata.name.clone()));
        }
        Some(slice)
    }

    /// The slices that a Pod is in.
    fn with(&self, pod: &Arc<str>) -> impl Iterator<Item = Arc<str>> {
        let from = (pod.clone(), "".into());
        self.by_pod.range(from..).take_while(move |(one, _)| one == pod).map(|(_, slice)| slice.clone())
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Service>> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a Pod looked at that changed at a time.
    pub fn touch(&self, service: &ObjectKey, pod: &Arc<str>, trigger: Option<Timestamp>) {
        let mut known = self.lock();
        let pending = &mut known.entry(service.clone()).or_default().pending;
        pending.pods.insert(pod.clone());
        pending.trigger = pending.trigger.into_iter().chain(trigger).min();
    }

    /// Has everything looked at.
    pub fn touch_all(&self, service: &ObjectKey, trigger: Option<Timestamp>) {
        let mut known = self.lock();
        let pending = &mut known.entry(service.clone()).or_default().pending;
        pending.all = true;
        pending.trigger = pending.trigger.into_iter().chain(trigger).min();
    }

    /// Notes a slice, and what is to be looked at for it: what this process wrote is known already.
    pub fn observe(&self, change: &Change<SliceObject>) -> Option<ObjectKey> {
        let slice = change.object();
        let key = ObjectKey::new(&slice.metadata.namespace, slice.service());
        let mut known = self.lock();
        let service = known.entry(key.clone()).or_default();
        let old = service.slices.get(&slice.metadata.name).cloned();
        if matches!(change, Change::Deleted(_)) {
            if old.as_ref().is_some_and(|old| old.metadata.uid == slice.metadata.uid) {
                service.forget(&slice.metadata.name);
            }
        } else if !service.keep(slice) {
            return None;
        }
        let same = |old: &Arc<SliceObject>| {
            let facts = |meta: &Meta| (meta.labels.clone(), meta.owner_references.clone());
            facts(&old.metadata) == facts(&slice.metadata) && old.ports == slice.ports
        };
        service.pending.all |= !old.as_ref().is_some_and(same);
        let before = old.as_ref().map_or(&[][..], |old| &old.endpoints);
        let after = if matches!(change, Change::Deleted(_)) { &[][..] } else { &slice.endpoints };
        let moved = before.iter().filter(|one| !after.contains(one));
        let fresh = after.iter().filter(|one| !before.contains(one));
        let pods: Vec<Arc<str>> = moved.chain(fresh).filter_map(pod_of).cloned().collect();
        service.pending.pods.extend(pods);
        Some(key)
    }

    /// Takes what is to be looked at, with all slices.
    fn take(&self, key: &ObjectKey) -> (Pending, Vec<Arc<SliceObject>>) {
        let mut known = self.lock();
        let Some(service) = known.get_mut(key) else { return Default::default() };
        (std::mem::take(&mut service.pending), service.slices.values().cloned().collect())
    }

    /// The slices that any of these Pods is in.
    fn with(&self, key: &ObjectKey, pods: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        let known = self.lock();
        let service = known.get(key);
        service.map(|one| pods.iter().flat_map(|pod| one.with(pod)).collect()).unwrap_or_default()
    }

    fn wrote(&self, key: &ObjectKey, slice: SliceObject) {
        self.lock().entry(key.clone()).or_default().keep(&Arc::new(slice));
    }

    fn deleted(&self, key: &ObjectKey, name: &str) {
        if let Some(service) = self.lock().get_mut(key) {
            service.forget(name);
        }
    }

    /// Drops what is kept of a Service that is gone, once its slices are.
    fn drop_gone(&self, key: &ObjectKey) {
        let mut known = self.lock();
        if known.get(key).is_some_and(|service| service.slices.is_empty()) {
            known.remove(key);
        }
    }
}

/// Keeps the slices of Services.
pub struct Slices {
    client: kube::Client,
    caches: Caches,
    members: Arc<Members>,
    known: Arc<Known>,
    recorder: EventRecorder,
}

/// Adds the controller, whose queue others push keys of Services into.
pub fn set_up(setup: &mut Setup, members: Arc<Members>, known: Arc<Known>, queue: WorkQueue<ObjectKey>) {
    let keys = queue.clone();
    let state = known.clone();
    setup.watches.endpoint_slices.add_handler(move |change| {
        if change.object().label(super::objects::MANAGED_BY) == SLICES
            && let Some(key) = state.observe(change)
        {
            keys.add(key);
        }
    });
    let client = setup.identities.client("endpointslice-controller");
    let recorder = setup.recorder("endpoint-slice-controller", &client);
    setup.controller(Slices { client, caches: setup.caches.clone(), members, known, recorder }, queue);
}

impl Controller for Slices {
    type Key = ObjectKey;
    const NAME: &'static str = "endpoint_slice";
    const WORKERS: usize = 5;

    fn all(&self) -> Vec<ObjectKey> {
        let keys: Vec<ObjectKey> =
            self.caches.services.list().iter().map(|service| service.metadata.key()).collect();
        for key in &keys {
            self.known.touch_all(key, None);
        }
        keys
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let (pending, slices) = self.known.take(key);
        let Some(service) = self.caches.services.get(key) else {
            self.known.drop_gone(key);
            return Ok(Done::Ok);
        };
        if !service.follows_pods() {
            return Ok(Done::Ok);
        }
        for plan in self.plans(key, &service, &pending, &slices) {
            if let Err(error) = self.apply(key, &service, plan, pending.trigger).await {
                // What was seen of the slices may be old: everything is looked at again.
                if !planted(Plant::FailedSliceForgotten) {
                    self.known.touch_all(key, pending.trigger);
                }
                if call::refusal(&error) != Some(409) {
                    let note = format!("Error updating Endpoint Slices for Service {key}: {}", chain(&error));
                    let reason = "FailedToUpdateEndpointSlices";
                    self.recorder.event(&service.reference(), EventType::Warning, reason, "", &note);
                }
                return Err(error);
            }
        }
        Ok(Done::Ok)
    }
}

impl Slices {
    fn plans(
        &self,
        key: &ObjectKey,
        service: &ServiceObject,
        pending: &Pending,
        slices: &[Arc<SliceObject>],
    ) -> Vec<Plan> {
        let names = if pending.all { self.members.pods(key) } else { pending.pods.clone() };
        let touched = (!pending.all).then(|| self.known.with(key, &names));
        let families = service.families();
        let stale = slices.iter().filter(|slice| !families.contains(&slice.family)).cloned().collect();
        let mut plans = vec![Plan { puts: Vec::new(), deletes: stale }];
        for family in families {
            let place = |name: &Arc<str>| -> Place {
                let pod_key = ObjectKey { namespace: key.namespace.clone(), name: name.clone() };
                let pod = self.caches.pods.get(&pod_key)?;
                let node = self.caches.node(&pod.node);
                let selected = service.selects(&pod.metadata.labels);
                let endpoint = pods::endpoint(service, &pod, node.as_deref(), family).filter(|_| selected)?;
                Some((pods::ports(service, &pod), endpoint))
            };
            let wanted = names.iter().map(|name| (name.clone(), place(name))).collect();
            let slices = slices.iter().filter(|slice| slice.family == family).cloned().collect();
            plans.push(plan(Input { service, family, slices, wanted, touched: touched.clone() }));
        }
        plans
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        service: &ServiceObject,
        plan: Plan,
        trigger: Option<Timestamp>,
    ) -> Result<(), ClientError> {
        for put in &plan.puts {
            let body = body(service, put, trigger);
            let written = match &put.base {
                Some(base) => call::put(&self.client, &base.path(), &body).await,
                None => call::post(&self.client, &SliceObject::collection(&key.namespace), &body).await,
            };
            match written {
                Err(error) if put.base.is_none() && is_terminating(&error) => return Ok(()),
                written => self.known.wrote(key, written?),
            }
        }
        for slice in plan.deletes {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": slice.metadata.uid}});
            gone_is_fine(call::delete(&self.client, &slice.path(), &options).await)?;
            self.known.deleted(key, &slice.metadata.name);
        }
        Ok(())
    }
}

/// A slice as it is written.
fn body(service: &ServiceObject, put: &Put, trigger: Option<Timestamp>) -> Value {
    let mut annotations = put.base.as_ref().map(|base| base.annotations.clone()).unwrap_or_default();
    match trigger {
        Some(time) => drop(annotations.insert(TRIGGER_TIME.into(), time.to_string().into())),
        None => drop(annotations.remove(TRIGGER_TIME)),
    }
    let mut metadata = match &put.base {
        Some(base) => kept(&base.metadata),
        None => {
            json!({"generateName": generate_name(&service.metadata.name), "ownerReferences": [service.owner_reference()]})
        }
    };
    metadata["namespace"] = json!(service.metadata.namespace);
    metadata["labels"] = json!(put.labels);
    metadata["annotations"] = json!(annotations);
    json!({
        "apiVersion": SliceObject::API_VERSION,
        "kind": SliceObject::KIND,
        "metadata": metadata,
        "addressType": put.family,
        "endpoints": put.endpoints,
        // As upstream: none is null, not an empty list.
        "ports": (!put.ports.is_empty()).then_some(&put.ports),
    })
}

/// What the names of a Service's slices begin with.
pub fn generate_name(service: &str) -> String {
    // The server adds five characters, and cuts what is then too long.
    format!("{service}-")
}
