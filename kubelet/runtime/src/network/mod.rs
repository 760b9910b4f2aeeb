//! Networks of Pods: the built-in routed veth, or a CNI plugin chain in its place.

mod builtin;

use builtin::Builtin;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How Pods get their network.
#[derive(Debug, Clone, Default)]
pub struct NetworkConfig {
    /// Addresses of the built-in network; the kubelet may tell it later.
    pub pod_cidr: Option<String>,
    /// Where addresses in use are remembered.
    pub state: PathBuf,
    /// Folder of CNI configuration; a file in it takes over from the built-in network.
    pub cni_conf_dir: PathBuf,
    /// Folders of CNI plugins.
    pub cni_bin_dir: PathBuf,
}

/// A port of the node that leads to a port of the Pod.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port in the Pod.
    pub container_port: u16,
    /// Port of the node.
    pub host_port: u16,
    /// Address of the node; empty for all.
    pub host_ip: String,
}

/// A Pod sandbox, as networks know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodIdentity {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
    /// The Pod's uid.
    pub uid: String,
    /// Ports of the node that lead to it.
    pub ports: Vec<HostPort>,
    /// The sandbox's annotations (bandwidth and the like).
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// Why a Pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The network is not set up yet. Retryable.
    #[error("the network is not ready: {0}")]
    NotReady(String),
    /// It is no range of addresses that Pods can have. Final.
    #[error("{0:?} is no range of Pod addresses")]
    Cidr(String),
    /// Every address is in use. Retryable.
    #[error("no address is free in {0}")]
    Full(String),
    /// Not built yet. Final.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
    /// A file could not be used. Retryable.
    #[error("cannot {attempt} {path}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused. As the source says.
    #[error(transparent)]
    Kernel(#[from] minik_net::Error),
    /// The work was broken off. Retryable.
    #[error("the work on the network was broken off")]
    BrokenOff(#[from] tokio::task::JoinError),
}

/// The network of a node's Pods.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    builtin: Arc<Builtin>,
}

impl Network {
    /// Reads what is in use.
    ///
    /// # Errors
    /// When the remembered state cannot be read.
    pub async fn open(config: NetworkConfig) -> Result<Network, NetworkError> {
        let builtin = Arc::new(Builtin::open(&config.state, config.pod_cidr.as_deref())?);
        Ok(Network { config, builtin })
    }

    /// Takes the Pods' addresses from here on (CRI `UpdateRuntimeConfig`).
    ///
    /// # Errors
    /// When it is no CIDR.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), NetworkError> {
        self.builtin.set_cidr(cidr)
    }

    /// Whether another plugin chain is configured.
    fn other_chain(&self) -> bool {
        let entries = std::fs::read_dir(&self.config.cni_conf_dir);
        entries.into_iter().flatten().flatten().any(|entry| {
            let kind = entry.path().extension().map(|kind| kind.to_string_lossy().into_owned());
            kind.is_some_and(|kind| ["conf", "conflist", "json"].contains(&kind.as_str()))
        })
    }

    /// `Ok` when Pods can get a network, otherwise why not.
    ///
    /// # Errors
    /// When the network is not ready.
    pub async fn status(&self) -> Result<(), NetworkError> {
        if self.other_chain() {
            return Err(NetworkError::Unsupported("a CNI plugin chain"));
        }
        self.builtin.ready()
    }

    /// Joins the network namespace at `netns` to the network and brings loopback up. Gives the Pod's addresses, the
    /// primary one first. Asking again for the same sandbox gives the same addresses.
    ///
    /// # Errors
    /// When it fails; nothing is left behind then.
    pub async fn add(&self, pod: &PodIdentity, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        self.status().await?;
        if !pod.ports.is_empty() {
            return Err(NetworkError::Unsupported("a host port"));
        }
        let (builtin, sandbox, netns) = (self.builtin.clone(), pod.sandbox_id.clone(), netns.to_owned());
        tokio::task::spawn_blocking(move || builtin.add(&sandbox, &netns)).await?
    }

    /// Gives the sandbox's addresses and ports back. `netns` is absent when its namespace has gone already. No error
    /// when it has none.
    ///
    /// # Errors
    /// When its address cannot be given back.
    pub async fn remove(&self, pod: &PodIdentity, netns: Option<&Path>) -> Result<(), NetworkError> {
        // The link goes with its namespace: there is nothing to do inside.
        let _ = netns;
        self.builtin.remove(&pod.sandbox_id)
    }

    /// The sandboxes that hold addresses, so that those of sandboxes that are no more can be given back.
    pub async fn holders(&self) -> Vec<String> {
        self.builtin.holders()
    }
}
