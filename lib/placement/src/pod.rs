//! A Pod, as far as its place is concerned.

use crate::labels::{AffinityTerm, Labels, NodeSelectorTerm, Operator, Requirement, Selector, Weighted};
use crate::resources::Requests;
use crate::taints::Toleration;
use crate::wire;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A Pod as placement sees it; read straight from the API's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "wire::Pod")]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its identity in time.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Whether its deletion was asked for.
    pub terminating: bool,
    /// Whether that was done to make room for another Pod.
    pub preempted: bool,
    /// Whether it has ended (Succeeded or Failed) and takes nothing any more.
    pub finished: bool,
    /// Its priority.
    pub priority: i32,
    /// Whether it may push out others.
    pub may_preempt: bool,
    /// When its node took it, RFC 3339 in seconds and UTC, so that text sorts as time.
    pub started: Option<Arc<str>>,
    /// The node that it is bound to.
    pub node_name: Option<Arc<str>>,
    /// The node that is being cleared for it.
    pub nominated_node_name: Option<Arc<str>>,
    /// What it asks for and takes.
    pub requests: Requests,
    /// Ports of the node that it wants for itself.
    pub host_ports: Vec<HostPort>,
    /// Images of its containers and image volumes, normalized; one as often as it is used.
    pub images: Vec<Arc<str>>,
    /// PersistentVolumeClaims that it names.
    pub claims: Vec<ClaimRef>,
    /// Labels that its node must bear.
    pub node_selector: Labels,
    /// Terms of which its node must meet one; `None` demands nothing.
    pub required_nodes: Option<Vec<NodeSelectorTerm>>,
    /// Terms that speak for a node.
    pub preferred_nodes: Vec<Weighted<NodeSelectorTerm>>,
    /// Taints that it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Its wishes about other Pods; absent for most.
    pub affinity: Option<Box<PodAffinity>>,
    /// How it wants to be spread.
    pub spread: Vec<SpreadConstraint>,
}

/// Wishes about other Pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodAffinity {
    /// All must be met by some Pod of the same place.
    pub required: Vec<AffinityTerm>,
    /// Speak for a place.
    pub preferred: Vec<Weighted<AffinityTerm>>,
    /// None may be met by any Pod of the same place.
    pub required_anti: Vec<AffinityTerm>,
    /// Speak against a place.
    pub preferred_anti: Vec<Weighted<AffinityTerm>>,
}

/// A port of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The address; `0.0.0.0` for all.
    pub ip: Arc<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Arc<str>,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Whether both cannot be had at once.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == "0.0.0.0" || &*other.ip == "0.0.0.0")
    }
}

/// A claim that a Pod names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRef {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is made for the Pod by a controller.
    pub ephemeral: bool,
}

/// What happens to a Pod that cannot be spread as it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnsatisfiable {
    /// It waits.
    DoNotSchedule,
    /// It is placed as well as can be.
    ScheduleAnyway,
}

/// A wish to be spread over places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpreadConstraint {
    /// How many more Pods a place may have than the emptiest.
    pub max_skew: i64,
    /// The label that tells places apart.
    pub topology_key: Arc<str>,
    /// Which Pods count.
    pub selector: Selector,
    /// With fewer places than this, the emptiest counts as having none.
    pub min_domains: usize,
    /// Whether only nodes count that the Pod's node affinity allows.
    pub honors_affinity: bool,
    /// Whether only nodes count whose taints the Pod tolerates.
    pub honors_taints: bool,
    /// What if not.
    pub when_unsatisfiable: WhenUnsatisfiable,
}

impl Pod {
    /// Whether its node selector and required node affinity allow a node.
    pub fn allows_node(&self, name: &Arc<str>, labels: &Labels) -> bool {
        self.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self
                .required_nodes
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// The nodes that its required affinity names, if every term names some.
    pub fn named_nodes(&self) -> Option<BTreeSet<Arc<str>>> {
        let terms = self.required_nodes.as_deref().filter(|terms| !terms.is_empty())?;
        let mut all = BTreeSet::new();
        for term in terms {
            let named = term
                .match_fields
                .iter()
                .filter(|one| &*one.key == "metadata.name" && one.operator == Operator::In);
            let sets = named.map(|one| one.values.iter().cloned().collect::<BTreeSet<_>>());
            all.extend(sets.reduce(|a, b| a.intersection(&b).cloned().collect())?);
        }
        Some(all)
    }

    /// Why its claims keep it from every node: claims are not served yet, so that a Pod which names one waits.
    pub fn unserved_claim(&self) -> Option<String> {
        let claim = self.claims.first()?;
        Some(match claim.ephemeral {
            true => format!(
                "waiting for ephemeral volume controller to create the persistentvolumeclaim {:?}",
                &*claim.name
            ),
            false => format!("persistentvolumeclaim {:?} not found", &*claim.name),
        })
    }

    /// Whether a node that now holds it counts it: it is bound and has not ended.
    pub fn is_placed(&self) -> bool {
        self.node_name.is_some() && !self.finished
    }
}

impl From<wire::Pod> for Pod {
    fn from(wire: wire::Pod) -> Pod {
        let requests = Requests::of(&wire);
        let set = |text: Option<Arc<str>>| text.filter(|text| !text.is_empty());
        let wire::Pod { metadata, spec, status } = wire;
        let preempted = status.conditions.iter().any(|one| {
            (&*one.kind, &*one.status, &*one.reason) == ("DisruptionTarget", "True", "PreemptionByScheduler")
        });
        let affinity = affinity(&spec, &metadata);
        Pod {
            requests,
            affinity,
            preempted,
            terminating: metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            priority: spec.priority.unwrap_or(0),
            may_preempt: spec.preemption_policy.as_deref() != Some("Never"),
            started: status.start_time,
            node_name: set(spec.node_name.clone()),
            nominated_node_name: set(status.nominated_node_name),
            host_ports: host_ports(&spec),
            images: images(&spec),
            claims: claims(&spec, &metadata.name),
            spread: spread(&spec, &metadata.labels),
            node_selector: spec.node_selector,
            required_nodes: spec.affinity.node_affinity.required.map(|one| one.node_selector_terms),
            preferred_nodes: spec
                .affinity
                .node_affinity
                .preferred
                .into_iter()
                .map(|one| Weighted { weight: one.weight, term: one.preference })
                .collect(),
            tolerations: spec.tolerations,
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            labels: metadata.labels,
        }
    }
}

fn affinity(spec: &wire::PodSpec, meta: &wire::PodMeta) -> Option<Box<PodAffinity>> {
    let term = |term: &wire::Term| {
        let own = term.namespaces.is_empty() && term.namespace_selector == Selector::Nothing;
        let namespaces = if own { BTreeSet::from([meta.namespace.clone()]) } else { term.namespaces.clone() };
        AffinityTerm {
            selector: term.selector(&meta.labels),
            topology_key: term.topology_key.clone(),
            namespaces,
            namespace_selector: term.namespace_selector.clone(),
        }
    };
    let weighted =
        |one: &wire::WeightedTerm| Weighted { weight: one.weight, term: term(&one.pod_affinity_term) };
    let (for_, against) = (&spec.affinity.pod_affinity, &spec.affinity.pod_anti_affinity);
    let affinity = PodAffinity {
        required: for_.required.iter().map(term).collect(),
        preferred: for_.preferred.iter().map(weighted).collect(),
        required_anti: against.required.iter().map(term).collect(),
        preferred_anti: against.preferred.iter().map(weighted).collect(),
    };
    (affinity != PodAffinity::default()).then(|| Box::new(affinity))
}

/// Ports of containers and of sidecars; an ordinary init container has ended before others want its ports.
fn host_ports(spec: &wire::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| &container.ports);
    let wanted = ports.filter(|port| port.host_port > 0).map(|port| HostPort {
        ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
        protocol: port.protocol.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "TCP".into()),
        port: port.host_port,
    });
    wanted.collect()
}

fn images(spec: &wire::PodSpec) -> Vec<Arc<str>> {
    let containers = spec.init_containers.iter().chain(&spec.containers).map(|one| &one.image);
    let volumes =
        spec.volumes.iter().filter_map(|volume| volume.image.as_ref()).map(|image| &image.reference);
    containers.chain(volumes).map(normalized_image).collect()
}

/// An image's name with a tag.
pub(crate) fn normalized_image(name: &Arc<str>) -> Arc<str> {
    let tagged = name.rfind(':').is_some_and(|colon| name.rfind('/').is_none_or(|slash| colon > slash));
    if tagged { name.clone() } else { format!("{name}:latest").into() }
}

fn claims(spec: &wire::PodSpec, pod: &str) -> Vec<ClaimRef> {
    let claim = |volume: &wire::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(ClaimRef { name: claim.claim_name.clone(), ephemeral: false }),
        (None, Some(_)) => Some(ClaimRef { name: format!("{pod}-{}", volume.name).into(), ephemeral: true }),
        (None, None) => None,
    };
    spec.volumes.iter().filter_map(claim).collect()
}

fn spread(spec: &wire::PodSpec, labels: &Labels) -> Vec<SpreadConstraint> {
    let constraint = |one: &wire::SpreadConstraint| {
        let same = one
            .match_label_keys
            .iter()
            .filter_map(|key| Some(Requirement::equals(key.clone(), labels.get(key)?.clone())));
        SpreadConstraint {
            max_skew: one.max_skew,
            topology_key: one.topology_key.clone(),
            selector: one.label_selector.clone().and(same.collect::<Vec<_>>()),
            min_domains: one.min_domains.unwrap_or(1),
            honors_affinity: one.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: one.node_taints_policy.as_deref() == Some("Honor"),
            when_unsatisfiable: match &*one.when_unsatisfiable {
                "ScheduleAnyway" => WhenUnsatisfiable::ScheduleAnyway,
                _ => WhenUnsatisfiable::DoNotSchedule,
            },
        }
    };
    spec.topology_spread_constraints.iter().map(constraint).collect()
}
