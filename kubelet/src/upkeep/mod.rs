//! What is done now and then: logs are rotated, Pods that use too much disk are evicted, images that nobody uses go.

mod evict;
mod images;
mod rotate;

use crate::core::memory::Verdict;
use crate::dispatch::Mailboxes;
use crate::events::PodEvents;
use crate::node::{Health, machine};
use crate::pod::{Kind, PodObject};
use crate::runtime::Observer;
use crate::worker::Context;
use minik_client::EventType::Warning;
use minik_component::Shutdown;
use minik_cri::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often all of it is looked at, as upstream has it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Image collection comes every so many looks.
const IMAGES_EVERY: u64 = 30;

/// Looks after logs, disk and images.
pub struct Upkeep {
    /// What workers share.
    pub context: Arc<Context>,
    /// The workers.
    pub mailboxes: Mailboxes,
    /// How the node is.
    pub health: watch::Receiver<Health>,
}

impl Upkeep {
    /// Looks until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        // Cancel-safe: what is cut off is done after the next start.
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.look_for_ever() => {}
        }
    }

    async fn look_for_ever(&self) {
        let mut images = images::Collector::default();
        for turn in 1u64.. {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look_at_pods().await;
            self.weigh();
            let health = self.health.borrow().clone();
            self.relieve(&health);
            if health.disk_pressure || turn.is_multiple_of(IMAGES_EVERY) {
                images.collect(&self.context, health.disk_pressure).await;
            }
        }
    }

    /// The classes of service share the node's processors by what their Pods ask for.
    fn weigh(&self) {
        let pods: Vec<_> = self.mailboxes.all().iter().map(|mailbox| mailbox.wanted().pod).collect();
        let burstable = pods.iter().filter(|pod| pod.qos() == crate::pod::Qos::Burstable && !pod.has_ended());
        self.context.cgroups.weigh(burstable.map(|pod| pod.placement.requests.asked.cpu_milli).sum());
    }

    async fn look_at_pods(&self) {
        self.count().await;
        // Not asked for when no Pod has a limit: it costs the runtime a look at every layer.
        let limited = self.mailboxes.all().iter().any(|mailbox| evict::has_limits(&mailbox.wanted().pod));
        let stats = match limited {
            true => self.context.runtime.stats(None).await.unwrap_or_default(),
            false => Vec::new(),
        };
        for mailbox in self.mailboxes.all() {
            let wanted = mailbox.wanted();
            if wanted.is_ending() || wanted.pod.has_ended() {
                continue;
            }
            let pod = wanted.pod;
            if let Some(message) = evict::too_much_disk(&self.context, &pod, &stats).await {
                self.evict(&pod, message, ("ephemeralpodfs.limit", None));
            }
            self.rotate_logs(&pod).await;
        }
    }

    async fn count(&self) {
        let runtime = &self.context.runtime;
        let Ok((sandboxes, containers)) =
            futures::try_join!(runtime.sandboxes(None), runtime.containers(None))
        else {
            return;
        };
        let in_state =
            |state: v1::ContainerState| containers.iter().filter(|one| one.state == state as i32).count();
        let ready = v1::PodSandboxState::SandboxReady as i32;
        self.context.metrics.population(
            sandboxes.iter().filter(|one| one.state == ready).count(),
            [
                ("created", in_state(v1::ContainerState::ContainerCreated)),
                ("running", in_state(v1::ContainerState::ContainerRunning)),
                ("exited", in_state(v1::ContainerState::ContainerExited)),
            ],
        );
    }

    async fn rotate_logs(&self, pod: &PodObject) {
        if !rotate::is_needed(&self.context.log_dir(pod)).await {
            return;
        }
        let Ok(view) = Observer::default().observe(&*self.context.runtime, pod.uid()).await else { return };
        for run in view.alive().filter(|run| !run.log_path.is_empty()) {
            if let Err(error) =
                rotate::rotate(&*self.context.runtime, run, self.context.config.clock.now()).await
            {
                tracing::warn!(pod = pod.long_name(), container = run.name, %error, "cannot rotate a log");
            }
        }
    }

    fn evict(&self, pod: &PodObject, message: String, (signal, grace_seconds): (&str, Option<i64>)) {
        self.context.metrics.evicted(signal);
        tracing::info!(pod = pod.long_name(), message, "evicting a Pod");
        PodEvents::new(&self.context.recorder, pod).pod(Warning, "Evicted", &message);
        let verdict = Verdict { reason: "Evicted".into(), message, refused: false, grace_seconds };
        if let Some(mailbox) = self.mailboxes.get(pod.uid()) {
            mailbox.change(|wanted| wanted.verdict = Some(verdict));
        }
    }

    /// Evicts one Pod when memory or disk run short: what matters least first, then what takes most beyond its request.
    fn relieve(&self, health: &Health) {
        let resource = match (health.memory_pressure, health.disk_pressure) {
            (true, _) => "memory",
            (_, true) => "ephemeral-storage",
            _ => return,
        };
        let pods: Vec<_> = self.mailboxes.all().iter().map(|mailbox| mailbox.wanted()).collect();
        let pods = pods.iter().filter(|wanted| !wanted.is_ending() && !wanted.pod.has_ended());
        let Some(victim) = pods.map(|wanted| &wanted.pod).min_by_key(|pod| evict::rank(pod)) else { return };
        if victim.spec.priority.is_some_and(|priority| priority >= evict::CRITICAL_PRIORITY) {
            return;
        }
        let thresholds = &self.context.config.thresholds;
        let (available, least) = match resource {
            "memory" => {
                let whole = machine::whole_memory_bytes().unwrap_or(0).max(0) as u64;
                let available = machine::available_memory_bytes().unwrap_or(0).max(0) as u64;
                (available, thresholds.memory(available, whole))
            }
            _ => {
                let disk = machine::file_system(&self.context.config.root_dir).unwrap_or_default();
                (disk.available_bytes, thresholds.disk(disk.available_bytes, disk.capacity_bytes))
            }
        };
        // It may have passed meanwhile.
        let Some(least) = least else { return };
        let message = format!(
            "The node was low on resource: {resource}. Threshold quantity: {least}, available: {}Ki. ",
            available / 1024
        );
        self.evict(&victim.clone(), message, (resource, Some(0)));
    }
}

/// Whether a container counts for limits of disk.
fn counts(kind: Kind) -> bool {
    kind != Kind::Ephemeral
}
