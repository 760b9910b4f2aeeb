//! One decision: which node takes a Pod, or why none does. Pure.

use crate::cluster::Cluster;
use crate::framework::{Cycle, Filter, Plugin, PreFilter};
use crate::preemption::{self, Preemption};
use minik_component::Chance;
use minik_placement::{NodeState, Pod, Reason, summary};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Up to this many nodes all are looked at.
const LOOK_AT_LEAST: usize = 100;
/// Of more nodes, at least this share in percent.
const SHARE_AT_LEAST: usize = 5;

/// What is to be done with a Pod.
#[derive(Debug)]
pub enum Decision {
    /// It goes to a node.
    Place {
        /// The node.
        node: Arc<str>,
        /// How many nodes were looked at.
        evaluated: usize,
        /// How many would do.
        feasible: usize,
    },
    /// It waits.
    Wait(Box<Diagnosis>),
}

/// Why a Pod waits.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// What speaks against nodes that were looked at.
    pub against: BTreeMap<Arc<str>, Vec<Reason>>,
    /// What speaks against all others.
    pub against_others: Option<Reason>,
    /// What speaks against all nodes at once.
    pub against_all: Option<String>,
    /// Plugins that said no.
    pub plugins: BTreeSet<&'static str>,
    /// What came of the thought of pushing out others.
    pub preemption: Option<Preemption>,
}

impl Diagnosis {
    /// The message of the condition and of the event, in upstream's words.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut message = match &self.against_all {
            Some(words) => format!("0/{} nodes are available: {words}.", self.nodes),
            None => {
                let others = self.nodes.saturating_sub(self.against.len());
                let absent =
                    self.against_others.iter().flat_map(|reason| std::iter::repeat_n(reason, others));
                summary(self.nodes, self.against.values().flatten().chain(absent))
            }
        };
        if let Some(words) = self.preemption.as_ref().and_then(Preemption::message) {
            message = format!("{message} preemption: {words}");
        }
        message
    }
}

/// The filters of one decision, in order, with their plugins.
pub(crate) struct Filters<'a>(Vec<(&'static str, Box<dyn Filter + 'a>)>);

impl<'a> Filters<'a> {
    /// Asks all; the first no counts.
    pub(crate) fn check(&self, node: &NodeState) -> Result<(), (&'static str, Vec<Reason>)> {
        self.0.iter().try_for_each(|(name, filter)| filter.check(node).map_err(|reasons| (*name, reasons)))
    }

    pub(crate) fn count(&mut self, other: &Pod, node: &NodeState, times: i64) {
        self.0.iter_mut().for_each(|(_, filter)| filter.count(other, node, times));
    }

    pub(crate) fn copy(&self) -> Filters<'a> {
        Filters(self.0.iter().map(|(name, filter)| (*name, filter.copy())).collect())
    }

    /// Asks about a node as if Pods that it is being cleared for were there, and then without them.
    pub(crate) fn check_with_nominated(
        &self,
        cycle: Cycle<'a>,
        node: &NodeState,
    ) -> Result<(), (&'static str, Vec<Reason>)> {
        let pod = cycle.pod;
        let others = cycle.cluster.nominated_to(&node.node.name);
        let before: Vec<_> =
            others.filter(|one| one.uid != pod.uid && one.priority >= pod.priority).collect();
        if !before.is_empty() {
            let (mut filters, mut state) = (self.copy(), node.clone());
            for other in before {
                state.add(other.clone());
                filters.count(other, &state, 1);
            }
            filters.check(&state)?;
        }
        self.check(node)
    }
}

/// Decides on a Pod. `start` says where to begin when not all nodes are looked at, and is moved on.
pub fn decide(
    profile: &[Box<dyn Plugin>],
    cluster: &Cluster,
    pod: &Arc<Pod>,
    start: &mut usize,
    chance: &dyn Chance,
) -> Decision {
    let cycle = Cycle { pod, cluster };
    let mut diagnosis = Diagnosis { nodes: cluster.nodes().len(), ..Diagnosis::default() };
    if cluster.nodes().is_empty() {
        return Decision::Wait(Box::new(diagnosis));
    }
    let (filters, only) = match pre_filter(profile, cycle, &mut diagnosis) {
        Ok(prepared) => prepared,
        Err(words) => {
            diagnosis.against_all = Some(words);
            diagnosis.preemption = Some(preemption::not_helpful(cycle));
            return Decision::Wait(Box::new(diagnosis));
        }
    };
    let feasible = feasible(cycle, &filters, only.as_ref(), &mut diagnosis, start);
    if feasible.is_empty() {
        diagnosis.preemption = Some(preemption::preempt(cycle, &filters, &diagnosis, chance));
        return Decision::Wait(Box::new(diagnosis));
    }
    let best = best(profile, cycle, &feasible);
    let chosen = best.get(chance.below(best.len() as u64) as usize).or(best.first());
    match chosen {
        Some(node) => Decision::Place {
            node: (*node).clone(),
            evaluated: feasible.len() + diagnosis.against.len(),
            feasible: feasible.len(),
        },
        None => Decision::Wait(Box::new(diagnosis)),
    }
}

type Prepared<'a> = (Filters<'a>, Option<BTreeSet<Arc<str>>>);

/// Runs PreFilter of all plugins.
fn pre_filter<'a>(
    profile: &[Box<dyn Plugin>],
    cycle: Cycle<'a>,
    diagnosis: &mut Diagnosis,
) -> Result<Prepared<'a>, String> {
    let (mut filters, mut only) = (Vec::new(), None::<BTreeSet<Arc<str>>>);
    let mut named = Vec::new();
    for plugin in profile {
        match plugin.pre_filter(cycle) {
            PreFilter::Skip => {}
            PreFilter::Ask(filter) => filters.push((plugin.name(), filter)),
            PreFilter::Only(names, filter) => {
                filters.push((plugin.name(), filter));
                named.push(plugin.name());
                only = Some(match only {
                    Some(before) => before.intersection(&names).cloned().collect(),
                    None => names,
                });
            }
            PreFilter::Reject(words) => {
                diagnosis.plugins.insert(plugin.name());
                return Err(words);
            }
        }
    }
    if !named.is_empty() {
        named.sort_unstable();
        diagnosis.against_others = Some(Reason::PreFiltered(named.join(" ")));
        diagnosis.plugins.extend(named);
    }
    Ok((Filters(filters), only))
}

/// The nodes that do: the nominated one if it does, else as many as are enough to choose from.
fn feasible<'a>(
    cycle: Cycle<'a>,
    filters: &Filters<'a>,
    only: Option<&BTreeSet<Arc<str>>>,
    diagnosis: &mut Diagnosis,
    start: &mut usize,
) -> Vec<&'a NodeState> {
    let nodes = cycle.cluster.nodes();
    let nominated = cycle.pod.nominated_node_name.as_ref().and_then(|name| cycle.cluster.node(name));
    if let Some(node) = nominated.filter(|node| filters.check_with_nominated(cycle, node).is_ok()) {
        return vec![node];
    }
    let enough = enough(only.map_or(nodes.len(), BTreeSet::len));
    let mut feasible = Vec::new();
    let mut looked = 0;
    for at in 0..nodes.len() {
        let node = &nodes[(*start + at) % nodes.len()];
        if only.is_some_and(|names| !names.contains(&node.node.name)) {
            continue;
        }
        looked += 1;
        match filters.check_with_nominated(cycle, node) {
            Ok(()) => feasible.push(node),
            Err((plugin, reasons)) => {
                diagnosis.plugins.insert(plugin);
                diagnosis.against.insert(node.node.name.clone(), reasons);
            }
        }
        if feasible.len() >= enough {
            break;
        }
    }
    *start = (*start + looked) % nodes.len();
    feasible
}

/// How many nodes that do are enough.
fn enough(nodes: usize) -> usize {
    if nodes < LOOK_AT_LEAST {
        return nodes;
    }
    let share = 50usize.saturating_sub(nodes / 125).max(SHARE_AT_LEAST);
    (nodes * share / 100).max(LOOK_AT_LEAST)
}

/// The names of the nodes with the highest score.
fn best<'a>(profile: &[Box<dyn Plugin>], cycle: Cycle<'a>, feasible: &[&'a NodeState]) -> Vec<&'a Arc<str>> {
    if let [only] = feasible {
        return vec![&only.node.name];
    }
    let mut totals = vec![0i64; feasible.len()];
    for plugin in profile.iter().filter(|plugin| plugin.weight() > 0) {
        let Some(score) = plugin.pre_score(cycle, feasible) else { continue };
        let mut scores: Vec<i64> = feasible.iter().map(|node| score.score(node)).collect();
        score.normalize(&mut scores);
        totals.iter_mut().zip(scores).for_each(|(total, score)| *total += plugin.weight() * score);
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let best = feasible.iter().zip(&totals).filter(|(_, total)| **total == highest);
    best.map(|(node, _)| &node.node.name).collect()
}

/// The nodes among which chance would decide; for tests and for explanations.
pub fn choices(profile: &[Box<dyn Plugin>], cluster: &Cluster, pod: &Arc<Pod>) -> Vec<Arc<str>> {
    let cycle = Cycle { pod, cluster };
    let mut diagnosis = Diagnosis::default();
    let Ok((filters, only)) = pre_filter(profile, cycle, &mut diagnosis) else { return Vec::new() };
    let feasible = feasible(cycle, &filters, only.as_ref(), &mut diagnosis, &mut 0);
    best(profile, cycle, &feasible).into_iter().cloned().collect()
}
