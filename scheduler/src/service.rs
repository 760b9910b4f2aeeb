//! The running scheduler: informers feed the state, one loop decides, tasks write what was decided.

use crate::config::Config;
use crate::decide::{Decision, Diagnosis};
use crate::metrics::{Metrics, Outcome};
use crate::objects::{NodeObject, PodObject, Scheduled, ServiceObject};
use crate::preemption::Preemption;
use crate::queue::Entry;
use crate::state::{Shared, Turn};
use crate::{default_profile, write};
use minik_client::{
    ClientError, Duty, DutyError, EventApi, EventRecorder, EventType, Informer, PartialObject, Reporter,
    Source, lead_and_serve,
};
use minik_component::{Shutdown, chain};
use minik_placement::Pod;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Writes under way. A binding takes some milliseconds; this many at once keep a fast server busy, and more would
/// only wait on its side.
const WRITES_AT_ONCE: usize = 200;

/// Why a scheduler ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// It cannot lead, or not serve.
    #[error(transparent)]
    Duty(#[from] DutyError),
    /// A metric's name is taken.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// A part of it ended before its time.
    #[error("the scheduler's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Places Pods until `shutdown`.
///
/// # Errors
/// When the endpoint cannot be served, the lease is lost or a part ends before its time.
pub async fn run(config: Config, client: kube::Client, shutdown: Shutdown) -> Result<(), SchedulerError> {
    let metrics = Metrics::new(&config.metrics)?;
    let duty = Duty {
        leader: config.leader.clone(),
        address: config.address,
        metrics: config.metrics.clone(),
        clock: config.clock.clone(),
        chance: config.chance.clone(),
    };
    let work = |ready, term| serve(config, client.clone(), metrics, ready, term);
    lead_and_serve(duty, client.clone(), shutdown, work).await
}

struct Scheduler {
    config: Config,
    client: kube::Client,
    shared: Arc<Shared>,
    metrics: Metrics,
    recorder: EventRecorder,
    writes: JoinSet<Written>,
}

/// What a write came to.
enum Written {
    /// A binding.
    Binding { entry: Box<Entry>, node: Arc<str>, began: Duration, result: Result<(), ClientError> },
    /// Anything else; a failure was logged where it happened.
    Other,
}

async fn serve(
    config: Config,
    client: kube::Client,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
    shutdown: Shutdown,
) -> Result<(), SchedulerError> {
    let shared = Shared::new(default_profile(), config.scheduler_name.clone());
    let reporter = Reporter {
        component: config.scheduler_name.clone(),
        instance: config.instance.clone(),
        api: EventApi::Events,
    };
    let (recorder, writer) = EventRecorder::new(reporter, config.clock.clone(), config.chance.clone());
    let mut parts = JoinSet::new();
    parts.spawn(writer.run(client.clone(), shutdown.clone()));
    let synced = start_informers(&config, &client, &shared, &shutdown, &mut parts);
    // Cancel-safe: waiting only.
    tokio::select! {
        biased;
        () = shutdown.requested() => return Ok(()),
        () = synced => {}
    }
    ready.store(true, Ordering::Relaxed);
    tracing::info!(scheduler = config.scheduler_name, "the caches are filled; placing Pods");
    let mut scheduler = Scheduler { config, client, shared, metrics, recorder, writes: JoinSet::new() };
    // Cancel-safe: the loop holds nothing over an await that is not in its state.
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        () = scheduler.decide_for_ever() => {}
        Some(_) = parts.join_next() => {
            return if shutdown.is_requested() { Ok(()) } else { Err(SchedulerError::Ended("informer")) };
        }
    }
    while parts.join_next().await.is_some() {}
    Ok(())
}

/// Starts following what decisions need. Gives what returns once all is known.
fn start_informers(
    config: &Config,
    client: &kube::Client,
    shared: &Arc<Shared>,
    shutdown: &Shutdown,
    parts: &mut JoinSet<()>,
) -> impl Future<Output = ()> + use<> {
    // What has ended takes nothing any more: it need not even be sent.
    let alive = "status.phase!=Succeeded,status.phase!=Failed".to_owned();
    let (state, clock) = (shared.clone(), config.clock.clone());
    let pods = Informer::<PodObject>::builder(Source::fields("/api/v1/pods", alive))
        .on_change(move |change| state.pod(change, clock.elapsed()));
    let (state, clock) = (shared.clone(), config.clock.clone());
    let nodes = Informer::<NodeObject>::builder(Source::all("/api/v1/nodes"))
        .on_change(move |change| state.node(change, clock.elapsed()));
    let state = shared.clone();
    let namespaces = Informer::<PartialObject>::builder(Source::all("/api/v1/namespaces"))
        .on_change(move |change| state.namespace(change));
    let state = shared.clone();
    let services = Informer::<ServiceObject>::builder(Source::all("/api/v1/services"))
        .on_change(move |change| state.service(change));
    let known = (pods.informer(), nodes.informer(), namespaces.informer(), services.informer());
    parts.spawn(pods.run(client.clone(), config.chance.clone(), shutdown.clone()));
    parts.spawn(nodes.run(client.clone(), config.chance.clone(), shutdown.clone()));
    parts.spawn(namespaces.run(client.clone(), config.chance.clone(), shutdown.clone()));
    parts.spawn(services.run(client.clone(), config.chance.clone(), shutdown.clone()));
    async move {
        known.0.synced().await;
        known.1.synced().await;
        known.2.synced().await;
        known.3.synced().await;
    }
}

impl Scheduler {
    async fn decide_for_ever(&mut self) {
        loop {
            while let Some(written) = self.writes.try_join_next() {
                self.written(written);
            }
            if self.writes.len() >= WRITES_AT_ONCE {
                if let Some(written) = self.writes.join_next().await {
                    self.written(written);
                }
                continue;
            }
            let began = self.config.clock.elapsed();
            match self.shared.decide(&*self.config.chance, began) {
                Some((entry, turn)) => {
                    self.metrics.decided((self.config.clock.elapsed() - began).as_secs_f64());
                    self.decided(entry, turn, began);
                    // Lets informers and writes have their turn on the same thread.
                    tokio::task::yield_now().await;
                }
                None => {
                    self.metrics.pending(self.shared.pending());
                    self.idle(began).await;
                }
            }
        }
    }

    /// Waits for something to do.
    async fn idle(&mut self, now: Duration) {
        let due = self.shared.next_at().map(|at| at.saturating_sub(now));
        let wait = async {
            match due {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: a notice that was not taken is kept, and so is a finished write.
        tokio::select! {
            biased;
            () = self.shared.wake.notified() => {}
            () = wait => {}
            Some(written) = self.writes.join_next(), if !self.writes.is_empty() => self.written(written),
        }
    }

    fn decided(&mut self, entry: Entry, turn: Turn, began: Duration) {
        let object = entry.object.clone();
        match turn {
            Turn::Skipped => {
                let words = format!("skip schedule deleting pod: {}", object.key());
                self.failed_event(&object, &words);
            }
            Turn::Decided(Decision::Place { node, evaluated, feasible }) => {
                tracing::debug!(pod = %object.key(), %node, evaluated, feasible, "placed");
                let client = self.client.clone();
                self.writes.spawn(async move {
                    let result = write::bind(&client, &object, &node).await;
                    Written::Binding { entry: Box::new(entry), node, began, result }
                });
            }
            Turn::Decided(Decision::Wait(diagnosis)) => self.waits(&object, &diagnosis, began),
        }
    }

    fn failed_event(&self, object: &PodObject, words: &str) {
        let about = object.reference();
        self.recorder.event(&about, EventType::Warning, "FailedScheduling", "Scheduling", words);
    }

    /// Tells why a Pod waits, and pushes out others for it.
    fn waits(&mut self, object: &Arc<PodObject>, diagnosis: &Diagnosis, began: Duration) {
        let message = diagnosis.message();
        tracing::info!(pod = %object.key(), message, "no node does");
        self.attempt(Outcome::Unschedulable, began);
        self.failed_event(object, &message);
        let nominated = match &diagnosis.preemption {
            Some(Preemption::Victims { node, victims }) => {
                self.metrics.preempted(victims.len());
                self.push_out(object, node, victims);
                Some(Some(node.clone()))
            }
            Some(Preemption::NotEligible(_)) => None,
            Some(Preemption::NotHelpful(_)) => {
                self.metrics.preempted(0);
                Some(None)
            }
            None => Some(None),
        };
        self.condition(object, "Unschedulable", message, nominated);
    }

    fn condition(
        &mut self,
        object: &Arc<PodObject>,
        reason: &str,
        message: String,
        nominated: Option<Option<Arc<str>>>,
    ) {
        let wanted = Scheduled { status: "False".into(), reason: reason.into(), message: message.into() };
        let Some(patch) = write::condition(object, &wanted, nominated, self.config.clock.now()) else {
            return;
        };
        let (client, object) = (self.client.clone(), object.clone());
        self.writes.spawn(async move {
            if let Err(error) = write::status(&client, &object.path(), &patch).await {
                tracing::warn!(pod = %object.key(), error = chain(&error), "cannot write why a Pod waits");
            }
            Written::Other
        });
    }

    fn push_out(&mut self, object: &Arc<PodObject>, node: &Arc<str>, victims: &[Arc<Pod>]) {
        for displaced in self.shared.displace(node, object.pod.priority) {
            let client = self.client.clone();
            self.writes.spawn(async move {
                write::clear_nomination(&client, &displaced).await;
                Written::Other
            });
        }
        let words = format!("Preempted by pod {} on node {node}", object.metadata.uid);
        let leaving: Vec<_> = victims.iter().filter(|victim| !victim.terminating).cloned().collect();
        for victim in leaving {
            let (client, recorder, words) = (self.client.clone(), self.recorder.clone(), words.clone());
            let (scheduler, now) = (self.config.scheduler_name.clone(), self.config.clock.now());
            self.writes.spawn(async move {
                match write::push_out(&client, &victim, &scheduler, now).await {
                    Ok(()) => {
                        let about = write::reference(&victim);
                        recorder.event(&about, EventType::Normal, "Preempted", "Preempting", &words);
                    }
                    Err(error) => {
                        tracing::error!(victim = %victim.name, error = chain(&error), "cannot push out a Pod");
                    }
                }
                Written::Other
            });
        }
    }

    fn written(&mut self, written: Result<Written, tokio::task::JoinError>) {
        let (entry, node, began, result) = match written {
            Ok(Written::Binding { entry, node, began, result }) => (entry, node, began, result),
            Ok(Written::Other) => return,
            // A task that panicked must not go unseen.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        let (object, now) = (&entry.object, self.config.clock.elapsed());
        match result {
            Ok(()) => {
                self.shared.bound(&object.metadata.uid);
                let words = format!("Successfully assigned {} to {node}", object.key());
                self.recorder.event(&object.reference(), EventType::Normal, "Scheduled", "Binding", &words);
                tracing::info!(pod = %object.key(), %node, "bound");
                self.attempt(Outcome::Scheduled, began);
                let since_first = now.saturating_sub(entry.first.unwrap_or(began));
                self.metrics.bound(entry.attempts, since_first.as_secs_f64());
            }
            Err(error) => {
                let words = write::bind_failed(&error);
                self.attempt(Outcome::Error, began);
                if self.shared.not_bound(&object.metadata.uid, now) {
                    tracing::error!(pod = %object.key(), error = chain(&error), "cannot bind");
                    self.failed_event(object, &words);
                    self.condition(&object.clone(), "SchedulerError", words, Some(None));
                }
            }
        }
    }

    fn attempt(&self, outcome: Outcome, began: Duration) {
        let seconds = self.config.clock.elapsed().saturating_sub(began).as_secs_f64();
        self.metrics.attempt(outcome, &self.config.scheduler_name, seconds);
    }
}
