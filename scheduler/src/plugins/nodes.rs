//! Plugins that ask one node at a time: its name, cordon, taints, labels and ports.

use crate::framework::{Cycle, Event, Filter, Plugin, PreFilter, Score, normalize_by_highest};
use minik_placement::taints::{self, Effect, Toleration};
use minik_placement::{Node, NodeSelectorTerm, NodeState, Pod, Reason, Weighted, fit};
use std::sync::Arc;

/// A filter that needs nothing but the Pod.
struct Ask {
    pod: Arc<Pod>,
    check: fn(&Pod, &NodeState) -> Result<(), Reason>,
}

impl Filter for Ask {
    fn check(&self, node: &NodeState) -> Result<(), Vec<Reason>> {
        (self.check)(&self.pod, node).map_err(|reason| vec![reason])
    }

    fn copy<'a>(&self) -> Box<dyn Filter + 'a>
    where
        Self: 'a,
    {
        Box::new(Ask { pod: self.pod.clone(), check: self.check })
    }
}

fn ask<'a>(cycle: Cycle<'a>, check: fn(&Pod, &NodeState) -> Result<(), Reason>) -> Box<dyn Filter + 'a> {
    Box::new(Ask { pod: cycle.pod.clone(), check })
}

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Ask(ask(cycle, |pod, state| fit::node_name(pod, &state.node)))
    }

    fn hint(&self, event: Event<'_>, _: &Pod) -> bool {
        matches!(event, Event::NodeAdded(_))
    }
}

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Ask(ask(cycle, |pod, state| fit::node_unschedulable(pod, &state.node)))
    }

    fn hint(&self, event: Event<'_>, _: &Pod) -> bool {
        match event {
            Event::NodeAdded(node) => !node.unschedulable,
            Event::NodeUpdated(old, new) => old.unschedulable && !new.unschedulable,
            Event::TargetUpdated(old, new) => {
                old.tolerations != new.tolerations
                    && new.tolerations.iter().any(|one| one.tolerates(&taints::unschedulable()))
            }
            _ => false,
        }
    }
}

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Ask(ask(cycle, |pod, state| fit::taint_toleration(pod, &state.node)))
    }

    fn pre_score<'a>(&self, cycle: Cycle<'a>, _: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        let prefers = |one: &&Toleration| one.effect.is_none_or(|effect| effect == Effect::PreferNoSchedule);
        Some(Box::new(Untolerated(cycle.pod.tolerations.iter().filter(prefers).collect())))
    }

    fn hint(&self, event: Event<'_>, pod: &Pod) -> bool {
        let tolerated = |node: &Node| fit::taint_toleration(pod, node).is_ok();
        match event {
            Event::NodeAdded(node) => tolerated(node),
            Event::NodeUpdated(old, new) => !tolerated(old) && tolerated(new),
            Event::TargetUpdated(old, new) => old.tolerations != new.tolerations,
            _ => false,
        }
    }
}

/// Counts taints that rather keep Pods away.
struct Untolerated<'a>(Vec<&'a Toleration>);

impl Score for Untolerated<'_> {
    fn score(&self, state: &NodeState) -> i64 {
        let against = state.node.taints.iter().filter(|taint| {
            taint.effect == Effect::PreferNoSchedule && !self.0.iter().any(|one| one.tolerates(taint))
        });
        against.count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_highest(scores, true);
    }
}

pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let pod = cycle.pod;
        if pod.required_nodes.is_none() && pod.node_selector.is_empty() {
            return PreFilter::Skip;
        }
        let filter = ask(cycle, |pod, state| fit::node_affinity(pod, &state.node));
        match pod.named_nodes() {
            None => PreFilter::Ask(filter),
            Some(names) if names.is_empty() => PreFilter::Reject("pod affinity terms conflict".into()),
            Some(names) => PreFilter::Only(names, filter),
        }
    }

    fn pre_score<'a>(&self, cycle: Cycle<'a>, _: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        let preferred = &cycle.pod.preferred_nodes;
        (!preferred.is_empty()).then(|| Box::new(Preferred(preferred)) as Box<dyn Score>)
    }

    fn hint(&self, event: Event<'_>, pod: &Pod) -> bool {
        let allowed = |node: &Node| pod.allows_node(&node.name, &node.labels);
        match event {
            Event::NodeAdded(node) => allowed(node),
            Event::NodeUpdated(old, new) => !allowed(old) && allowed(new),
            _ => false,
        }
    }
}

/// Sums the weights of the terms that speak for a node.
struct Preferred<'a>(&'a [Weighted<NodeSelectorTerm>]);

impl Score for Preferred<'_> {
    fn score(&self, state: &NodeState) -> i64 {
        let node = &state.node;
        self.0.iter().filter(|one| one.term.matches(&node.name, &node.labels)).map(|one| one.weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_highest(scores, false);
    }
}

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn pre_filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        match cycle.pod.host_ports.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Ask(ask(cycle, fit::host_ports)),
        }
    }

    fn hint(&self, event: Event<'_>, pod: &Pod) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::PodDeleted(gone) => {
                gone.host_ports.iter().any(|port| pod.host_ports.iter().any(|wanted| wanted.conflicts(port)))
            }
            _ => false,
        }
    }
}
