//! Spreading Pods over places (<https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>).

use crate::labels::{Labels, Selector};
use crate::node::{Node, NodeState};
use crate::pod::{Pod, SpreadConstraint, WhenUnsatisfiable};
use crate::reason::Reason;
use crate::taints::{self, Effect};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an empty count of places has as its least.
const NO_PLACES: i64 = i32::MAX as i64;

/// Counts of a Pod's hard constraints, over all nodes.
#[derive(Debug, Clone)]
pub struct Spread {
    pod: Arc<Pod>,
    constraints: Vec<Counted>,
}

#[derive(Debug, Clone)]
struct Counted {
    constraint: SpreadConstraint,
    matching: BTreeMap<Arc<str>, i64>,
    least: i64,
}

impl Spread {
    /// Counts over all nodes; `None` when the Pod has no hard constraint.
    pub fn new<'a>(pod: &Arc<Pod>, nodes: impl IntoIterator<Item = &'a NodeState>) -> Option<Spread> {
        let hard = pod.spread.iter().filter(|one| one.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule);
        let counted = |one: &SpreadConstraint| Counted {
            constraint: one.clone(),
            matching: BTreeMap::new(),
            least: NO_PLACES,
        };
        let mut spread = Spread { pod: pod.clone(), constraints: hard.map(counted).collect() };
        if spread.constraints.is_empty() {
            return None;
        }
        for state in nodes {
            if !spread.has_all_keys(&state.node.labels) {
                continue;
            }
            for counted in &mut spread.constraints {
                let Some(place) = state.node.labels.get(&counted.constraint.topology_key) else { continue };
                if counted.constraint.counts_node(pod, &state.node) {
                    let more = matching(state, &counted.constraint.selector, &pod.namespace);
                    *counted.matching.entry(place.clone()).or_insert(0) += more;
                }
            }
        }
        spread.constraints.iter_mut().for_each(Counted::find_least);
        Some(spread)
    }

    fn has_all_keys(&self, labels: &Labels) -> bool {
        self.constraints.iter().all(|one| labels.contains_key(&one.constraint.topology_key))
    }

    /// Counts a Pod on a node once more, or once less.
    pub fn count(&mut self, other: &Pod, state: &NodeState, times: i64) {
        if other.namespace != self.pod.namespace || !self.has_all_keys(&state.node.labels) {
            return;
        }
        for counted in &mut self.constraints {
            let Some(place) = state.node.labels.get(&counted.constraint.topology_key) else { continue };
            if counted.constraint.selector.matches(&other.labels)
                && counted.constraint.counts_node(&self.pod, &state.node)
            {
                *counted.matching.entry(place.clone()).or_insert(0) += times;
                counted.find_least();
            }
        }
    }

    /// Whether a node's places have few enough.
    ///
    /// # Errors
    /// What speaks against the node.
    pub fn check(&self, state: &NodeState) -> Result<(), Reason> {
        for Counted { constraint, matching, least } in &self.constraints {
            let place = state.node.labels.get(&constraint.topology_key).ok_or(Reason::SpreadLabel)?;
            let least = if matching.len() < constraint.min_domains { 0 } else { *least };
            let own = i64::from(constraint.selector.matches(&self.pod.labels));
            if matching.get(place).copied().unwrap_or(0) + own - least > constraint.max_skew {
                return Err(Reason::Spread);
            }
        }
        Ok(())
    }
}

impl Counted {
    fn find_least(&mut self) {
        self.least = self.matching.values().copied().min().unwrap_or(NO_PLACES);
    }
}

impl SpreadConstraint {
    /// Whether a node counts, by its affinity and taints.
    pub fn counts_node(&self, pod: &Pod, node: &Node) -> bool {
        let effects = [Effect::NoSchedule, Effect::NoExecute];
        (!self.honors_affinity || pod.allows_node(&node.name, &node.labels))
            && (!self.honors_taints
                || taints::untolerated(&node.taints, &pod.tolerations, &effects).is_none())
    }
}

/// How many Pods of a node and namespace are selected. A selector of everything selects nobody here.
pub fn matching(state: &NodeState, selector: &Selector, namespace: &str) -> i64 {
    if selector.is_everything() {
        return 0;
    }
    let counts =
        |pod: &&Arc<Pod>| !pod.terminating && &*pod.namespace == namespace && selector.matches(&pod.labels);
    state.pods().iter().filter(counts).count() as i64
}
