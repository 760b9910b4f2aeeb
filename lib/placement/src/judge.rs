//! A Pod before all nodes: the scheduler's filters in its order, for those who only want to know.

use crate::fit;
use crate::inter_pod::{InterPod, Namespaces};
use crate::node::NodeState;
use crate::pod::Pod;
use crate::reason::{Reason, summary};
use crate::spread::Spread;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where a Pod is judged.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// All nodes.
    pub nodes: &'a [NodeState],
    /// Labels of namespaces.
    pub namespaces: &'a Namespaces,
    /// Pods that nodes are being cleared for.
    pub nominated: &'a [Arc<Pod>],
}

/// What was found about a Pod that has no node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// What speaks against all nodes at once; the nodes were not asked then.
    pub against_all: Option<String>,
    /// Each node in the world's order, and what speaks against it: nothing where the Pod fits.
    pub nodes: Vec<(Arc<str>, Vec<Reason>)>,
}

impl Judgement {
    /// The nodes that would take it.
    pub fn fitting(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.iter().filter(|(_, reasons)| reasons.is_empty()).map(|(name, _)| name)
    }

    /// What the scheduler says of it, without what it says of pushing out others.
    pub fn message(&self, nodes: usize) -> String {
        match &self.against_all {
            _ if nodes == 0 => "no nodes available to schedule pods".into(),
            Some(words) => format!("0/{nodes} nodes are available: {words}."),
            None => summary(nodes, self.nodes.iter().flat_map(|(_, reasons)| reasons)),
        }
    }
}

/// What is counted once for a Pod, so that nodes can be asked.
pub struct Judge<'a> {
    pod: &'a Arc<Pod>,
    world: World<'a>,
    spread: Option<Spread>,
    inter_pod: Option<InterPod>,
    only: Option<BTreeSet<Arc<str>>>,
}

impl<'a> Judge<'a> {
    /// Counts.
    pub fn new(pod: &'a Arc<Pod>, world: World<'a>) -> Judge<'a> {
        Judge {
            pod,
            world,
            spread: Spread::new(pod, world.nodes),
            inter_pod: InterPod::new(pod, world.nodes, world.namespaces),
            only: pod.named_nodes(),
        }
    }

    /// Asks all nodes.
    pub fn judge(&self) -> Judgement {
        let no_name = self.only.as_ref().is_some_and(BTreeSet::is_empty);
        let against_all = match no_name {
            true => Some("pod affinity terms conflict".to_owned()),
            false => self.pod.unserved_claim(),
        };
        if against_all.is_some() {
            return Judgement { against_all, nodes: Vec::new() };
        }
        let of = |node: &NodeState| (node.node.name.clone(), self.first(node).err().unwrap_or_default());
        Judgement { against_all, nodes: self.world.nodes.iter().map(of).collect() }
    }

    /// The first filter's no, as the scheduler gives it; a node that is being cleared for others counts them too.
    ///
    /// # Errors
    /// What speaks against the node.
    pub fn first(&self, node: &NodeState) -> Result<(), Vec<Reason>> {
        if self.only.as_ref().is_some_and(|names| !names.contains(&node.node.name)) {
            return Err(vec![Reason::PreFiltered("NodeAffinity".into())]);
        }
        let comes_first = |other: &&Arc<Pod>| {
            other.uid != self.pod.uid
                && other.priority >= self.pod.priority
                && other.nominated_node_name.as_ref() == Some(&node.node.name)
        };
        let before: Vec<&Arc<Pod>> = self.world.nominated.iter().filter(comes_first).collect();
        if !before.is_empty() {
            let (mut state, mut spread, mut inter_pod) =
                (node.clone(), self.spread.clone(), self.inter_pod.clone());
            for other in before {
                state.add(other.clone());
                spread.iter_mut().for_each(|spread| spread.count(other, &state, 1));
                inter_pod.iter_mut().for_each(|counts| counts.count(other, &state, self.world.namespaces, 1));
            }
            self.ask(&state, spread.as_ref(), inter_pod.as_ref())?;
        }
        self.ask(node, self.spread.as_ref(), self.inter_pod.as_ref())
    }

    fn ask(
        &self,
        node: &NodeState,
        spread: Option<&Spread>,
        inter_pod: Option<&InterPod>,
    ) -> Result<(), Vec<Reason>> {
        fit::fits(self.pod, node)?;
        let spread = spread.map_or(Ok(()), |spread| spread.check(node));
        spread
            .and_then(|()| inter_pod.map_or(Ok(()), |counts| counts.check(node, self.world.namespaces)))
            .map_err(|reason| vec![reason])
    }

    /// Every filter's no, whichever came first: what would have to change for the node to take the Pod.
    pub fn all(&self, node: &NodeState) -> Vec<Reason> {
        let (pod, at) = (self.pod, &*node.node);
        let single = [
            fit::node_name(pod, at),
            fit::node_unschedulable(pod, at),
            fit::taint_toleration(pod, at),
            fit::node_affinity(pod, at),
            fit::host_ports(pod, node),
            self.spread.as_ref().map_or(Ok(()), |spread| spread.check(node)),
            self.inter_pod.as_ref().map_or(Ok(()), |counts| counts.check(node, self.world.namespaces)),
        ];
        let single = single.into_iter().filter_map(Result::err);
        single.chain(fit::resources(pod, node).err().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Node;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node(name: &str, cpu: &str) -> NodeState {
        NodeState::new(read::<Node>(
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}}),
        ))
    }

    fn pod(name: &str, spec: Value, status: Value) -> Arc<Pod> {
        read(
            json!({"metadata": {"name": name, "namespace": "s", "uid": name}, "spec": spec, "status": status}),
        )
    }

    fn asks(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn a_node_that_is_cleared_for_another_is_taken() {
        let nodes = [node("a", "2")];
        let waiting = pod("w", asks("2"), json!({"nominatedNodeName": "a"}));
        let world = World {
            nodes: &nodes,
            namespaces: &Namespaces::default(),
            nominated: std::slice::from_ref(&waiting),
        };
        let other = pod("o", asks("1"), json!({}));
        assert_eq!(
            Judge::new(&other, world).judge().message(1),
            "0/1 nodes are available: 1 Insufficient cpu."
        );
        assert_eq!(Judge::new(&waiting, world).judge().fitting().count(), 1);
    }

    #[test]
    fn all_that_speaks_against_a_node_is_told() {
        let mut node = node("a", "1");
        Arc::get_mut(&mut node.node).unwrap().unschedulable = true;
        let nodes = [node];
        let world = World { nodes: &nodes, namespaces: &Namespaces::default(), nominated: &[] };
        let pod = pod("p", asks("2"), json!({}));
        let judge = Judge::new(&pod, world);
        assert_eq!(judge.first(&nodes[0]), Err(vec![Reason::Unschedulable]));
        let all = judge.all(&nodes[0]);
        assert!(matches!(&all[..], [Reason::Unschedulable, Reason::Insufficient { .. }]), "{all:?}");
    }
}
