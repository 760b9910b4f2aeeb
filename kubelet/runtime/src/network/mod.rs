//! Networks of Pods: the built-in routed veth, or a CNI plugin chain in its place.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

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
}

/// The network of a node's Pods.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
}

impl Network {
    /// Reads what is in use.
    ///
    /// # Errors
    /// When the remembered state cannot be read.
    pub async fn open(config: NetworkConfig) -> Result<Network, NetworkError> {
        Ok(Network { config })
    }

    /// Takes the Pods' addresses from here on (CRI `UpdateRuntimeConfig`).
    ///
    /// # Errors
    /// When it is no CIDR.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), NetworkError> {
        Err(NetworkError::NotReady(format!("cannot take {cidr} yet")))
    }

    /// `Ok` when Pods can get a network, otherwise why not.
    ///
    /// # Errors
    /// When the network is not ready.
    pub async fn status(&self) -> Result<(), NetworkError> {
        match &self.config.pod_cidr {
            Some(_) => Ok(()),
            None => Err(NetworkError::NotReady("no pod CIDR is known".into())),
        }
    }

    /// Joins the network namespace at `netns` to the network and brings loopback up. Gives the Pod's addresses, the
    /// primary one first. Asking again for the same sandbox gives the same addresses.
    ///
    /// # Errors
    /// When it fails; nothing is left behind then.
    pub async fn add(&self, pod: &PodIdentity, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        Err(NetworkError::NotReady(format!("cannot join {} ({}) yet", pod.sandbox_id, netns.display())))
    }

    /// Gives the sandbox's addresses and ports back. `netns` is absent when its namespace has gone already. No error
    /// when it has none.
    ///
    /// # Errors
    /// When a plugin fails.
    pub async fn remove(&self, pod: &PodIdentity, netns: Option<&Path>) -> Result<(), NetworkError> {
        let _ = (pod, netns);
        Ok(())
    }

    /// The sandboxes that hold addresses, so that those of sandboxes that are no more can be given back.
    pub async fn holders(&self) -> Vec<String> {
        Vec::new()
    }
}
