//! PodTopologySpread.

use crate::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Score};
use minik_placement::{
    Labels, Node, NodeState, Pod, Reason, Selector, Spread, SpreadConstraint, WhenUnsatisfiable, matching,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub struct PodTopologySpread;

impl Filter for Spread {
    fn check(&self, node: &NodeState) -> Result<(), Vec<Reason>> {
        Spread::check(self, node).map_err(|reason| vec![reason])
    }

    fn count(&mut self, other: &Pod, node: &NodeState, times: i64) {
        Spread::count(self, other, node, times);
    }

    fn copy<'a>(&self) -> Box<dyn Filter + 'a>
    where
        Self: 'a,
    {
        Box::new(self.clone())
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        match Spread::new(cycle.pod, cycle.cluster.nodes()) {
            Some(spread) => PreFilter::Ask(Box::new(spread)),
            None => PreFilter::Skip,
        }
    }

    fn pre_score<'a>(&self, cycle: Cycle<'a>, feasible: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        let own = !cycle.pod.spread.is_empty();
        let constraints: Vec<SpreadConstraint> = match own {
            true => {
                let soft =
                    |one: &&SpreadConstraint| one.when_unsatisfiable == WhenUnsatisfiable::ScheduleAnyway;
                cycle.pod.spread.iter().filter(soft).cloned().collect()
            }
            false => defaults(&cycle.cluster.default_selector(cycle.pod)?),
        };
        (!constraints.is_empty())
            .then(|| Box::new(Soft::new(cycle, constraints, own, feasible)) as Box<dyn Score>)
    }

    fn hint(&self, event: Event<'_>, pod: &Pod) -> bool {
        let hard =
            || pod.spread.iter().filter(|one| one.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule);
        let counts = |other: &Pod| {
            other.namespace == pod.namespace && hard().any(|one| one.selector.matches(&other.labels))
        };
        let has_keys = |node: &Node| hard().all(|one| node.labels.contains_key(&one.topology_key));
        match event {
            Event::PodAdded(other) | Event::PodDeleted(other) => counts(other),
            Event::PodUpdated(old, new) => old.labels != new.labels && counts(old) != counts(new),
            Event::NodeAdded(node) | Event::NodeDeleted(node) => has_keys(node),
            Event::NodeUpdated(old, new) => {
                let differs = |one: &SpreadConstraint| {
                    old.labels.get(&one.topology_key) != new.labels.get(&one.topology_key)
                };
                has_keys(old) != has_keys(new)
                    || has_keys(new) && (old.taints != new.taints || hard().any(differs))
            }
            Event::TargetUpdated(old, new) => old.labels != new.labels || old.tolerations != new.tolerations,
        }
    }
}

/// What counts for Pods that say nothing about spreading: over nodes, and less so over zones.
fn defaults(selector: &Selector) -> Vec<SpreadConstraint> {
    let over = |topology_key: &str, max_skew| SpreadConstraint {
        max_skew,
        topology_key: topology_key.into(),
        selector: selector.clone(),
        min_domains: 1,
        honors_affinity: true,
        honors_taints: false,
        when_unsatisfiable: WhenUnsatisfiable::ScheduleAnyway,
    };
    vec![over(HOSTNAME, 3), over(ZONE, 5)]
}

/// Counts of soft constraints; fewer Pods of the sort are better.
struct Soft<'a> {
    pod: &'a Pod,
    counted: Vec<Counted>,
    /// Nodes without all labels, which have no say.
    ignored: BTreeSet<Arc<str>>,
    /// Raw scores come before the normalized ones; this tells which nodes they belong to.
    names: Vec<Arc<str>>,
}

struct Counted {
    constraint: SpreadConstraint,
    per_node: bool,
    matching: BTreeMap<Arc<str>, i64>,
    weight: f64,
}

impl<'a> Soft<'a> {
    fn new(
        cycle: Cycle<'a>,
        constraints: Vec<SpreadConstraint>,
        all_keys: bool,
        feasible: &[&NodeState],
    ) -> Soft<'a> {
        let keys: Vec<Arc<str>> = constraints.iter().map(|one| one.topology_key.clone()).collect();
        let ignores = |labels: &Labels| all_keys && !keys.iter().all(|key| labels.contains_key(key));
        let ignored: BTreeSet<_> = feasible
            .iter()
            .filter(|one| ignores(&one.node.labels))
            .map(|one| one.node.name.clone())
            .collect();
        let considered = || feasible.iter().filter(|one| !ignored.contains(&one.node.name));
        let count = |constraint: SpreadConstraint| {
            let per_node = &*constraint.topology_key == HOSTNAME;
            let place =
                |one: &&NodeState| one.node.labels.get(&constraint.topology_key).cloned().unwrap_or_default();
            let mut matching_at: BTreeMap<Arc<str>, i64> = match per_node {
                true => BTreeMap::new(),
                false => considered().map(|one| (place(one), 0)).collect(),
            };
            let places = if per_node { considered().count() } else { matching_at.len() };
            let counting = cycle.cluster.nodes().iter().filter(|one| !per_node && !ignores(&one.node.labels));
            for state in counting.filter(|one| constraint.counts_node(cycle.pod, &one.node)) {
                if let Some(count) = matching_at.get_mut(&place(&state)) {
                    *count += matching(state, &constraint.selector, &cycle.pod.namespace);
                }
            }
            Counted { per_node, matching: matching_at, weight: ((places + 2) as f64).ln(), constraint }
        };
        let counted = constraints.into_iter().map(count).collect();
        let names = feasible.iter().map(|one| one.node.name.clone()).collect();
        Soft { pod: cycle.pod, counted, ignored, names }
    }
}

impl Score for Soft<'_> {
    fn score(&self, state: &NodeState) -> i64 {
        if self.ignored.contains(&state.node.name) {
            return 0;
        }
        let of = |counted: &Counted| {
            let place = state.node.labels.get(&counted.constraint.topology_key)?;
            let count = match counted.per_node {
                true => matching(state, &counted.constraint.selector, &self.pod.namespace),
                false => counted.matching.get(place).copied().unwrap_or(0),
            };
            Some(count as f64 * counted.weight + (counted.constraint.max_skew - 1) as f64)
        };
        self.counted.iter().filter_map(of).sum::<f64>().round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let ignored = |at: usize| self.names.get(at).is_some_and(|name| self.ignored.contains(name));
        let counted = || scores.iter().enumerate().filter(|(at, _)| !ignored(*at)).map(|(_, score)| *score);
        let (least, most) = (counted().min().unwrap_or(i64::MAX), counted().max().unwrap_or(0).max(0));
        for (at, score) in scores.iter_mut().enumerate() {
            *score = match (ignored(at), most) {
                (true, _) => 0,
                (false, 0) => MAX_SCORE,
                (false, most) => MAX_SCORE * (most + least - *score) / most,
            };
        }
    }
}
