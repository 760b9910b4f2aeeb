//! A service that one of several copies does: health and metrics are served by all, the work is the leader's.

use crate::{Elector, ElectorConfig, Led};
use minik_component::ops::{self, Ops};
use minik_component::{Chance, Clock, Shutdown};
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a service runs with, whatever it does.
#[derive(Clone)]
pub struct Duty {
    /// How a leader is elected; `None` leads at once.
    pub leader: Option<ElectorConfig>,
    /// Where health and metrics are served.
    pub address: Option<SocketAddr>,
    /// The metrics.
    pub metrics: Registry,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter.
    pub chance: Arc<dyn Chance>,
}

/// Why a service ended other than by wish or by its work. All are final for the process; its supervisor starts another.
#[derive(Debug, thiserror::Error)]
pub enum DutyError {
    /// Another may act now.
    #[error("the leader election was lost")]
    LeaseLost,
    /// The endpoint of health and metrics cannot be served.
    #[error("cannot serve health and metrics on {address}")]
    Endpoint {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Serves health and metrics until `shutdown`, and does the work while this process leads: `work` gets the flag that it
/// sets once it is ready, and its own shutdown.
///
/// # Errors
/// When the endpoint cannot be served, the lease is lost, or the work fails.
pub async fn lead_and_serve<F, E>(
    duty: Duty,
    client: kube::Client,
    shutdown: Shutdown,
    work: impl FnOnce(Arc<AtomicBool>, Shutdown) -> F,
) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
    E: From<DutyError>,
{
    let ready = Arc::new(AtomicBool::new(false));
    let endpoint = serve_ops(&duty, ready.clone(), shutdown.clone());
    let led = async {
        let Some(leader) = duty.leader.clone() else { return work(ready, shutdown.clone()).await };
        let elector = Elector::new(leader, client, duty.clock.clone(), duty.chance.clone());
        match elector.lead(shutdown.clone(), |term| work(ready, term)).await {
            Led::Done(result) => result,
            Led::Never => Ok(()),
            Led::Lost => Err(DutyError::LeaseLost.into()),
        }
    };
    // Cancel-safe: whichever ends first ends the service.
    tokio::select! {
        biased;
        result = led => result,
        Err(error) = endpoint => Err(error.into()),
    }
}

async fn serve_ops(duty: &Duty, ready: Arc<AtomicBool>, shutdown: Shutdown) -> Result<(), DutyError> {
    // The wish to end ends the endpoint; the work ends by itself.
    let Some(address) = duty.address else { return Ok(()) };
    // One that stands by is ready too: it does what it is there for.
    let standby = duty.leader.is_some();
    let unready = move || match ready.load(Ordering::Relaxed) || standby {
        true => Vec::new(),
        false => vec!["informers".to_owned()],
    };
    let ops = Ops { metrics: duty.metrics.clone(), unready: Arc::new(unready) };
    ops::serve(address, ops, shutdown).await.map_err(|source| DutyError::Endpoint { address, source })
}
