//! Who owns whom, as far as the watches have told. Pure.
//!
//! An owner that dependents name and that no watch has shown is a *virtual* node: it is asked for at the server, and
//! becomes real when a watch shows it.

use minik_client::Meta;
use minik_client::OwnerRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The finalizer that holds an owner until its blocking dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that holds an owner until its dependents have forgotten it.
pub const ORPHAN: &str = "orphan";

/// The identity in time of an object.
pub type Uid = Arc<str>;

/// What an object is, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Group and version of its kind.
    pub api_version: Arc<str>,
    /// Its kind.
    pub kind: Arc<str>,
    /// Its namespace; of a virtual node that of a dependent, which matters only if its kind lives in namespaces.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its identity in time.
    pub uid: Uid,
}

/// A key of the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// See whether it should be deleted.
    Attempt(Uid),
    /// Have its dependents forget it.
    Orphan(Uid),
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Attempt(uid) => write!(f, "attempt {uid}"),
            Work::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

#[derive(Debug, Clone)]
struct Node {
    identity: Identity,
    owners: Vec<OwnerRef>,
    dependents: BTreeSet<Uid>,
    /// No watch has shown it.
    is_virtual: bool,
    /// Its deletion was asked for.
    leaving: bool,
    /// It waits for its dependents to go.
    waiting: bool,
    /// It waits for its dependents to forget it.
    orphaning: bool,
}

/// A dependent as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// Which.
    pub identity: Identity,
    /// Whether its owner waits for it.
    pub blocks: bool,
    /// Whether it waits for its own dependents.
    pub waiting: bool,
}

/// A node as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Which.
    pub identity: Identity,
    /// Whether no watch has shown it.
    pub is_virtual: bool,
    /// Whether its deletion was asked for.
    pub leaving: bool,
    /// Whether it waits for its dependents to go.
    pub waiting: bool,
    /// Whether it waits for itself, by dependents that wait for theirs.
    pub circle: bool,
    /// Its dependents.
    pub dependents: Vec<Dependent>,
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeMap<Uid, Node>,
}

impl Graph {
    /// A watch has shown an object, new or changed.
    pub fn observe(&mut self, identity: &Identity, meta: &Meta) -> Vec<Work> {
        let uid = &identity.uid;
        let mut work = Vec::new();
        let leaving = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| meta.finalizers.iter().any(|one| &**one == finalizer);
        let (waiting, orphaning) = (leaving && has(FOREGROUND), leaving && has(ORPHAN));
        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node::empty(identity.clone()));
        if node.is_virtual && node.identity != *identity {
            // Some may name another object than the one that bears this uid.
            work.extend(node.dependents.iter().cloned().map(Work::Attempt));
        }
        let before = (node.waiting, node.orphaning);
        node.identity = identity.clone();
        node.is_virtual = false;
        (node.leaving, node.waiting, node.orphaning) = (leaving, waiting, orphaning);
        let old = std::mem::replace(&mut node.owners, meta.owner_references.clone());
        if waiting && !before.0 {
            work.extend(node.dependents.iter().cloned().map(Work::Attempt));
            work.push(Work::Attempt(uid.clone()));
        }
        if orphaning && !before.1 {
            work.push(Work::Orphan(uid.clone()));
        }
        self.link(identity, &old, &meta.owner_references, &mut work);
        work
    }

    /// Makes owners know their dependent, and no longer know what it no longer names.
    fn link(&mut self, dependent: &Identity, old: &[OwnerRef], new: &[OwnerRef], work: &mut Vec<Work>) {
        for gone in old {
            let still = new.iter().find(|one| one.uid == gone.uid);
            let unblocked = gone.block_owner_deletion && still.is_none_or(|one| !one.block_owner_deletion);
            if still.is_none() {
                self.unlink(&gone.uid, &dependent.uid);
            }
            if unblocked && self.nodes.get(&gone.uid).is_some_and(|owner| owner.waiting) {
                work.push(Work::Attempt(gone.uid.clone()));
            }
        }
        for owner in new {
            let identity = Identity::of_owner(owner, &dependent.namespace);
            let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| {
                work.push(Work::Attempt(owner.uid.clone()));
                Node::empty(identity.clone())
            });
            let fresh = node.dependents.insert(dependent.uid.clone());
            let other = !node.is_virtual && !node.identity.is_named_by(owner);
            if fresh && (other || node.waiting) {
                work.push(Work::Attempt(dependent.uid.clone()));
            }
        }
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        let Some(node) = self.nodes.get_mut(owner) else { return };
        node.dependents.remove(dependent);
        if node.is_virtual && node.dependents.is_empty() {
            self.nodes.remove(owner);
        }
    }

    /// A watch, or the server itself, has told that an object is gone.
    pub fn gone(&mut self, uid: &Uid) -> Vec<Work> {
        let Some(node) = self.nodes.get_mut(uid) else { return Vec::new() };
        let mut work: Vec<Work> = node.dependents.iter().cloned().map(Work::Attempt).collect();
        let owners = std::mem::take(&mut node.owners);
        if node.dependents.is_empty() {
            self.nodes.remove(uid);
        } else {
            // What still names it is looked at until it is gone itself, or names it no longer.
            *node = Node {
                dependents: std::mem::take(&mut node.dependents),
                ..Node::empty(node.identity.clone())
            };
        }
        for owner in owners {
            self.unlink(&owner.uid, uid);
            if self.nodes.get(&owner.uid).is_some_and(|owner| owner.waiting) {
                work.push(Work::Attempt(owner.uid));
            }
        }
        work
    }

    /// The server does not have a virtual node; what a watch has shown meanwhile is left alone.
    pub fn absent(&mut self, uid: &Uid) -> Vec<Work> {
        match self.nodes.get(uid) {
            Some(node) if node.is_virtual => node.dependents.iter().cloned().map(Work::Attempt).collect(),
            _ => Vec::new(),
        }
    }

    /// A node as it is now.
    pub fn view(&self, uid: &Uid) -> Option<View> {
        let node = self.nodes.get(uid)?;
        let dependent = |one: &Uid| {
            let other = self.nodes.get(one)?;
            let reference = other.owners.iter().find(|owner| owner.uid == *uid)?;
            Some(Dependent {
                identity: other.identity.clone(),
                blocks: reference.block_owner_deletion,
                waiting: other.waiting,
            })
        };
        Some(View {
            identity: node.identity.clone(),
            is_virtual: node.is_virtual,
            leaving: node.leaving,
            waiting: node.waiting,
            circle: self.waits_for_itself(uid),
            dependents: node.dependents.iter().filter_map(dependent).collect(),
        })
    }

    /// Whether a path of nodes that wait, each for the next, leads from a node back to it.
    fn waits_for_itself(&self, uid: &Uid) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![uid];
        while let Some(at) = next.pop() {
            let Some(node) = self.nodes.get(at).filter(|node| node.waiting) else { continue };
            for one in &node.dependents {
                let owners = self.nodes.get(one).map_or(&[][..], |dependent| &dependent.owners);
                if !owners.iter().any(|owner| owner.uid == *at && owner.block_owner_deletion) {
                    continue;
                }
                if one == uid {
                    return true;
                }
                if seen.insert(one) {
                    next.push(one);
                }
            }
        }
        false
    }

    /// How many objects are known, virtual ones included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len()
    }
}

impl Node {
    fn empty(identity: Identity) -> Node {
        Node {
            identity,
            owners: Vec::new(),
            dependents: BTreeSet::new(),
            is_virtual: true,
            leaving: false,
            waiting: false,
            orphaning: false,
        }
    }
}

impl Identity {
    fn of_owner(owner: &OwnerRef, namespace: &Arc<str>) -> Identity {
        Identity {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            namespace: namespace.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }

    fn is_named_by(&self, owner: &OwnerRef) -> bool {
        let group = |api: &str| api.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
        self.kind == owner.kind
            && self.name == owner.name
            && group(&self.api_version) == group(&owner.api_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(uid: &str) -> Identity {
        Identity {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: "s".into(),
            name: uid.into(),
            uid: uid.into(),
        }
    }

    fn owned(uid: &str, owners: &[(&str, bool)]) -> (Identity, Meta) {
        let owner = |(uid, blocks): &(&str, bool)| OwnerRef {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: (*uid).into(),
            uid: (*uid).into(),
            block_owner_deletion: *blocks,
            ..OwnerRef::default()
        };
        (identity(uid), Meta { owner_references: owners.iter().map(owner).collect(), ..Meta::default() })
    }

    fn leaving(uid: &str, owners: &[(&str, bool)], finalizer: &str) -> (Identity, Meta) {
        let (identity, meta) = owned(uid, owners);
        let at = Some(jiff::Timestamp::UNIX_EPOCH);
        (identity, Meta { deletion_timestamp: at, finalizers: vec![finalizer.into()], ..meta })
    }

    fn attempts(work: &[Work]) -> Vec<&str> {
        work.iter()
            .map(|one| match one {
                Work::Attempt(uid) | Work::Orphan(uid) => &**uid,
            })
            .collect()
    }

    #[test]
    fn an_owner_that_was_never_seen_is_asked_for_and_then_its_dependents() {
        let mut graph = Graph::default();
        let (id, meta) = owned("child", &[("lost", false)]);
        assert_eq!(attempts(&graph.observe(&id, &meta)), ["lost"]);
        assert!(graph.view(&"lost".into()).unwrap().is_virtual);
        assert_eq!(attempts(&graph.absent(&"lost".into())), ["child"]);
        graph.gone(&"child".into());
        assert_eq!(graph.len(), 0, "nothing is kept of what is gone");
    }

    #[test]
    fn an_owner_that_shows_later_keeps_its_dependents() {
        let mut graph = Graph::default();
        let (id, meta) = owned("child", &[("owner", true)]);
        graph.observe(&id, &meta);
        let (id, meta) = owned("owner", &[]);
        assert_eq!(graph.observe(&id, &meta), []);
        assert!(graph.absent(&"owner".into()).is_empty(), "what a watch has shown is not absent");
        assert_eq!(graph.view(&"owner".into()).unwrap().dependents.len(), 1);
        assert_eq!(attempts(&graph.gone(&"owner".into())), ["child"]);
    }

    #[test]
    fn an_owner_that_waits_is_looked_at_when_a_dependent_lets_it_go() {
        let mut graph = Graph::default();
        for (id, meta) in
            [owned("owner", &[]), owned("a", &[("owner", true)]), owned("b", &[("owner", true)])]
        {
            graph.observe(&id, &meta);
        }
        let (id, meta) = leaving("owner", &[], FOREGROUND);
        assert_eq!(attempts(&graph.observe(&id, &meta)), ["a", "b", "owner"]);
        assert_eq!(graph.observe(&id, &meta), [], "told once");
        assert_eq!(attempts(&graph.gone(&"a".into())), ["owner"]);
        let (id, meta) = owned("b", &[("owner", false)]);
        assert_eq!(attempts(&graph.observe(&id, &meta)), ["owner"]);
        let (id, meta) = owned("late", &[("owner", true)]);
        assert_eq!(attempts(&graph.observe(&id, &meta)), ["late"], "one that comes late goes too");
    }

    #[test]
    fn orphaning_is_told_once() {
        let mut graph = Graph::default();
        let (id, meta) = leaving("owner", &[], ORPHAN);
        assert_eq!(graph.observe(&id, &meta), [Work::Orphan("owner".into())]);
        assert_eq!(graph.observe(&id, &meta), []);
    }

    proptest! {
        /// Whatever is seen in whatever order, dependents are exactly those that name their owner, and nothing is left
        /// when all have gone.
        #[test]
        fn links_follow_references(steps in proptest::collection::vec((0..5usize, proptest::option::of(proptest::collection::vec((0..5usize, any::<bool>()), 0..3))), 1..60)) {
            let names = ["a", "b", "c", "d", "e"];
            let mut graph = Graph::default();
            let mut live = BTreeMap::<&str, Vec<(&str, bool)>>::new();
            for (who, owners) in steps {
                match owners {
                    Some(owners) => {
                        let mut owners: Vec<_> = owners.into_iter().map(|(one, blocks)| (names[one], blocks)).collect();
                        owners.sort();
                        owners.dedup_by_key(|one| one.0);
                        let (id, meta) = owned(names[who], &owners);
                        graph.observe(&id, &meta);
                        live.insert(names[who], owners);
                    }
                    None => {
                        graph.gone(&names[who].into());
                        live.remove(names[who]);
                    }
                }
                for owner in names {
                    let naming: BTreeSet<Uid> = live.iter().filter(|(_, owners)| owners.iter().any(|one| one.0 == owner)).map(|(name, _)| (*name).into()).collect();
                    let known: BTreeSet<Uid> = graph.view(&owner.into()).map(|view| view.dependents.into_iter().map(|one| one.identity.uid).collect()).unwrap_or_default();
                    prop_assert_eq!(naming, known, "dependents of {}", owner);
                }
            }
            for name in names {
                graph.gone(&name.into());
            }
            prop_assert_eq!(graph.len(), 0);
        }
    }
}
