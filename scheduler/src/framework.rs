//! The plugin framework: upstream's extension points as far as decisions go
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/>).
//!
//! PreFilter gives the [`Filter`] of one decision and PreScore its [`Score`]: each holds what was counted once, so
//! that a look at a node is cheap. A plugin that has no say skips.

use crate::cluster::Cluster;
use minik_placement::{Node, NodeState, Pod, Reason};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The highest score of a node.
pub const MAX_SCORE: i64 = 100;

/// What a decision is about.
#[derive(Clone, Copy)]
pub struct Cycle<'a> {
    /// The Pod to place.
    pub pod: &'a Arc<Pod>,
    /// Where.
    pub cluster: &'a Cluster,
}

/// What PreFilter says.
pub enum PreFilter<'a> {
    /// The plugin has no say.
    Skip,
    /// Every node is to be asked about.
    Ask(Box<dyn Filter + 'a>),
    /// Only these nodes are to be asked about.
    Only(BTreeSet<Arc<str>>, Box<dyn Filter + 'a>),
    /// No node can do.
    Reject(String),
}

/// A plugin's say about nodes, in one decision.
pub trait Filter {
    /// Whether a node does.
    ///
    /// # Errors
    /// What speaks against it; never empty.
    fn check(&self, node: &NodeState) -> Result<(), Vec<Reason>>;

    /// Counts a Pod on a node once more (1) or once less (-1), while others are pushed out in thought.
    fn count(&mut self, _other: &Pod, _node: &NodeState, _times: i64) {}

    /// A copy to think with.
    fn copy<'a>(&self) -> Box<dyn Filter + 'a>
    where
        Self: 'a;
}

/// A plugin's preference among nodes, in one decision.
pub trait Score {
    /// A node's raw score.
    fn score(&self, node: &NodeState) -> i64;

    /// Brings the raw scores of all nodes to 0..=100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Something that happened and may make a waiting Pod placeable.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A node came.
    NodeAdded(&'a Node),
    /// A node changed.
    NodeUpdated(&'a Node, &'a Node),
    /// A node went.
    NodeDeleted(&'a Node),
    /// A Pod was placed.
    PodAdded(&'a Pod),
    /// A placed Pod changed.
    PodUpdated(&'a Pod, &'a Pod),
    /// A placed Pod went.
    PodDeleted(&'a Pod),
    /// The waiting Pod itself changed.
    TargetUpdated(&'a Pod, &'a Pod),
}

/// A plugin.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// What its scores count.
    fn weight(&self) -> i64 {
        0
    }

    /// Prepares its say about nodes.
    fn pre_filter<'a>(&self, _cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Skip
    }

    /// Prepares its preference among the nodes that do.
    fn pre_score<'a>(&self, _cycle: Cycle<'a>, _feasible: &[&NodeState]) -> Option<Box<dyn Score + 'a>> {
        None
    }

    /// Whether an event can change its no to this Pod (upstream's queueing hint).
    fn hint(&self, _event: Event<'_>, _pod: &Pod) -> bool {
        false
    }
}

/// Scales scores to 0..=100 by the highest; reversed, the highest becomes 0.
pub fn normalize_by_highest(scores: &mut [i64], reversed: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match (highest, reversed) {
            (..=0, true) => MAX_SCORE,
            (..=0, false) => *score,
            (highest, true) => MAX_SCORE - MAX_SCORE * *score / highest,
            (highest, false) => MAX_SCORE * *score / highest,
        };
    }
}
