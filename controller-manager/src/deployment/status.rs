//! The status of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure. Pure.

use super::plan::Rollout;
use super::sets::Set;
use crate::objects::{Condition, DeploymentStatus};
use jiff::SignedDuration;
use std::time::Duration;

const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";
const LATE: &str = "ProgressDeadlineExceeded";
const DONE: &str = "NewReplicaSetAvailable";

impl Rollout<'_> {
    /// Within which time something must happen.
    pub(super) fn deadline(&self) -> Option<i32> {
        self.deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
    }

    /// A pause is told, so that its time does not count as a lack of progress.
    pub(super) fn note_pause(&mut self) {
        let reason = self.condition("Progressing").map(|one| one.reason.clone()).unwrap_or_default();
        if self.deadline().is_none() || &*reason == LATE {
            return;
        }
        match (self.deployment.spec.paused, &*reason == PAUSED) {
            (true, false) => {
                self.set_condition("Progressing", "Unknown", PAUSED, "Deployment is paused".into())
            }
            (false, true) => {
                self.set_condition("Progressing", "Unknown", RESUMED, "Deployment is resumed".into())
            }
            _ => {}
        }
    }

    /// Counts what the ReplicaSets tell, and says whether that is enough.
    pub(super) fn count(&mut self) {
        let sum = |count: fn(&Set) -> i32| self.sets.iter().map(count).sum::<i32>();
        let replicas = sum(|set| set.object.status.replicas);
        let available = sum(|set| set.object.status.available_replicas);
        let ready = sum(|set| set.object.status.ready_replicas);
        // Unknown when one does not tell.
        let terminating = self.sets.iter().map(|set| set.object.status.terminating_replicas).sum();
        self.status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas,
            updated_replicas: self.newest().map_or(0, |set| set.object.status.replicas),
            ready_replicas: ready,
            available_replicas: available,
            unavailable_replicas: (replicas - available).max(0),
            terminating_replicas: terminating,
            ..std::mem::take(&mut self.status)
        };
        if available >= self.least_available() {
            let note = "Deployment has minimum availability.".into();
            self.set_condition("Available", "True", "MinimumReplicasAvailable", note);
        } else {
            let note = "Deployment does not have minimum availability.".into();
            self.set_condition("Available", "False", "MinimumReplicasUnavailable", note);
        }
    }

    /// Whether all Pods are new and available.
    pub(super) fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let wanted = self.replicas();
        status.updated_replicas == wanted
            && status.replicas == wanted
            && status.available_replicas == wanted
            && status.observed_generation >= self.deployment.metadata.generation
    }

    /// Says how the rollout goes, and when to look whether it is late.
    pub(super) fn note_progress(&mut self) {
        match self.deadline() {
            None => self.remove_condition("Progressing"),
            Some(deadline) => self.judge(deadline),
        }
        match self.failure() {
            Some(failure) => {
                let Condition { kind, status, reason, message, .. } = failure;
                self.set_condition(&kind, &status, &reason, message.to_string());
            }
            None => self.remove_condition("ReplicaFailure"),
        }
    }

    fn judge(&mut self, deadline: i32) {
        let current = self.condition("Progressing").cloned();
        let reason = current.as_ref().map_or("", |one| &*one.reason);
        let patience = SignedDuration::from_secs(i64::from(deadline));
        let who = match self.newest() {
            Some(set) => format!("ReplicaSet \"{}\"", set.name()),
            None => format!("Deployment \"{}\"", self.deployment.metadata.name),
        };
        if self.status.replicas == self.status.updated_replicas && reason == DONE {
            // Nothing is being rolled out.
        } else if self.is_complete(&self.status) {
            self.set_condition("Progressing", "True", DONE, format!("{who} has successfully progressed."));
        } else if self.progresses() {
            // Told anew each time, so that the deadline counts from the last progress.
            self.remove_condition("Progressing");
            self.set_condition("Progressing", "True", "ReplicaSetUpdated", format!("{who} is progressing."));
            let since = current.filter(|one| &*one.status == "True").and_then(|one| one.last_transition_time);
            if let (Some(one), Some(since)) = (self.status.conditions.last_mut(), since) {
                one.last_transition_time = Some(since);
            }
        } else if ![DONE, LATE].contains(&reason)
            && current
                .as_ref()
                .and_then(|one| one.last_update_time)
                .is_some_and(|at| self.now > at + patience)
        {
            self.set_condition("Progressing", "False", LATE, format!("{who} has timed out progressing."));
        }
        self.look_again(patience);
    }

    /// Whether more is new, less is old, or more serves than was told last.
    fn progresses(&self) -> bool {
        let (before, now) = (&self.deployment.status, &self.status);
        let old = |status: &DeploymentStatus| status.replicas - status.updated_replicas;
        now.updated_replicas > before.updated_replicas
            || old(now) < old(before)
            || now.ready_replicas > before.ready_replicas
            || now.available_replicas > before.available_replicas
    }

    /// A rollout that may become late is looked at then, though nothing happens.
    fn look_again(&mut self, patience: SignedDuration) {
        let Some(one) = self.condition("Progressing") else { return };
        let Some(at) = one.last_update_time else { return };
        if self.is_complete(&self.status) || [DONE, LATE].contains(&&*one.reason) {
            return;
        }
        let left = (at + patience + SignedDuration::from_secs(1)).duration_since(self.now);
        self.plan.again = Some(Duration::try_from(left).unwrap_or_default());
    }

    /// Why a ReplicaSet cannot do what it shall; that of the template is asked first.
    fn failure(&self) -> Option<Condition> {
        let old = self.old().into_iter().map(|at| &self.sets[at]);
        self.newest()
            .into_iter()
            .chain(old)
            .flat_map(|set| &set.object.status.conditions)
            .find(|one| &*one.kind == "ReplicaFailure")
            .cloned()
    }
}
