//! The running controller manager: elects, follows, then lets the controllers work.

use crate::config::Config;
use crate::identities::Identities;
use crate::metrics::Metrics;
use crate::setup::{Part, Setup};
use crate::watches::Watches;
use crate::{
    aggregation, bootstrap, certificates, deployment, disruption, endpoints, garbage, namespace, node_ipam,
    node_lifecycle, pod_gc, replica_set, root_ca, service_account, service_cidr, taint_eviction,
};
use minik_client::{Duty, DutyError, lead_and_serve};
use minik_component::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::{JoinError, JoinSet};

/// Why a controller manager ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// It cannot lead, or not serve.
    #[error(transparent)]
    Duty(#[from] DutyError),
    /// A metric's name is taken.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// A part of it ended before its time.
    #[error("the controller manager's part {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Runs the controllers until `shutdown`.
///
/// # Errors
/// When the endpoint cannot be served, the lease is lost or a part ends before its time.
pub async fn run(config: Config, client: kube::Client, shutdown: Shutdown) -> Result<(), ManagerError> {
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

async fn serve(
    config: Config,
    client: kube::Client,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
    shutdown: Shutdown,
) -> Result<(), ManagerError> {
    let watches = Watches::new();
    let mut setup = Setup {
        identities: Identities::new(client.clone(), config.anonymous.clone(), config.clock.clone()),
        client: client.clone(),
        caches: watches.caches(),
        watches,
        metrics,
        shutdown: shutdown.clone(),
        parts: Vec::new(),
        writers: Vec::new(),
        config,
    };
    set_up(&mut setup);
    let Setup { config, caches, watches, parts: later, writers, .. } = setup;
    let mut parts: JoinSet<Part> = JoinSet::new();
    for (writer, client) in writers {
        let shutdown = shutdown.clone();
        parts.spawn(async move {
            writer.run(client, shutdown).await;
            "event writer"
        });
    }
    watches.run(&client, &config.chance, &shutdown, &mut parts);
    // Cancel-safe: waiting only.
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        () = caches.synced() => {
            ready.store(true, Ordering::Relaxed);
            tracing::info!("the caches are filled; the controllers begin");
            for part in later {
                parts.spawn(part);
            }
        }
    }
    let first = parts.join_next().await;
    if !shutdown.is_requested() {
        return Err(ManagerError::Ended(first.map_or("", name)));
    }
    while let Some(ended) = parts.join_next().await {
        name(ended);
    }
    Ok(())
}

fn set_up(setup: &mut Setup) {
    let departures = namespace::set_up(setup);
    garbage::set_up(setup, departures);
    service_account::set_up(setup);
    root_ca::set_up(setup);
    node_lifecycle::set_up(setup);
    taint_eviction::set_up(setup);
    pod_gc::set_up(setup);
    aggregation::set_up(setup);
    bootstrap::set_up(setup);
    certificates::set_up(setup);
    disruption::set_up(setup);
    node_ipam::set_up(setup);
    service_cidr::set_up(setup);
    endpoints::set_up(setup);
    replica_set::set_up(setup);
    deployment::set_up(setup);
}

/// The name of a part that has ended; a panic goes on.
fn name(ended: Result<Part, JoinError>) -> Part {
    match ended {
        Ok(name) => name,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => "",
    }
}
