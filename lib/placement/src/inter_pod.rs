//! Affinity between Pods
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>).

use crate::labels::{AffinityTerm, Labels};
use crate::node::NodeState;
use crate::pod::Pod;
use crate::reason::Reason;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Labels of namespaces, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces(BTreeMap<Arc<str>, Labels>);

impl Namespaces {
    /// Notes a namespace's labels.
    pub fn set(&mut self, name: Arc<str>, labels: Labels) {
        self.0.insert(name, labels);
    }

    /// Forgets a namespace.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// A namespace's labels; one that is not known has none.
    pub fn labels(&self, name: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.0.get(name).unwrap_or(&NONE)
    }
}

/// How many Pods match, by label and value of a place.
type Counts = BTreeMap<(Arc<str>, Arc<str>), i64>;

/// What speaks for and against places, counted once for all nodes.
#[derive(Debug, Clone)]
pub struct InterPod {
    pod: Arc<Pod>,
    wanted: Counts,
    unwanted: Counts,
    /// Places with Pods that do not want this one.
    closed: Counts,
}

impl InterPod {
    /// Counts over all nodes; `None` when affinity has no say.
    pub fn new<'a>(
        pod: &Arc<Pod>,
        nodes: impl IntoIterator<Item = &'a NodeState>,
        namespaces: &Namespaces,
    ) -> Option<InterPod> {
        let mut counts = InterPod {
            pod: pod.clone(),
            wanted: Counts::new(),
            unwanted: Counts::new(),
            closed: Counts::new(),
        };
        let wishes = counts.wishes();
        for node in nodes {
            let others = if wishes { node.pods() } else { node.affine_pods() };
            others.iter().for_each(|other| counts.count(other, node, namespaces, 1));
        }
        (wishes || !counts.closed.is_empty()).then_some(counts)
    }

    fn wishes(&self) -> bool {
        self.pod
            .affinity
            .as_ref()
            .is_some_and(|wish| !wish.required.is_empty() || !wish.required_anti.is_empty())
    }

    /// Counts a Pod on a node once more, or once less.
    pub fn count(&mut self, other: &Pod, node: &NodeState, namespaces: &Namespaces, times: i64) {
        let labels = &node.node.labels;
        if let Some(theirs) = &other.affinity {
            let own = namespaces.labels(&self.pod.namespace);
            for term in theirs
                .required_anti
                .iter()
                .filter(|term| term.matches(&self.pod.namespace, &self.pod.labels, own))
            {
                bump(&mut self.closed, labels, term, times);
            }
        }
        let Some(wish) = &self.pod.affinity else { return };
        let theirs = namespaces.labels(&other.namespace);
        let means = |term: &&AffinityTerm| term.matches(&other.namespace, &other.labels, theirs);
        if !wish.required.is_empty() && wish.required.iter().all(|term| means(&term)) {
            wish.required.iter().for_each(|term| bump(&mut self.wanted, labels, term, times));
        }
        wish.required_anti
            .iter()
            .filter(means)
            .for_each(|term| bump(&mut self.unwanted, labels, term, times));
    }

    /// Whether a node's places are right.
    ///
    /// # Errors
    /// What speaks against the node.
    pub fn check(&self, node: &NodeState, namespaces: &Namespaces) -> Result<(), Reason> {
        let labels = &node.node.labels;
        if let Some(wish) = &self.pod.affinity {
            if !wish.required.is_empty() && !self.is_wanted(&wish.required, labels, namespaces) {
                return Err(Reason::PodAffinity);
            }
            if wish.required_anti.iter().any(|term| at(&self.unwanted, labels, term) > 0) {
                return Err(Reason::PodAntiAffinity);
            }
        }
        let closed = |(key, value): (&Arc<str>, &Arc<str>)| {
            self.closed.get(&(key.clone(), value.clone())).is_some_and(|count| *count > 0)
        };
        if !self.closed.is_empty() && labels.iter().any(closed) {
            Err(Reason::ExistingAntiAffinity)
        } else {
            Ok(())
        }
    }

    fn is_wanted(&self, terms: &[AffinityTerm], labels: &Labels, namespaces: &Namespaces) -> bool {
        if !terms.iter().all(|term| labels.contains_key(&term.topology_key)) {
            return false;
        }
        if terms.iter().all(|term| at(&self.wanted, labels, term) > 0) {
            return true;
        }
        // The first of a group that wants to be together would wait for ever: it may start one anywhere.
        let own = namespaces.labels(&self.pod.namespace);
        self.wanted.is_empty()
            && terms.iter().all(|term| term.matches(&self.pod.namespace, &self.pod.labels, own))
    }
}

fn at(counts: &Counts, labels: &Labels, term: &AffinityTerm) -> i64 {
    let Some(value) = labels.get(&term.topology_key) else { return 0 };
    counts.get(&(term.topology_key.clone(), value.clone())).copied().unwrap_or(0)
}

fn bump(counts: &mut Counts, labels: &Labels, term: &AffinityTerm, times: i64) {
    let Some(value) = labels.get(&term.topology_key) else { return };
    let place = (term.topology_key.clone(), value.clone());
    let count = counts.entry(place.clone()).or_insert(0);
    *count += times;
    if *count == 0 {
        counts.remove(&place);
    }
}
