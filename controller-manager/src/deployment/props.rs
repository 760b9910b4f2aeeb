//! Rollouts in any order of what happens, with statuses that lag: what a plan may never do.

use super::plan::{Plan, Snapshot, plan};
use super::sets::Set;
use crate::objects::{DeploymentObject, ReplicaSetObject, ReplicaSetStatus};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A Pod of a ReplicaSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pod {
    Starting,
    Available,
    Leaving,
}

#[derive(Debug)]
struct World {
    deployment: DeploymentObject,
    sets: Vec<ReplicaSetObject>,
    /// Of each ReplicaSet.
    pods: Vec<Vec<Pod>>,
    clock: i64,
    made: usize,
}

#[derive(Debug, Clone)]
enum Happens {
    /// The Deployment is looked at.
    Plan,
    /// A ReplicaSet gets the Pods that it asks for.
    Manage(usize),
    /// A ReplicaSet tells what it has.
    Tell(usize),
    /// A Pod becomes available.
    Start(usize),
    /// A Pod that is being deleted ends.
    End(usize),
    /// The template changes.
    Change(u8),
}

fn template(version: u8) -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"version": version}})
}

impl World {
    fn new(replicas: i32, strategy: Value) -> World {
        let deployment = json!({
            "metadata": {"name": "d", "uid": "d", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template(0),
                "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 3},
        });
        let deployment = serde_json::from_value(deployment).unwrap();
        World { deployment, sets: Vec::new(), pods: Vec::new(), clock: 0, made: 0 }
    }

    fn count(&self, of: Pod) -> usize {
        self.pods.iter().flatten().filter(|pod| **pod == of).count()
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let runs = self.sets.iter().zip(&self.pods).filter(|(_, pods)| !pods.is_empty());
        let running: BTreeSet<Arc<str>> = runs.map(|(set, _)| set.metadata.uid.clone()).collect();
        let snapshot =
            Snapshot { deployment: &self.deployment, sets: &sets, running: &running, overlaps: None };
        plan(&snapshot, Timestamp::from_second(self.clock).unwrap())
    }

    fn apply(&mut self, plan: Plan) {
        if let Some(set) = plan.create {
            let mut object = (*set.object).clone();
            self.made += 1;
            object.metadata.uid = format!("s{}", self.made).into();
            object.metadata.generation = 1;
            object.metadata.creation_timestamp = Some(Timestamp::from_second(self.clock).unwrap());
            object.spec.replicas = Some(set.replicas);
            object.annotations = set.annotations;
            self.sets.push(object);
            self.pods.push(Vec::new());
        }
        for set in plan.update {
            self.update(&set);
        }
        for set in plan.delete {
            let at = self.sets.iter().position(|one| one.metadata.uid == set.metadata.uid).unwrap();
            assert!(self.pods[at].is_empty(), "a ReplicaSet with Pods is deleted");
            self.sets.remove(at);
            self.pods.remove(at);
        }
        if let Some((annotations, status)) = plan.status {
            (self.deployment.annotations, self.deployment.status) = (annotations, status);
        }
    }

    fn update(&mut self, set: &Set) {
        let object = self.sets.iter_mut().find(|one| one.metadata.uid == set.object.metadata.uid).unwrap();
        if object.replicas() != set.replicas {
            object.metadata.generation += 1;
        }
        object.spec.replicas = Some(set.replicas);
        object.annotations = set.annotations.clone();
    }

    fn manage(&mut self, at: usize) {
        let pods = &mut self.pods[at];
        let wanted = usize::try_from(self.sets[at].replicas()).unwrap();
        let active = pods.iter().filter(|pod| **pod != Pod::Leaving).count();
        pods.extend((active..wanted).map(|_| Pod::Starting));
        // What serves nobody goes first.
        pods.sort();
        let surplus = active.saturating_sub(wanted);
        pods.iter_mut().take(surplus).for_each(|pod| *pod = Pod::Leaving);
    }

    fn tell(&mut self, at: usize) {
        let of = |wanted: &[Pod]| {
            i32::try_from(self.pods[at].iter().filter(|pod| wanted.contains(pod)).count()).unwrap()
        };
        let available = of(&[Pod::Available]);
        let status = ReplicaSetStatus {
            replicas: of(&[Pod::Starting, Pod::Available]),
            ready_replicas: available,
            available_replicas: available,
            terminating_replicas: Some(of(&[Pod::Leaving])),
            observed_generation: self.sets[at].metadata.generation,
            ..ReplicaSetStatus::default()
        };
        self.sets[at].status = status;
    }

    fn happen(&mut self, what: &Happens) {
        self.clock += 1;
        let some = |at: usize| (!self.sets.is_empty()).then(|| at % self.sets.len());
        match what {
            Happens::Plan => {
                let plan = self.plan();
                self.apply(plan);
            }
            Happens::Manage(at) => some(*at).into_iter().for_each(|at| self.manage(at)),
            Happens::Tell(at) => some(*at).into_iter().for_each(|at| self.tell(at)),
            Happens::Start(at) => self.turn(*at, Pod::Starting),
            Happens::End(at) => self.turn(*at, Pod::Leaving),
            Happens::Change(version) => {
                self.deployment.spec.template = serde_json::from_value(template(*version)).unwrap();
                self.deployment.metadata.generation += 1;
            }
        }
    }

    /// One of the Pods that are so goes on.
    fn turn(&mut self, which: usize, from: Pod) {
        let all = self.pods.iter_mut().flat_map(|pods| pods.iter_mut());
        let mut those: Vec<&mut Pod> = all.filter(|pod| **pod == from).collect();
        if those.is_empty() {
            return;
        }
        let at = which % those.len();
        match from {
            Pod::Starting => *those[at] = Pod::Available,
            _ => {
                let mut seen = 0;
                for pods in &mut self.pods {
                    pods.retain(|pod| {
                        *pod != from || {
                            seen += 1;
                            seen - 1 != at
                        }
                    });
                }
            }
        }
    }

    /// Everything happens until nothing more does.
    fn settle(&mut self) {
        for _ in 0..60 {
            self.happen(&Happens::Plan);
            for at in 0..self.sets.len() {
                self.happen(&Happens::Manage(at));
            }
            while self.count(Pod::Starting) > 0 {
                self.happen(&Happens::Start(0));
            }
            while self.count(Pod::Leaving) > 0 {
                self.happen(&Happens::End(0));
            }
            for at in 0..self.sets.len() {
                self.happen(&Happens::Tell(at));
            }
        }
    }
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => Just(Happens::Plan),
        4 => (0..9usize).prop_map(Happens::Manage),
        4 => (0..9usize).prop_map(Happens::Tell),
        4 => (0..9usize).prop_map(Happens::Start),
        4 => (0..9usize).prop_map(Happens::End),
        1 => (0..4u8).prop_map(Happens::Change),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rolling_update_keeps_its_limits_and_ends(
        replicas in 1..7i32,
        surge in 0..4i32,
        unavailable in 0..4i32,
        events in proptest::collection::vec(happens(), 0..120),
    ) {
        prop_assume!(surge + unavailable > 0);
        let limits = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let mut world = World::new(replicas, json!({"type": "RollingUpdate", "rollingUpdate": limits}));
        world.settle();
        for event in &events {
            world.happen(event);
            let wanted: i32 = world.sets.iter().map(ReplicaSetObject::replicas).sum();
            prop_assert!(wanted <= replicas + surge, "{wanted} Pods are asked for after {event:?}: {world:#?}");
            let available = i32::try_from(world.count(Pod::Available)).unwrap();
            prop_assert!(
                available >= replicas - unavailable,
                "{available} are available after {event:?}: {world:#?}"
            );
        }
        world.settle();
        prop_assert_eq!(world.count(Pod::Available), usize::try_from(replicas).unwrap());
        let active = world.sets.iter().filter(|set| set.replicas() > 0);
        let active: Vec<_> = active.map(|set| set.spec.template.is_like(&world.deployment.spec.template)).collect();
        prop_assert_eq!(active, [true]);
        prop_assert!(world.sets.len() <= 4, "old ReplicaSets are cleaned up");
        prop_assert_eq!(world.deployment.status.conditions.last().unwrap().reason.to_string(), "NewReplicaSetAvailable");
        prop_assert!(world.plan().status.is_none(), "nothing more is to be done");
    }

    #[test]
    fn recreating_never_has_old_and_new_pods(
        replicas in 1..4i32,
        events in proptest::collection::vec(happens(), 0..150),
    ) {
        let mut world = World::new(replicas, json!({"type": "Recreate"}));
        for event in &events {
            world.happen(event);
            let sets = world.pods.iter().filter(|pods| !pods.is_empty()).count();
            prop_assert!(sets <= 1, "Pods of two templates after {event:?}: {world:#?}");
        }
        world.settle();
        prop_assert_eq!(world.count(Pod::Available), usize::try_from(replicas).unwrap());
    }
}
