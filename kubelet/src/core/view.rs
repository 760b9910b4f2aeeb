//! What the runtime has of one Pod.

use std::collections::BTreeMap;

/// A Pod's sandboxes and containers, each list with the newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodView {
    /// Its sandboxes.
    pub sandboxes: Vec<SandboxView>,
    /// All instances of its containers.
    pub instances: Vec<Instance>,
}

/// A sandbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SandboxView {
    /// Its identity.
    pub id: String,
    /// How many there were before.
    pub attempt: u32,
    /// Whether its pause process and network are there.
    pub ready: bool,
    /// When it was made, in nanoseconds of Unix time.
    pub created_ns: i64,
    /// Its addresses, the first one first.
    pub ips: Vec<String>,
    /// Whether it shares the node's network.
    pub host_network: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Made, not started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// One run of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instance {
    /// Its identity.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// How many runs there were before.
    pub attempt: u32,
    /// The sandbox that it is in.
    pub sandbox_id: String,
    /// Where it is in its life.
    pub state: State,
    /// When it was made, in nanoseconds of Unix time.
    pub created_ns: i64,
    /// When it began.
    pub started_ns: i64,
    /// When it ended.
    pub finished_ns: i64,
    /// How it ended.
    pub exit_code: i32,
    /// The runtime's word for that.
    pub reason: String,
    /// Its last words, or the runtime's.
    pub message: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image as it is known by digest.
    pub image_ref: String,
    /// Where its log is.
    pub log_path: String,
    /// What it was made from.
    pub hash: String,
    /// User, group and further groups of its first process.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// The runtime's limits.
    pub limits: Option<Limits>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Limits as the kernel has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Weight.
    pub cpu_shares: i64,
    /// Microseconds a period.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Bytes; 0 for none.
    pub memory_bytes: i64,
}

impl PodView {
    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&SandboxView> {
        self.sandboxes.first()
    }

    /// The newest sandbox if it is ready.
    pub fn ready_sandbox(&self) -> Option<&SandboxView> {
        self.sandbox().filter(|sandbox| sandbox.ready)
    }

    /// The newest run of a container.
    pub fn latest(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|one| one.name == name)
    }

    /// Runs that have not ended.
    pub fn alive(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|one| one.is_alive())
    }

    /// What nobody asks for any more: of each container all ended runs but the one before its newest run (its last state,
    /// the log before); of sandboxes those that are not ready, hold no such run and are not the newest.
    pub fn superfluous(&self) -> (Vec<Instance>, Vec<String>) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut old = Vec::new();
        for run in &self.instances {
            let newer = seen.entry(&run.name).or_default();
            // The newest counts in any case, of the others those that have ended.
            if *newer >= 2 && run.state == State::Exited {
                old.push(run.clone());
            }
            if *newer == 0 || run.state == State::Exited {
                *newer += 1;
            }
        }
        let holds = |sandbox: &SandboxView| {
            self.instances
                .iter()
                .any(|run| run.sandbox_id == sandbox.id && !old.iter().any(|old| old.id == run.id))
        };
        let sandboxes = self.sandboxes.iter().skip(1).filter(|one| !one.ready && !holds(one));
        let sandboxes = sandboxes.map(|one| one.id.clone()).collect();
        (old, sandboxes)
    }

    /// Puts the newest first.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|one| std::cmp::Reverse((one.attempt, one.created_ns)));
        self.instances.sort_by_key(|one| std::cmp::Reverse((one.attempt, one.created_ns)));
    }
}

impl Instance {
    /// Whether it runs, or nobody knows that it does not.
    pub fn is_alive(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_before_the_newest_is_kept() {
        let run = |name: &str, attempt: u32, state, sandbox: &str| Instance {
            id: format!("{name}{attempt}"),
            name: name.into(),
            attempt,
            state,
            sandbox_id: sandbox.into(),
            ..Default::default()
        };
        let sandbox =
            |id: &str, attempt, ready| SandboxView { id: id.into(), attempt, ready, ..Default::default() };
        let mut view = PodView {
            sandboxes: vec![sandbox("old", 0, false), sandbox("held", 1, false), sandbox("new", 2, true)],
            instances: vec![
                run("c", 0, State::Exited, "old"),
                run("c", 1, State::Exited, "held"),
                run("c", 2, State::Running, "new"),
                run("d", 0, State::Exited, "new"),
                run("d", 1, State::Exited, "new"),
                run("d", 2, State::Exited, "new"),
            ],
        };
        view.sort();
        let (runs, sandboxes) = view.superfluous();
        assert_eq!(runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["c0", "d0"]);
        assert_eq!(sandboxes, ["old"]);
    }
}
