//! Slices of Endpoints that were made by hand, for those who read slices only.

use super::legacy;
use super::objects::{
    Address, Conditions, Endpoint, EndpointsObject, Family, MANAGED_BY, MIRROR, Port, SERVICE_NAME,
    ServiceObject, SliceObject, TRIGGER_TIME, kept,
};
use super::slices::generate_name;
use crate::objects::{Annotations, Object};
use crate::setup::Setup;
use crate::watches::Caches;
use crate::worker::{Controller, is_terminating, queue};
use minik_client::call::gone_is_fine;
use minik_client::{ClientError, Done, ObjectKey, call};
use minik_placement::Labels;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses of a subset that are mirrored.
const MOST: usize = 1000;

/// What is to be written.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Slices to be made or, where there is one already, replaced.
    pub puts: Vec<(Option<Arc<SliceObject>>, Value)>,
    /// Slices that go.
    pub deletes: Vec<Arc<SliceObject>>,
}

/// Whether Endpoints are mirrored: somebody's, of a Service that selects nothing.
fn is_mirrored(endpoints: &EndpointsObject, service: Option<&ServiceObject>) -> bool {
    let skipped = endpoints.metadata.labels.get(SKIP).is_some_and(|value| &**value == "true");
    service.is_some_and(|service| service.spec.selector.is_empty())
        && !skipped
        && !endpoints.annotations.contains_key(LEADER)
        && endpoints.metadata.deletion_timestamp.is_none()
}

fn endpoint(address: &Address, ready: bool) -> Option<(Family, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string().into()],
        conditions: Conditions { ready: Some(ready), ..Conditions::default() },
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((Family::of(&ip), endpoint))
}

/// What is to be written for Endpoints, given their slices.
pub fn plan(
    endpoints: Option<&EndpointsObject>,
    service: Option<&ServiceObject>,
    slices: Vec<Arc<SliceObject>>,
) -> Plan {
    let Some(endpoints) = endpoints.filter(|endpoints| is_mirrored(endpoints, service)) else {
        return Plan { deletes: slices, ..Plan::default() };
    };
    let mut wanted = BTreeMap::<(Family, Vec<Port>), Vec<Endpoint>>::new();
    for subset in &endpoints.subsets {
        let mut ports = subset.ports.clone();
        ports.sort();
        let ready = subset.addresses.iter().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().map(|address| (address, false)));
        for (family, endpoint) in all.filter_map(|(address, ready)| endpoint(address, ready)).take(MOST) {
            wanted.entry((family, ports.clone())).or_default().push(endpoint);
        }
    }
    let (labels, annotations) = metadata(endpoints);
    let mut plan = Plan::default();
    let mut old = BTreeMap::<(Family, Vec<Port>), Vec<Arc<SliceObject>>>::new();
    for slice in slices {
        old.entry((slice.family, slice.ports.clone())).or_default().push(slice);
    }
    for ((family, ports), endpoints_of) in wanted {
        let mut same = old.remove(&(family, ports.clone())).unwrap_or_default().into_iter();
        let base = same.next();
        plan.deletes.extend(same);
        let right = |base: &Arc<SliceObject>| {
            base.endpoints == endpoints_of
                && base.metadata.labels == labels
                && base.annotations == annotations
        };
        if base.as_ref().is_some_and(right) {
            continue;
        }
        let fresh = || json!({"generateName": generate_name(&endpoints.metadata.name), "namespace": endpoints.metadata.namespace});
        let mut metadata = base.as_ref().map_or_else(fresh, |base| kept(&base.metadata));
        metadata["ownerReferences"] = json!([endpoints.owner_reference()]);
        metadata["labels"] = json!(labels);
        metadata["annotations"] = json!(annotations);
        let body = json!({"apiVersion": SliceObject::API_VERSION, "kind": SliceObject::KIND, "metadata": metadata,
            "addressType": family, "endpoints": endpoints_of, "ports": (!ports.is_empty()).then_some(&ports)});
        plan.puts.push((base, body));
    }
    plan.deletes.extend(old.into_values().flatten());
    plan
}

/// The labels and annotations of slices: those of the Endpoints, and whose they are.
fn metadata(endpoints: &EndpointsObject) -> (Labels, Annotations) {
    let mut labels = endpoints.metadata.labels.clone();
    labels.insert(SERVICE_NAME.into(), endpoints.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MIRROR.into());
    let mut annotations = endpoints.annotations.clone();
    annotations.retain(|key, _| &**key != TRIGGER_TIME && &**key != LAST_APPLIED);
    (labels, annotations)
}

struct Mirror {
    client: kube::Client,
    caches: Caches,
}

/// Adds the controller.
pub fn set_up(setup: &mut Setup) {
    let queue = queue::<ObjectKey>(&setup.config.chance);
    let keys = queue.clone();
    setup.watches.endpoints.add_handler(move |change| {
        let meta = &change.object().metadata;
        if meta.labels.get(legacy::MANAGED_BY).is_none_or(|manager| &**manager != legacy::MANAGER) {
            keys.add(meta.key());
        }
    });
    let (keys, endpoints) = (queue.clone(), setup.caches.endpoints.clone());
    setup.watches.services.add_handler(move |change| {
        let key = change.object().metadata.key();
        if endpoints.get(&key).is_some() {
            keys.add(key);
        }
    });
    let keys = queue.clone();
    setup.watches.endpoint_slices.add_handler(move |change| {
        let slice = change.object();
        if slice.label(MANAGED_BY) == MIRROR {
            keys.add(ObjectKey::new(&slice.metadata.namespace, slice.service()));
        }
    });
    let client = setup.identities.client("endpointslicemirroring-controller");
    setup.controller(Mirror { client, caches: setup.caches.clone() }, queue);
}

impl Controller for Mirror {
    type Key = ObjectKey;
    const NAME: &'static str = "endpoint_slice_mirroring";
    const WORKERS: usize = 2;

    fn all(&self) -> Vec<ObjectKey> {
        self.caches.endpoints.list().iter().map(|endpoints| endpoints.metadata.key()).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Done, ClientError> {
        let (endpoints, service) = (self.caches.endpoints.get(key), self.caches.services.get(key));
        let mut slices = self.caches.endpoint_slices.in_namespace(&key.namespace);
        slices.retain(|slice| slice.label(MANAGED_BY) == MIRROR && *slice.service() == *key.name);
        let plan = plan(endpoints.as_deref(), service.as_deref(), slices);
        for (base, body) in &plan.puts {
            let written = match base {
                Some(base) => call::put::<Value>(&self.client, &base.path(), body).await,
                None => call::post(&self.client, &SliceObject::collection(&key.namespace), body).await,
            };
            match written {
                Err(error) if base.is_none() && is_terminating(&error) => return Ok(Done::Ok),
                other => drop(other?),
            }
        }
        for slice in plan.deletes {
            gone_is_fine(call::delete(&self.client, &slice.path(), &json!({})).await)?;
        }
        Ok(Done::Ok)
    }
}
