//! What is to be done for a Pod now: pure, from what is wanted, what is there and what is remembered.

use super::memory::{Failure, Found, LONGEST_WAIT, Memory, go_duration};
use super::view::{Instance, PodView, State};
use crate::pod::{Kind, PodObject, init_kind, restarts};
use k8s_openapi::api::core::v1::Container;
use std::time::Duration;

/// What is to be done, in this order: ends, the sandbox, starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// End everything, sandbox included, and why.
    pub end_pod: Option<&'static str>,
    /// Make a sandbox, this many having been before.
    pub new_sandbox: Option<u32>,
    /// Runs to end.
    pub ends: Vec<End>,
    /// Containers to start, in this order.
    pub starts: Vec<Start>,
    /// Containers that wait, and why.
    pub waits: Vec<(String, Failure)>,
    /// When to look again though nothing has happened.
    pub again_in: Option<Duration>,
}

/// A run to end.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The instance.
    pub id: String,
    /// Its container.
    pub name: String,
    /// What is told of it.
    pub message: String,
    /// A grace that the probe which failed demands.
    pub grace_seconds: Option<i64>,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// How many runs there were before.
    pub attempt: u32,
    /// When the last run ended, in nanoseconds of Unix time.
    pub last_finished_ns: Option<i64>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.end_pod.is_none() && self.new_sandbox.is_none() && self.ends.is_empty() && self.starts.is_empty()
    }

    /// Adds a wish to look again; the earlier one wins.
    pub fn again(&mut self, wait: Duration) {
        self.again_in = Some(self.again_in.map_or(wait, |before| before.min(wait)));
    }
}

/// What is to be done for a Pod that is to run.
pub fn plan(pod: &PodObject, view: &PodView, memory: &Memory, now_ns: i64) -> Plan {
    let mut planner = Planner { pod, view, memory, now_ns, plan: Plan::default() };
    if planner.needs_sandbox() {
        planner.begin_anew();
    } else {
        planner.go_on();
    }
    planner.plan
}

struct Planner<'a> {
    pod: &'a PodObject,
    view: &'a PodView,
    memory: &'a Memory,
    now_ns: i64,
    plan: Plan,
}

impl Planner<'_> {
    fn needs_sandbox(&self) -> bool {
        match self.view.sandbox() {
            None => true,
            Some(newest) => {
                let others = self.view.sandboxes.iter().skip(1).any(|one| one.ready);
                !newest.ready
                    || others
                    || newest.host_network != self.pod.host_network()
                    || (newest.ips.is_empty() && !self.pod.host_network())
            }
        }
    }

    /// Without a sandbox all begins anew, unless nothing is left to be done.
    fn begin_anew(&mut self) {
        if let Some(left) = self.held("") {
            self.plan.again(left);
            return;
        }
        let attempt = self.view.sandbox().map_or(0, |newest| newest.attempt + 1);
        if self.view.sandboxes.iter().any(|one| one.ready) || self.view.alive().next().is_some() {
            self.plan.end_pod = Some("the sandbox has changed");
        }
        let may_restart = self
            .pod
            .containers()
            .any(|(kind, one)| matches!(kind, Kind::Main | Kind::Init) && restarts(self.pod, kind, one, 1));
        if !may_restart && attempt > 0 && !self.view.instances.is_empty() {
            return;
        }
        let (spec, pod) = (&self.pod.spec, self.pod);
        let wanted: Vec<&Container> = spec.containers.iter().filter(|one| self.is_wanted(one)).collect();
        let initialized = pod.inits().is_empty() || self.any_main_was_made();
        if wanted.is_empty() && initialized {
            return;
        }
        self.plan.new_sandbox = Some(attempt);
        match pod.inits().first() {
            Some(first) => self.start(init_kind(first), first),
            None => wanted.into_iter().for_each(|one| self.start(Kind::Main, one)),
        }
    }

    /// Whether a container is to run in a new sandbox: not when it has ended for good.
    fn is_wanted(&self, container: &Container) -> bool {
        match self.view.latest(&container.name) {
            Some(last) if last.state == State::Exited => {
                restarts(self.pod, Kind::Main, container, last.exit_code)
            }
            _ => true,
        }
    }

    fn any_main_was_made(&self) -> bool {
        self.pod.spec.containers.iter().any(|one| self.view.latest(&one.name).is_some())
    }

    fn any_main_is_in(&self, sandbox: &str) -> bool {
        let is_main = |name: &str| self.pod.spec.containers.iter().any(|one| one.name == name);
        self.view.instances.iter().any(|one| one.sandbox_id == sandbox && is_main(&one.name))
    }

    fn go_on(&mut self) {
        let sandbox = self.view.sandbox().map(|one| one.id.clone()).unwrap_or_default();
        for (container, _) in &self.pod.ephemeral {
            if self.view.latest(&container.name).is_none() {
                self.start(Kind::Ephemeral, container);
            }
        }
        let before = self.plan.starts.len();
        let main_began = self.any_main_is_in(&sandbox);
        let initialized = self.inits(main_began);
        if self.plan.end_pod.is_some() {
            self.plan.starts.clear();
            return;
        }
        if !initialized {
            return;
        }
        let mut kept = 0;
        for container in &self.pod.spec.containers {
            kept += usize::from(self.main(container));
        }
        let sidecars_only = self.plan.starts[before..].iter().all(|one| one.kind == Kind::Sidecar);
        let ends_only = self.plan.ends.iter().all(|one| !self.pod_runs_on_after(&one.name));
        if kept == 0
            && sidecars_only
            && ends_only
            && self.plan.waits.iter().all(|(name, _)| !self.is_main(name))
        {
            self.plan.end_pod = Some("nothing is left to run");
            self.plan.starts.clear();
            self.plan.ends.clear();
        }
    }

    fn is_main(&self, name: &str) -> bool {
        self.pod.spec.containers.iter().any(|one| one.name == name)
    }

    /// Whether a container that is to be ended is a reason to keep the Pod.
    fn pod_runs_on_after(&self, name: &str) -> bool {
        self.is_main(name)
    }

    /// Init containers and sidecars. Says whether ordinary containers may run.
    fn inits(&mut self, main_began: bool) -> bool {
        let inits = self.pod.inits();
        let (mut initialized, mut found) = (main_began || inits.is_empty(), main_began);
        let may_go_on = initialized;
        for (at, container) in inits.iter().enumerate().rev() {
            let kind = init_kind(container);
            let Some(last) = self.view.latest(&container.name) else {
                if found && kind == Kind::Sidecar {
                    self.start(kind, container);
                }
                continue;
            };
            // What lies before the furthest one has been done; of it only sidecars are kept running.
            if found && kind == Kind::Init {
                continue;
            }
            let is_furthest = !found;
            found = true;
            let last = last.clone();
            let next = match (last.state, kind) {
                (State::Running | State::Unknown, Kind::Sidecar) => {
                    let healthy = self.check_running(kind, container, &last);
                    healthy
                        && self.found(&last.id).startup != Some(false)
                        && self.has_started(container, &last)
                }
                (State::Running | State::Unknown, _) => false,
                (State::Created | State::Exited, Kind::Sidecar) => {
                    self.start(kind, container);
                    false
                }
                (State::Created, _) => {
                    self.start(kind, container);
                    false
                }
                (State::Exited, _) if last.exit_code == 0 => true,
                (State::Exited, _) => {
                    if restarts(self.pod, kind, container, last.exit_code) {
                        self.start(kind, container);
                    } else {
                        self.plan.end_pod = Some("an init container failed");
                    }
                    false
                }
            };
            if is_furthest && next {
                match inits.get(at + 1) {
                    Some(following) => self.start(init_kind(following), following),
                    None => initialized = true,
                }
            }
        }
        if !found && let Some(first) = inits.first() {
            self.start(init_kind(first), first);
        }
        // They start one after the other, the first first.
        self.plan.starts.sort_by_key(|start| inits.iter().position(|one| one.name == start.name));
        may_go_on || initialized
    }

    fn found(&self, id: &str) -> Found {
        self.memory.probes.get(id).copied().unwrap_or_default()
    }

    fn has_started(&self, container: &Container, last: &Instance) -> bool {
        container.startup_probe.is_none() || self.found(&last.id).startup == Some(true)
    }

    /// An ordinary container. Says whether it runs and is kept so.
    fn main(&mut self, container: &Container) -> bool {
        let Some(last) = self.view.latest(&container.name).cloned() else {
            self.start(Kind::Main, container);
            return false;
        };
        match last.state {
            State::Running | State::Unknown => self.check_running(Kind::Main, container, &last),
            State::Created => {
                self.start(Kind::Main, container);
                false
            }
            State::Exited => {
                if restarts(self.pod, Kind::Main, container, last.exit_code) {
                    self.start(Kind::Main, container);
                }
                false
            }
        }
    }

    /// Whether a running container may run on; otherwise its end is planned.
    fn check_running(&mut self, kind: Kind, container: &Container, last: &Instance) -> bool {
        let found = self.found(&last.id);
        let name = &container.name;
        let (what, grace_seconds, always) = if last.state == State::Unknown {
            (format!("Container {name} is in unknown state, try killing it before restart"), None, false)
        } else if !last.hash.is_empty() && last.hash != hash(container) {
            (format!("Container {name} definition changed"), None, true)
        } else if found.liveness == Some(false) {
            let grace =
                container.liveness_probe.as_ref().and_then(|one| one.termination_grace_period_seconds);
            (format!("Container {name} failed liveness probe"), grace, false)
        } else if found.startup == Some(false) {
            let grace = container.startup_probe.as_ref().and_then(|one| one.termination_grace_period_seconds);
            (format!("Container {name} failed startup probe"), grace, false)
        } else {
            return true;
        };
        let again = always || restarts(self.pod, kind, container, 137);
        let message = if again { format!("{what}, will be restarted") } else { what };
        self.plan.ends.push(End { id: last.id.clone(), name: name.clone(), message, grace_seconds });
        false
    }

    /// How long something that failed is not tried again yet.
    fn held(&self, name: &str) -> Option<Duration> {
        let left = Duration::from_nanos((self.memory.held.get(name)? - self.now_ns).max(0) as u64);
        // Longer than anything is held means that the clock was set back meanwhile.
        (!left.is_zero() && left <= LONGEST_WAIT).then_some(left)
    }

    /// Plans a start, now or after the container's wait.
    fn start(&mut self, kind: Kind, container: &Container) {
        if let (Some(left), Some(failure)) =
            (self.held(&container.name), self.memory.failures.get(&container.name))
        {
            self.plan.waits.push((container.name.clone(), failure.clone()));
            self.plan.again(left);
            return;
        }
        let last = self.view.latest(&container.name);
        let ended = last.filter(|one| one.state == State::Exited);
        if let (Some(ended), Some(crashes)) = (ended, self.memory.crashes.get(&container.name))
            && let Some((whole, left)) = crashes.waits(ended.finished_ns, self.now_ns)
        {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(whole),
                container.name,
                self.pod.long_name()
            );
            self.plan.waits.push((container.name.clone(), Failure::new("CrashLoopBackOff", message)));
            self.plan.again(left);
            return;
        }
        self.plan.starts.push(Start {
            name: container.name.clone(),
            kind,
            attempt: last.map_or(0, |last| last.attempt + 1),
            last_finished_ns: ended.map(|ended| ended.finished_ns),
        });
    }
}

/// What a container is made from, as far as that can change.
pub fn hash(container: &Container) -> String {
    use sha2::Digest;
    let image = container.image.as_deref().unwrap_or_default();
    let digest = sha2::Sha256::digest(format!("{}\0{image}", container.name));
    hex::encode(&digest[..4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::memory::Crashes;
    use crate::core::view::SandboxView;
    use serde_json::json;

    const SECOND: i64 = 1_000_000_000;

    fn pod(spec: serde_json::Value) -> PodObject {
        let text = json!({"metadata": {"name": "p", "namespace": "s", "uid": "u"}, "spec": spec}).to_string();
        serde_json::from_str(&text).unwrap()
    }

    fn sandbox() -> SandboxView {
        SandboxView { id: "S".into(), ready: true, ips: vec!["10.0.0.1".into()], ..Default::default() }
    }

    fn run(name: &str, attempt: u32, state: State, exit_code: i32) -> Instance {
        Instance {
            id: format!("{name}{attempt}"),
            name: name.into(),
            attempt,
            sandbox_id: "S".into(),
            state,
            exit_code,
            finished_ns: 100 * SECOND,
            ..Default::default()
        }
    }

    fn view(instances: Vec<Instance>) -> PodView {
        let mut view = PodView { sandboxes: vec![sandbox()], instances };
        view.sort();
        view
    }

    fn check(pod: &PodObject, view: &PodView, memory: &Memory, want: &str) {
        let plan = plan(pod, view, memory, 105 * SECOND);
        let mut said: Vec<String> = Vec::new();
        said.extend(plan.end_pod.map(|why| format!("end pod: {why}")));
        said.extend(plan.new_sandbox.map(|attempt| format!("sandbox {attempt}")));
        said.extend(plan.ends.iter().map(|end| format!("end {}: {}", end.id, end.message)));
        said.extend(plan.starts.iter().map(|start| format!("start {}{}", start.name, start.attempt)));
        said.extend(plan.waits.iter().map(|(name, why)| format!("wait {name}: {}", why.message)));
        assert_eq!(said.join("; "), want);
    }

    fn one(policy: &str) -> PodObject {
        pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
    }

    #[test]
    fn a_pod_begins_with_its_sandbox() {
        let none = Memory::default();
        check(&one("Always"), &PodView::default(), &none, "sandbox 0; start c0");
        check(&one("Always"), &view(vec![]), &none, "start c0");
        check(&one("Always"), &view(vec![run("c", 0, State::Running, 0)]), &none, "");
    }

    #[test]
    fn ended_containers_follow_the_policy() {
        let none = Memory::default();
        let ended = |code| view(vec![run("c", 0, State::Exited, code)]);
        check(&one("Always"), &ended(0), &none, "start c1");
        check(&one("OnFailure"), &ended(1), &none, "start c1");
        check(&one("OnFailure"), &ended(0), &none, "end pod: nothing is left to run");
        check(&one("Never"), &ended(1), &none, "end pod: nothing is left to run");
        let mut gone = ended(1);
        gone.sandboxes[0].ready = false;
        check(&one("Never"), &gone, &none, "");
        check(&one("Always"), &gone, &none, "sandbox 1; start c1");
    }

    #[test]
    fn rules_come_before_policies() {
        let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}});
        let pod = pod(json!({"restartPolicy": "Never", "containers": [
            {"name": "c", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [rule]}]}));
        let none = Memory::default();
        check(&pod, &view(vec![run("c", 0, State::Exited, 42)]), &none, "start c1");
        check(&pod, &view(vec![run("c", 0, State::Exited, 1)]), &none, "end pod: nothing is left to run");
    }

    #[test]
    fn a_crashing_container_waits() {
        let mut memory = Memory::default();
        memory.crashes.insert("c".into(), Crashes::next(None, 0, 100 * SECOND));
        let ended = view(vec![run("c", 1, State::Exited, 1)]);
        check(
            &one("Always"),
            &ended,
            &memory,
            "wait c: back-off 10s restarting failed container=c pod=p_s(u)",
        );
        assert_eq!(
            plan(&one("Always"), &ended, &memory, 105 * SECOND).again_in,
            Some(Duration::from_secs(5))
        );
    }

    #[test]
    fn what_failed_is_held_until_its_time_whatever_the_clock_does() {
        let mut memory = Memory::default();
        memory.held.insert(String::new(), 110 * SECOND);
        let pod = one("Always");
        let wait = |now: i64| plan(&pod, &PodView::default(), &memory, now * SECOND).again_in;
        assert_eq!(wait(105), Some(Duration::from_secs(5)));
        assert_eq!(wait(105 + 3600), None);
        assert_eq!(wait(105 - 3600), None, "the clock was set back: it is tried at once");
    }

    #[test]
    fn init_containers_run_one_after_the_other() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}],
            "initContainers": [{"name": "i"}, {"name": "j"}]}));
        let none = Memory::default();
        let done = |name| run(name, 0, State::Exited, 0);
        check(&pod, &PodView::default(), &none, "sandbox 0; start i0");
        check(&pod, &view(vec![run("i", 0, State::Running, 0)]), &none, "");
        check(&pod, &view(vec![done("i")]), &none, "start j0");
        check(&pod, &view(vec![done("i"), done("j")]), &none, "start c0");
        check(&pod, &view(vec![run("i", 0, State::Exited, 1)]), &none, "end pod: an init container failed");
        check(&pod, &view(vec![done("i"), done("j"), run("c", 0, State::Running, 0)]), &none, "");
    }

    #[test]
    fn sidecars_are_kept_running_until_the_rest_has_ended() {
        let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}], "initContainers": [
            {"name": "s", "restartPolicy": "Always", "startupProbe": {"exec": {}}}, {"name": "j"}]}));
        let mut memory = Memory::default();
        let running = |name| run(name, 0, State::Running, 0);
        check(&pod, &view(vec![running("s")]), &memory, "");
        memory.probes.insert("s0".into(), Found { startup: Some(true), ..Default::default() });
        check(&pod, &view(vec![running("s")]), &memory, "start j0");
        let done = run("j", 0, State::Exited, 0);
        check(&pod, &view(vec![running("s"), done.clone()]), &memory, "start c0");
        let crashed = run("s", 0, State::Exited, 1);
        check(&pod, &view(vec![crashed.clone(), done.clone()]), &memory, "start s1; start c0");
        check(&pod, &view(vec![crashed, done.clone(), running("c")]), &memory, "start s1");
        let ended = run("c", 0, State::Exited, 2);
        check(&pod, &view(vec![running("s"), done, ended]), &memory, "end pod: nothing is left to run");
    }

    #[test]
    fn probes_end_containers() {
        let mut memory = Memory::default();
        memory.probes.insert("c0".into(), Found { liveness: Some(false), ..Default::default() });
        let running = view(vec![run("c", 0, State::Running, 0)]);
        let restarted = "end c0: Container c failed liveness probe, will be restarted";
        check(&one("Always"), &running, &memory, restarted);
        check(&one("Never"), &running, &memory, "end c0: Container c failed liveness probe");
        let mut changed = running.clone();
        changed.instances[0].hash = "other".into();
        let words = "end c0: Container c definition changed, will be restarted";
        check(&one("Never"), &changed, &Memory::default(), words);
    }

    #[test]
    fn a_lost_sandbox_is_made_again() {
        let mut lost = view(vec![run("c", 0, State::Running, 0)]);
        lost.sandboxes[0].ready = false;
        check(
            &one("Always"),
            &lost,
            &Memory::default(),
            "end pod: the sandbox has changed; sandbox 1; start c1",
        );
    }
}
