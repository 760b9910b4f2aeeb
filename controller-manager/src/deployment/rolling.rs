//! Rolling updates and scaling: how many Pods each ReplicaSet shall have. Pure.

use super::plan::{IfMissing, Rollout};
use super::sets::Set;
use crate::objects::StrategyType;

impl Rollout<'_> {
    /// One step of a rolling update: up with the new, or down with the old.
    pub(super) fn roll(&mut self) -> &'static str {
        self.follow_revision(IfMissing::Create);
        if self.scale_new(self.room_for_new()) {
            return "there is room for new Pods";
        }
        if self.scale_down_old() {
            return "enough Pods are available without old ones";
        }
        self.clean_up_when_complete();
        "nothing more may be done yet, or all is done"
    }

    pub(super) fn scale_new(&mut self, size: i32) -> bool {
        // One that is to be created has its size.
        self.new.filter(|at| self.sets[*at].is_created()).is_some_and(|at| self.scale_one(at, size))
    }

    pub(super) fn scale_old_to_nothing(&mut self) {
        for at in self.old() {
            self.scale_one(at, 0);
        }
    }

    /// Gives a ReplicaSet a size, unless it has that; whether it changes.
    fn scale_one(&mut self, at: usize, size: i32) -> bool {
        let changes = self.sets[at].replicas != size;
        if changes {
            self.resize(at, size);
        }
        changes
    }

    /// Gives a ReplicaSet a size, and notes what the Deployment asks for.
    fn resize(&mut self, at: usize, size: i32) {
        let (desired, most) = (self.replicas(), self.most());
        let set = &mut self.sets[at];
        set.note_size(desired, most);
        let before = std::mem::replace(&mut set.replicas, size);
        if before != size {
            let (direction, name) = (if size > before { "up" } else { "down" }, set.name().clone());
            self.tell_scaled(direction, &name, before, size);
        }
    }

    /// Takes from the old ReplicaSets first what serves nobody, then what is not needed.
    fn scale_down_old(&mut self) -> bool {
        let old: Vec<usize> = self.old().into_iter().filter(|at| self.sets[*at].replicas > 0).collect();
        let Some(new) = self.newest().filter(|_| !old.is_empty()) else { return false };
        // One that has not seen its size may have Pods deleted that its status tells available.
        if new.lags() || old.iter().any(|at| self.sets[*at].lags()) {
            return false;
        }
        let all: i32 = self.sets.iter().map(|set| set.replicas).sum();
        let mut left = all - self.least_available() - (new.replicas - new.available());
        if left <= 0 {
            return false;
        }
        let mut scaled = false;
        for at in &old {
            let set = &self.sets[*at];
            let unhealthy = (set.replicas - set.available()).min(left);
            left -= unhealthy;
            scaled |= self.scale_one(*at, set.replicas - unhealthy);
        }
        let available: i32 = self.sets.iter().map(Set::available).sum();
        let mut left = (available - self.least_available()).max(0);
        for at in old {
            let has = self.sets[at].replicas;
            let taken = has.min(left);
            left -= taken;
            scaled |= self.scale_one(at, has - taken);
        }
        scaled
    }

    /// Whether the Deployment asks for another number of Pods than its ReplicaSets were last told.
    pub(super) fn was_scaled(&self) -> bool {
        let wanted = i64::from(self.replicas());
        let active = self.sets.iter().filter(|set| set.replicas > 0);
        active.filter_map(Set::desired).any(|desired| desired != wanted)
    }

    /// Scales without rolling on: the only active ReplicaSet, or all of them by their share.
    pub(super) fn scale(&mut self) {
        let active: Vec<usize> = (0..self.sets.len()).filter(|at| self.sets[*at].replicas > 0).collect();
        match active[..] {
            [] => {
                if let Some(at) = self.new.or_else(|| self.sets.len().checked_sub(1)) {
                    self.scale_one(at, self.replicas());
                }
            }
            // Though it may have that size by other means, it is told what is asked for.
            [only] => self.resize(only, self.replicas()),
            _ if self.is_saturated() => self.scale_old_to_nothing(),
            _ if self.deployment.spec.strategy.kind == StrategyType::RollingUpdate => {
                self.scale_by_share(active)
            }
            _ => {}
        }
    }

    /// Whether the ReplicaSet of the template has all Pods that are asked for, available.
    fn is_saturated(&self) -> bool {
        let wanted = self.replicas();
        self.newest().is_some_and(|new| {
            new.replicas == wanted
                && new.desired() == Some(i64::from(wanted))
                && new.object.status.available_replicas == wanted
        })
    }

    /// Adds or removes Pods over the active ReplicaSets by their share, the rest at the largest.
    fn scale_by_share(&mut self, mut active: Vec<usize>) {
        let allowed = if self.replicas() > 0 { self.most() } else { 0 };
        let sum: i32 = active.iter().map(|at| self.sets[*at].replicas).sum();
        let add = allowed - sum;
        active.sort_by(|a, b| {
            let (a, b) = (&self.sets[*a], &self.sets[*b]);
            let by_age = if add > 0 { b.age().cmp(&a.age()) } else { a.age().cmp(&b.age()) };
            b.replicas.cmp(&a.replicas).then(by_age)
        });
        let (mut added, mut sizes) = (0, Vec::new());
        for at in &active {
            let set = &self.sets[*at];
            let (share, left) = (self.share(set), add - added);
            let share = if left > 0 { share.min(left) } else { share.max(left) };
            let share = if left == 0 { 0 } else { share };
            added += share;
            sizes.push(set.replicas + share);
        }
        if let Some(largest) = sizes.first_mut() {
            *largest = (*largest + add - added).max(0);
        }
        for (at, size) in active.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }

    /// By how many Pods a ReplicaSet would grow or shrink if all did alike.
    fn share(&self, set: &Set) -> i32 {
        if self.replicas() == 0 {
            return -set.replicas;
        }
        let before = set.most().filter(|most| *most != 0);
        let before = before.unwrap_or(i64::from(self.deployment.status.replicas));
        if before == 0 {
            return 0;
        }
        let size = (f64::from(set.replicas) * f64::from(self.most()) / before as f64).round();
        // Both are numbers of Pods.
        size as i32 - set.replicas
    }
}
