//! The running fake nodes.

use crate::config::Config;
use crate::life::FakePod;
use crate::nodes;
use crate::pods::Pods;
use minik_client::{ClientError, Duty, DutyError, Informer, Source, WorkQueue, lead_and_serve};
use minik_component::{Shutdown, chain};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Writes of Pods under way: a write takes some milliseconds, and more would only wait on the server's side.
const WORKERS: usize = 32;
/// Nodes that are registered at once.
const REGISTER_AT_ONCE: u32 = 16;
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A node tells its status this often, beside the renewals of its Lease.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// A pause after a node could not be registered.
const AGAIN: Duration = Duration::from_secs(1);

/// Why fake nodes ended other than by wish. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum FakeNodesError {
    /// Its endpoint of health and metrics cannot be served.
    #[error(transparent)]
    Duty(#[from] DutyError),
    /// A part of it ended before its time.
    #[error("the fake nodes' {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Keeps the nodes and their Pods alive until `shutdown`.
///
/// # Errors
/// When the endpoint cannot be served or a part ends before its time.
pub async fn run(config: Config, client: kube::Client, shutdown: Shutdown) -> Result<(), FakeNodesError> {
    let duty = Duty {
        // They keep nodes of their own: nobody else may.
        leader: None,
        address: config.address,
        metrics: config.metrics.clone(),
        clock: config.clock.clone(),
        chance: config.chance.clone(),
    };
    let work = |ready, term| live(config, client.clone(), ready, term);
    lead_and_serve(duty, client.clone(), shutdown, work).await
}

async fn live(
    config: Config,
    client: kube::Client,
    registered: Arc<AtomicBool>,
    shutdown: Shutdown,
) -> Result<(), FakeNodesError> {
    let mut pods = Informer::<FakePod>::builder(Source::fields("/api/v1/pods", "spec.nodeName!=".to_owned()));
    let queue = WorkQueue::new(FIRST_WAIT, LONGEST_WAIT, config.chance.clone());
    let known = pods.informer();
    let lives = Arc::new(Pods::new(config.clone(), client.clone(), known.clone()));
    let (observed, keys) = (lives.clone(), queue.clone());
    pods.add_handler(move |change| {
        if let Some(key) = observed.observe(change) {
            keys.add(key);
        }
    });
    let mut parts: JoinSet<&'static str> = JoinSet::new();
    let following = pods.run(client.clone(), config.chance.clone(), shutdown.clone());
    parts.spawn(async move {
        following.await;
        "watch of Pods"
    });
    for _ in 0..WORKERS {
        let (lives, queue) = (lives.clone(), queue.clone());
        parts.spawn(async move {
            lives.work(queue).await;
            "worker"
        });
    }
    parts.spawn(async move {
        keep_alive(&config, &client, &registered).await;
        "renewal of Leases"
    });
    // Cancel-safe: waiting only.
    let ended = tokio::select! {
        biased;
        () = shutdown.requested() => None,
        ended = parts.join_next() => ended,
    };
    queue.close();
    parts.shutdown().await;
    match ended {
        _ if shutdown.is_requested() => Ok(()),
        Some(Ok(name)) => Err(FakeNodesError::Ended(name)),
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => Err(FakeNodesError::Ended("task")),
    }
}

/// Registers all nodes, then renews one Lease after the other, evenly over the time between two renewals.
async fn keep_alive(config: &Config, client: &kube::Client, registered: &AtomicBool) {
    while let Err(error) = nodes::remove_others(client, config).await {
        tracing::warn!(error = chain(&error), "cannot look for nodes that are not wanted; trying again");
        tokio::time::sleep(AGAIN).await;
    }
    for first in (0..config.nodes).step_by(REGISTER_AT_ONCE as usize) {
        let some = first..config.nodes.min(first + REGISTER_AT_ONCE);
        futures::future::join_all(some.map(|index| register(config, client, index))).await;
    }
    registered.store(true, Ordering::Relaxed);
    if config.nodes == 0 {
        return std::future::pending().await;
    }
    let mut turns = tokio::time::interval(config.lease_renewal / config.nodes);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    // When each node last told its status, and when it last renewed its Lease.
    let mut told = vec![(config.clock.elapsed(), config.clock.elapsed()); config.nodes as usize];
    for index in (0..config.nodes).cycle() {
        turns.tick().await;
        if config.lost.is_lost(index) {
            continue;
        }
        let (now, (status, lease)) = (config.clock.elapsed(), &mut told[index as usize]);
        // One that was silent for too long is taken for lost, and others say so: it says itself that it is not.
        let done = match now >= (*status + STATUS_PERIOD).min(*lease + nodes::SILENCE) {
            true => nodes::register(client, config, index).await.inspect(|()| *status = now),
            false => Ok(()),
        };
        let renewed = nodes::renew(client, config, index).await.inspect(|()| *lease = now);
        if let Err(error) = done.and(renewed) {
            tracing::warn!(node = nodes::name(config, index), error = chain(&error), "not said to live");
        }
    }
}

/// Registers a node and its Lease, however long it takes.
async fn register(config: &Config, client: &kube::Client, index: u32) {
    loop {
        let done: Result<(), ClientError> = async {
            nodes::register(client, config, index).await?;
            nodes::renew(client, config, index).await
        }
        .await;
        let Err(error) = done else { return };
        tracing::warn!(
            node = nodes::name(config, index),
            error = chain(&error),
            "not registered; trying again"
        );
        tokio::time::sleep(AGAIN).await;
    }
}
