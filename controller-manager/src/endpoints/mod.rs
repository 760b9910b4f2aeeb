//! Which addresses serve a Service (<https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>).
//!
//! ```text
//!  Pods, Nodes ──> Members: Services of a Pod ──> Known: Pods to look at ──> plan ──> EndpointSlices
//!  Services ─────────────────────────────────────────────────────────────┴─────────> Endpoints (the old form)
//!  Endpoints made by hand, of Services without a selector ────────────────────────> EndpointSlices, mirrored
//! ```
//!
//! Not built: hints by the zones' processors (`service.kubernetes.io/topology-mode`); such Services get no hints.

mod legacy;
mod members;
mod mirror;
mod objects;
mod pods;
mod slice_plan;
mod slices;
#[cfg(test)]
mod tests;

use crate::objects::PodObject;
use crate::setup::Setup;
use crate::worker::queue;
use members::Members;
use minik_client::{Change, ObjectKey, Source};
use minik_component::{Plant, planted};
pub use objects::{EndpointsObject, ServiceObject, SliceObject};
use slices::Known;
use std::sync::Arc;
use std::time::Duration;

/// Changes of Pods come to Endpoints together: each write of it tells all of a Service's Pods anew. Slices do not wait.
const GATHER: Duration = Duration::from_millis(100);

/// The slices that are written here.
pub fn slices_source() -> Source {
    let label_selector = format!("{} in ({},{})", objects::MANAGED_BY, objects::SLICES, objects::MIRROR);
    Source { label_selector, ..Source::all("/apis/discovery.k8s.io/v1/endpointslices") }
}

/// Adds the controllers.
pub fn set_up(setup: &mut Setup) {
    let members = Arc::new(Members::default());
    let known = Arc::new(Known::default());
    let slices = queue::<ObjectKey>(&setup.config.chance);
    let legacy = queue::<ObjectKey>(&setup.config.chance);
    let (both, caches) = ((slices.clone(), legacy.clone()), setup.caches.clone());
    let (index, state) = (members.clone(), known.clone());
    setup.watches.services.add_handler(move |change| {
        let meta = &change.object().metadata;
        index.service(change, || caches.pods.in_namespace(&meta.namespace));
        let made = matches!(change, Change::Added(_)).then_some(meta.creation_timestamp).flatten();
        state.touch_all(&meta.key(), made);
        both.0.add(meta.key());
        both.1.add(meta.key());
    });
    let both = (slices.clone(), legacy.clone());
    let (index, state) = (members.clone(), known.clone());
    setup.watches.pods.add_handler(move |change| {
        let services = index.pod(change);
        let Some(trigger) = trigger(change) else { return };
        for service in services {
            state.touch(&service, &change.object().metadata.name, trigger);
            both.0.add(service.clone());
            both.1.add_after(service, GATHER);
        }
    });
    let (keys, index, state, caches) = (slices.clone(), members.clone(), known.clone(), setup.caches.clone());
    setup.watches.nodes.add_handler(move |change| {
        // The Pods of a node that is gone are somebody else's to remove.
        let labels = match change {
            Change::Deleted(_) => return,
            Change::Added(_) => None,
            Change::Updated { old, .. } => Some(&old.metadata.labels),
        };
        let node = &change.object().metadata;
        if labels.is_some_and(|labels| pods::zone(labels) == pods::zone(&node.labels)) {
            return;
        }
        for pod in caches.pods_on(&node.name) {
            for service in index.services_of(&pod) {
                state.touch(&service, &pod.metadata.name, None);
                keys.add(service);
            }
        }
    });
    slices::set_up(setup, members.clone(), known, slices);
    legacy::set_up(setup, members, legacy);
    mirror::set_up(setup);
}

/// When a change happened that matters to endpoints; `None` when it does not.
fn trigger(change: &Change<PodObject>) -> Option<Option<jiff::Timestamp>> {
    match change {
        Change::Added(pod) => Some(pod.ready_changed),
        Change::Updated { old, new } if pods::is_same(old, new) => None,
        Change::Updated { old, new } => Some(new.ready_changed.filter(|at| old.ready_changed != Some(*at))),
        Change::Deleted(_) if planted(Plant::GonePodKept) => None,
        Change::Deleted(_) => Some(None),
    }
}
