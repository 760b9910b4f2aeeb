//! How the node is: the runtime, memory, disk, process identities.

use super::machine;
use super::object::Health;
use super::thresholds::Thresholds;
use crate::runtime::Runtime;
use minik_component::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the node is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// While the runtime is not ready it is asked more often: what waits for the node waits for this.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// Images told of, the largest first.
const IMAGES: usize = 50;
/// Names told of an image.
const NAMES: usize = 5;

/// Looks at the node.
pub struct HealthLook {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Whose file system is looked at.
    pub root: PathBuf,
    /// From when on something runs short.
    pub thresholds: Thresholds,
    /// Told what is seen, when it has changed.
    pub told: watch::Sender<Health>,
}

impl HealthLook {
    /// The first look, before the node registers.
    pub async fn first(runtime: &dyn Runtime) -> Health {
        Health { unready: unready(runtime).await, images: images(runtime).await, ..Health::default() }
    }

    /// Looks until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        loop {
            let health = self.look().await;
            let wait = if health.unready.is_empty() { LOOK_EVERY } else { LOOK_SOON };
            self.told.send_if_modified(|told| {
                let changed = *told != health;
                *told = health;
                changed
            });
            // Cancel-safe: waiting only.
            tokio::select! { () = shutdown.requested() => return, () = tokio::time::sleep(wait) => {} }
        }
    }

    async fn look(&self) -> Health {
        let thresholds = &self.thresholds;
        let disk = machine::file_system(&self.root);
        let disk_pressure = disk.is_some_and(|disk| {
            thresholds.disk(disk.available_bytes, disk.capacity_bytes).is_some()
                || thresholds.inodes(disk.inodes_free, disk.inodes).is_some()
        });
        let memory = machine::available_memory_bytes().map(|bytes| bytes.max(0) as u64);
        let whole = machine::whole_memory_bytes().map_or(0, |bytes| bytes.max(0) as u64);
        Health {
            unready: unready(&*self.runtime).await,
            memory_pressure: memory.is_some_and(|memory| thresholds.memory(memory, whole).is_some()),
            disk_pressure,
            pid_pressure: machine::process_ids()
                .is_some_and(|(used, most)| thresholds.pids(most.saturating_sub(used), most).is_some()),
            images: images(&*self.runtime).await,
        }
    }
}

/// Why the runtime is not ready, in upstream's words.
async fn unready(runtime: &dyn Runtime) -> Vec<String> {
    let status = match runtime.status().await {
        Ok(status) => status.status.unwrap_or_default(),
        Err(error) => return vec![format!("container runtime is down: {error}")],
    };
    let of = |kind: &str| status.conditions.iter().find(|one| one.r#type == kind);
    let said = |kind: &str, what: &str| match of(kind) {
        Some(one) if one.status => None,
        Some(one) => Some(format!(
            "{what} not ready: {kind}={} reason:{} message:{}",
            one.status, one.reason, one.message
        )),
        None => Some(format!("{what} not ready: {kind} is not told")),
    };
    [said("RuntimeReady", "container runtime"), said("NetworkReady", "container runtime network")]
        .into_iter()
        .flatten()
        .collect()
}

async fn images(runtime: &dyn Runtime) -> Vec<(Vec<String>, u64)> {
    let Ok(found) = runtime.images().await else { return Vec::new() };
    let mut images: Vec<(Vec<String>, u64)> = found
        .into_iter()
        .map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags).take(NAMES).collect();
            (names, image.size)
        })
        .collect();
    images.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    images.truncate(IMAGES);
    images
}
