//! NodeResourcesFit (LeastAllocated) and NodeResourcesBalancedAllocation.

use crate::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Score};
use minik_placement::{Node, NodeState, Pod, Reason, Resources, fit};
use std::sync::Arc;

pub struct NodeResourcesFit;

struct Fit(Arc<Pod>);

impl Filter for Fit {
    fn check(&self, node: &NodeState) -> Result<(), Vec<Reason>> {
        fit::resources(&self.0, node)
    }

    fn copy<'a>(&self) -> Box<dyn Filter + 'a>
    where
        Self: 'a,
    {
        Box::new(Fit(self.0.clone()))
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Ask(Box::new(Fit(cycle.pod.clone())))
    }

    fn pre_score<'a>(&self, cycle: Cycle<'a>, _: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(LeastAllocated(cycle.pod)))
    }

    fn hint(&self, event: Event<'_>, pod: &Pod) -> bool {
        let fits = |node: &Node| fit::resources(pod, &NodeState::new(Arc::new(node.clone()))).is_ok();
        match event {
            Event::NodeAdded(node) => fits(node),
            Event::NodeUpdated(old, new) => grew(pod, old, new) && fits(new),
            Event::PodDeleted(_) => true,
            Event::PodUpdated(old, new) => {
                shrank(&pod.requests.asked, &old.requests.taken, &new.requests.taken)
            }
            Event::TargetUpdated(old, new) => {
                shrank(&old.requests.asked, &old.requests.asked, &new.requests.asked)
            }
            _ => false,
        }
    }
}

/// Whether a node has more than before of something that a Pod asks for.
fn grew(pod: &Pod, old: &Node, new: &Node) -> bool {
    new.most_pods > old.most_pods || shrank(&pod.requests.asked, &new.allocatable, &old.allocatable)
}

/// Whether there is less than before of something that is asked for.
fn shrank(asked: &Resources, before: &Resources, after: &Resources) -> bool {
    let amount = |resources: &Resources, name: &str| {
        resources.amounts().find(|(other, _)| *other == name).map_or(0, |(_, amount)| amount)
    };
    asked.amounts().any(|(name, asked)| asked > 0 && amount(after, name) < amount(before, name))
}

/// Prefers nodes with the largest free share of cpu and memory.
struct LeastAllocated<'a>(&'a Pod);

impl Score for LeastAllocated<'_> {
    fn score(&self, state: &NodeState) -> i64 {
        let (used, asked, all) = (state.scored(), &self.0.requests.scored, &state.node.allocatable);
        let shares = [
            (used.cpu_milli + asked.cpu_milli, all.cpu_milli),
            (used.memory_bytes + asked.memory_bytes, all.memory_bytes),
        ];
        let there = shares.into_iter().filter(|(_, all)| *all != 0);
        let scores: Vec<i64> =
            there.map(|(used, all)| if used > all { 0 } else { (all - used) * MAX_SCORE / all }).collect();
        if scores.is_empty() { 0 } else { scores.iter().sum::<i64>() / scores.len() as i64 }
    }
}

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score<'a>(&self, cycle: Cycle<'a>, _: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        let asked = &cycle.pod.requests.asked;
        let best_effort = asked.cpu_milli == 0 && asked.memory_bytes == 0;
        (!best_effort).then(|| Box::new(Balanced(cycle.pod)) as Box<dyn Score>)
    }
}

/// Prefers nodes whose cpu and memory the Pod makes more evenly used.
struct Balanced<'a>(&'a Pod);

impl Score for Balanced<'_> {
    fn score(&self, state: &NodeState) -> i64 {
        let (used, asked, all) = (state.requested(), &self.0.requests.asked, &state.node.allocatable);
        let without = evenness(used.cpu_milli, used.memory_bytes, all);
        let with = evenness(used.cpu_milli + asked.cpu_milli, used.memory_bytes + asked.memory_bytes, all);
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

/// 100 when cpu and memory are used in the same share, less by half their distance.
fn evenness(cpu_milli: i64, memory_bytes: i64, all: &Resources) -> i64 {
    let share = |used: i64, all: i64| (used as f64 / all as f64).min(1.0);
    let deviation = match (all.cpu_milli, all.memory_bytes) {
        (0, _) | (_, 0) => 0.0,
        (cpu, memory) => ((share(cpu_milli, cpu) - share(memory_bytes, memory)) / 2.0).abs(),
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}
