//! Endpoints: the old form of a Service's addresses, one object a Service, with at most 1000 of them.

use super::members::Members;
use super::objects::{
    Address, EndpointsObject, Family, HEADLESS, Port, ServiceObject, Subset, TRIGGER_TIME, kept,
};
use super::pods;
use crate::objects::{Object, PodObject};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, is_terminating};
use minik_client::call::gone_is_fine;
use minik_client::{Change, ClientError, Done, EventRecorder, EventType, ObjectKey, WorkQueue, call};
use minik_component::chain;
use minik_placement::Labels;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label of what this controller manages.
pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Its name there.
pub const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses that an object may hold.
const CAPACITY: usize = 1000;

/// The addresses of these Pods, each address with each of its ports in one subset.
pub fn subsets(service: &ServiceObject, pods: &[Arc<PodObject>]) -> Vec<Subset> {
    let family = service.families()[0];
    let published = service.spec.publish_not_ready_addresses;
    // The addresses of each port; those without ports stand under none.
    let mut by_port = BTreeMap::<Option<Port>, BTreeMap<(Arc<str>, Arc<str>), (bool, Address)>>::new();
    for pod in pods {
        let leaving = pod.metadata.deletion_timestamp.is_some() && !published;
        let ip = pod.ips.iter().find(|ip| Family::of(ip) == family);
        let Some(ip) = ip.filter(|_| pods::can_serve(pod) && !leaving) else { continue };
        let ports: Vec<Option<Port>> = match service.spec.ports.is_empty() {
            true if &*service.spec.cluster_ip == "None" => vec![None],
            true => continue,
            false => pods::ports(service, pod).into_iter().map(Some).collect(),
        };
        let ip: Arc<str> = ip.to_string().into();
        let address = Address {
            ip: ip.clone(),
            hostname: pods::hostname(service, pod),
            node_name: (!pod.node.is_empty()).then(|| pod.node.clone()),
            target_ref: Some(pods::reference(pod)),
        };
        for port in ports {
            let key = (ip.clone(), pod.metadata.uid.clone());
            by_port.entry(port).or_default().insert(key, (published || pod.ready, address.clone()));
        }
    }
    // Ports with the same addresses share a subset.
    let mut groups = BTreeMap::<Vec<((Arc<str>, Arc<str>), bool)>, (Vec<Port>, Vec<(bool, Address)>)>::new();
    for (port, addresses) in by_port {
        let key = addresses.iter().map(|(key, (ready, _))| (key.clone(), *ready)).collect();
        let group = groups.entry(key).or_insert_with(|| (Vec::new(), addresses.into_values().collect()));
        group.0.extend(port);
    }
    let subset = |(ports, addresses): (Vec<Port>, Vec<(bool, Address)>)| {
        let (ready, unready): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|(ready, _)| *ready);
        let bare = |list: Vec<(bool, Address)>| list.into_iter().map(|(_, address)| address).collect();
        Subset { addresses: bare(ready), not_ready_addresses: bare(unready), ports }
    };
    groups.into_values().map(subset).collect()
}

/// Leaves out what is above the capacity, those that are not ready first, evenly from all subsets.
pub fn truncate(subsets: &mut [Subset]) -> bool {
    let ready: usize = subsets.iter().map(|subset| subset.addresses.len()).sum();
    let unready: usize = subsets.iter().map(|subset| subset.not_ready_addresses.len()).sum();
    if ready + unready <= CAPACITY {
        return false;
    }
    let cut_ready = ready > CAPACITY;
    let (most, total) = if cut_ready { (CAPACITY, ready) } else { (CAPACITY - ready, unready) };
    let mut left = most;
    for subset in subsets {
        if cut_ready {
            subset.not_ready_addresses.clear();
        }
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.truncate((list.len() * most).div_ceil(total).min(left));
        left -= list.len();
    }
    true
}

/// The labels of a Service's Endpoints.
fn labels(service: &ServiceObject) -> Labels {
    let mut labels = service.metadata.labels.clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels
}

/// What is to be written for a Service; `None` when all is right.
pub fn plan(
    service: &ServiceObject,
    pods: &[Arc<PodObject>],
    current: Option<&EndpointsObject>,
) -> Option<Value> {
    let mut subsets = subsets(service, pods);
    let over = truncate(&mut subsets);
    let labels = labels(service);
    let mut annotations = current.map(|one| one.annotations.clone()).unwrap_or_default();
    if let Some(current) = current
        && current.subsets == subsets
        && current.metadata.labels == labels
        && annotations.contains_key(OVER_CAPACITY) == over
    {
        return None;
    }
    annotations.remove(OVER_CAPACITY);
    if over {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    // The last change that led here, as far as the objects tell.
    let changes = pods.iter().filter_map(|pod| pod.ready_changed);
    match changes.chain(service.metadata.creation_timestamp).max() {
        Some(time) => drop(annotations.insert(TRIGGER_TIME.into(), time.to_string().into())),
        None => drop(annotations.remove(TRIGGER_TIME)),
    }
    let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
    let fresh = || json!({"namespace": namespace, "name": name});
    let mut metadata = current.map_or_else(fresh, |current| kept(&current.metadata));
    metadata["labels"] = json!(labels);
    metadata["annotations"] = json!(annotations);
    let (version, kind) = (EndpointsObject::API_VERSION, EndpointsObject::KIND);
    Some(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "subsets": subsets}))
}

struct Legacy {
    client: kube::Client,
    caches: Caches,
    members: Arc<Members>,
    recorder: EventRecorder,
}

/// Adds the controller, whose queue others push keys of Services into.
pub fn set_up(setup: &mut Setup, members: Arc<Members>, queue: WorkQueue<ObjectKey>) {
    let keys = queue.clone();
    setup.watches.endpoints.add_handler(move |change| {
        let meta = &change.object().metadata;
        let ours = meta.labels.get(MANAGED_BY).is_some_and(|manager| &**manager == MANAGER);
        if ours && !matches!(change, Change::Updated { .. }) {
            keys.add(meta.key());
        }
    });
    let client = setup.identities.client("endpoint-controller");
    let recorder = setup.recorder("endpoint-controller", &client);
    setup.controller(Legacy { client, caches: setup.caches.clone(), members, recorder }, queue);
}

impl Controller for Legacy {
    type Key = ObjectKey;
    const NAME: &'static str = "endpoint";
    const WORKERS: usize = 5;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.services.list().iter().map(|service| service.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let current = self.caches.endpoints.get(key);
        let Some(service) = self.caches.services.get(key) else {
            if let Some(current) = current {
                gone_is_fine(call::delete(&self.client, &current.path(), &json!({})).await)?;
            }
            return Ok(Done::Ok);
        };
        if !service.follows_pods() {
            return Ok(Done::Ok);
        }
        let key_of = |name: Arc<str>| ObjectKey { namespace: key.namespace.clone(), name };
        let pods = self.members.pods(key).into_iter().filter_map(|name| self.caches.pods.get(&key_of(name)));
        let pods: Vec<Arc<PodObject>> = pods.filter(|pod| service.selects(&pod.metadata.labels)).collect();
        let Some(body) = plan(&service, &pods, current.as_deref()) else { return Ok(Done::Ok) };
        let (written, reason, verb) = match &current {
            Some(current) => {
                let put = call::put::<Value>(&self.client, &current.path(), &body).await;
                (put, "FailedToUpdateEndpoint", "update endpoint")
            }
            None => {
                let collection = EndpointsObject::collection(&key.namespace);
                let post = call::post(&self.client, &collection, &body).await;
                (post, "FailedToCreateEndpoint", "create endpoint for service")
            }
        };
        match written {
            Err(error) if current.is_none() && is_terminating(&error) => Ok(Done::Ok),
            Err(error) => {
                if call::refusal(&error) != Some(409) {
                    let note = format!("Failed to {verb} {key}: {}", chain(&error));
                    self.recorder.event(&service.reference(), EventType::Warning, reason, "", &note);
                }
                Err(error)
            }
            Ok(_) => Ok(Done::Ok),
        }
    }
}
