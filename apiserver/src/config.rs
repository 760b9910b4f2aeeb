//! Flags by upstream's names, and what they mean.

use crate::allocator::Cidr;
use crate::audit::{Audit, AuditLevel};
use crate::http::InFlight;
use clap::Args;
use minik_component::{Chance, Clock, SystemChance, SystemClock, TelemetryFlags};
use minik_storage::cli::EtcdFlags;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `minik apiserver`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub bind_address: IpAddr,
    /// Port to listen on; 0 takes any that is free
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub secure_port: u16,
    /// Address by which Pods and nodes reach this server; without it they are told none
    #[arg(long, value_name = "ADDRESS")]
    pub advertise_address: Option<IpAddr>,
    /// Folder of the embedded store, used unless etcd servers are named
    #[arg(
        long,
        value_name = "FOLDER",
        required_unless_present = "etcd_servers",
        conflicts_with = "etcd_servers"
    )]
    pub data_dir: Option<PathBuf>,
    /// The most bytes that the embedded store keeps
    #[arg(long, value_name = "BYTES", default_value_t = minik_storage::QUOTA_BYTES)]
    pub storage_quota_bytes: u64,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub etcd: EtcdFlags,
    /// The server's certificate
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: PathBuf,
    /// The CA of client certificates
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: PathBuf,
    /// The CA of front proxies' certificates, for extension servers to know
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Public keys of ServiceAccount tokens that are believed
    #[arg(long, value_name = "FILE", value_delimiter = ',', required = true)]
    pub service_account_key_file: Vec<PathBuf>,
    /// The private key that signs ServiceAccount tokens
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: PathBuf,
    /// Who issues ServiceAccount tokens
    #[arg(long, value_name = "URL", default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: String,
    /// For whom tokens are that are shown here; the issuer unless said otherwise
    #[arg(long, value_name = "AUDIENCES", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Believe bootstrap tokens, which are Secrets of kube-system
    #[arg(long)]
    pub enable_bootstrap_token_auth: bool,
    /// Addresses of Services, as ADDRESS/BITS; a second range may be of the other family
    #[arg(long, value_name = "RANGES", value_delimiter = ',', default_value = "10.96.0.0/16", value_parser = Cidr::parse)]
    pub service_cluster_ip_range: Vec<Cidr>,
    /// Ports of every node for Services, as FIRST-LAST
    #[arg(long, value_name = "PORTS", default_value = "30000-32767", value_parser = ports)]
    pub service_node_port_range: RangeInclusive<u16>,
    /// The certificate to show to kubelets
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    pub kubelet_client_key: Option<PathBuf>,
    /// The CA of kubelets' certificates
    #[arg(long, value_name = "FILE")]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// How long events are kept
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub event_ttl: Duration,
    /// File of audit lines; - is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// What audit lines tell
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "Metadata")]
    pub audit_log_level: AuditLevel,
    /// Requests at once that change nothing; 0 is any number
    #[arg(long, value_name = "NUMBER", default_value_t = InFlight::default().reading)]
    pub max_requests_inflight: usize,
    /// Requests at once that change something; 0 is any number
    #[arg(long, value_name = "NUMBER", default_value_t = InFlight::default().writing)]
    pub max_mutating_requests_inflight: usize,
    /// The shortest time in seconds after which a watch ends that names none
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub min_request_timeout: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryFlags,
}

/// What a server runs with.
#[derive(Clone)]
pub struct Config {
    /// The flags.
    pub flags: Flags,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
    /// Told where the server listens, once it does.
    pub listening: Option<tokio::sync::watch::Sender<Option<SocketAddr>>>,
}

impl Flags {
    /// What they mean, with the machine's time and chance.
    pub fn config(self) -> Config {
        Config {
            flags: self,
            clock: Arc::new(SystemClock::default()),
            chance: Arc::new(SystemChance),
            metrics: prometheus::Registry::new(),
            listening: None,
        }
    }

    /// Where to listen.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.secure_port)
    }

    /// Where clients are told that the server is, when it listens on `port`.
    pub(crate) fn advertised(&self, port: u16) -> SocketAddr {
        let unspecific = self.bind_address.is_unspecified();
        let own = if unspecific { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { self.bind_address };
        SocketAddr::new(self.advertise_address.unwrap_or(own), port)
    }

    /// Where requests are told to.
    pub(crate) fn audit(&self) -> std::io::Result<Audit> {
        match &self.audit_log_path {
            Some(path) if self.audit_log_level != AuditLevel::None => Audit::open(path, self.audit_log_level),
            _ => Ok(Audit::default()),
        }
    }
}

/// `FIRST-LAST`, as upstream writes ranges of ports.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    range
        .filter(|range| !range.is_empty() && *range.start() > 0)
        .ok_or_else(|| format!("{text:?} is no range of ports: write FIRST-LAST, as in 30000-32767"))
}

/// A time as upstream writes one: `1h30m`, `90s`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time: write hours, minutes and seconds, as in 1h0m0s");
    let (mut seconds, mut number) = (0u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(bad()),
        };
        seconds += number.parse::<u64>().map_err(|_| bad())?.checked_mul(unit).ok_or_else(bad)?;
        number.clear();
    }
    if !number.is_empty() || text.is_empty() { Err(bad()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ranges_are_read_as_upstream_writes_them() {
        assert_eq!(duration("1h0m0s"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("90").is_err() && duration("").is_err() && duration("1d").is_err());
        assert_eq!(ports("30000-32767"), Ok(30000..=32767));
        assert!(ports("2-1").is_err() && ports("0-1").is_err() && ports("1").is_err());
    }
}
