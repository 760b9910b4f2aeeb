//! Flags by upstream's names, and what they mean.

use crate::certificates::{Authority, AuthorityError};
use crate::node_ipam::Ranges;
use clap::{ArgAction, Args};
use minik_client::{ClientError, ElectorConfig, Identity, Kubeconfig, ServerAccess, connect_as};
use minik_component::{Chance, Clock, SystemChance, SystemClock, TelemetryFlags, duration};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The name of this component, as its Lease bears it.
pub const NAME: &str = "kube-controller-manager";

/// What the server names as the manager of what the controllers write.
const AGENT: &str = concat!("kube-controller-manager/", env!("CARGO_PKG_VERSION"));

/// Flags of `minik controller-manager`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Path to the kubeconfig with the apiserver's address and the controller manager's credentials
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// CA certificates that every namespace's ConfigMap kube-root-ca.crt holds; none are published without it
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// Certificate of the authority that signs certificates; none are signed without it
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Key of the authority that signs certificates
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// The longest life of a signed certificate
    #[arg(long, default_value = "8760h", value_name = "DURATION", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// Give each node a range of addresses for its Pods, from --cluster-cidr
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true", requires = "cluster_cidr")]
    pub allocate_node_cidrs: bool,
    /// Range of the addresses of all Pods
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<String>,
    /// Bits that the addresses of a node's Pods have in common
    #[arg(long, default_value_t = 24, value_name = "BITS")]
    pub node_cidr_mask_size: u32,
    /// Act as one ServiceAccount a controller, each with the rights of its own role only
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub use_service_account_credentials: bool,
    /// Act only while holding the Lease, so that several controller managers can stand by
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    /// How long the others wait after the last renewal
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Time between two tries
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    /// Namespace of the Lease
    #[arg(long, default_value = "kube-system", value_name = "NAMESPACE")]
    pub leader_elect_resource_namespace: String,
    /// Name of the Lease
    #[arg(long, default_value = NAME, value_name = "NAME")]
    pub leader_elect_resource_name: String,
    /// Time between two looks at the health of all nodes
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub node_monitor_period: Duration,
    /// A node that shows no sign of life for this long is unreachable
    #[arg(long, default_value = "50s", value_name = "DURATION", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// A node that has just registered may take this long to show a first sign of life
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = duration)]
    pub node_startup_grace_period: Duration,
    /// Nodes a second whose Pods are evicted, in a healthy zone
    #[arg(long, default_value_t = 0.1, value_name = "RATE")]
    pub node_eviction_rate: f64,
    /// The same in a large zone of which much is unhealthy
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    pub secondary_node_eviction_rate: f64,
    /// A zone with more nodes than this is large
    #[arg(long, default_value_t = 50, value_name = "NODES")]
    pub large_cluster_size_threshold: usize,
    /// The share of nodes from which on a zone counts as unhealthy
    #[arg(long, default_value_t = 0.55, value_name = "SHARE")]
    pub unhealthy_zone_threshold: f64,
    /// Ended Pods that may stay before the oldest are deleted; 0 keeps all
    #[arg(long, default_value_t = 12500, value_name = "PODS")]
    pub terminated_pod_gc_threshold: usize,
    /// Address of /livez, /readyz and /metrics over plain HTTP; port 0 serves none
    #[arg(long, default_value = "127.0.0.1:10257", value_name = "ADDRESS")]
    pub metrics_bind_address: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

/// A flag that cannot be used. Final.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    /// A file cannot be read.
    #[error("--{flag} {path}: cannot be read")]
    File {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The signing authority cannot be used.
    #[error("--cluster-signing-cert-file {path}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: AuthorityError,
    },
    /// Nodes cannot be given ranges.
    #[error("--cluster-cidr {0}")]
    Ranges(String),
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ClientError,
    },
}

impl Flags {
    /// What they mean on a host of this name.
    ///
    /// # Errors
    /// When a file that they name cannot be used.
    pub fn config(&self, host: &str, chance: &dyn Chance) -> Result<Config, FlagError> {
        let identity = format!("{host}_{:016x}", chance.bits());
        let leader = self.leader_elect.then(|| ElectorConfig {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
            ..ElectorConfig::new(
                &self.leader_elect_resource_namespace,
                &self.leader_elect_resource_name,
                identity,
            )
        });
        let root_ca = match &self.root_ca_file {
            None => None,
            Some(path) => Some(read("root-ca-file", path)?),
        };
        let nodes = NodeTimes {
            monitor_period: self.node_monitor_period,
            grace_period: self.node_monitor_grace_period,
            startup_grace_period: self.node_startup_grace_period,
            eviction_rate: self.node_eviction_rate,
            secondary_eviction_rate: self.secondary_node_eviction_rate,
            large_zone: self.large_cluster_size_threshold,
            unhealthy_share: self.unhealthy_zone_threshold,
        };
        Ok(Config {
            leader,
            address: (self.metrics_bind_address.port() != 0).then_some(self.metrics_bind_address),
            root_ca,
            authority: self.authority()?,
            node_ranges: self.node_ranges()?,
            anonymous: self.anonymous()?,
            nodes,
            terminated_pods: self.terminated_pod_gc_threshold,
            ..Config::default()
        })
    }

    fn authority(&self) -> Result<Option<Arc<Authority>>, FlagError> {
        let (Some(path), Some(key)) = (&self.cluster_signing_cert_file, &self.cluster_signing_key_file)
        else {
            return Ok(None);
        };
        let certificate = read("cluster-signing-cert-file", path)?;
        let key = read("cluster-signing-key-file", key)?;
        let authority = Authority::new(&certificate, &key, self.cluster_signing_duration)
            .map_err(|source| FlagError::Authority { path: path.clone(), source })?;
        Ok(Some(Arc::new(authority)))
    }

    fn node_ranges(&self) -> Result<Option<Ranges>, FlagError> {
        match &self.cluster_cidr {
            Some(whole) if self.allocate_node_cidrs => Ranges::new(whole, self.node_cidr_mask_size)
                .map(Some)
                .map_err(|why| FlagError::Ranges(format!("{whole} --node-cidr-mask-size: {why}"))),
            _ => Ok(None),
        }
    }

    /// A client without an identity, which the controllers' tokens are added to.
    fn anonymous(&self) -> Result<Option<kube::Client>, FlagError> {
        if !self.use_service_account_credentials {
            return Ok(None);
        }
        let failed = |source| FlagError::Kubeconfig { path: self.kubeconfig.clone(), source };
        let kubeconfig = Kubeconfig::load(&self.kubeconfig).map_err(|error| failed(error.into()))?;
        let (access, namespace) = kubeconfig.access(None).map_err(|error| failed(error.into()))?;
        let access = ServerAccess { identity: Identity::None, ..access };
        connect_as(&access, &namespace, AGENT).map(Some).map_err(failed)
    }
}

fn read(flag: &'static str, path: &Path) -> Result<String, FlagError> {
    std::fs::read_to_string(path).map_err(|source| FlagError::File { flag, path: path.to_owned(), source })
}

/// How patient the node lifecycle is.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeTimes {
    /// Time between two looks at all nodes.
    pub monitor_period: Duration,
    /// Without a sign of life for this long, a node is unreachable.
    pub grace_period: Duration,
    /// The same for one that has never shown any.
    pub startup_grace_period: Duration,
    /// Nodes a second that are tainted with NoExecute in a healthy zone.
    pub eviction_rate: f64,
    /// The same in a large zone that is partly unhealthy.
    pub secondary_eviction_rate: f64,
    /// A zone with more nodes is large.
    pub large_zone: usize,
    /// From this share of unready nodes on a zone is partly unhealthy.
    pub unhealthy_share: f64,
}

impl Default for NodeTimes {
    /// Upstream's.
    fn default() -> NodeTimes {
        NodeTimes {
            monitor_period: Duration::from_secs(5),
            grace_period: Duration::from_secs(50),
            startup_grace_period: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_zone: 50,
            unhealthy_share: 0.55,
        }
    }
}

/// What a controller manager runs with.
#[derive(Clone)]
pub struct Config {
    /// How a leader is elected; `None` leads at once.
    pub leader: Option<ElectorConfig>,
    /// Where health and metrics are served.
    pub address: Option<SocketAddr>,
    /// CA certificates to publish, as PEM.
    pub root_ca: Option<String>,
    /// Signs certificates.
    pub authority: Option<Arc<Authority>>,
    /// The ranges that nodes are given for their Pods.
    pub node_ranges: Option<Ranges>,
    /// A client without an identity: with it each controller acts as its own ServiceAccount, without it all act with
    /// the identity of the client that they are run with.
    pub anonymous: Option<kube::Client>,
    /// The patience with nodes.
    pub nodes: NodeTimes,
    /// Ended Pods that may stay; 0 for all.
    pub terminated_pods: usize,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter.
    pub chance: Arc<dyn Chance>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            leader: None,
            address: None,
            root_ca: None,
            authority: None,
            node_ranges: None,
            anonymous: None,
            nodes: NodeTimes::default(),
            terminated_pods: 12500,
            clock: Arc::new(SystemClock::default()),
            chance: Arc::new(SystemChance),
            metrics: prometheus::Registry::new(),
        }
    }
}
