//! One worker a Pod: looks, decides, acts, tells, waits.
//!
//! ```text
//!  mailbox (the Pod as wanted, "look again") ──> observe ──> plan ──> apply ──> observe ──> status ──> writer
//!                                                   ^ memory: crashes, failures, probes, verdict
//!  Running ── deleted, ended, verdict ──> Ending (kill, take down) ──> Ended ── deleted in the API ──> gone
//! ```

mod end;
mod mailbox;
mod resize;
mod start;

pub use mailbox::{Mailbox, Wanted};

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::containers::fields::Surroundings;
use crate::containers::sandbox::{Dns, Resolver};
use crate::containers::services::ServiceObject;
use crate::core::memory::{Failure, Found, Memory, Verdict};
use crate::core::plan::{self, Plan};
use crate::core::view::PodView;
use crate::dispatch::Mailboxes;
use crate::events::PodEvents;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::node::NodeFacts;
use crate::objects::Objects;
use crate::pod::PodObject;
use crate::probes::Probes;
use crate::runtime::{Observer, Runtime};
use crate::status::writer::StatusWriter;
use crate::status::{self, Facts};
use crate::volumes::Volumes;
use crate::watches::Watches;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use minik_client::EventType::{Normal, Warning};
use minik_client::{EventRecorder, Informer};
use minik_component::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What failed is tried again after this, unless something happens before.
const RETRY: Duration = Duration::from_secs(10);
/// A look at a Pod at which nothing seems to happen: refreshes volumes, notices what no event told.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Volumes are brought up to date when something tells that they must; and now and then, should nothing have told.
const REFRESH_EVERY: Duration = Duration::from_secs(600);
/// Waits after a failure of the runtime or of volumes, doubled.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(122);

/// What all workers share.
pub struct Context {
    /// How the kubelet was set up.
    pub config: Config,
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Its name, which container identities begin with.
    pub runtime_name: String,
    /// Events.
    pub recorder: EventRecorder,
    /// Tells statuses.
    pub writer: StatusWriter,
    /// Images.
    pub images: Images,
    /// What Pods refer to.
    pub objects: Arc<Objects>,
    /// Volumes.
    pub volumes: Volumes,
    /// Cgroups.
    pub cgroups: Cgroups,
    /// The workers, to know what the node's other Pods take.
    pub mailboxes: Mailboxes,
    /// Watches of what Pods mount.
    pub watches: Watches,
    /// Metrics.
    pub metrics: Metrics,
    /// Services, for variables.
    pub services: Informer<ServiceObject>,
    /// The node.
    pub node: NodeFacts,
    /// The node's resolver configuration.
    pub resolver: Resolver,
}

impl Context {
    fn clock(&self) -> &dyn Clock {
        &*self.config.clock
    }

    fn now(&self) -> Timestamp {
        self.clock().now()
    }

    fn now_ns(&self) -> i64 {
        i64::try_from(self.now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    fn dns(&self) -> Dns<'_> {
        Dns { servers: &self.config.cluster_dns, domain: &self.config.cluster_domain, node: &self.resolver }
    }

    fn around(&self, ips: &[String], pod: &PodObject) -> Surroundings {
        let pod_ips = if pod.host_network() { self.node.ips.clone() } else { ips.to_vec() };
        Surroundings { pod_ips, host_ips: self.node.ips.clone(), allocatable: self.node.resources() }
    }
}

/// Where a Pod's worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Ending,
    Ended,
}

/// Labels and annotations.
type Fields = (BTreeMap<Arc<str>, Arc<str>>, BTreeMap<String, String>);

/// A Pod's worker.
pub struct Worker {
    context: Arc<Context>,
    mailbox: Arc<Mailbox>,
    stage: Stage,
    memory: Memory,
    observer: Observer,
    view: PodView,
    told: api::PodStatus,
    probes: Probes,
    retries: u32,
    /// When the Pod was seen first.
    born: Duration,
    /// How long it had been active when that was first asked, and when: the wall clock may be set at any time.
    active: Option<(Duration, Duration)>,
    /// When volumes were brought up to date last.
    refreshed: Duration,
    /// The labels and annotations that volumes may tell of.
    fields: Option<Fields>,
    /// Of the Pod, as it was looked at last.
    generation: i64,
}

impl Worker {
    /// A worker of the Pod in a mailbox.
    pub fn new(context: Arc<Context>, mailbox: Arc<Mailbox>) -> Worker {
        let pod = mailbox.wanted().pod;
        Worker {
            probes: Probes::new(mailbox.clone()),
            mailbox,
            stage: Stage::Running,
            memory: Memory { probes: Found::regained(&pod.status), ..Memory::default() },
            observer: Observer::default(),
            view: PodView::default(),
            told: pod.status.clone(),
            retries: 0,
            born: context.clock().elapsed(),
            active: None,
            refreshed: context.clock().elapsed(),
            fields: None,
            context,
            generation: pod.meta.generation,
        }
    }

    /// Works until nothing of the Pod is left and the API has forgotten it.
    pub async fn run(mut self) {
        loop {
            let wanted = self.mailbox.take();
            self.advance(&wanted);
            let (began, stage) = (self.context.clock().elapsed(), self.stage);
            let again = match self.stage {
                Stage::Running => self.keep_running(&wanted).await,
                Stage::Ending => self.end(&wanted).await,
                Stage::Ended if wanted.is_gone => match self.remove(&wanted.pod).await {
                    true => return,
                    false => RETRY,
                },
                Stage::Ended => LOOK_EVERY * 60,
            };
            self.tell(&wanted);
            let operation = if stage == Stage::Running { "sync" } else { "terminating" };
            self.context.metrics.looked(operation, self.context.clock().elapsed().saturating_sub(began));
            self.mailbox.changed(again).await;
        }
    }

    /// Decides whether the Pod is to end.
    fn advance(&mut self, wanted: &Wanted) {
        if self.stage != Stage::Running {
            return;
        }
        if self.generation != wanted.pod.meta.generation {
            self.generation = wanted.pod.meta.generation;
            self.memory.held.clear();
        }
        if self.memory.verdict.is_none() {
            self.memory.verdict = wanted.verdict.clone();
        }
        let is_over = wanted.is_gone
            || wanted.pod.meta.deletion_timestamp.is_some()
            || wanted.pod.has_ended()
            || matches!(self.told.phase.as_deref(), Some("Succeeded" | "Failed"));
        if is_over || self.memory.verdict.is_some() {
            self.stage = Stage::Ending;
        }
    }

    fn status(&self, pod: &PodObject) -> api::PodStatus {
        status::status(&Facts {
            pod,
            view: &self.view,
            memory: &self.memory,
            before: &self.told,
            host_ips: &self.context.node.ips,
            runtime_name: &self.context.runtime_name,
            is_terminal: self.stage == Stage::Ended,
            now: self.context.now(),
        })
    }

    fn tell(&mut self, wanted: &Wanted) {
        if wanted.is_gone {
            return;
        }
        let status = self.status(&wanted.pod);
        let is_over = self.stage == Stage::Ended && wanted.pod.meta.deletion_timestamp.is_some();
        self.context.writer.tell(&wanted.pod, &status, is_over);
        if status.phase.as_deref() == Some("Running") && self.told.phase.as_deref() == Some("Pending") {
            self.context.metrics.pod_runs(self.context.clock().elapsed().saturating_sub(self.born));
        }
        self.told = status;
    }

    async fn observe(&mut self, pod: &PodObject) -> bool {
        match self.observer.observe(&*self.context.runtime, pod.uid()).await {
            Ok(view) => {
                self.view = view;
                let alive: Vec<&str> = self.view.alive().map(|one| one.id.as_str()).collect();
                self.memory.probes.retain(|id, _| alive.contains(&id.as_str()));
                true
            }
            Err(error) => {
                tracing::warn!(pod = pod.long_name(), %error, "cannot look at the Pod's containers");
                false
            }
        }
    }

    /// One look at a Pod that is to run. Gives when to look again.
    async fn keep_running(&mut self, wanted: &Wanted) -> Duration {
        let pod = wanted.pod.clone();
        if !self.observe(&pod).await {
            return FIRST_RETRY;
        }
        if let Some(verdict) = self.deadline(&pod) {
            self.memory.verdict = Some(verdict);
            self.mailbox.look();
            return RETRY;
        }
        for (id, found) in self.probes.found() {
            let before = self.memory.probes.entry(id).or_default();
            *before = before.then(found);
        }
        let mut again = LOOK_EVERY;
        // Each turn acts on what the last one led to; a Pod settles in as many turns as it has containers.
        for _ in 0..=pod.containers().count() * 2 + 2 {
            if self.resize(&pod).await && !self.observe(&pod).await {
                return FIRST_RETRY;
            }
            let mut plan = plan::plan(&pod, &self.view, &self.memory, self.context.now_ns());
            plan.ends.extend(self.resize_by_restart(&pod));
            again = plan.again_in.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
            self.explain_waits(&pod, &plan);
            self.tell(wanted);
            if matches!(self.told.phase.as_deref(), Some("Succeeded" | "Failed")) {
                self.mailbox.look();
                return RETRY;
            }
            if plan.is_idle() {
                break;
            }
            let acted = self.apply(&pod, &plan).await;
            if !self.observe(&pod).await {
                return FIRST_RETRY;
            }
            match acted {
                Ok(()) => self.retries = 0,
                Err(wait) => {
                    again = again.min(wait);
                    break;
                }
            }
            if self.mailbox.is_ending() {
                return Duration::ZERO;
            }
        }
        self.collect(&pod).await;
        self.probes.keep(&self.context, &pod, &self.view, &self.memory);
        self.context.watches.follow(&pod);
        self.refresh(&pod).await;
        again.min(self.deadline_in(&pod).unwrap_or(LOOK_EVERY))
    }

    /// Removes runs and sandboxes that nobody asks for any more: of each container the last ended one is kept.
    async fn collect(&mut self, pod: &PodObject) {
        let (ended, sandboxes) = self.view.superfluous();
        let log_dir = self.context.log_dir(pod);
        for run in &ended {
            if let Err(error) = self.context.runtime.remove_container(&run.id).await {
                tracing::debug!(pod = pod.long_name(), %error, "cannot remove an old container yet");
                continue;
            }
            let log = log_dir.join(&run.name).join(format!("{}.log", run.attempt));
            minik_fault::point("kubelet.run.collected");
            // One that was never written to is not there.
            let _ = tokio::fs::remove_file(log).await;
        }
        for sandbox in &sandboxes {
            if let Err(error) = self.context.runtime.remove_sandbox(sandbox).await {
                tracing::debug!(pod = pod.long_name(), %error, "cannot remove an old sandbox yet");
            }
        }
        self.view.instances.retain(|run| !ended.iter().any(|old| old.id == run.id));
        self.view.sandboxes.retain(|sandbox| !sandboxes.contains(&sandbox.id));
    }

    /// Brings volumes made of API objects up to date.
    async fn refresh(&mut self, pod: &PodObject) {
        let now = self.context.clock().elapsed();
        let fields = (pod.meta.labels.clone(), pod.annotations.clone());
        let is_due = self.mailbox.take_stale()
            || self.fields.as_ref().is_some_and(|before| *before != fields)
            || self.context.objects.is_due(pod.uid())
            || now.saturating_sub(self.refreshed) >= REFRESH_EVERY;
        self.fields = Some(fields);
        if !is_due {
            return;
        }
        self.refreshed = now;
        let Some(sandbox) = self.view.ready_sandbox() else { return };
        let around = self.context.around(&sandbox.ips, pod);
        if let Err((volume, error)) = self.context.volumes.set_up(pod, &around).await {
            tracing::debug!(pod = pod.long_name(), volume, %error, "cannot bring a volume up to date");
        }
    }

    /// How long the Pod may be active still, if it has a limit.
    fn deadline_in(&mut self, pod: &PodObject) -> Option<Duration> {
        let whole = Duration::from_secs(pod.spec.active_deadline_seconds?.max(0) as u64);
        let start = self.told.start_time.as_ref()?.0;
        let (now, today) = (self.context.clock().elapsed(), self.context.now());
        let (ran, since) = *self.active.get_or_insert_with(|| {
            (Duration::try_from(today.duration_since(start)).unwrap_or_default(), now)
        });
        Some(whole.saturating_sub(ran + now.saturating_sub(since)))
    }

    fn deadline(&mut self, pod: &PodObject) -> Option<Verdict> {
        if !self.deadline_in(pod)?.is_zero() {
            return None;
        }
        let events = PodEvents::new(&self.context.recorder, pod);
        let message = "Pod was active on the node longer than the specified deadline";
        events.pod(Normal, "DeadlineExceeded", message);
        Some(Verdict {
            reason: "DeadlineExceeded".into(),
            message: message.into(),
            refused: false,
            grace_seconds: None,
        })
    }

    /// Remembers and tells why containers wait.
    fn explain_waits(&mut self, pod: &PodObject, plan: &Plan) {
        for (name, failure) in &plan.waits {
            let before = self.memory.failures.insert(name.clone(), failure.clone());
            if before.as_ref() != Some(failure)
                && let Some((kind, _)) = pod.container(name)
            {
                let words = format!("Back-off restarting failed container {name} in pod {}", pod.long_name());
                let events = PodEvents::new(&self.context.recorder, pod);
                events.container(kind, name, Warning, "BackOff", &words);
            }
        }
    }

    /// Carries a plan out. Gives when to try again what failed.
    async fn apply(&mut self, pod: &PodObject, plan: &Plan) -> Result<(), Duration> {
        if let Some(why) = plan.end_pod {
            tracing::info!(pod = pod.long_name(), why, "ending the Pod's containers");
            if plan.new_sandbox.is_some() && !self.view.sandboxes.is_empty() {
                let events = PodEvents::new(&self.context.recorder, pod);
                events.pod(
                    Normal,
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                );
            }
            self.unless_ending(|worker| Box::pin(worker.end_all(pod, None))).await?;
        }
        for end in &plan.ends {
            self.unless_ending(|worker| Box::pin(worker.end_one(pod, end))).await?;
        }
        if self.mailbox.is_ending() {
            return Ok(());
        }
        if let Some(attempt) = plan.new_sandbox
            && let Err(wait) = self.new_sandbox(pod, attempt).await
        {
            self.hold("", wait);
            return Err(wait);
        }
        let mut failed: Result<(), Duration> = Ok(());
        for start in &plan.starts {
            if self.mailbox.is_ending() {
                return Ok(());
            }
            let started = self.start(pod, start).await;
            self.context.metrics.container(start.kind, started.is_ok());
            if let Err((failure, wait)) = started {
                tracing::debug!(
                    pod = pod.long_name(),
                    container = start.name,
                    failure.message,
                    "not started"
                );
                self.memory.failures.insert(start.name.clone(), failure);
                self.hold(&start.name, wait);
                failed = Err(failed.err().map_or(wait, |before| before.min(wait)));
                // Init containers come one after the other.
                if matches!(start.kind, crate::pod::Kind::Init | crate::pod::Kind::Sidecar) {
                    break;
                }
            } else {
                self.memory.failures.remove(&start.name);
            }
        }
        failed
    }

    /// Something that failed is not tried again before its time, whatever happens meanwhile.
    fn hold(&mut self, name: &str, wait: Duration) {
        let until = self.context.now_ns().saturating_add(wait.as_nanos() as i64);
        self.memory.held.insert(name.to_owned(), until);
    }

    /// Does something that takes long, unless the Pod is to end meanwhile: then that decides how long it takes.
    async fn unless_ending<'a>(
        &'a mut self,
        work: impl FnOnce(&'a mut Worker) -> BoxFuture<'a, Result<(), Duration>>,
    ) -> Result<(), Duration> {
        let mailbox = self.mailbox.clone();
        // Cancel-safe: what was begun goes on in the runtime, and is asked for again.
        tokio::select! {
            done = work(self) => done,
            () = mailbox.ending() => Ok(()),
        }
    }

    /// A wait that grows with each failure in a row.
    fn retry(&mut self) -> Duration {
        let wait = FIRST_RETRY.saturating_mul(1 << self.retries.min(10)).min(LONGEST_RETRY);
        self.retries += 1;
        wait
    }

    fn fail(reason: &str, message: impl Into<String>) -> Failure {
        Failure::new(reason, message)
    }
}
