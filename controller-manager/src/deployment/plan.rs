//! What is to be done for a Deployment. Pure.
//!
//! A plan is made on copies of the ReplicaSets: each rule changes them, and what differs in the end is written.

use super::sets::{REVISION, Set};
use crate::objects::{
    Annotations, Condition, DeploymentObject, DeploymentStatus, IntOrPercent, ReplicaSetObject,
    ReplicaSetSpec, ReplicaSetStatus, StrategyType, TEMPLATE_HASH,
};
use jiff::Timestamp;
use minik_client::EventType;
use minik_placement::Selector;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What is decided on.
pub struct Snapshot<'a> {
    /// The Deployment.
    pub deployment: &'a DeploymentObject,
    /// Its ReplicaSets.
    pub sets: &'a [Arc<ReplicaSetObject>],
    /// The uids of those that have Pods which have not ended.
    pub running: &'a BTreeSet<Arc<str>>,
    /// Another Deployment whose Pods its selector selects, or that selects its Pods; asked once a change of it.
    pub overlaps: Option<Arc<str>>,
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// A ReplicaSet to be created.
    pub create: Option<Set>,
    /// ReplicaSets to be changed.
    pub update: Vec<Set>,
    /// ReplicaSets to be deleted.
    pub delete: Vec<Arc<ReplicaSetObject>>,
    /// What is told once that is done.
    pub events: Vec<(EventType, &'static str, String)>,
    /// The annotations and the status to be written, when one of them changes.
    pub status: Option<(Annotations, DeploymentStatus)>,
    /// When to look again, whatever happens.
    pub again: Option<Duration>,
    /// Which rule decided.
    pub why: &'static str,
}

/// What is to be done.
pub fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let mut rollout = Rollout::new(snapshot, now);
    let deployment = snapshot.deployment;
    if deployment.spec.selector.selector.is_everything() {
        let note = "This deployment is selecting all pods. A non-empty selector is required.";
        rollout.plan.events.push((EventType::Warning, "SelectingAll", note.into()));
        rollout.status.observed_generation = deployment.metadata.generation;
        return rollout.finish("its selector selects everything");
    }
    // Each has its own Pods by their owner, but what selects by these labels gets both's.
    if let Some(other) = &snapshot.overlaps {
        let note = format!(
            "Selectors of this Deployment and of {other} select each other's Pods: give each a label of its own"
        );
        rollout.plan.events.push((EventType::Warning, "SelectorOverlap", note));
    }
    if deployment.metadata.deletion_timestamp.is_some() {
        rollout.follow_revision(IfMissing::Leave);
        rollout.count();
        return rollout.finish("it is being deleted");
    }
    rollout.note_pause();
    if deployment.spec.paused {
        rollout.follow_revision(IfMissing::Leave);
        rollout.scale();
        rollout.clean_up();
        rollout.count();
        return rollout.finish("it is paused");
    }
    rollout.follow_revision(IfMissing::Leave);
    if rollout.was_scaled() {
        rollout.scale();
        rollout.count();
        return rollout.finish("it was scaled");
    }
    let why = match deployment.spec.strategy.kind {
        StrategyType::Recreate => rollout.recreate(),
        StrategyType::RollingUpdate => rollout.roll(),
    };
    rollout.count();
    rollout.note_progress();
    rollout.finish(why)
}

/// What becomes of a template that no ReplicaSet has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    Create,
    Leave,
}

/// A plan in the making.
pub(super) struct Rollout<'a> {
    pub(super) deployment: &'a DeploymentObject,
    running: &'a BTreeSet<Arc<str>>,
    pub(super) now: Timestamp,
    /// Its ReplicaSets, the oldest first.
    pub(super) sets: Vec<Set>,
    /// Which of them is that of the template.
    pub(super) new: Option<usize>,
    pub(super) status: DeploymentStatus,
    pub(super) annotations: Annotations,
    pub(super) plan: Plan,
}

impl<'a> Rollout<'a> {
    fn new(snapshot: &Snapshot<'a>, now: Timestamp) -> Rollout<'a> {
        let deployment = snapshot.deployment;
        let mut sets: Vec<Set> = snapshot.sets.iter().cloned().map(Set::new).collect();
        sets.sort_by(|a, b| a.age().cmp(&b.age()));
        let is_new = |set: &Set| set.object.spec.template.is_like(&deployment.spec.template);
        Rollout {
            deployment,
            running: snapshot.running,
            now,
            new: sets.iter().position(is_new),
            sets,
            status: deployment.status.clone(),
            annotations: deployment.annotations.clone(),
            plan: Plan::default(),
        }
    }

    /// Gives what is to be written.
    fn finish(self, why: &'static str) -> Plan {
        let Rollout { deployment, sets, status, annotations, mut plan, .. } = self;
        for set in sets {
            match set.is_created() {
                false => plan.create = Some(set),
                true if set.is_changed() => plan.update.push(set),
                true => {}
            }
        }
        if status != deployment.status || annotations != deployment.annotations {
            plan.status = Some((annotations, status));
        }
        plan.why = why;
        plan
    }

    /// The ReplicaSet of the template.
    pub(super) fn newest(&self) -> Option<&Set> {
        self.new.map(|at| &self.sets[at])
    }

    /// Where the others stand, the oldest first.
    pub(super) fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|at| Some(*at) != self.new).collect()
    }

    pub(super) fn replicas(&self) -> i32 {
        self.deployment.spec.replicas()
    }

    /// How many Pods there may be above the wanted number, and how many may be unavailable.
    pub(super) fn limits(&self) -> (i32, i32) {
        limits(self.deployment)
    }

    /// How many Pods there may be.
    pub(super) fn most(&self) -> i32 {
        self.replicas() + self.limits().0
    }

    /// How many Pods must be available.
    pub(super) fn least_available(&self) -> i32 {
        self.replicas() - self.limits().1
    }

    /// Sees to it that the ReplicaSet of the template is the newest, and that the Deployment tells its revision.
    pub(super) fn follow_revision(&mut self, missing: IfMissing) {
        let old = self.old().into_iter().map(|at| self.sets[at].revision());
        let revision = old.max().unwrap_or(0) + 1;
        let deployment = self.deployment;
        if let Some(at) = self.new {
            let set = &mut self.sets[at];
            set.become_newest(deployment, revision);
            set.min_ready_seconds = deployment.spec.min_ready_seconds;
            let name = set.name().clone();
            if let Some(revision) = set.annotations.get(REVISION).cloned() {
                self.annotations.insert(REVISION.into(), revision);
            }
            if self.deadline().is_some() && self.condition("Progressing").is_none() {
                let note = format!("Found new replica set \"{name}\"");
                self.set_condition("Progressing", "True", "FoundNewReplicaSet", note);
            }
        } else if missing == IfMissing::Create {
            self.create(revision);
        }
    }

    fn create(&mut self, revision: i64) {
        let spec = &self.deployment.spec;
        let hash = spec.template.hash(self.status.collision_count.unwrap_or(0));
        let mut template = spec.template.clone();
        template.labels.insert(TEMPLATE_HASH.into(), hash.as_str().into());
        let mut object = ReplicaSetObject {
            metadata: Default::default(),
            annotations: Annotations::new(),
            spec: ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                // What is created is told the Deployment's own.
                selector: Selector::Nothing,
                template,
            },
            status: ReplicaSetStatus::default(),
        };
        object.metadata.name = set_name(&self.deployment.metadata.name, &hash).into();
        object.metadata.namespace = self.deployment.metadata.namespace.clone();
        let mut set = Set::new(Arc::new(object));
        set.become_newest(self.deployment, revision);
        set.note_size(self.replicas(), self.most());
        let name = set.name().clone();
        self.new = Some(self.sets.len());
        self.sets.push(set);
        let replicas = self.room_for_new();
        self.sets.last_mut().into_iter().for_each(|set| set.replicas = replicas);
        if replicas > 0 {
            self.tell_scaled("up", &name, 0, replicas);
        }
        self.annotations.insert(REVISION.into(), revision.to_string().into());
        if self.deadline().is_some() {
            let note = format!("Created new replica set \"{name}\"");
            self.set_condition("Progressing", "True", "NewReplicaSetCreated", note);
        }
    }

    /// How many Pods the ReplicaSet of the template may have now.
    pub(super) fn room_for_new(&self) -> i32 {
        let has = self.newest().map_or(0, |set| set.replicas);
        if self.deployment.spec.strategy.kind == StrategyType::Recreate || has > self.replicas() {
            return self.replicas();
        }
        let all: i32 = self.sets.iter().map(|set| set.replicas).sum();
        has + (self.most() - all).max(0).min(self.replicas() - has)
    }

    pub(super) fn tell_scaled(&mut self, direction: &str, name: &str, from: i32, to: i32) {
        let note = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.plan.events.push((EventType::Normal, "ScalingReplicaSet", note));
    }

    /// Everything old goes before anything new comes.
    fn recreate(&mut self) -> &'static str {
        let old = self.old();
        if old.iter().any(|at| self.sets[*at].replicas > 0) {
            self.scale_old_to_nothing();
            return "old Pods must go first";
        }
        let uid = self.newest().map(|set| &set.object.metadata.uid);
        // One that has not seen its size may just be creating Pods.
        let runs = |set: &Set| set.object.status.replicas > 0 || set.lags();
        let old_run =
            old.iter().any(|at| runs(&self.sets[*at])) || self.running.iter().any(|set| Some(set) != uid);
        if old_run {
            return "old Pods are still running";
        }
        self.follow_revision(IfMissing::Create);
        self.scale_new(self.replicas());
        self.clean_up_when_complete();
        "no old Pod is left"
    }

    /// Deletes old ReplicaSets without Pods above the limit, the lowest revisions first.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit.filter(|limit| *limit != i32::MAX)
        else {
            return;
        };
        let old = self.old().into_iter().map(|at| &self.sets[at]);
        let mut lives: Vec<&Set> =
            old.filter(|set| set.object.metadata.deletion_timestamp.is_none()).collect();
        lives.sort_by_key(|set| (set.revision(), set.age()));
        let surplus = lives.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let is_empty = |set: &&&Set| {
            let status = &set.object.status;
            set.replicas == 0 && set.object.replicas() == 0 && status.replicas == 0 && !set.lags()
        };
        let doomed = lives[..surplus].iter().filter(is_empty).map(|set| set.object.clone());
        self.plan.delete = doomed.collect();
    }

    pub(super) fn clean_up_when_complete(&mut self) {
        if self.is_complete(&self.deployment.status) {
            self.clean_up();
        }
    }

    pub(super) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|one| &*one.kind == kind)
    }

    /// Sets a condition; one that says the same already keeps its words and times.
    pub(super) fn set_condition(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        set_condition(&mut self.status.conditions, (kind, status, reason), message, self.now);
    }

    pub(super) fn remove_condition(&mut self, kind: &str) {
        self.status.conditions.retain(|one| &*one.kind != kind);
    }
}

fn set_condition(
    conditions: &mut Vec<Condition>,
    (kind, status, reason): (&str, &str, &str),
    message: String,
    now: Timestamp,
) {
    let before = conditions.iter().find(|one| &*one.kind == kind);
    if before.is_some_and(|one| &*one.status == status && &*one.reason == reason) {
        return;
    }
    let since = before.filter(|one| &*one.status == status).and_then(|one| one.last_transition_time);
    let one = Condition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_update_time: Some(now),
        last_transition_time: since.or(Some(now)),
        ..Condition::default()
    };
    conditions.retain(|one| &*one.kind != kind);
    conditions.push(one);
}

/// The status when the ReplicaSet of the template could not be created.
pub fn failed(before: &DeploymentStatus, (reason, note): (&str, String), now: Timestamp) -> DeploymentStatus {
    let mut status = before.clone();
    set_condition(&mut status.conditions, ("Progressing", "False", reason), note, now);
    status
}

/// A name of a ReplicaSet that is short enough for its Pods.
fn set_name(deployment: &str, hash: &str) -> String {
    const LONGEST: usize = 253;
    let room = LONGEST - hash.len() - 1;
    let short =
        if deployment.len() > room { deployment[..room].trim_end_matches(['.', '-']) } else { deployment };
    format!("{short}-{hash}")
}

/// How many Pods there may be above the wanted number, and how many may be unavailable.
fn limits(deployment: &DeploymentObject) -> (i32, i32) {
    let spec = &deployment.spec;
    if spec.strategy.kind == StrategyType::Recreate {
        return (0, 0);
    }
    let replicas = spec.replicas();
    let limits = spec.strategy.rolling_update.clone().unwrap_or_default();
    // An own share of nothing stands for the API's default, which the server has written already.
    let share = |limit: Option<IntOrPercent>, up: i64| match limit.unwrap_or(IntOrPercent::Percent(25)) {
        IntOrPercent::Int(count) => count,
        IntOrPercent::Percent(share) => {
            let hundredths = i64::from(share) * i64::from(replicas);
            i32::try_from((hundredths + up).div_euclid(100)).unwrap_or(i32::MAX)
        }
    };
    let surge = share(limits.max_surge, 99);
    let unavailable = match share(limits.max_unavailable, 0) {
        // Otherwise nothing could ever be replaced.
        0 if surge == 0 => 1,
        count => count,
    };
    (surge, unavailable.min(replicas))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check_limits(replicas: i32, strategy: Value, wanted: (i32, i32)) {
        let deployment =
            json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "strategy": strategy}});
        assert_eq!(limits(&serde_json::from_value(deployment).unwrap()), wanted, "{strategy}");
    }

    #[test]
    fn shares_are_rounded_so_that_something_can_move() {
        let rolling = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        check_limits(4, rolling(json!("25%"), json!("25%")), (1, 1));
        check_limits(10, rolling(json!("25%"), json!("25%")), (3, 2));
        check_limits(10, rolling(json!(3), json!(2)), (3, 2));
        check_limits(1, rolling(json!("25%"), json!("25%")), (1, 0));
        check_limits(1, rolling(json!(0), json!("25%")), (0, 1));
        check_limits(2, rolling(json!(0), json!(5)), (0, 2));
        check_limits(0, rolling(json!("25%"), json!("25%")), (0, 0));
        check_limits(4, json!({"type": "Recreate"}), (0, 0));
    }

    #[test]
    fn a_long_name_leaves_room_for_the_hash() {
        assert_eq!(set_name("web", "abc"), "web-abc");
        let long = set_name(&"a".repeat(253), "abcdefghij");
        assert_eq!(long.len(), 253);
    }
}
