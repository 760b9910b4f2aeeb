//! Flags, and what they mean.

use crate::rules::Rules;
use clap::Args;
use minik_component::{Chance, Clock, SystemChance, SystemClock, TelemetryFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Flags of `minik fake-nodes`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Path to the kubeconfig with the apiserver's address and credentials
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// How many nodes; those beyond it are deleted
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub nodes: u32,
    /// What the nodes' names begin with
    #[arg(long, default_value = "fake-", value_name = "PREFIX")]
    pub name_prefix: String,
    /// How Pods live, as YAML; without it they run at once and for good
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// What a node has
    #[arg(long, default_value = "cpu=32,memory=256Gi,ephemeral-storage=1Ti,pods=110", value_name = "LIST")]
    pub node_capacity: Pairs,
    /// Labels of the nodes, in addition to their own
    #[arg(long, default_value = "", value_name = "LIST")]
    pub node_labels: Pairs,
    /// Time between two renewals of a node's Lease, in seconds
    #[arg(long, default_value_t = 25, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub node_lease_renewal: u64,
    /// Address of /livez, /readyz and /metrics over plain HTTP; port 0 serves none
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub metrics_bind_address: SocketAddr,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

/// Names with values, `name=value,...`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub BTreeMap<String, String>);

impl std::str::FromStr for Pairs {
    type Err = String;

    fn from_str(text: &str) -> Result<Pairs, String> {
        let pairs = text.split(',').filter(|part| !part.is_empty()).map(|part| match part.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("{part:?} is not NAME=VALUE")),
        });
        Ok(Pairs(pairs.collect::<Result<_, _>>()?))
    }
}

/// A flag that cannot be used. Final.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    /// The rules cannot be read.
    #[error("--rules {path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The rules are wrong.
    #[error("--rules {path}: {problem}")]
    Rules {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Flags {
    /// What they mean.
    ///
    /// # Errors
    /// When the rules cannot be used.
    pub fn config(&self) -> Result<Config, FlagError> {
        let rules = match &self.rules {
            None => Rules::default(),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|source| FlagError::Read { path: path.clone(), source })?;
                let parsed = Rules::parse(&text);
                parsed.map_err(|problem| FlagError::Rules { path: path.clone(), problem })?
            }
        };
        Ok(Config {
            nodes: self.nodes,
            prefix: self.name_prefix.clone(),
            rules,
            capacity: self.node_capacity.clone(),
            labels: self.node_labels.clone(),
            lease_renewal: Duration::from_secs(self.node_lease_renewal),
            address: (self.metrics_bind_address.port() != 0).then_some(self.metrics_bind_address),
            ..Config::default()
        })
    }
}

/// Nodes that are cut off, by index; whoever holds a copy changes it.
#[derive(Clone, Default)]
pub struct Lost(Arc<Mutex<BTreeSet<u32>>>);

impl Lost {
    fn set(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        // Each change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts a node off, or lets it back.
    pub fn set_lost(&self, node: u32, lost: bool) {
        if lost {
            self.set().insert(node)
        } else {
            self.set().remove(&node)
        };
    }

    /// Whether a node is cut off.
    pub fn is_lost(&self, node: u32) -> bool {
        self.set().contains(&node)
    }
}

/// What fake nodes run with.
#[derive(Clone)]
pub struct Config {
    /// How many.
    pub nodes: u32,
    /// What their names begin with.
    pub prefix: String,
    /// How Pods live.
    pub rules: Rules,
    /// What a node has.
    pub capacity: Pairs,
    /// Labels of the nodes, in addition to their own.
    pub labels: Pairs,
    /// Time between two renewals of a node's Lease.
    pub lease_renewal: Duration,
    /// Nodes that are cut off: they neither say that they live nor do anything for their Pods. For tests.
    pub lost: Lost,
    /// Where health and metrics are served.
    pub address: Option<SocketAddr>,
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
            nodes: 1,
            prefix: "fake-".to_owned(),
            rules: Rules::default(),
            capacity: "cpu=32,memory=256Gi,ephemeral-storage=1Ti,pods=110".parse().unwrap_or_default(),
            labels: Pairs::default(),
            lease_renewal: Duration::from_secs(25),
            lost: Lost::default(),
            address: None,
            clock: Arc::new(SystemClock::default()),
            chance: Arc::new(SystemChance),
            metrics: prometheus::Registry::new(),
        }
    }
}
