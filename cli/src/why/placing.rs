//! Why a Pod has no node.

use super::amounts::written;
use super::diagnosis::{Diagnosis, Suggestion, What};
use super::evidence::Evidence;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodCondition;
use minik_placement::taints::{self, Effect};
use minik_placement::{AffinityTerm, Judge, Labels, NodeState, Pod, Reason, Requirement, World};
use std::sync::Arc;

/// A scheduler that runs has looked at a Pod by then.
const SOON: SignedDuration = SignedDuration::from_secs(2);
/// A scheduler that runs has renewed its Lease since then.
const LEASE: SignedDuration = SignedDuration::from_secs(15);
const NODE_ADD: &str = "minikctl node add";
/// What the scheduler is called that looks at Pods which name none.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Judges it on every node, as the scheduler does.
pub fn diagnose(evidence: &Evidence) -> Diagnosis {
    if let Some(diagnosis) = held_back(evidence) {
        return diagnosis;
    }
    if evidence.nodes.is_empty() {
        let mut diagnosis = Diagnosis::new("Pending", "there is no node");
        diagnosis.cause("nodes", What::NoNode);
        diagnosis.suggest(Suggestion::run("add a node", NODE_ADD));
        return diagnosis;
    }
    let (namespaces, nominated) = (&evidence.namespaces, evidence.nominated.as_slice());
    let world = World { nodes: &evidence.nodes, namespaces, nominated };
    let judge = Judge::new(&evidence.placement, world);
    let judgement = judge.judge();
    if let Some(words) = judgement.against_all {
        let mut diagnosis = Diagnosis::new("Pending", words.clone());
        match evidence.placement.claims.first() {
            Some(claim) => {
                diagnosis.cause(format!("persistentvolumeclaim {}", claim.name), What::Claim { words });
                let what = "keep the data in another kind of volume (emptyDir, hostPath): claims are not served here yet";
                diagnosis.suggest(Suggestion::words(what));
            }
            None => diagnosis.cause("affinity", What::Claim { words }),
        }
        return diagnosis;
    }
    let fitting: Vec<&Arc<str>> = judgement.fitting().collect();
    if !fitting.is_empty() {
        return unbound(evidence, &fitting);
    }
    let mut diagnosis = Diagnosis::new("Pending", format!("0 of {} nodes fit", evidence.nodes.len()));
    for (state, (name, reasons)) in evidence.nodes.iter().zip(&judgement.nodes) {
        let explain = Explain { evidence, state };
        reasons.iter().for_each(|reason| diagnosis.cause(&**name, explain.cause(reason)));
    }
    suggest(evidence, &judge, &mut diagnosis);
    if let Some(node) = &evidence.placement.nominated_node_name {
        diagnosis.summary = format!("{node} is being cleared for it");
        diagnosis.suggestions.insert(0, Suggestion::words("wait until the Pods that make room have ended"));
    }
    if let Some((words, suggestion)) = no_scheduler(evidence) {
        diagnosis.cause(format!("scheduler {}", scheduler(evidence)), What::SchedulerNotRunning { words });
        diagnosis.suggestions.insert(0, suggestion);
    }
    diagnosis
}

/// A Pod that is not to be scheduled yet.
fn held_back(evidence: &Evidence) -> Option<Diagnosis> {
    let gates = evidence.pod.spec.as_ref()?.scheduling_gates.as_ref().filter(|gates| !gates.is_empty())?;
    let gates: Vec<String> = gates.iter().map(|gate| gate.name.clone()).collect();
    let mut diagnosis = Diagnosis::new("Pending", "it is held back by scheduling gates");
    diagnosis.cause(if gates.len() == 1 { "gate" } else { "gates" }, What::SchedulingGate { gates });
    let patch = r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#;
    let command = format!("minikctl patch {} --type=json -p '{patch}'", evidence.named());
    diagnosis.suggest(Suggestion::run("remove the gates once what they wait for is done", command));
    Some(diagnosis)
}

fn scheduler(evidence: &Evidence) -> &str {
    let name = evidence.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_SCHEDULER)
}

fn scheduled(evidence: &Evidence) -> Option<&PodCondition> {
    let conditions = evidence.pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == "PodScheduled")
}

fn waits_since(evidence: &Evidence) -> SignedDuration {
    let created = evidence.pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0);
    evidence.now.duration_since(created)
}

/// That its scheduler does not run, and what to do about it: it has not looked at the Pod, or does not renew its Lease.
fn no_scheduler(evidence: &Evidence) -> Option<(String, Suggestion)> {
    let (name, waits) = (scheduler(evidence), waits_since(evidence));
    let unseen = (scheduled(evidence).is_none() && waits >= SOON)
        .then(|| format!("has not looked at the Pod for {} s", waits.as_secs()));
    let stale = evidence.scheduler_renewed.map(|at| evidence.now.duration_since(at));
    let stale = stale.filter(|stale| *stale > LEASE && name == DEFAULT_SCHEDULER);
    let stale = stale.map(|stale| format!("renewed its Lease {} s ago", stale.as_secs()));
    let words: Vec<String> = unseen.into_iter().chain(stale).collect();
    let suggestion = match name {
        DEFAULT_SCHEDULER => Suggestion::run("start it again", "minikctl cluster up"),
        other => {
            Suggestion::words(format!("start the scheduler {other}, or leave schedulerName out of the Pod"))
        }
    };
    (!words.is_empty()).then(|| (format!("is not running: it {}", words.join(" and ")), suggestion))
}

/// A node would take it, but nobody has bound it.
fn unbound(evidence: &Evidence, fitting: &[&Arc<str>]) -> Diagnosis {
    let summary = format!("{} of {} nodes fit, but it is bound to none", fitting.len(), evidence.nodes.len());
    let mut diagnosis = Diagnosis::new("Pending", summary);
    let who = format!("scheduler {}", scheduler(evidence));
    fitting.iter().take(3).for_each(|name| diagnosis.cause(name.to_string(), What::AlreadyFits));
    let failed = evidence.events.iter().rev().find(|one| one.reason.as_deref() == Some("FailedScheduling"));
    let said = failed.and_then(|event| event.message.clone());
    let of_condition = scheduled(evidence).and_then(|one| one.message.clone());
    let own = said.or(of_condition).filter(|words| !words.contains("nodes are available"));
    match (no_scheduler(evidence), own) {
        (Some((words, suggestion)), _) => {
            diagnosis.cause(who, What::SchedulerNotRunning { words });
            diagnosis.suggest(suggestion);
        }
        (None, Some(words)) => {
            diagnosis.cause(who, What::SchedulerError { words });
            diagnosis.suggest(Suggestion::words("wait: the scheduler tries again with growing pauses"));
        }
        (None, None) if scheduled(evidence).is_none() => {
            diagnosis.cause(who, What::Waiting { words: "is about to place it".into() });
        }
        (None, None) => {
            let words = "said that no node fits, which has changed since: it will try again, or does not run";
            diagnosis.cause(who, What::SchedulerNotRunning { words: words.into() });
            let what = "look again in a moment; if it stays, start the scheduler";
            diagnosis.suggest(Suggestion::run(what, "minikctl cluster up"));
        }
    }
    diagnosis
}

/// What a reason against a node is, in detail.
struct Explain<'a> {
    evidence: &'a Evidence,
    state: &'a NodeState,
}

impl Explain<'_> {
    fn cause(&self, reason: &Reason) -> What {
        let (pod, node) = (&*self.evidence.placement, &*self.state.node);
        match reason {
            Reason::NodeName => {
                What::OtherNode { wants: pod.node_name.as_deref().unwrap_or_default().into() }
            }
            Reason::Unschedulable => What::Cordoned,
            Reason::Taint => self.taint(),
            Reason::NodeAffinity => {
                let failing = failing(pod, node.name.clone(), &node.labels);
                let wants = failing.iter().map(Requirement::to_string).collect::<Vec<_>>().join(" and ");
                let has = |one: &Requirement| Some(format!("{}={}", one.key, node.labels.get(&one.key)?));
                let has: Vec<String> = failing.iter().filter_map(has).collect();
                What::NodeSelector { wants, has: (!has.is_empty()).then(|| has.join(", ")) }
            }
            Reason::PreFiltered(_) => {
                let named = pod.named_nodes().unwrap_or_default();
                What::OtherNode { wants: named.iter().cloned().collect::<Vec<_>>().join(" or ") }
            }
            Reason::HostPorts => self.host_port(),
            Reason::TooManyPods { used, capacity } => What::TooManyPods { pods: *used, of: *capacity },
            Reason::Insufficient { resource, requested, used, capacity } => What::Insufficient {
                resource: resource.to_string(),
                asks: written(resource, *requested),
                free: written(resource, (capacity - used).max(0)),
                of: written(resource, *capacity),
            },
            Reason::SpreadLabel | Reason::Spread => What::Spread { words: self.spread(reason) },
            Reason::PodAffinity => {
                let terms = pod.affinity.iter().flat_map(|wish| &wish.required).map(term);
                let terms = terms.collect::<Vec<_>>().join(" and ");
                What::PodAffinity { words: format!("has no Pod beside it that it wants to be with: {terms}") }
            }
            Reason::PodAntiAffinity | Reason::ExistingAntiAffinity => self.anti_affinity(reason),
            Reason::NoVictims | Reason::PreemptionNotHelpful | Reason::Other { .. } => {
                What::Waiting { words: reason.to_string() }
            }
        }
    }

    fn taint(&self) -> What {
        let found = untolerated(&self.evidence.placement, self.state);
        match found {
            Some(taint) if is_readiness(&taint.key) => {
                let words = self.evidence.not_ready.get(&*self.state.node.name).cloned();
                What::NodeNotReady { words: words.unwrap_or_else(|| format!("it bears the taint {taint}")) }
            }
            found => What::Taint { taint: found.map(|taint| taint.to_string()).unwrap_or_default() },
        }
    }

    fn host_port(&self) -> What {
        let wanted = &self.evidence.placement.host_ports;
        let holder =
            |want| self.state.pods().iter().find(|pod| pod.host_ports.iter().any(|one| one.conflicts(want)));
        let taken = wanted.iter().find_map(|want| Some((want, holder(want)?)));
        let (port, protocol) =
            taken.map_or((0, String::new()), |(want, _)| (want.port, want.protocol.to_string()));
        What::HostPort { port, protocol, taken_by: taken.map(|(_, pod)| long_name(pod)).unwrap_or_default() }
    }

    fn spread(&self, reason: &Reason) -> String {
        let labels = &self.state.node.labels;
        let constraints = &self.evidence.placement.spread;
        let hard = constraints
            .iter()
            .filter(|one| one.when_unsatisfiable == minik_placement::WhenUnsatisfiable::DoNotSchedule);
        let lacks = |key: &Arc<str>| !labels.contains_key(key);
        let mut hard = hard.filter(|one| lacks(&one.topology_key) == (*reason == Reason::SpreadLabel));
        match (reason, hard.next()) {
            (Reason::SpreadLabel, Some(one)) => format!("has no label {} to spread over", one.topology_key),
            (_, Some(one)) => {
                let place = labels.get(&one.topology_key).map(|value| &**value).unwrap_or_default();
                format!(
                    "{}={place} has too many such Pods already (maxSkew {})",
                    one.topology_key, one.max_skew
                )
            }
            _ => reason.to_string(),
        }
    }

    /// The nodes of the same place.
    fn beside(&self, key: &Arc<str>) -> Vec<&NodeState> {
        let here = self.state.node.labels.get(key);
        let same = |other: &&NodeState| here.is_some() && other.node.labels.get(key) == here;
        self.evidence.nodes.iter().filter(same).collect()
    }

    /// Names a Pod that keeps it away, or that it keeps away from.
    fn anti_affinity(&self, reason: &Reason) -> What {
        let (evidence, pod) = (self.evidence, &*self.evidence.placement);
        let means = |term: &AffinityTerm, of: &Pod| {
            term.matches(&of.namespace, &of.labels, evidence.namespaces.labels(&of.namespace))
        };
        let terms = |pod: &'_ Pod| pod.affinity.as_ref().map_or(&[][..], |wish| &wish.required_anti).to_vec();
        let mut found = None;
        if *reason == Reason::PodAntiAffinity {
            for term in terms(pod) {
                let mut others = self.beside(&term.topology_key).into_iter().flat_map(NodeState::pods);
                found = found.or(others.find(|other| means(&term, other)).map(|other| (term.clone(), other)));
            }
        } else {
            for other in evidence.nodes.iter().flat_map(NodeState::affine_pods) {
                let is_beside = |term: &AffinityTerm| {
                    self.beside(&term.topology_key).iter().any(|node| node.pods().contains(other))
                };
                let mut terms = terms(other).into_iter();
                found = found
                    .or(terms.find(|term| means(term, pod) && is_beside(term)).map(|term| (term, other)));
            }
        }
        let (topology_key, taken_by) =
            found.map(|(term, other)| (term.topology_key.to_string(), long_name(other))).unwrap_or_default();
        What::PodAntiAffinity { taken_by, topology_key }
    }
}

fn long_name(pod: &Arc<Pod>) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn term(term: &AffinityTerm) -> String {
    let selector = match &term.selector {
        minik_placement::Selector::Nothing => "none".to_owned(),
        minik_placement::Selector::All(all) => {
            all.iter().map(Requirement::to_string).collect::<Vec<_>>().join(",")
        }
    };
    format!("{selector} over {}", term.topology_key)
}

/// The first taint that the scheduler minds.
fn untolerated<'a>(pod: &Pod, state: &'a NodeState) -> Option<&'a taints::Taint> {
    taints::untolerated(&state.node.taints, &pod.tolerations, &[Effect::NoSchedule, Effect::NoExecute])
}

fn is_readiness(key: &str) -> bool {
    matches!(key, "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable")
}

/// What a node's labels and name do not meet: of the selector all, of the terms those of the nearest.
fn failing(pod: &Pod, name: Arc<str>, labels: &Labels) -> Vec<Requirement> {
    let selector = pod.node_selector.iter().filter(|(key, value)| labels.get(*key) != Some(value));
    let mut all: Vec<Requirement> =
        selector.map(|(key, value)| Requirement::equals(key.clone(), value.clone())).collect();
    let fields: Labels = [("metadata.name".into(), name)].into();
    let of_term = |term: &minik_placement::NodeSelectorTerm| -> Vec<Requirement> {
        let expressions = term.match_expressions.iter().filter(|one| !one.matches(labels));
        expressions.chain(term.match_fields.iter().filter(|one| !one.matches(&fields))).cloned().collect()
    };
    let terms = pod.required_nodes.as_deref().unwrap_or_default();
    all.extend(terms.iter().map(of_term).min_by_key(Vec::len).unwrap_or_default());
    all
}

/// What would make it fit, first of all where one change is enough.
fn suggest(evidence: &Evidence, judge: &Judge<'_>, diagnosis: &mut Diagnosis) {
    let pod = &*evidence.placement;
    let mut nearest: Vec<(usize, &NodeState, Vec<Reason>)> = evidence
        .nodes
        .iter()
        .map(|state| {
            let mut reasons = judge.all(state);
            // A cordon stands as a taint, too.
            let cordoned = reasons.contains(&Reason::Unschedulable);
            let other = untolerated(pod, state).is_some_and(|taint| *taint != taints::unschedulable());
            reasons.retain(|reason| !(cordoned && *reason == Reason::Taint && !other));
            let short = reasons.iter().filter(|one| matches!(one, Reason::Insufficient { .. })).count();
            (reasons.len() - short.saturating_sub(1), state, reasons)
        })
        .collect();
    nearest.sort_by_key(|(changes, ..)| *changes);
    let least = nearest.first().map_or(0, |(changes, ..)| *changes);
    nearest.retain(|(changes, ..)| *changes == least);
    if let Some(suggestion) = less(evidence, &nearest) {
        diagnosis.suggest(suggestion);
    }
    let mut seen = Vec::new();
    for (_, state, reasons) in &nearest {
        for reason in reasons {
            let kind = std::mem::discriminant(reason);
            if !seen.contains(&kind) {
                seen.push(kind);
                change(evidence, state, reason).into_iter().for_each(|one| diagnosis.suggest(one));
            }
        }
    }
    let label_asked = !pod.node_selector.is_empty() || pod.required_nodes.is_some();
    let of_affinity = nearest.iter().all(|(.., reasons)| reasons.contains(&Reason::PodAffinity));
    if !label_asked && !of_affinity {
        diagnosis.suggest(Suggestion::run("add a node", NODE_ADD));
    }
}

/// Too little of a resource on a node.
struct Short {
    resource: Arc<str>,
    asked: i64,
    free: i64,
    capacity: i64,
}

/// How much less it would have to ask for, on the node where that is least.
fn less(evidence: &Evidence, nearest: &[(usize, &NodeState, Vec<Reason>)]) -> Option<Suggestion> {
    let short = |reasons: &[Reason]| -> Option<Vec<Short>> {
        let of = |reason: &Reason| match reason {
            Reason::Insufficient { resource, requested, used, capacity } => Some(Short {
                resource: resource.clone(),
                asked: *requested,
                free: capacity - used,
                capacity: *capacity,
            }),
            _ => None,
        };
        reasons.iter().map(of).collect()
    };
    let nodes = nearest.iter().filter_map(|(.., reasons)| short(reasons)).filter(|short| !short.is_empty());
    // The least share of the request that has to go.
    let gap = |all: &Vec<Short>| {
        all.iter().map(|one| (one.asked - one.free) * 1000 / one.asked.max(1)).max().unwrap_or(0)
    };
    let nearest = nodes.min_by_key(gap)?;
    let spec = evidence.pod.spec.as_ref()?;
    let lower = |Short { resource, asked, free, .. }: &Short| {
        let asks = |container: &k8s_openapi::api::core::v1::Container| {
            let requests = container.resources.as_ref()?.requests.as_ref()?;
            let amount: minik_apimachinery::quantity::Quantity = requests.get(&**resource)?.0.parse().ok()?;
            Some(if &**resource == "cpu" { amount.milli_value() } else { amount.value() })
        };
        let all = spec.containers.iter().filter_map(|one| Some((asks(one)?, &one.name)));
        let (most, name) = all.max_by_key(|one| one.0)?;
        let left = most - (asked - free);
        let amount = written(resource, left);
        (left > 0 && *free > 0).then(|| format!("container {name}'s {resource} request to {amount}"))
    };
    let names = nearest.iter().map(|one| &*one.resource).collect::<Vec<_>>().join(" and ");
    if nearest.iter().all(|one| one.capacity == 0) {
        return Some(Suggestion::words(format!("do without {names}, which no node has")));
    }
    let lowered: Option<Vec<String>> = nearest.iter().map(lower).collect();
    Some(Suggestion::words(match lowered {
        Some(all) => format!("lower {}", all.join(" and ")),
        None => format!("ask for less {names}, or end Pods that take it"),
    }))
}

/// What would take one reason away.
fn change(evidence: &Evidence, state: &NodeState, reason: &Reason) -> Vec<Suggestion> {
    let (pod, node) = (&*evidence.placement, &state.node.name);
    match reason {
        Reason::Unschedulable => {
            vec![Suggestion::run(format!("uncordon {node}"), format!("minikctl uncordon {node}"))]
        }
        Reason::Taint => match untolerated(pod, state) {
            Some(taint) if is_readiness(&taint.key) => {
                vec![Suggestion::run(format!("mend {node}"), format!("minikctl describe node {node}"))]
            }
            Some(taint) => {
                let command = format!("minikctl taint node {node} {}:{:?}-", taint.key, taint.effect);
                vec![
                    Suggestion::words(format!("let the Pod tolerate {taint}")),
                    Suggestion::run("take the taint away", command),
                ]
            }
            None => vec![],
        },
        Reason::NodeAffinity => {
            let failing = failing(pod, node.clone(), &state.node.labels);
            let single = |one: &Requirement| match (one.operator, one.values.as_slice()) {
                (minik_placement::Operator::In, [value, ..]) => Some(format!("{}={value}", one.key)),
                (minik_placement::Operator::Exists, _) => Some(format!("{}=", one.key)),
                (minik_placement::Operator::DoesNotExist | minik_placement::Operator::NotIn, _) => {
                    Some(format!("{}-", one.key))
                }
                _ => None,
            };
            let labels: Option<Vec<String>> = failing.iter().map(single).collect();
            let by_label = labels.filter(|labels| !labels.iter().any(|one| one.starts_with("metadata.name")));
            let by_label = by_label.map(|labels| {
                let command = format!("minikctl label node {node} {} --overwrite", labels.join(" "));
                Suggestion::run(format!("label {node}"), command)
            });
            let what = failing.iter().map(Requirement::to_string).collect::<Vec<_>>().join(" and ");
            by_label
                .into_iter()
                .chain([Suggestion::words(format!("let the Pod not ask for {what}"))])
                .collect()
        }
        Reason::PreFiltered(_) | Reason::NodeName => {
            vec![Suggestion::words("let the Pod name a node that is there, or none")]
        }
        Reason::HostPorts => {
            let explain = Explain { evidence, state };
            match explain.host_port() {
                What::HostPort { port, taken_by, .. } => {
                    let (namespace, name) = taken_by.split_once('/').unwrap_or(("", &taken_by));
                    vec![
                        Suggestion::words(format!("ask for another host port than {port}")),
                        Suggestion::run(
                            "delete the Pod that has it",
                            format!("minikctl delete pod {name} -n {namespace}"),
                        ),
                    ]
                }
                _ => vec![],
            }
        }
        Reason::TooManyPods { .. } => vec![Suggestion::words(format!("delete Pods of {node}"))],
        Reason::SpreadLabel => {
            let labels = &state.node.labels;
            let key = pod.spread.iter().map(|one| &one.topology_key).find(|key| !labels.contains_key(*key));
            let key = key.map(|key| &**key).unwrap_or_default();
            vec![Suggestion::run(format!("label {node}"), format!("minikctl label node {node} {key}=a"))]
        }
        Reason::Spread => {
            let what = "raise maxSkew, or let whenUnsatisfiable be ScheduleAnyway";
            vec![Suggestion::words(what)]
        }
        Reason::PodAffinity => {
            vec![Suggestion::words("start a Pod that it wants to be with, or let it only prefer that")]
        }
        Reason::PodAntiAffinity | Reason::ExistingAntiAffinity => {
            let explain = Explain { evidence, state };
            match explain.anti_affinity(reason) {
                What::PodAntiAffinity { taken_by, .. } if !taken_by.is_empty() => {
                    let (namespace, name) = taken_by.split_once('/').unwrap_or(("", &taken_by));
                    let command = format!("minikctl delete pod {name} -n {namespace}");
                    vec![Suggestion::run("delete the Pod that keeps it away", command)]
                }
                _ => vec![],
            }
        }
        _ => vec![],
    }
}
