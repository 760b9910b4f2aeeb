//! What the scheduler knows: nodes with their Pods, Pods on their way to a node, namespaces, nominations.
//!
//! A Pod is *assumed* on its node from the decision until the binding is seen, so that the next decision counts it.

use minik_placement::{Labels, Namespaces, Node, NodeState, Pod, Selector};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Identity of a Pod in time.
pub type Uid = Arc<str>;

/// Everything that decisions look at.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<NodeState>,
    /// Where a node stands in `nodes`.
    places: BTreeMap<Arc<str>, usize>,
    /// Pods on nodes that are not known (yet).
    elsewhere: BTreeMap<Uid, Arc<Pod>>,
    placed: BTreeMap<Uid, Placement>,
    nominated: BTreeMap<Uid, (Arc<str>, Arc<Pod>)>,
    /// On how many nodes an image is.
    images: BTreeMap<Arc<str>, usize>,
    namespaces: Namespaces,
    services: BTreeMap<(Arc<str>, Arc<str>), Labels>,
}

#[derive(Debug)]
struct Placement {
    node: Arc<str>,
    assumed: bool,
}

impl Cluster {
    /// All nodes, in a fixed order.
    pub fn nodes(&self) -> &[NodeState] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.places.get(name).and_then(|at| self.nodes.get(*at))
    }

    /// Labels of namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Labels of namespaces, to be changed.
    pub fn namespaces_mut(&mut self) -> &mut Namespaces {
        &mut self.namespaces
    }

    /// On how many nodes an image is.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Notes what a Service selects; an empty selector selects nothing and is forgotten.
    pub fn set_service(&mut self, namespace: Arc<str>, name: Arc<str>, selector: Labels) {
        match selector.is_empty() {
            true => drop(self.services.remove(&(namespace, name))),
            false => drop(self.services.insert((namespace, name), selector)),
        }
    }

    /// What Pods like this one have in common, by the Services that select it; `None` when nothing does.
    pub fn default_selector(&self, pod: &Pod) -> Option<Selector> {
        let selects = |labels: &Labels| labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
        let own = self.services.range((pod.namespace.clone(), "".into())..);
        let own = own.take_while(|((namespace, _), _)| *namespace == pod.namespace);
        let mut all = Labels::new();
        own.filter(|(_, labels)| selects(labels)).for_each(|(_, labels)| all.extend(labels.clone()));
        (!all.is_empty()).then(|| Selector::of(&all))
    }

    /// Adds or changes a node. Gives what it was.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        self.count_images(&node, true);
        if let Some(at) = self.places.get(&node.name) {
            let old = std::mem::replace(&mut self.nodes[*at].node, node);
            self.count_images(&old, false);
            return Some(old);
        }
        let mut state = NodeState::new(node.clone());
        for (uid, pod) in std::mem::take(&mut self.elsewhere) {
            match self.placed.get(&uid).is_some_and(|placement| placement.node == node.name) {
                true => state.add(pod),
                false => drop(self.elsewhere.insert(uid, pod)),
            }
        }
        self.places.insert(node.name.clone(), self.nodes.len());
        self.nodes.push(state);
        None
    }

    /// Forgets a node; its Pods are kept until they go.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<Node>> {
        let at = self.places.remove(name)?;
        let state = self.nodes.remove(at);
        self.places.values_mut().filter(|place| **place > at).for_each(|place| *place -= 1);
        self.count_images(&state.node, false);
        self.elsewhere.extend(state.pods().iter().map(|pod| (pod.uid.clone(), pod.clone())));
        Some(state.node)
    }

    fn count_images(&mut self, node: &Node, more: bool) {
        for image in node.images.keys() {
            let count = self.images.entry(image.clone()).or_insert(0);
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.images.remove(image);
            }
        }
    }

    /// Puts a Pod that is bound on its node, in place of what was known of it. Gives what was known.
    pub fn place(&mut self, pod: Arc<Pod>) -> Option<Arc<Pod>> {
        let node = pod.node_name.clone()?;
        let old = self.take(&pod.uid);
        self.put(pod, node, false);
        old
    }

    /// Counts a Pod on a node that was decided on but not yet written.
    pub fn assume(&mut self, pod: Arc<Pod>, node: Arc<str>) {
        self.nominated.remove(&pod.uid);
        self.put(pod, node, true);
    }

    /// Whether a Pod is on its way to a node.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placement| placement.assumed)
    }

    /// Forgets a Pod that could not be bound. One whose binding was seen meanwhile stays.
    pub fn forget(&mut self, uid: &str) -> Option<Arc<Pod>> {
        if self.is_assumed(uid) { self.take(uid) } else { None }
    }

    /// Takes a Pod that is gone off its node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        self.nominated.remove(uid);
        self.take(uid)
    }

    fn put(&mut self, pod: Arc<Pod>, node: Arc<str>, assumed: bool) {
        self.nominated.remove(&pod.uid);
        self.placed.insert(pod.uid.clone(), Placement { node: node.clone(), assumed });
        match self.places.get(&node) {
            Some(at) => self.nodes[*at].add(pod),
            None => drop(self.elsewhere.insert(pod.uid.clone(), pod)),
        }
    }

    fn take(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let placement = self.placed.remove(uid)?;
        match self.places.get(&placement.node) {
            Some(at) => self.nodes[*at].remove(uid),
            None => self.elsewhere.remove(uid),
        }
    }

    /// Notes that a node is being cleared for a Pod, or no longer.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: Option<Arc<str>>) {
        match node {
            Some(node) => drop(self.nominated.insert(pod.uid.clone(), (node, pod.clone()))),
            None => drop(self.nominated.remove(&pod.uid)),
        }
    }

    /// Pods that a node is being cleared for.
    pub fn nominated_to(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.nominated.values().filter(move |(name, _)| &**name == node).map(|(_, pod)| pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, node: &str) -> Arc<Pod> {
        Arc::new(Pod { uid: uid.into(), node_name: Some(node.into()), ..Pod::default() })
    }

    fn node(name: &str) -> Arc<Node> {
        Arc::new(Node { name: name.into(), ..Node::default() })
    }

    #[test]
    fn pods_find_their_node_whichever_comes_first() {
        let mut cluster = Cluster::default();
        cluster.place(pod("1", "a"));
        cluster.set_node(node("b"));
        cluster.set_node(node("a"));
        assert_eq!(cluster.node("a").unwrap().pods().len(), 1);
        cluster.remove_node("b");
        cluster.remove_node("a");
        cluster.set_node(node("a"));
        assert_eq!(cluster.node("a").unwrap().pods().len(), 1);
        assert!(cluster.remove("1").is_some());
        assert!(cluster.node("a").unwrap().pods().is_empty());
    }

    #[test]
    fn an_assumed_pod_is_forgotten_only_before_it_was_seen() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("a"));
        cluster.assume(pod("1", "a"), "a".into());
        assert!(cluster.is_assumed("1"));
        cluster.place(pod("1", "a"));
        assert!(cluster.forget("1").is_none());
        assert_eq!(cluster.node("a").unwrap().pods().len(), 1);
    }
}
