//! Probes: one task a probe, as long as its container runs
//! (<https://kubernetes.io/docs/concepts/workloads/pods/probes/>).

mod check;
mod counter;

pub use check::{HttpCheck, http_check, port_number};
pub use counter::{Counter, Outcome};

use crate::core::memory::{Found, Memory};
use crate::core::view::{Instance, PodView, State};
use crate::events::PodEvents;
use crate::pod::{Kind, PodObject};
use crate::worker::{Context, Mailbox};
use check::{Checked, check};
use k8s_openapi::api::core::v1 as api;
use minik_client::EventType::Warning;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Whether it has started; the others wait for that.
    Startup,
    /// Whether it is ready.
    Readiness,
    /// Whether it lives.
    Liveness,
}

impl ProbeKind {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }

    /// A container's probe of this kind.
    pub fn of(self, container: &api::Container) -> Option<&api::Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

type Results = Arc<Mutex<BTreeMap<String, Found>>>;

struct Task {
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// The probes of one Pod's containers.
pub struct Probes {
    mailbox: Arc<Mailbox>,
    results: Results,
    tasks: BTreeMap<(String, ProbeKind), Task>,
    /// Told when a container has started: its readiness is looked at at once.
    started: Arc<Notify>,
}

impl Probes {
    /// None yet; changes are told to the mailbox.
    pub fn new(mailbox: Arc<Mailbox>) -> Probes {
        Probes { mailbox, results: Results::default(), tasks: BTreeMap::new(), started: Arc::default() }
    }

    /// What was found so far, by run.
    pub fn found(&self) -> BTreeMap<String, Found> {
        // Each change is complete before anything can panic.
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the probes of containers that run, stops those of containers that do not.
    pub fn keep(&mut self, context: &Arc<Context>, pod: &Arc<PodObject>, view: &PodView, memory: &Memory) {
        let mut wanted = Vec::new();
        for (kind, container) in pod.containers().filter(|(kind, _)| *kind != Kind::Ephemeral) {
            let Some(run) = view.latest(&container.name).filter(|run| run.state == State::Running) else {
                continue;
            };
            if kind == Kind::Init {
                continue;
            }
            let found = memory.probes.get(&run.id).copied().unwrap_or_default();
            let has_started = container.startup_probe.is_none() || found.startup == Some(true);
            for probe in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
                let is_its_turn = (probe == ProbeKind::Startup) != has_started;
                if is_its_turn && probe.of(container).is_some() {
                    wanted.push((run.clone(), kind, probe));
                }
            }
        }
        self.tasks
            .retain(|(id, probe), _| wanted.iter().any(|(run, _, kind)| run.id == *id && kind == probe));
        for (run, kind, probe) in wanted {
            let key = (run.id.clone(), probe);
            self.tasks.entry(key).or_insert_with(|| {
                let prober = Prober {
                    context: context.clone(),
                    pod: pod.clone(),
                    kind,
                    run,
                    probe,
                    results: self.results.clone(),
                    mailbox: self.mailbox.clone(),
                    ips: view.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default(),
                };
                Task { handle: tokio::spawn(prober.run()) }
            });
        }
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|id, _| view.instances.iter().any(|run| run.id == *id && run.is_alive()));
    }

    /// Stops all.
    pub fn stop_all(&mut self) {
        self.tasks.clear();
        self.started.notify_waiters();
    }
}

struct Prober {
    context: Arc<Context>,
    pod: Arc<PodObject>,
    kind: Kind,
    run: Instance,
    probe: ProbeKind,
    results: Results,
    mailbox: Arc<Mailbox>,
    ips: Vec<String>,
}

impl Prober {
    async fn run(self) {
        let Some((_, container)) = self.pod.container(&self.run.name) else { return };
        let Some(probe) = self.probe.of(container) else { return };
        let seconds = |value: Option<i32>, least: i32, other: i32| {
            Duration::from_secs(value.filter(|value| *value >= least).unwrap_or(other).max(0) as u64)
        };
        let period = seconds(probe.period_seconds, 1, 10);
        self.delay(seconds(probe.initial_delay_seconds, 0, 0)).await;
        let mut counter = Counter::new(
            probe.success_threshold.unwrap_or(1).max(1) as u32,
            probe.failure_threshold.unwrap_or(3).max(1) as u32,
        );
        loop {
            let checked = check(&self.context, &self.pod, container, probe, (&self.run.id, &self.ips)).await;
            self.tell_events(&checked);
            let outcome = match checked {
                Checked::Success(_) => counter.add(true),
                Checked::Failure(_) => counter.add(false),
                // What cannot be said counts as nothing.
                Checked::Unknown(_) => Outcome::Same,
            };
            if let Outcome::Now(is_good) = outcome {
                self.note(is_good);
                // The container is ended, or the other probes take over.
                if self.probe == ProbeKind::Startup || (self.probe == ProbeKind::Liveness && !is_good) {
                    return;
                }
            }
            tokio::time::sleep(period).await;
        }
    }

    /// Counted from the container's start.
    async fn delay(&self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        let now = i64::try_from(self.context.config.clock.now().as_nanosecond()).unwrap_or(i64::MAX);
        let passed = Duration::from_nanos((now - self.run.started_ns).max(0) as u64);
        tokio::time::sleep(delay.saturating_sub(passed)).await;
    }

    fn note(&self, is_good: bool) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let found = results.entry(self.run.id.clone()).or_default();
        let place = match self.probe {
            ProbeKind::Startup => &mut found.startup,
            ProbeKind::Readiness => &mut found.readiness,
            ProbeKind::Liveness => &mut found.liveness,
        };
        if *place != Some(is_good) {
            *place = Some(is_good);
            drop(results);
            self.mailbox.look();
        }
    }

    fn tell_events(&self, checked: &Checked) {
        let name = self.probe.name();
        let (reason, words) = match checked {
            Checked::Success(None) => return,
            Checked::Success(Some(warning)) => ("ProbeWarning", format!("{name} probe warning: {warning}")),
            Checked::Failure(output) => ("Unhealthy", format!("{name} probe failed: {output}")),
            Checked::Unknown(error) => {
                ("Unhealthy", format!("{name} probe errored and resulted in unknown state: {error}"))
            }
        };
        let events = PodEvents::new(&self.context.recorder, &self.pod);
        events.container(self.kind, &self.run.name, Warning, reason, &words);
    }
}
