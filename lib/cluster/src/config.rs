//! A cluster's description: chosen once, kept, and read by whatever starts its processes.

use crate::error::{Error, Result, file};
use crate::layout::Layout;
use crate::ranges::Ranges;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of the file's form.
const FORMAT: u32 = 1;

/// A cluster's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfig {
    /// The version of this form.
    pub format: u32,
    /// The folder of the programs `minik` and `minik-shim`.
    pub programs: PathBuf,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Addresses.
    pub ranges: Ranges,
    /// Ports on 127.0.0.1.
    pub ports: Ports,
    /// An etcd cluster in place of the embedded store.
    #[serde(default, skip_serializing_if = "Etcd::is_empty")]
    pub etcd: Etcd,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the cluster's bridge.
    pub address: Ipv4Addr,
    /// The range of its Pods.
    pub pod_cidr: String,
}

/// Ports on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// The API, also on the cluster's own address.
    pub api: u16,
    /// Health and metrics of the scheduler.
    pub scheduler: u16,
    /// Health and metrics of the controller-manager.
    pub controller_manager: u16,
}

/// How to reach an etcd cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Etcd {
    /// `http(s)://host:port`.
    pub servers: Vec<String>,
    /// Its CA.
    pub ca_file: Option<PathBuf>,
    /// Our certificate.
    pub cert_file: Option<PathBuf>,
    /// Our key.
    pub key_file: Option<PathBuf>,
}

impl Etcd {
    /// None was named.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }
}

impl ClusterConfig {
    /// The description of this form with nodes `NAME-0`, `NAME-1`, ...
    pub fn new(
        name: &str,
        nodes: u8,
        programs: PathBuf,
        ranges: Ranges,
        ports: Ports,
        etcd: Etcd,
    ) -> ClusterConfig {
        let nodes = (0..nodes)
            .map(|index| Node {
                name: format!("{name}-{index}"),
                address: ranges.node(index),
                pod_cidr: ranges.pods(index).to_string(),
            })
            .collect();
        ClusterConfig { format: FORMAT, programs, nodes, ranges, ports, etcd }
    }

    /// Reads a cluster's description; `None` when there is no such cluster.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn load(layout: &Layout) -> Result<Option<ClusterConfig>> {
        let path = layout.config();
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(file("read", &path))?,
        };
        let config = serde_json::from_slice(&bytes).map_err(|source| Error::Format { path, source })?;
        Ok(Some(config))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.config();
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| Error::Format { path: path.clone(), source })?;
        write_file(&path, &text, 0o644)
    }
}

/// Makes a folder and its parents, readable by its owner alone where it is new.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(file("make the folder", path))
}

/// Writes a whole file or nothing, with its folders.
pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let written = options.write(true).create(true).truncate(true).mode(mode).open(&draft);
    written
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(file("write", path))
}
