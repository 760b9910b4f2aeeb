//! Flags by upstream's names, and what they mean.

use clap::{ArgAction, Args};
use minik_component::{Chance, Clock, SystemChance, SystemClock, TelemetryFlags, duration};
use minik_net::nftables::Family;
use minik_net::{Cidr, NetNs};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `minik kube-proxy`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Path to the kubeconfig with the apiserver's address and the proxy's credentials
    #[arg(long, value_name = "FILE", required_unless_present = "cleanup")]
    pub kubeconfig: Option<PathBuf>,
    /// The name of this proxy's Node; empty on a machine that is none [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The ranges of the cluster's Pods: what comes from elsewhere is masqueraded
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<Cidr>,
    /// Addresses that NodePorts listen on: "primary" for the Node's own, or ranges of local addresses
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_value = "primary", value_parser = node_ports)]
    pub nodeport_addresses: Vec<NodePorts>,
    /// Masquerade everything that is sent to a cluster IP
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub masquerade_all: bool,
    /// Shortest time between two writes to the kernel; the first change after a pause is written at once
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub min_sync_period: Duration,
    /// How often the kernel's rules are looked after for changes by others
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub sync_period: Duration,
    /// The nftables table to keep
    #[arg(long, default_value = "kube-proxy", value_name = "NAME")]
    pub table_name: String,
    /// Address of /healthz and /livez; port 0 serves none
    #[arg(long, default_value = "0.0.0.0:10256", value_name = "ADDRESS")]
    pub healthz_bind_address: SocketAddr,
    /// Address of /metrics; port 0 serves none
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "ADDRESS")]
    pub metrics_bind_address: SocketAddr,
    /// Remove the rules and end
    #[arg(long)]
    pub cleanup: bool,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

/// Local addresses that NodePorts listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePorts {
    /// Those of the Node object.
    Primary,
    /// All of a range.
    Range(Cidr),
}

fn node_ports(text: &str) -> Result<NodePorts, String> {
    match text {
        "primary" => Ok(NodePorts::Primary),
        _ => text
            .parse()
            .map(NodePorts::Range)
            .map_err(|_| format!("{text:?} is neither \"primary\" nor a range")),
    }
}

impl Flags {
    /// What they mean on a host of this name.
    pub fn config(&self, host: &str) -> Config {
        let served = |address: SocketAddr| (address.port() != 0).then_some(address);
        let node = self.hostname_override.clone().unwrap_or_else(|| host.to_lowercase());
        Config {
            node: node.trim().into(),
            settings: Settings {
                table: self.table_name.clone(),
                cluster_cidrs: self.cluster_cidr.clone(),
                node_ports: self.nodeport_addresses.clone(),
                masquerade_all: self.masquerade_all,
            },
            min_sync_period: self.min_sync_period,
            sync_period: self.sync_period,
            healthz_address: served(self.healthz_bind_address),
            metrics_address: served(self.metrics_bind_address),
            ..Config::default()
        }
    }
}

/// What the rules depend on beside Services, for as long as the program runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The table's name.
    pub table: String,
    /// The ranges of all Pods.
    pub cluster_cidrs: Vec<Cidr>,
    /// Where NodePorts listen.
    pub node_ports: Vec<NodePorts>,
    /// Masquerades all that goes to a cluster IP.
    pub masquerade_all: bool,
}

impl Settings {
    /// Whether NodePorts listen on all local addresses of a family.
    pub fn all_addresses(&self, family: Family) -> bool {
        self.node_ports.iter().any(|ports| match ports {
            NodePorts::Primary => false,
            NodePorts::Range(range) => {
                range.prefix_len() == 0 && range.address().is_ipv4() == (family == Family::Ip)
            }
        })
    }
}

/// What a proxy runs with.
#[derive(Clone)]
pub struct Config {
    /// Its Node's name; empty on a machine that is none.
    pub node: Arc<str>,
    /// What the rules depend on.
    pub settings: Settings,
    /// Shortest time between two writes.
    pub min_sync_period: Duration,
    /// How often the kernel's state is looked after.
    pub sync_period: Duration,
    /// Where health is served.
    pub healthz_address: Option<SocketAddr>,
    /// Where metrics are served.
    pub metrics_address: Option<SocketAddr>,
    /// The network namespace of the rules; the program's own without it.
    pub netns: Option<Arc<NetNs>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for backoff.
    pub chance: Arc<dyn Chance>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: "".into(),
            settings: Settings {
                table: "kube-proxy".to_owned(),
                cluster_cidrs: Vec::new(),
                node_ports: vec![NodePorts::Primary],
                masquerade_all: false,
            },
            min_sync_period: Duration::ZERO,
            sync_period: Duration::from_secs(30),
            healthz_address: None,
            metrics_address: None,
            netns: None,
            clock: Arc::new(SystemClock::default()),
            chance: Arc::new(SystemChance),
            metrics: prometheus::Registry::new(),
        }
    }
}
