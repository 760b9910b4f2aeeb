//! Networks of Pods: the built-in routed veth, or a CNI plugin chain in its place.
//!
//! ```text
//!   Network::add ──> a file in the CNI folder? ──no──> builtin (an address, a veth, routes) ──> ports (host ports)
//!                                  └──yes──> cni (plugins, one after the other)
//! ```
//!
//! Invariants: what brought a Pod in takes it out, whatever is configured by then; a link is never deleted, it ends with the
//! Pod's namespace; adding twice and removing twice are no errors.
//!
//! Concept: <https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/>

mod builtin;
mod cni;
mod ports;

use builtin::Builtin;
use cni::Cni;
use ports::Ports;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minik_net::{NetNs, Netlink};

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
    /// A host port cannot be had. Final.
    #[error("a host port cannot have {0}")]
    Port(String),
    /// A host port leads to another Pod already. Retryable once that has gone.
    #[error("host port {0} is in use by another Pod")]
    PortTaken(String),
    /// A plugin, its configuration or its answer is at fault. Retryable if the plugin says so.
    #[error("{0}")]
    Cni(String),
    /// A file could not be used. Retryable.
    #[error("cannot {attempt} {}: {source}", path.display())]
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
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    builtin: Builtin,
    ports: Ports,
    cni: Cni,
    pod_cidr: Mutex<Option<String>>,
}

impl Network {
    /// Reads what is in use.
    ///
    /// # Errors
    /// When the remembered state cannot be read.
    pub async fn open(config: NetworkConfig) -> Result<Network, NetworkError> {
        let inner = Inner {
            builtin: Builtin::open(&config.state, config.pod_cidr.as_deref())?,
            ports: Ports::open(config.state.join("ports"))?,
            cni: Cni::open(&config)?,
            pod_cidr: Mutex::new(config.pod_cidr),
        };
        Ok(Network { inner: Arc::new(inner) })
    }

    /// Takes the Pods' addresses from here on (CRI `UpdateRuntimeConfig`).
    ///
    /// # Errors
    /// When it is no CIDR.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), NetworkError> {
        self.inner.builtin.set_cidr(cidr)?;
        *self.inner.pod_cidr() = Some(cidr.to_owned());
        Ok(())
    }

    /// `Ok` when Pods can get a network, otherwise why not.
    ///
    /// # Errors
    /// When the network is not ready.
    pub async fn status(&self) -> Result<(), NetworkError> {
        match self.inner.cni.chain()? {
            Some(chain) => self.inner.cni.check_programs(&chain),
            None => self.inner.builtin.ready(),
        }
    }

    /// Joins the network namespace at `netns` to the network and brings loopback up. Gives the Pod's addresses, the
    /// primary one first. Asking again for the same sandbox gives the same addresses.
    ///
    /// # Errors
    /// When it fails; nothing is left behind then but links, which end with the namespace.
    pub async fn add(&self, pod: &PodIdentity, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        let (inner, pod, netns) = (self.inner.clone(), pod.clone(), netns.to_owned());
        tokio::task::spawn_blocking(move || inner.add(&pod, &netns)).await?
    }

    /// Gives the sandbox's addresses and ports back. `netns` is absent when its namespace has gone already. No error
    /// when it has none.
    ///
    /// # Errors
    /// When its address cannot be given back, or a plugin fails.
    pub async fn remove(&self, pod: &PodIdentity, netns: Option<&Path>) -> Result<(), NetworkError> {
        let (inner, pod, netns) = (self.inner.clone(), pod.clone(), netns.map(Path::to_owned));
        tokio::task::spawn_blocking(move || inner.remove(&pod, netns.as_deref())).await?
    }

    /// The sandboxes that hold addresses, so that those of sandboxes that are no more can be given back.
    pub async fn holders(&self) -> Vec<String> {
        let mut holders = self.inner.builtin.holders();
        holders.extend(self.inner.ports.holders());
        holders.extend(self.inner.cni.holders());
        holders.sort();
        holders.dedup();
        holders
    }
}

impl Inner {
    fn pod_cidr(&self) -> MutexGuard<'_, Option<String>> {
        // Only whole values are ever assigned.
        self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, pod: &PodIdentity, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        if let Some(chain) = self.cni.chain()? {
            Netlink::open_in(&NetNs::open(netns)?)?.loopback_up()?;
            let cidr = self.pod_cidr().clone();
            return self.cni.add(chain, pod, netns, cidr.as_deref());
        }
        let addresses = self.builtin.add(&pod.sandbox_id, netns)?;
        minik_fault::point("network.joined");
        let link = builtin::host_link(&pod.sandbox_id);
        for address in &addresses {
            if let Err(error) = self.ports.add(&pod.sandbox_id, &link, *address, &pod.ports) {
                self.builtin.remove(&pod.sandbox_id)?;
                return Err(error);
            }
        }
        Ok(addresses)
    }

    fn remove(&self, pod: &PodIdentity, netns: Option<&Path>) -> Result<(), NetworkError> {
        self.cni.remove(pod, netns)?;
        self.ports.remove(&pod.sandbox_id)?;
        self.builtin.remove(&pod.sandbox_id)
    }
}

/// A file error of this module.
fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> NetworkError + use<> {
    let path = path.to_owned();
    move |source| NetworkError::Io { attempt, path, source }
}
