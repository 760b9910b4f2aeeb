//! Flags, and what they mean.

use crate::images::{LayerLimits, StoreConfig};
use crate::network::NetworkConfig;
use clap::Args;
use minik_component::{Chance, Clock, SystemChance, SystemClock, TelemetryFlags};
use std::path::PathBuf;
use std::sync::Arc;

/// Flags of `minik runtime`.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Socket on which CRI is served (unix:///path)
    #[arg(long, value_name = "ENDPOINT")]
    pub listen: String,
    /// Folder of what must survive a reboot: images, layers, containers' files
    #[arg(long, value_name = "DIR", default_value = "/var/lib/minik-runtime")]
    pub root: PathBuf,
    /// Folder of what need not: sockets
    #[arg(long, value_name = "DIR", default_value = "/run/minik-runtime")]
    pub state: PathBuf,
    /// Folder of unpacked layers, which several runtimes of one machine may share; below the root by default
    #[arg(long, value_name = "DIR")]
    pub layers: Option<PathBuf>,
    /// The shim's program; minik-shim beside the running program by default
    #[arg(long, value_name = "FILE")]
    pub shim: Option<PathBuf>,
    /// Addresses of the built-in Pod network; the kubelet may tell them later
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<String>,
    /// Folder of CNI configuration; a file in it takes over from the built-in network
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Folder of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// File that says per registry whether it speaks plain HTTP, or which CA it has
    #[arg(long, value_name = "FILE")]
    pub registry_hosts: Option<PathBuf>,
    /// Network namespace that sockets to registries are opened in; the runtime's own by default
    #[arg(long, value_name = "FILE")]
    pub registry_netns: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub telemetry: TelemetryFlags,
}

impl Flags {
    /// What they mean.
    ///
    /// # Errors
    /// When the running program's own path is needed and unknown.
    pub fn config(&self) -> std::io::Result<Config> {
        let shim = match &self.shim {
            Some(shim) => shim.clone(),
            None => std::env::current_exe()?.with_file_name("minik-shim"),
        };
        Ok(Config {
            listen: self.listen.clone(),
            root: self.root.clone(),
            state: self.state.clone(),
            shim,
            images: StoreConfig {
                root: self.root.join("images"),
                layers: self.layers.clone(),
                registry_hosts: self.registry_hosts.clone(),
                registry_netns: self.registry_netns.clone(),
                limits: LayerLimits::default(),
            },
            network: NetworkConfig {
                pod_cidr: self.pod_cidr.clone(),
                state: self.root.join("network"),
                cni_conf_dir: self.cni_conf_dir.clone(),
                cni_bin_dir: self.cni_bin_dir.clone(),
            },
            clock: Arc::new(SystemClock::default()),
            chance: Arc::new(SystemChance),
        })
    }
}

/// What a runtime runs with.
#[derive(Clone)]
pub struct Config {
    /// Socket on which CRI is served (`unix:///path`).
    pub listen: String,
    /// Folder of what must survive a reboot.
    pub root: PathBuf,
    /// Folder of what need not.
    pub state: PathBuf,
    /// The shim's program.
    pub shim: PathBuf,
    /// The image store.
    pub images: StoreConfig,
    /// The Pod network.
    pub network: NetworkConfig,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for ids.
    pub chance: Arc<dyn Chance>,
}
