//! Flags by upstream's names, and what they mean.

use crate::certificates::{self, BootstrapError, CertConfig, server_file};
use crate::node::{DEFAULT_THRESHOLDS, Thresholds};
use clap::{ArgAction, Args};
use minik_component::{Chance, Clock, SystemChance, SystemClock, TelemetryFlags};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `minik kubelet`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Path to the kubeconfig with the apiserver's address and the node's credentials
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Kubeconfig with a bootstrap token: by it the node asks for its first certificate, and --kubeconfig is written
    #[arg(long, value_name = "FILE")]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Renew the certificate that the node shows to the apiserver, in --cert-dir
    #[arg(long, action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub rotate_certificates: bool,
    /// Have the node API's certificate signed by the cluster, and renew it, in --cert-dir
    #[arg(long, conflicts_with = "tls_cert_file", action = ArgAction::Set, default_value_t = false, num_args = 0..=1, default_missing_value = "true")]
    pub rotate_server_certificates: bool,
    /// Folder of the certificates that the cluster signs
    #[arg(long, default_value = "/var/lib/kubelet/pki", value_name = "DIR")]
    pub cert_dir: PathBuf,
    /// The runtime's CRI socket
    #[arg(long, value_name = "unix:///PATH")]
    pub container_runtime_endpoint: String,
    /// The node's name, if not the host's
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The node's addresses, if not that of the default route
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Folder of Pods' volumes and files
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub root_dir: PathBuf,
    /// Folder of Pods' logs
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    pub pod_log_dir: PathBuf,
    /// Address that the node's API listens on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub address: IpAddr,
    /// Port of the node's API; 0 takes any that is free
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub port: u16,
    /// The node API's certificate; without one the node's API is not served
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// The private key of --tls-cert-file
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CA that clients of the node's API must be signed by
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// How long a command, an attachment or a forwarded port may be without a byte
    #[arg(long, default_value = "4h", value_name = "TIME", value_parser = minik_component::duration)]
    pub streaming_connection_idle_timeout: Duration,
    /// Addresses of the cluster's DNS
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// How many Pods the node takes
    #[arg(long, default_value_t = 110, value_name = "NUMBER")]
    pub max_pods: u32,
    /// Processes that a Pod may have; -1 for no limit
    #[arg(long, default_value_t = -1, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pod_max_pids: i64,
    /// The cgroup below which those of Pods are made
    #[arg(long, default_value = "/", value_name = "PATH")]
    pub cgroup_root: String,
    /// Make a cgroup for each class of service and each Pod
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub cgroups_per_qos: bool,
    /// Labels of the node when it registers
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<(String, String)>,
    /// Taints of the node when it registers
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', value_parser = taint)]
    pub register_with_taints: Vec<TaintFlag>,
    /// Range of the node's Pods when it registers; without it the cluster gives it one
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// Make the Node object
    #[arg(long, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub register_node: bool,
    /// The resolver configuration that Pods' is made from
    #[arg(long, default_value = "/etc/resolv.conf", value_name = "FILE")]
    pub resolv_conf: PathBuf,
    /// CPU of the node that Pods may have, if not all of the machine's (a quantity)
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    pub node_cpu: Option<String>,
    /// Memory of the node that Pods may have, if not all of the machine's (a quantity)
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    pub node_memory: Option<String>,
    /// From when on Pods are evicted
    #[arg(long, default_value = DEFAULT_THRESHOLDS, value_name = "SIGNAL<QUANTITY,...")]
    pub eviction_hard: Thresholds,
    /// Sysctls that Pods may set though they are not safe, `*` at the end for all of a group
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

/// A taint as a flag says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaintFlag {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it does.
    pub effect: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn taint(text: &str) -> Result<TaintFlag, String> {
    let bad = || format!("{text:?} is not of the form KEY=VALUE:EFFECT");
    let (rest, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("{effect:?} is no effect: write NoSchedule, PreferNoSchedule or NoExecute"));
    }
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if key.is_empty() {
        return Err(bad());
    }
    Ok(TaintFlag { key: key.into(), value: value.into(), effect: effect.into() })
}

fn quantity(text: &str) -> Result<String, String> {
    let read: Result<minik_apimachinery::quantity::Quantity, _> = text.parse();
    read.map(|read| read.to_string()).map_err(|error| format!("{text:?} is no quantity: {error}"))
}

impl Flags {
    /// The node's name on a host of this name.
    fn node_name(&self, host: &str) -> String {
        self.hostname_override.clone().unwrap_or_else(|| host.to_lowercase())
    }

    /// Gets the first certificate by --bootstrap-kubeconfig, where one is given and there is no valid one yet.
    ///
    /// # Errors
    /// When the token or the request is refused, or a file cannot be written.
    pub async fn bootstrap(&self, host: &str) -> Result<(), BootstrapError> {
        let Some(bootstrap) = &self.bootstrap_kubeconfig else { return Ok(()) };
        let files = (&**bootstrap, &*self.kubeconfig);
        let chance = Arc::new(SystemChance);
        certificates::bootstrap(&self.node_name(host), files, &self.cert_dir, &SystemClock::default(), chance)
            .await
    }

    /// What they mean on a host of this name.
    pub fn config(&self, host: &str) -> Config {
        let own = self.rotate_server_certificates.then(|| server_file(&self.cert_dir));
        let given = self.tls_cert_file.clone().zip(self.tls_private_key_file.clone());
        let tls = given.or(own.map(|file| (file.clone(), file)));
        Config {
            node_name: self.node_name(host),
            certificates: CertConfig {
                dir: self.cert_dir.clone(),
                client: self.rotate_certificates,
                server: self.rotate_server_certificates,
            },
            runtime_endpoint: self.container_runtime_endpoint.clone(),
            node_ips: self.node_ip.clone(),
            root_dir: self.root_dir.clone(),
            pod_log_dir: self.pod_log_dir.clone(),
            api: tls.map(|(cert, key)| ApiConfig {
                address: self.address,
                port: self.port,
                cert,
                key,
                client_ca: self.client_ca_file.clone(),
            }),
            stream_idle: self.streaming_connection_idle_timeout,
            cluster_dns: self.cluster_dns.clone(),
            cluster_domain: self.cluster_domain.clone(),
            max_pods: self.max_pods,
            pod_max_pids: self.pod_max_pids,
            cgroup_root: self.cgroups_per_qos.then(|| self.cgroup_root.clone()),
            labels: self.node_labels.clone(),
            taints: self.register_with_taints.clone(),
            pod_cidr: self.pod_cidr.clone(),
            register: self.register_node,
            resolv_conf: self.resolv_conf.clone(),
            cpu: self.node_cpu.clone(),
            memory: self.node_memory.clone(),
            thresholds: self.eviction_hard,
            unsafe_sysctls: self.allowed_unsafe_sysctls.clone(),
            clock: Arc::new(SystemClock::default()),
            chance: Arc::new(SystemChance),
            metrics: prometheus::Registry::new(),
        }
    }
}

/// Where and how the node's API is served.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    /// The file of the CA of clients.
    pub client_ca: Option<PathBuf>,
}

/// What a kubelet runs with.
#[derive(Clone)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// Which certificates it gets for itself.
    pub certificates: CertConfig,
    /// The runtime's socket.
    pub runtime_endpoint: String,
    /// The node's addresses, empty to look them up.
    pub node_ips: Vec<IpAddr>,
    /// Folder of Pods' volumes and files.
    pub root_dir: PathBuf,
    /// Folder of Pods' logs.
    pub pod_log_dir: PathBuf,
    /// How the node's API is served; `None` for not at all.
    pub api: Option<ApiConfig>,
    /// How long a stream may be without a byte.
    pub stream_idle: Duration,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// How many Pods the node takes.
    pub max_pods: u32,
    /// Processes that a Pod may have; below one for no limit.
    pub pod_max_pids: i64,
    /// The cgroup below which those of Pods are made; `None` makes none.
    pub cgroup_root: Option<String>,
    /// Labels of the node when it registers.
    pub labels: Vec<(String, String)>,
    /// Taints of the node when it registers.
    pub taints: Vec<TaintFlag>,
    /// Range of the node's Pods when it registers.
    pub pod_cidr: Option<String>,
    /// Whether the Node object is made.
    pub register: bool,
    /// The resolver configuration that Pods' is made from.
    pub resolv_conf: PathBuf,
    /// CPU of the node, if not the machine's.
    pub cpu: Option<String>,
    /// Memory of the node, if not the machine's.
    pub memory: Option<String>,
    /// From when on something runs short.
    pub thresholds: Thresholds,
    /// Sysctls that Pods may set though they are not safe.
    pub unsafe_sysctls: Vec<String>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels_are_read() {
        let read = taint("a=b:NoSchedule").unwrap();
        assert_eq!((read.key.as_str(), read.value.as_str(), read.effect.as_str()), ("a", "b", "NoSchedule"));
        assert_eq!(taint("a:NoExecute").unwrap().value, "");
        assert!(taint("a=b").is_err() && taint("a=b:Never").is_err() && taint(":NoExecute").is_err());
        assert_eq!(label("x/y=z").unwrap(), ("x/y".into(), "z".into()));
        assert!(label("x").is_err());
        assert_eq!(quantity("1024Mi").unwrap(), "1Gi");
    }
}
