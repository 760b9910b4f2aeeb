//! Flags, and what they mean.

use clap::Args;
use hickory_proto::rr::Name;
use minik_component::{Chance, SystemChance, TelemetryFlags};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Flags of `minik dns`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Path to the kubeconfig with the apiserver's address and this server's credentials
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Name of the node whose Pods are served; the host's name when left out
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The node's address, at which names are served over UDP and TCP
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub bind_address: IpAddr,
    /// Port for both; 0 takes any that is free
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub port: u16,
    /// Domain of the cluster's names
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN", value_parser = domain)]
    pub cluster_domain: Name,
    /// File that names the servers for all other names
    #[arg(long, default_value = "/etc/resolv.conf", value_name = "FILE")]
    pub resolv_conf: PathBuf,
    /// Network namespace in which sockets to those servers are opened
    #[arg(long, value_name = "PATH")]
    pub upstream_netns: Option<PathBuf>,
    /// Address of /livez, /readyz and /metrics over plain HTTP; port 0 serves none
    #[arg(long, default_value = "127.0.0.1:9153", value_name = "ADDRESS")]
    pub metrics_bind_address: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

/// A domain, with or without its last dot.
fn domain(text: &str) -> Result<Name, String> {
    match Name::from_ascii(text) {
        Ok(mut name) if !name.is_root() => {
            name.set_fqdn(true);
            Ok(name.to_lowercase())
        }
        _ => Err(format!("{text:?} is no domain")),
    }
}

impl Flags {
    /// What they mean on a host of this name.
    pub fn config(&self, host: &str) -> Config {
        Config {
            node: self.hostname_override.clone().unwrap_or_else(|| host.to_lowercase()),
            bind: SocketAddr::new(self.bind_address, self.port),
            domain: self.cluster_domain.clone(),
            resolv_conf: self.resolv_conf.clone(),
            upstream_netns: self.upstream_netns.clone(),
            address: (self.metrics_bind_address.port() != 0).then_some(self.metrics_bind_address),
            ..Config::default()
        }
    }
}

/// What a server runs with.
#[derive(Clone)]
pub struct Config {
    /// The node whose Pods are served.
    pub node: String,
    /// Where names are served; port 0 takes any that is free.
    pub bind: SocketAddr,
    /// The domain of the cluster's names, ending in a dot.
    pub domain: Name,
    /// The file that names the servers for all other names.
    pub resolv_conf: PathBuf,
    /// Their port: 53 but in tests.
    pub upstream_port: u16,
    /// The network namespace for sockets to them.
    pub upstream_netns: Option<PathBuf>,
    /// Where health and metrics are served.
    pub address: Option<SocketAddr>,
    /// Chance, for the order of answers and for jitter.
    pub chance: Arc<dyn Chance>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: "localhost".to_owned(),
            bind: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
            domain: Name::from_ascii("cluster.local.").expect("a domain"),
            resolv_conf: "/etc/resolv.conf".into(),
            upstream_port: 53,
            upstream_netns: None,
            address: None,
            chance: Arc::new(SystemChance),
            metrics: prometheus::Registry::new(),
        }
    }
}
