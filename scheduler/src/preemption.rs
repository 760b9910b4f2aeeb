//! DefaultPreemption: whom to push out, so that a Pod with a higher priority fits
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>). Pure: it only thinks.

use crate::decide::{Diagnosis, Filters};
use crate::framework::Cycle;
use minik_component::Chance;
use minik_placement::{NodeState, Pod, Reason, summary};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// At least this many nodes are thought through, or this share in percent.
const CANDIDATES: usize = 100;
const CANDIDATES_PERCENT: usize = 10;

/// What came of it.
#[derive(Debug)]
pub enum Preemption {
    /// These are to go from this node.
    Victims {
        /// The node, which the Pod is nominated to.
        node: Arc<str>,
        /// Whom to push out.
        victims: Vec<Arc<Pod>>,
    },
    /// It does not help; the Pod's nomination, if any, is over.
    NotHelpful(String),
    /// The Pod may not push out others now; a nomination stays.
    NotEligible(&'static str),
}

impl Preemption {
    /// What the Pod's message says about it.
    pub fn message(&self) -> Option<&str> {
        match self {
            Preemption::Victims { .. } => None,
            Preemption::NotHelpful(words) => Some(words),
            Preemption::NotEligible(words) => Some(words),
        }
    }
}

/// The answer when no node was looked at.
pub(crate) fn not_helpful(cycle: Cycle<'_>) -> Preemption {
    if let Some(words) = not_eligible(cycle, None) {
        return Preemption::NotEligible(words);
    }
    Preemption::NotHelpful(words(cycle.cluster.nodes().len(), &BTreeMap::new()))
}

fn words(nodes: usize, against: &BTreeMap<Arc<str>, Vec<Reason>>) -> String {
    let others = std::iter::repeat_n(&Reason::PreemptionNotHelpful, nodes.saturating_sub(against.len()));
    summary(nodes, against.values().flatten().chain(others))
}

fn not_eligible(cycle: Cycle<'_>, diagnosis: Option<&Diagnosis>) -> Option<&'static str> {
    let pod = cycle.pod;
    if !pod.may_preempt {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let name = pod.nominated_node_name.as_ref()?;
    let reasons = diagnosis.and_then(|diagnosis| diagnosis.against.get(name));
    if reasons.is_none_or(|reasons| reasons.iter().any(Reason::is_final)) {
        return None;
    }
    let leaving = |other: &Arc<Pod>| other.priority < pod.priority && other.terminating && other.preempted;
    let cleared = cycle.cluster.node(name)?.pods().iter().any(leaving);
    cleared.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Thinks through the nodes that a Pod could be given by pushing out others.
pub(crate) fn preempt<'a>(
    cycle: Cycle<'a>,
    filters: &Filters<'a>,
    diagnosis: &Diagnosis,
    chance: &dyn Chance,
) -> Preemption {
    if let Some(words) = not_eligible(cycle, Some(diagnosis)) {
        return Preemption::NotEligible(words);
    }
    let nodes = cycle.cluster.nodes();
    let helps = |node: &&NodeState| {
        diagnosis.against.get(&node.node.name).is_some_and(|reasons| !reasons.iter().any(Reason::is_final))
    };
    let potential: Vec<&NodeState> = nodes.iter().filter(helps).collect();
    let enough = (potential.len() * CANDIDATES_PERCENT / 100).max(CANDIDATES).min(potential.len());
    let start = chance.below(potential.len().max(1) as u64) as usize;
    let (mut candidates, mut against) = (Vec::new(), BTreeMap::new());
    for at in 0..potential.len() {
        let node = potential[(start + at) % potential.len()];
        match victims(cycle, filters, node) {
            Ok(victims) => candidates.push((node, victims)),
            Err(reasons) => drop(against.insert(node.node.name.clone(), reasons)),
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match candidates.into_iter().min_by_key(|(_, victims)| cost(victims)) {
        Some((node, victims)) => Preemption::Victims { node: node.node.name.clone(), victims },
        None => Preemption::NotHelpful(words(nodes.len(), &against)),
    }
}

/// What pushing these out costs: the highest priority, then the sum, then their number; the youngest go first.
fn cost(victims: &[Arc<Pod>]) -> (i32, i64, usize, Reverse<Option<Arc<str>>>) {
    let highest = victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
    let most_important = victims.iter().filter(|pod| pod.priority == highest);
    let earliest = most_important.filter_map(|pod| pod.started.clone()).min();
    (highest, sum, victims.len(), Reverse(earliest))
}

/// Whom to push out of a node: all with a lower priority, but for those that can stay after all.
fn victims<'a>(
    cycle: Cycle<'a>,
    filters: &Filters<'a>,
    node: &NodeState,
) -> Result<Vec<Arc<Pod>>, Vec<Reason>> {
    let (mut filters, mut state) = (filters.copy(), node.clone());
    let lower = node.pods().iter().filter(|pod| pod.priority < cycle.pod.priority);
    let mut potential: Vec<Arc<Pod>> = lower.cloned().collect();
    if potential.is_empty() {
        return Err(vec![Reason::NoVictims]);
    }
    for pod in &potential {
        state.remove(&pod.uid);
        filters.count(pod, &state, -1);
    }
    filters.check_with_nominated(cycle, &state).map_err(|(_, reasons)| reasons)?;
    // The most important are asked first whether they can stay: high priority, then long there.
    potential.sort_by_key(|pod| (Reverse(pod.priority), pod.started.is_none(), pod.started.clone()));
    let mut victims = Vec::new();
    for pod in potential {
        state.add(pod.clone());
        filters.count(&pod, &state, 1);
        if filters.check_with_nominated(cycle, &state).is_err() {
            state.remove(&pod.uid);
            filters.count(&pod, &state, -1);
            victims.push(pod);
        }
    }
    if victims.is_empty() { Err(vec![Reason::NoVictims]) } else { Ok(victims) }
}
