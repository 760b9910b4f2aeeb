//! InterPodAffinity.

use crate::cluster::Cluster;
use crate::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Score};
use minik_placement::{AffinityTerm, InterPod, Labels, Namespaces, Node, NodeState, Pod, Reason};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a required term of a Pod that is there already counts for.
const REQUIRED_WEIGHT: i64 = 1;

pub struct InterPodAffinity;

struct Places<'a> {
    counts: InterPod,
    namespaces: &'a Namespaces,
}

impl Filter for Places<'_> {
    fn check(&self, node: &NodeState) -> Result<(), Vec<Reason>> {
        self.counts.check(node, self.namespaces).map_err(|reason| vec![reason])
    }

    fn count(&mut self, other: &Pod, node: &NodeState, times: i64) {
        self.counts.count(other, node, self.namespaces, times);
    }

    fn copy<'a>(&self) -> Box<dyn Filter + 'a>
    where
        Self: 'a,
    {
        Box::new(Places { counts: self.counts.clone(), namespaces: self.namespaces })
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let namespaces = cycle.cluster.namespaces();
        match InterPod::new(cycle.pod, cycle.cluster.nodes(), namespaces) {
            Some(counts) => PreFilter::Ask(Box::new(Places { counts, namespaces })),
            None => PreFilter::Skip,
        }
    }

    fn pre_score<'a>(&self, cycle: Cycle<'a>, _: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        let scores = Preferences::count(cycle.pod, cycle.cluster);
        (!scores.0.is_empty()).then(|| Box::new(scores) as Box<dyn Score>)
    }

    fn hint(&self, event: Event<'_>, pod: &Pod) -> bool {
        // Namespace labels do not matter to a hint: a retry in vain is cheap, a missed one is not.
        let none = Labels::new();
        let means = |term: &AffinityTerm, other: &Pod| {
            term.namespaces.contains(&other.namespace) && term.selector.matches(&other.labels)
                || term.namespace_selector != minik_placement::Selector::Nothing
                    && term.selector.matches(&other.labels)
                || term.matches(&other.namespace, &other.labels, &none)
        };
        let wish = pod.affinity.as_deref();
        let wanted = |other: &Pod| {
            wish.is_some_and(|wish| {
                !wish.required.is_empty() && wish.required.iter().all(|term| means(term, other))
            })
        };
        let unwanted =
            |other: &Pod| wish.is_some_and(|wish| wish.required_anti.iter().any(|term| means(term, other)));
        let unwelcome = |other: &Pod| {
            other
                .affinity
                .as_ref()
                .is_some_and(|theirs| theirs.required_anti.iter().any(|term| means(term, pod)))
        };
        match event {
            Event::PodAdded(other) => wanted(other),
            Event::PodUpdated(old, new) => !wanted(old) && wanted(new) || unwanted(old) && !unwanted(new),
            Event::PodDeleted(other) => unwanted(other) || unwelcome(other),
            Event::NodeAdded(node) => wish.is_none_or(|wish| {
                !wish.required_anti.is_empty()
                    || wish.required.iter().any(|term| node.labels.contains_key(&term.topology_key))
            }),
            Event::NodeUpdated(old, new) => old.labels != new.labels && moved(wish, old, new),
            Event::TargetUpdated(old, new) => old.labels != new.labels,
            Event::NodeDeleted(_) => false,
        }
    }
}

/// Whether a node moved to another place, as a Pod tells places apart.
fn moved(wish: Option<&minik_placement::PodAffinity>, old: &Node, new: &Node) -> bool {
    let Some(wish) = wish else { return true };
    let differs =
        |term: &AffinityTerm| old.labels.get(&term.topology_key) != new.labels.get(&term.topology_key);
    wish.required.iter().chain(&wish.required_anti).any(differs)
}

/// What speaks for places, by label and value.
struct Preferences(BTreeMap<Arc<str>, BTreeMap<Arc<str>, i64>>);

impl Preferences {
    fn count(pod: &Pod, cluster: &Cluster) -> Preferences {
        let mut all = Preferences(BTreeMap::new());
        let own = cluster.namespaces().labels(&pod.namespace);
        let wish = pod.affinity.as_deref();
        let prefers = wish.is_some_and(|wish| !wish.preferred.is_empty() || !wish.preferred_anti.is_empty());
        for node in cluster.nodes() {
            for other in if prefers { node.pods() } else { node.affine_pods() } {
                let labels = &node.node.labels;
                if let Some(wish) = wish {
                    let theirs = cluster.namespaces().labels(&other.namespace);
                    let mut add =
                        |term: &AffinityTerm, weight| all.add(term, weight, (other, theirs), labels);
                    wish.preferred.iter().for_each(|one| add(&one.term, one.weight));
                    wish.preferred_anti.iter().for_each(|one| add(&one.term, -one.weight));
                }
                if let Some(theirs) = &other.affinity {
                    let mut add = |term: &AffinityTerm, weight| all.add(term, weight, (pod, own), labels);
                    theirs.required.iter().for_each(|term| add(term, REQUIRED_WEIGHT));
                    theirs.preferred.iter().for_each(|one| add(&one.term, one.weight));
                    theirs.preferred_anti.iter().for_each(|one| add(&one.term, -one.weight));
                }
            }
        }
        all
    }

    fn add(&mut self, term: &AffinityTerm, weight: i64, (pod, namespace): (&Pod, &Labels), node: &Labels) {
        let Some(value) = node.get(&term.topology_key) else { return };
        if term.matches(&pod.namespace, &pod.labels, namespace) {
            *self.0.entry(term.topology_key.clone()).or_default().entry(value.clone()).or_insert(0) += weight;
        }
    }
}

impl Score for Preferences {
    fn score(&self, state: &NodeState) -> i64 {
        let at = |(key, values): (&Arc<str>, &BTreeMap<Arc<str>, i64>)| {
            state.node.labels.get(key).and_then(|value| values.get(value)).copied()
        };
        self.0.iter().filter_map(at).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let least = scores.iter().copied().min().unwrap_or(0);
        let range = scores.iter().copied().max().unwrap_or(0) - least;
        for score in scores {
            *score = match range {
                ..=0 => 0,
                range => (MAX_SCORE as f64 * ((*score - least) as f64 / range as f64)) as i64,
            };
        }
    }
}
