//! Why a node does not take a Pod, in upstream's words.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One reason against one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The Pod names another node.
    NodeName,
    /// The node is cordoned.
    Unschedulable,
    /// The node bears a taint that the Pod does not tolerate.
    Taint,
    /// The node's labels or name are not what the Pod demands.
    NodeAffinity,
    /// A host port is taken.
    HostPorts,
    /// The node has as many Pods as it takes.
    TooManyPods {
        /// How many are there.
        used: i64,
        /// How many it takes.
        capacity: i64,
    },
    /// Too little is left of a resource.
    Insufficient {
        /// Its name.
        resource: Arc<str>,
        /// How much the Pod asks for.
        requested: i64,
        /// How much others take.
        used: i64,
        /// How much there is in all.
        capacity: i64,
    },
    /// The node lacks the label that spreading counts by.
    SpreadLabel,
    /// The place has too many Pods of the sort already.
    Spread,
    /// No Pod of the place is one that the Pod wants to be with.
    PodAffinity,
    /// A Pod of the place is one that the Pod does not want to be with.
    PodAntiAffinity,
    /// A Pod of the place does not want to be with this Pod.
    ExistingAntiAffinity,
    /// A plugin already ruled the node out by its name.
    PreFiltered(String),
    /// Pushing out others was looked at: nobody can be pushed out.
    NoVictims,
    /// Pushing out others was not looked at, for it would not help.
    PreemptionNotHelpful,
    /// Words of a plugin outside of this crate.
    Other {
        /// Its words.
        words: String,
        /// Whether pushing out others cannot help.
        is_final: bool,
    },
}

impl Reason {
    /// Whether pushing out other Pods cannot help.
    pub fn is_final(&self) -> bool {
        match self {
            Reason::Insufficient { requested, capacity, .. } => requested > capacity,
            Reason::Other { is_final, .. } => *is_final,
            Reason::HostPorts
            | Reason::TooManyPods { .. }
            | Reason::Spread
            | Reason::PodAntiAffinity
            | Reason::ExistingAntiAffinity => false,
            _ => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NodeName => "node(s) didn't match the requested node name",
            Reason::Unschedulable => "node(s) were unschedulable",
            Reason::Taint => "node(s) had untolerated taint(s)",
            Reason::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Reason::HostPorts => "node(s) didn't have free ports for the requested pod ports",
            Reason::TooManyPods { .. } => "Too many pods",
            Reason::Insufficient { resource, .. } => return write!(f, "Insufficient {resource}"),
            Reason::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Reason::Spread => "node(s) didn't match pod topology spread constraints",
            Reason::PodAffinity => "node(s) didn't match pod affinity rules",
            Reason::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Reason::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
            Reason::PreFiltered(plugins) => return write!(f, "node(s) didn't satisfy plugin(s) [{plugins}]"),
            Reason::NoVictims => "No preemption victims found for incoming pod",
            Reason::PreemptionNotHelpful => "Preemption is not helpful for scheduling",
            Reason::Other { words, .. } => words,
        })
    }
}

/// Reasons counted over nodes, as events and conditions say them: `0/3 nodes are available: 2 Insufficient cpu, ...`.
pub fn summary<'a>(nodes: usize, reasons: impl IntoIterator<Item = &'a Reason>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason.to_string()).or_default() += 1;
    }
    let mut counted: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counted.sort();
    let listed = if counted.is_empty() { String::new() } else { format!(" {}.", counted.join(", ")) };
    format!("0/{nodes} nodes are available:{listed}")
}
