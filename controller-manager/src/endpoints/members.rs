//! Which Pods each Service selects, and the other way round.

use super::objects::{ServiceObject, selects};
use crate::objects::PodObject;
use minik_client::{Change, ObjectKey};
use minik_placement::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The Services of all namespaces with their Pods.
#[derive(Default)]
pub struct Members(Mutex<BTreeMap<Arc<str>, Space>>);

/// The Services of a namespace.
#[derive(Default)]
struct Space {
    services: BTreeMap<Arc<str>, Selected>,
    /// Services by the first pair of their selector, so that a Pod need not be compared with all.
    by_label: BTreeMap<Pair, BTreeSet<Arc<str>>>,
}

/// A label's key and value.
type Pair = (Arc<str>, Arc<str>);

struct Selected {
    selector: Labels,
    pods: BTreeSet<Arc<str>>,
}

impl Space {
    fn forget(&mut self, service: &str) {
        let Some(old) = self.services.remove(service) else { return };
        let Some((key, value)) = old.selector.into_iter().next() else { return };
        if let Some(names) = self.by_label.get_mut(&(key, value)) {
            names.remove(service);
        }
        self.by_label.retain(|_, names| !names.is_empty());
    }

    fn matching(&self, labels: &Labels) -> Vec<Arc<str>> {
        let pairs = labels.iter().map(|(key, value)| (key.clone(), value.clone()));
        let names = pairs.filter_map(|pair| self.by_label.get(&pair)).flatten();
        let fits = |name: &&Arc<str>| {
            self.services.get(*name).is_some_and(|service| selects(&service.selector, labels))
        };
        names.filter(fits).cloned().collect()
    }
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Space>> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a Service, whose Pods are among `pods` (called only when its selector is another than before).
    pub fn service(&self, change: &Change<ServiceObject>, pods: impl FnOnce() -> Vec<Arc<PodObject>>) {
        let service = change.object();
        let (meta, selector) = (&service.metadata, &service.spec.selector);
        let mut spaces = self.lock();
        let space = spaces.entry(meta.namespace.clone()).or_default();
        if matches!(change, Change::Deleted(_)) || !service.follows_pods() {
            space.forget(&meta.name);
            if space.services.is_empty() {
                spaces.remove(&meta.namespace);
            }
            return;
        }
        if space.services.get(&meta.name).is_some_and(|known| known.selector == *selector) {
            return;
        }
        space.forget(&meta.name);
        // Read under the lock: a Pod that is not among them yet will be told after.
        let pods = pods().into_iter().filter(|pod| selects(selector, &pod.metadata.labels));
        let pods = pods.map(|pod| pod.metadata.name.clone()).collect();
        if let Some((key, value)) = selector.first_key_value() {
            let names = space.by_label.entry((key.clone(), value.clone())).or_default();
            names.insert(meta.name.clone());
        }
        space.services.insert(meta.name.clone(), Selected { selector: selector.clone(), pods });
    }

    /// Notes a Pod. Gives the Services that it was or is of.
    pub fn pod(&self, change: &Change<PodObject>) -> BTreeSet<ObjectKey> {
        let pod = change.object();
        let mut spaces = self.lock();
        let Some(space) = spaces.get_mut(&pod.metadata.namespace) else { return BTreeSet::new() };
        let is = match change {
            Change::Deleted(_) => Vec::new(),
            _ => space.matching(&pod.metadata.labels),
        };
        let was = match change {
            Change::Added(_) => Vec::new(),
            Change::Updated { old, .. } | Change::Deleted(old) => space.matching(&old.metadata.labels),
        };
        for name in &was {
            if let Some(service) = space.services.get_mut(name).filter(|_| !is.contains(name)) {
                service.pods.remove(&pod.metadata.name);
            }
        }
        for name in &is {
            if let Some(service) = space.services.get_mut(name) {
                service.pods.insert(pod.metadata.name.clone());
            }
        }
        let key = |name| ObjectKey { namespace: pod.metadata.namespace.clone(), name };
        was.into_iter().chain(is).map(key).collect()
    }

    /// The Services that a Pod is of.
    pub fn services_of(&self, pod: &PodObject) -> Vec<ObjectKey> {
        let namespace = &pod.metadata.namespace;
        let spaces = self.lock();
        let names = spaces.get(namespace).map(|space| space.matching(&pod.metadata.labels));
        let key = |name| ObjectKey { namespace: namespace.clone(), name };
        names.unwrap_or_default().into_iter().map(key).collect()
    }

    /// The names of a Service's Pods.
    pub fn pods(&self, service: &ObjectKey) -> BTreeSet<Arc<str>> {
        let spaces = self.lock();
        let space = spaces.get(&service.namespace);
        space
            .and_then(|space| space.services.get(&service.name))
            .map(|one| one.pods.clone())
            .unwrap_or_default()
    }
}
