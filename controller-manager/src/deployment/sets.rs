//! The ReplicaSets of a Deployment while a plan is made: as they are, and as they shall be.

use crate::objects::{Annotations, DeploymentObject, ReplicaSetObject};
use jiff::Timestamp;
use std::sync::Arc;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What is not copied from the Deployment to its ReplicaSets.
const OWN: [&str; 6] = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MOST, "deprecated.deployment.rollback.to"];
/// Older revisions are forgotten when their list becomes longer.
const HISTORY_CHARS: usize = 2000;

/// A ReplicaSet that is there.
#[derive(Debug, Clone)]
pub struct Set {
    /// As it is.
    pub object: Arc<ReplicaSetObject>,
    /// How many Pods it shall have.
    pub replicas: i32,
    /// How long they must be Ready.
    pub min_ready_seconds: i32,
    /// The annotations that it shall have.
    pub annotations: Annotations,
}

impl Set {
    /// As it is.
    pub fn new(object: Arc<ReplicaSetObject>) -> Set {
        Set {
            replicas: object.replicas(),
            min_ready_seconds: object.spec.min_ready_seconds,
            annotations: object.annotations.clone(),
            object,
        }
    }

    /// Whether it is there, and not only planned.
    pub fn is_created(&self) -> bool {
        !self.object.metadata.uid.is_empty()
    }

    /// Whether something is to be written.
    pub fn is_changed(&self) -> bool {
        self.replicas != self.object.replicas()
            || self.min_ready_seconds != self.object.spec.min_ready_seconds
            || self.annotations != self.object.annotations
    }

    /// How many of its Pods are available, and will be once it has its size: what is not goes first.
    pub fn available(&self) -> i32 {
        self.object.status.available_replicas.min(self.replicas)
    }

    /// Whether its status tells of a size that it was given before.
    pub fn lags(&self) -> bool {
        self.object.status.observed_generation < self.object.metadata.generation
    }

    pub fn name(&self) -> &Arc<str> {
        &self.object.metadata.name
    }

    /// The older first.
    pub fn age(&self) -> (Option<Timestamp>, &Arc<str>) {
        (self.object.metadata.creation_timestamp, self.name())
    }

    fn number(&self, annotation: &str) -> Option<i64> {
        self.annotations.get(annotation)?.parse().ok()
    }

    /// Which change of the template made it, or made it the newest again; 0 when it does not tell.
    pub fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    /// How many Pods the Deployment asked for when it was last scaled.
    pub fn desired(&self) -> Option<i64> {
        self.number(DESIRED)
    }

    /// How many Pods the Deployment might have then.
    pub fn most(&self) -> Option<i64> {
        self.number(MOST)
    }

    /// Notes what the Deployment asks for.
    pub fn note_size(&mut self, desired: i32, most: i32) {
        self.annotations.insert(DESIRED.into(), desired.to_string().into());
        self.annotations.insert(MOST.into(), most.to_string().into());
    }

    /// Takes over the Deployment's annotations, and makes this the newest revision when it is not yet.
    pub fn become_newest(&mut self, deployment: &DeploymentObject, revision: i64) {
        for (key, value) in deployment.annotations.iter().filter(|(key, _)| !OWN.contains(&&***key)) {
            self.annotations.insert(key.clone(), value.clone());
        }
        let before = self.annotations.get(REVISION).cloned();
        // What is no number is left alone.
        let Ok(number) = before.as_deref().unwrap_or("0").parse::<i64>() else { return };
        if number >= revision {
            return;
        }
        self.annotations.insert(REVISION.into(), revision.to_string().into());
        if let Some(before) = before {
            let history = self.annotations.get(HISTORY).map_or("", |history| &**history);
            let mut revisions: Vec<&str> = history.split(',').filter(|one| !one.is_empty()).collect();
            revisions.push(&before);
            let length = |revisions: &[&str]| revisions.iter().map(|one| one.len() + 1).sum::<usize>() - 1;
            while revisions.len() > 1 && length(&revisions) > HISTORY_CHARS {
                revisions.remove(0);
            }
            let history = revisions.join(",").into();
            self.annotations.insert(HISTORY.into(), history);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn after(set: Value, deployment: Value, revision: i64) -> Annotations {
        let set = json!({"metadata": {"name": "s", "annotations": set}, "spec": {}});
        let deployment = json!({"metadata": {"name": "d", "annotations": deployment}, "spec": {}});
        let mut set = Set::new(serde_json::from_value(set).unwrap());
        set.become_newest(&serde_json::from_value(deployment).unwrap(), revision);
        set.annotations
    }

    fn check(set: Value, revision: i64, wanted: Value) {
        assert_eq!(json!(after(set, json!({}), revision)), wanted);
    }

    #[test]
    fn a_set_that_becomes_the_newest_again_keeps_its_history() {
        check(json!({}), 1, json!({REVISION: "1"}));
        check(json!({REVISION: "1"}), 3, json!({REVISION: "3", HISTORY: "1"}));
        check(json!({REVISION: "3", HISTORY: "1"}), 5, json!({REVISION: "5", HISTORY: "1,3"}));
        check(json!({REVISION: "5"}), 2, json!({REVISION: "5"}));
        check(json!({REVISION: "x"}), 2, json!({REVISION: "x"}));
    }

    #[test]
    fn a_long_history_forgets_its_beginning() {
        let long: Vec<String> = (1..=600).map(|revision| revision.to_string()).collect();
        let after = after(json!({REVISION: "601", HISTORY: long.join(",")}), json!({}), 700);
        let history = &after[HISTORY];
        assert!(history.len() <= HISTORY_CHARS && history.ends_with(",600,601"), "{history}");
    }

    #[test]
    fn annotations_are_copied_but_for_those_of_the_deployment_itself() {
        let deployment = json!({"team": "a", LAST_APPLIED: "{}", REVISION: "9", DESIRED: "9"});
        assert_eq!(json!(after(json!({}), deployment, 1)), json!({"team": "a", REVISION: "1"}));
    }
}
