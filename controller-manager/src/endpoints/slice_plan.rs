//! Which slices a Service has: at most 100 endpoints each, all with the same ports, with as few writes as possible.

use super::objects::{
    Endpoint, Family, HEADLESS, MANAGED_BY, Port, SERVICE_NAME, SLICES, ServiceObject, SliceObject,
};
use minik_placement::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Endpoints of a full slice.
const FULL: usize = 100;

/// What a Pod should be: an endpoint of a slice with these ports, or none.
pub type Place = Option<(Vec<Port>, Endpoint)>;

/// What is planned on, for one family of addresses.
pub struct Input<'a> {
    /// The Service.
    pub service: &'a ServiceObject,
    /// The family.
    pub family: Family,
    /// All slices of this family that are ours and name the Service, by name.
    pub slices: Vec<Arc<SliceObject>>,
    /// What Pods should be, by name.
    pub wanted: BTreeMap<Arc<str>, Place>,
    /// The slices that may change by what is wanted, when that tells of some Pods only; `None` when it tells of all.
    pub touched: Option<BTreeSet<Arc<str>>>,
}

/// What a slice should hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Put {
    /// What it is now; `None` makes a new one.
    pub base: Option<Arc<SliceObject>>,
    /// Its family.
    pub family: Family,
    /// Its labels.
    pub labels: Labels,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// What is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Slices that are made or changed.
    pub puts: Vec<Put>,
    /// Slices that go.
    pub deletes: Vec<Arc<SliceObject>>,
}

/// A slice while it is planned.
struct Draft {
    base: Option<Arc<SliceObject>>,
    /// `None` while they are the base's.
    endpoints: Option<Vec<Endpoint>>,
    ports: Vec<Port>,
    relabeled: bool,
}

impl Draft {
    fn len(&self) -> usize {
        let unchanged = self.base.as_ref().map_or(0, |base| base.endpoints.len());
        self.endpoints.as_ref().map_or(unchanged, Vec::len)
    }

    fn is_changed(&self) -> bool {
        self.endpoints.is_some() || self.relabeled
    }

    fn endpoints(&mut self) -> &mut Vec<Endpoint> {
        let base = self.base.as_ref();
        self.endpoints.get_or_insert_with(|| base.map_or(Vec::new(), |base| base.endpoints.clone()))
    }

    /// Takes as many as it can hold.
    fn fill(&mut self, rest: &mut Vec<Endpoint>) {
        let room = FULL.saturating_sub(self.len()).min(rest.len());
        self.endpoints().extend(rest.drain(..room));
    }
}

/// What is to be written for one family.
pub fn plan(mut input: Input) -> Plan {
    let labels = labels(input.service);
    let mut plan = Plan::default();
    let mut drafts = Vec::new();
    let mut placed = BTreeSet::new();
    for slice in std::mem::take(&mut input.slices) {
        if is_owned(&slice, input.service) {
            drafts.push(keep(&input, slice, &mut placed, &labels));
        } else {
            plan.deletes.push(slice);
        }
    }
    let mut rest = BTreeMap::<Vec<Port>, Vec<Endpoint>>::new();
    for (pod, place) in input.wanted {
        if let Some((ports, endpoint)) = place.filter(|_| !placed.contains(&pod)) {
            rest.entry(ports).or_default().push(endpoint);
        }
    }
    for (ports, endpoints) in rest {
        place(&mut drafts, &ports, endpoints);
    }
    settle(&mut drafts, &mut plan.deletes);
    for draft in drafts.into_iter().filter(Draft::is_changed) {
        let unchanged = draft.base.as_ref().map_or(&[][..], |base| &base.endpoints);
        let endpoints = draft.endpoints.unwrap_or_else(|| unchanged.to_vec());
        let Draft { base, ports, .. } = draft;
        plan.puts.push(Put { base, family: input.family, labels: labels.clone(), endpoints, ports });
    }
    // What a Service that is being deleted loses to the garbage collector is not made anew.
    if input.service.metadata.deletion_timestamp.is_some() {
        plan.puts.retain(|put| put.base.is_some());
    }
    plan
}

/// The labels of a Service's slices: its own, and those that say whose they are.
fn labels(service: &ServiceObject) -> Labels {
    let reserved = [SERVICE_NAME, MANAGED_BY, HEADLESS];
    let mut labels = service.metadata.labels.clone();
    labels.retain(|key, _| !reserved.contains(&&**key));
    if service.is_headless() {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), SLICES.into());
    labels
}

/// Whether a slice is this Service's, and not that of an earlier one of the same name.
fn is_owned(slice: &SliceObject, service: &ServiceObject) -> bool {
    let mut owners = slice.metadata.owner_references.iter();
    owners.any(|owner| owner.uid == service.metadata.uid && &*owner.kind == "Service")
}

/// A slice with those of its endpoints that may stay in it, as they should be.
fn keep(input: &Input, slice: Arc<SliceObject>, placed: &mut BTreeSet<Arc<str>>, labels: &Labels) -> Draft {
    let relabeled = slice.metadata.labels != *labels;
    let ports = slice.ports.clone();
    let touched = input.touched.as_ref();
    if touched.is_some_and(|touched| !touched.contains(&slice.metadata.name)) {
        return Draft { base: Some(slice), endpoints: None, ports, relabeled };
    }
    let mut endpoints = Vec::with_capacity(slice.endpoints.len());
    for endpoint in &slice.endpoints {
        match pod_of(endpoint).and_then(|pod| input.wanted.get_key_value(pod)) {
            None if touched.is_some() => endpoints.push(endpoint.clone()),
            Some((pod, Some((wanted, fresh)))) if *wanted == ports && placed.insert(pod.clone()) => {
                endpoints.push(fresh.clone());
            }
            _ => {}
        }
    }
    let endpoints = (endpoints != slice.endpoints).then_some(endpoints);
    Draft { base: Some(slice), endpoints, ports, relabeled }
}

/// The Pod that an endpoint is.
pub fn pod_of(endpoint: &Endpoint) -> Option<&Arc<str>> {
    endpoint.target_ref.as_ref().filter(|target| &*target.kind == "Pod").map(|target| &target.name)
}

/// Finds a place for what has none: in slices that change anyhow, then in one that holds all the rest, then in new ones.
fn place(drafts: &mut Vec<Draft>, ports: &[Port], mut rest: Vec<Endpoint>) {
    let mut changed: Vec<&mut Draft> =
        drafts.iter_mut().filter(|one| one.is_changed() && one.ports == ports && one.len() > 0).collect();
    changed.sort_by_key(|one| std::cmp::Reverse(one.len()));
    for draft in changed {
        if draft.len() < FULL && !rest.is_empty() {
            draft.fill(&mut rest);
        }
    }
    while !rest.is_empty() {
        let fits = |one: &&mut Draft| {
            !one.is_changed() && one.ports == ports && one.len() + rest.len() <= FULL && rest.len() < FULL
        };
        match drafts.iter_mut().filter(fits).max_by_key(|one| one.len()) {
            Some(draft) => draft.fill(&mut rest),
            None => {
                let mut fresh = Draft {
                    base: None,
                    endpoints: Some(Vec::new()),
                    ports: ports.to_vec(),
                    relabeled: false,
                };
                fresh.fill(&mut rest);
                drafts.push(fresh);
            }
        }
    }
}

/// Empty slices become new ones, or go; but a Service always has one.
fn settle(drafts: &mut Vec<Draft>, deletes: &mut Vec<Arc<SliceObject>>) {
    let (mut empty, mut full): (Vec<Draft>, Vec<Draft>) = drafts.drain(..).partition(|one| one.len() == 0);
    for fresh in full.iter_mut().filter(|one| one.base.is_none()) {
        let Some(old) = empty.pop() else { break };
        fresh.base = old.base;
    }
    if full.is_empty() {
        let last = empty.pop();
        let mut last =
            last.unwrap_or(Draft { base: None, endpoints: None, ports: Vec::new(), relabeled: true });
        if !last.ports.is_empty() {
            last.ports.clear();
            last.relabeled = true;
        }
        full.push(last);
    }
    deletes.extend(empty.into_iter().filter_map(|one| one.base));
    *drafts = full;
}
