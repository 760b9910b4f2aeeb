//! What holds for Deployments and their ReplicaSets while Pods come and go.
//!
//! What upstream promises, and no more: a Deployment counts what its ReplicaSets are asked for, not what they have. So the
//! sizes of its ReplicaSets together stay within `maxSurge`, and each ReplicaSet never has more Pods than it was asked for
//! since it last had as many as it should and its controller knew, nor loses one below that. Of available Pods there are
//! never fewer than `maxUnavailable` allows, unless a node or the user took them.

use super::State;
use super::seen::{DeploymentSeen, PodSeen, SetSeen, owner};
use serde_json::Value;

/// What each spec since it last came to rest allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    most: i64,
    least: i64,
}

impl Bounds {
    fn exactly(count: i64) -> Bounds {
        Bounds { most: count, least: count }
    }

    fn or(self, other: Bounds) -> Bounds {
        Bounds { most: self.most.max(other.most), least: self.least.min(other.least) }
    }
}

/// A number of Pods, or a share of the replicas.
fn share(value: &Value, replicas: i64, up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number;
    }
    let percent: i64 = value.as_str().and_then(|text| text.strip_suffix('%')?.parse().ok()).unwrap_or(25);
    let scaled = replicas * percent;
    if up { (scaled + 99) / 100 } else { scaled / 100 }
}

fn allowed(deployment: &DeploymentSeen) -> Bounds {
    let spec = &deployment.spec;
    if deployment.metadata.deletion_timestamp.is_some() {
        return Bounds { most: i64::MAX, least: 0 };
    }
    if spec.strategy.kind == "Recreate" {
        return Bounds { most: spec.replicas, least: 0 };
    }
    let rolling = &spec.strategy.rolling_update;
    let (surge, down) = (
        share(&rolling.max_surge, spec.replicas, true),
        share(&rolling.max_unavailable, spec.replicas, false),
    );
    let down = if surge == 0 && down == 0 { 1 } else { down };
    Bounds { most: spec.replicas + surge, least: (spec.replicas - down).max(0) }
}

impl State {
    fn pods_of<'a>(&'a self, set: &'a str) -> impl Iterator<Item = &'a PodSeen> {
        self.pods.values().filter(move |pod| pod.owner() == set && pod.lives())
    }

    fn sets_of<'a>(&'a self, deployment: &'a str) -> impl Iterator<Item = &'a SetSeen> {
        self.sets.values().filter(move |set| owner(&set.metadata) == deployment)
    }

    fn set(&self, uid: &str) -> Option<&SetSeen> {
        self.sets.values().find(|set| &*set.metadata.uid == uid)
    }

    /// Pods of this ReplicaSet may be missing, for it was not the controllers who took them.
    fn excuse(&mut self, set: &str) {
        if let Some(bounds) = self.set_bounds.get_mut(set) {
            bounds.least = 0;
        }
        let deployment = self.set(set).map(|set| owner(&set.metadata).to_owned());
        if let Some(bounds) = deployment.and_then(|uid| self.deployment_bounds.get_mut(uid.as_str())) {
            bounds.least = 0;
        }
    }

    /// What holds from here on, where all is as it was asked for: while Pods may be taken for their node's sake, no least.
    fn settled(&self, bounds: Bounds) -> Bounds {
        Bounds { least: if self.nodes_stay_well() { bounds.least } else { 0 }, ..bounds }
    }

    /// A node is lost: any Pod may be missing.
    pub(super) fn excuse_all(&mut self) {
        self.set_bounds.values_mut().chain(self.deployment_bounds.values_mut()).for_each(|one| one.least = 0);
    }

    /// A Pod came, changed or went.
    pub(super) fn pods_moved(&mut self, before: Option<&PodSeen>, after: Option<&PodSeen>) {
        let Some(set) = after.or(before).map(|pod| pod.owner().to_owned()).filter(|uid| !uid.is_empty())
        else {
            return;
        };
        let (lived, lives) = (before.is_some_and(PodSeen::lives), after.is_some_and(PodSeen::lives));
        if lived && !lives && (self.user_acts || after.is_some_and(PodSeen::is_over)) {
            self.excuse(&set);
        }
        let Some(found) = self.set(&set) else { return };
        let (wanted, name, leaves) = (found.replicas(), found.metadata.name.clone(), found.leaves());
        let (deployment, is_observed) = (owner(&found.metadata).to_owned(), found.is_observed());
        let has = self.pods_of(&set).count() as i64;
        let bounds = self.set_bounds.get(set.as_str()).copied().unwrap_or(Bounds { most: wanted, least: 0 });
        if !lived && lives && has > bounds.most {
            self.wrong(format!(
                "ReplicaSet {name} has {has} Pods, and was never asked for more than {}",
                bounds.most
            ));
        }
        if lived && !lives && has < bounds.least && !leaves {
            self.wrong(format!(
                "ReplicaSet {name} is left {has} Pods, and was always asked for {}",
                bounds.least
            ));
        }
        if has == wanted && is_observed {
            let bounds = self.settled(Bounds::exactly(wanted));
            self.set_bounds.insert(set.as_str().into(), bounds);
        }
        self.check_available(&deployment);
    }

    /// A ReplicaSet came, changed or went.
    pub(super) fn set_moved(&mut self, before: Option<&SetSeen>, after: Option<&SetSeen>) {
        let Some(set) = after.or(before) else { return };
        let (uid, name) = (set.metadata.uid.clone(), set.metadata.name.clone());
        let deployment = owner(&set.metadata).to_owned();
        match after {
            Some(set) => {
                let spec = Bounds::exactly(set.replicas());
                let first = Bounds { least: 0, ..spec };
                let bounds = self.set_bounds.get(&uid).map_or(first, |before| before.or(spec));
                let is_settled = set.is_observed() && self.pods_of(&uid).count() as i64 == set.replicas();
                let bounds = if is_settled { self.settled(spec) } else { bounds };
                self.set_bounds.insert(uid, bounds);
            }
            None => {
                let kept = self.deployments.values().find(|one| *one.metadata.uid == *deployment);
                let lives = kept.is_some_and(|one| one.metadata.deletion_timestamp.is_none());
                if lives && set.replicas() > 0 {
                    self.wrong(format!("ReplicaSet {name} is deleted, and its Deployment has Pods in it"));
                }
                self.set_bounds.remove(&uid);
            }
        }
        self.check_sizes(&deployment);
    }

    /// A Deployment came, changed or went.
    pub(super) fn deployment_moved(
        &mut self,
        before: Option<&DeploymentSeen>,
        after: Option<&DeploymentSeen>,
    ) {
        let Some(meta) = after.or(before).map(|one| one.metadata.clone()) else { return };
        let generation = |one: Option<&DeploymentSeen>| one.map(|one| one.metadata.generation);
        let left = before.is_some_and(|one| one.metadata.deletion_timestamp.is_some());
        if generation(before) != generation(after) && !self.user_acts && !(after.is_none() && left) {
            self.wrong(format!("Deployment {} was changed, and not by its user", meta.name));
        }
        let Some(deployment) = after else {
            self.deployment_bounds.remove(&meta.uid);
            return;
        };
        let (allowed, wanted, status) = (allowed(deployment), deployment.spec.replicas, &deployment.status);
        let told = [status.replicas, status.updated_replicas, status.available_replicas];
        let sizes: i64 = self.sets_of(&meta.uid).map(SetSeen::replicas).sum();
        let pods: usize = self.sets_of(&meta.uid).map(|set| self.pods_of(&set.metadata.uid).count()).sum();
        // What the status tells may be old: a Pod that was lost since is missing, and nobody did wrong.
        let rests = status.observed_generation == meta.generation
            && told.iter().all(|count| *count == wanted)
            && sizes == wanted
            && pods as i64 == wanted
            && self.ready_of(&meta.uid) as i64 == wanted
            && self.all_nodes_well();
        let bounds = match self.deployment_bounds.get(&meta.uid) {
            _ if rests => self.settled(allowed),
            // Not more must be there than ever was.
            None => Bounds { least: 0, ..allowed },
            Some(before) => before.or(allowed),
        };
        self.deployment_bounds.insert(meta.uid.clone(), bounds);
        self.check_sizes(&meta.uid);
        self.check_available(&meta.uid);
    }

    fn check_sizes(&mut self, deployment: &str) {
        let Some(bounds) = self.deployment_bounds.get(deployment).copied() else { return };
        let sizes: i64 = self.sets_of(deployment).map(SetSeen::replicas).sum();
        if sizes > bounds.most {
            let parts: Vec<String> = self
                .sets_of(deployment)
                .map(|set| format!("{} {}", set.metadata.name, set.replicas()))
                .collect();
            self.wrong(format!(
                "a Deployment asks for {} Pods, and may for {}",
                parts.join(" and "),
                bounds.most
            ));
        }
    }

    /// A Deployment's Pods that are ready.
    fn ready_of(&self, deployment: &str) -> usize {
        let sets = self.sets_of(deployment);
        sets.map(|set| self.pods_of(&set.metadata.uid).filter(|pod| pod.is_ready()).count()).sum()
    }

    fn check_available(&mut self, deployment: &str) {
        let Some(bounds) = self.deployment_bounds.get(deployment).copied() else { return };
        let ready = self.ready_of(deployment);
        if (ready as i64) < bounds.least {
            self.wrong(format!("a Deployment has {ready} available Pods, and must have {}", bounds.least));
        }
    }
}
