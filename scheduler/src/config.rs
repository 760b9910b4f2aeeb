//! Flags by upstream's names, and what they mean.

use clap::{ArgAction, Args};
use minik_client::ElectorConfig;
use minik_component::{Chance, Clock, SystemChance, SystemClock, TelemetryFlags};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The name that Pods ask for when they ask for no other.
pub const DEFAULT_SCHEDULER_NAME: &str = "default-scheduler";

/// Flags of `minik scheduler`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Path to the kubeconfig with the apiserver's address and the scheduler's credentials
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Place Pods only while holding the Lease, so that several schedulers can stand by
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    /// How long the others wait after the last renewal, in seconds
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = seconds)]
    pub leader_elect_lease_duration: u64,
    /// How long the leader tries to renew before it gives up, in seconds
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = seconds)]
    pub leader_elect_renew_deadline: u64,
    /// Time between two tries, in seconds
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = seconds)]
    pub leader_elect_retry_period: u64,
    /// Namespace of the Lease
    #[arg(long, default_value = "kube-system", value_name = "NAMESPACE")]
    pub leader_elect_resource_namespace: String,
    /// Name of the Lease
    #[arg(long, default_value = "kube-scheduler", value_name = "NAME")]
    pub leader_elect_resource_name: String,
    /// Address of /livez, /readyz and /metrics over plain HTTP; port 0 serves none
    #[arg(long, default_value = "127.0.0.1:10259", value_name = "ADDRESS")]
    pub metrics_bind_address: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

/// Seconds as a number, with or without `s`, as upstream writes durations.
fn seconds(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    number.parse().map_err(|_| format!("{text:?} is no number of seconds"))
}

impl Flags {
    /// What they mean on a host of this name.
    pub fn config(&self, host: &str, chance: &dyn Chance) -> Config {
        let identity = format!("{host}_{:016x}", chance.bits());
        let leader = self.leader_elect.then(|| ElectorConfig {
            lease_duration: Duration::from_secs(self.leader_elect_lease_duration),
            renew_deadline: Duration::from_secs(self.leader_elect_renew_deadline),
            retry_period: Duration::from_secs(self.leader_elect_retry_period),
            ..ElectorConfig::new(
                &self.leader_elect_resource_namespace,
                &self.leader_elect_resource_name,
                identity,
            )
        });
        let address = (self.metrics_bind_address.port() != 0).then_some(self.metrics_bind_address);
        Config { leader, address, instance: format!("{DEFAULT_SCHEDULER_NAME}-{host}"), ..Config::default() }
    }
}

/// What a scheduler runs with.
#[derive(Clone)]
pub struct Config {
    /// Pods that ask for this one are placed.
    pub scheduler_name: String,
    /// This instance, as events name it.
    pub instance: String,
    /// How a leader is elected; `None` leads at once.
    pub leader: Option<ElectorConfig>,
    /// Where health and metrics are served.
    pub address: Option<SocketAddr>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for ties and jitter.
    pub chance: Arc<dyn Chance>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            scheduler_name: DEFAULT_SCHEDULER_NAME.to_owned(),
            instance: DEFAULT_SCHEDULER_NAME.to_owned(),
            leader: None,
            address: None,
            clock: Arc::new(SystemClock::default()),
            chance: Arc::new(SystemChance),
            metrics: prometheus::Registry::new(),
        }
    }
}
