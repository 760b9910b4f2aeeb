//! Workers that reconcile the keys of a queue.

use crate::metrics::Metrics;
use minik_client::{ClientError, Done, WorkQueue, call};
use minik_component::{Chance, Clock, Shutdown, chain};
use serde_json::Value;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The first wait after a failure, and the longest: upstream's.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1000);

/// What makes the state of a key what it should be.
pub trait Controller: Send + Sync + 'static {
    /// What it is called on.
    type Key: Ord + Clone + Display + Send + Sync + 'static;
    /// Its name, in logs and metrics.
    const NAME: &'static str;
    /// How many keys it works on at once: each holds one call to the server at a time.
    const WORKERS: usize;

    /// All keys, to be looked at again every so often, whatever was missed; none when nothing can be missed.
    fn all(&self) -> Vec<Self::Key> {
        Vec::new()
    }

    /// Looks at a key, whatever has happened to it, and does what is to be done.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Done, ClientError>> + Send;
}

/// A queue with upstream's waits.
pub fn queue<K: Ord + Clone>(chance: &Arc<dyn Chance>) -> WorkQueue<K> {
    WorkQueue::new(FIRST_WAIT, LONGEST_WAIT, chance.clone())
}

/// All keys are looked at again this often, in addition to what the watches tell.
const RESYNC: Duration = Duration::from_secs(600);

/// Works until `shutdown`; what is under way then is cut off, and done again by whoever comes next.
pub async fn work<C: Controller>(
    controller: Arc<C>,
    queue: WorkQueue<C::Key>,
    (metrics, clock): (Metrics, Arc<dyn Clock>),
    shutdown: Shutdown,
) {
    let mut workers = JoinSet::new();
    for _ in 0..C::WORKERS {
        let (controller, queue) = (controller.clone(), queue.clone());
        let (metrics, clock) = (metrics.clone(), clock.clone());
        workers.spawn(async move {
            while let Some(key) = queue.next().await {
                metrics.depth(C::NAME, queue.len());
                let began = clock.elapsed();
                let outcome = outcome::<C>(&key, controller.reconcile(&key).await);
                metrics.worked(C::NAME, (clock.elapsed() - began).as_secs_f64());
                if outcome == Done::Failed {
                    metrics.retried(C::NAME);
                }
                queue.done(key, outcome);
            }
        });
    }
    let resync = async {
        loop {
            tokio::time::sleep(RESYNC).await;
            for key in controller.all() {
                queue.add(key);
            }
        }
    };
    // Cancel-safe: the first two wait only, the third is a worker's panic.
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        () = resync => {}
        Some(ended) = workers.join_next() => if let Err(error) = ended && error.is_panic() {
            std::panic::resume_unwind(error.into_panic());
        },
    }
    queue.close();
    workers.shutdown().await;
}

fn outcome<C: Controller>(key: &C::Key, result: Result<Done, ClientError>) -> Done {
    match result {
        Ok(done) => done,
        Err(error) => {
            // Another was faster, and its change will be seen: nothing is wrong.
            if call::refusal(&error) == Some(409) {
                tracing::debug!(controller = C::NAME, %key, error = chain(&error), "planned on old state");
            } else {
                tracing::warn!(controller = C::NAME, %key, error = chain(&error), "trying again");
            }
            Done::Failed
        }
    }
}

/// Creates what a namespace shall have; fine when it is there already, or the namespace is gone or going.
pub async fn create_missing(client: &kube::Client, path: &str, object: &Value) -> Result<(), ClientError> {
    match call::post::<Value>(client, path, object).await {
        Err(error) if matches!(call::refusal(&error), Some(409 | 404)) || is_terminating(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether a creation was refused because its namespace is being deleted.
pub fn is_terminating(error: &ClientError) -> bool {
    match error {
        ClientError::Call(kube::Error::Api(status)) => status
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .any(|cause| cause.reason == "NamespaceTerminating"),
        _ => false,
    }
}
