//! A cluster's description: chosen once, kept, and read by whatever starts its processes.

use crate::error::{Error, Result, file};
use crate::layout::Layout;
use crate::ranges::Ranges;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of the file's form.
const FORMAT: u32 = 2;
/// Nodes on this machine: as many as have a range of Pods.
pub const MOST_NODES: u8 = 64;

/// What a cluster shall be. What is left out is as it was, or the default where there is no such cluster yet.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// How many nodes on this machine; one by default.
    pub nodes: Option<u8>,
    /// How many of each part of the control plane; one by default.
    pub control_planes: Option<u8>,
    /// How many nodes whose Pods live by rule; none by default.
    pub fake_nodes: Option<u32>,
    /// The rules of such nodes.
    pub fake_rules: Option<PathBuf>,
    /// What each node has, instead of its share of the machine.
    pub size: Size,
    /// An address of this machine that nodes on others reach the API by.
    pub api_address: Option<IpAddr>,
    /// An etcd cluster in place of the embedded store.
    pub etcd: Etcd,
}

/// CPU and memory of a node, as quantities; all of the machine's where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Size {
    /// Its cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl Size {
    /// The part of the machine that one of so many nodes has.
    fn share(nodes: u8) -> Size {
        if nodes < 2 {
            return Size::default();
        }
        let milli = std::thread::available_parallelism().map_or(1, usize::from) * 1000 / usize::from(nodes);
        let machine = rustix::system::sysinfo();
        let mebibytes = machine.totalram * u64::from(machine.mem_unit) / (1 << 20) / u64::from(nodes);
        Size { cpu: Some(format!("{milli}m")), memory: Some(format!("{mebibytes}Mi")) }
    }

    /// What is given here, the rest from `other`.
    fn or(&self, other: Size) -> Size {
        Size { cpu: self.cpu.clone().or(other.cpu), memory: self.memory.clone().or(other.memory) }
    }
}

/// A cluster's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfig {
    /// The version of this form.
    pub format: u32,
    /// The folder of the programs `minik` and `minik-shim`.
    pub programs: PathBuf,
    /// The nodes on this machine.
    pub nodes: Vec<Node>,
    /// Whether it has a network for nodes on this machine.
    pub networked: bool,
    /// Nodes whose Pods live by rule.
    #[serde(default)]
    pub fake: FakeNodes,
    /// The cluster on another machine that the nodes here belong to; then there is no control plane here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Joined>,
    /// An address of this machine that nodes on others reach the API by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_address: Option<IpAddr>,
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
    /// The range of its Pods; the cluster gives one to a node without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    /// What it has.
    #[serde(flatten)]
    pub size: Size,
}

/// A cluster on another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// Its API: `https://IP:PORT`.
    pub server: String,
}

impl Joined {
    /// The address of the machine that serves the API.
    pub(crate) fn gateway(&self) -> Option<IpAddr> {
        let socket: SocketAddr = self.server.strip_prefix("https://")?.parse().ok()?;
        Some(socket.ip())
    }
}

/// Nodes whose Pods live by rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FakeNodes {
    /// How many.
    pub nodes: u32,
    /// The rules' file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<PathBuf>,
}

/// Ports on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// The API, also on the cluster's own address.
    pub api: u16,
    /// Health and metrics of the parts of each control plane; as many as there are.
    pub control: Vec<ControlPorts>,
}

/// Ports of one control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlPorts {
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
    /// The description of a new cluster, with nodes `NAME-0`, `NAME-1`, ...
    pub fn new(wanted: &Wanted, programs: PathBuf, ranges: Ranges, ports: Ports) -> ClusterConfig {
        let nodes = wanted.nodes.unwrap_or(1);
        let mut config = ClusterConfig {
            format: FORMAT,
            programs,
            nodes: Vec::new(),
            networked: nodes > 0,
            joined: None,
            fake: FakeNodes { nodes: wanted.fake_nodes.unwrap_or(0), rules: wanted.fake_rules.clone() },
            api_address: wanted.api_address,
            ranges,
            ports,
            etcd: wanted.etcd.clone(),
        };
        let size = wanted.size.or(Size::share(nodes));
        for index in 0..nodes {
            config.nodes.push(config.node(index, format!("{}-{index}", wanted.name), size.clone()));
        }
        config
    }

    fn node(&self, index: u8, name: String, size: Size) -> Node {
        let (address, pods) = (self.ranges.node(index), self.ranges.pods(index));
        Node { name, address, pod_cidr: Some(pods.to_string()), size }
    }

    /// Adds a node of this name, or of the first name that is free. What others have stays theirs, so it is as large
    /// as the first one unless a size is given.
    ///
    /// # Errors
    /// When the name or all ranges are taken.
    pub fn add_node(&mut self, cluster: &str, name: Option<&str>, size: &Size) -> Result<Node> {
        let taken = |name: &str| self.nodes.iter().any(|node| node.name == name);
        if let Some(name) = name.filter(|name| taken(name)) {
            return Err(Error::NodeExists { name: name.to_owned() });
        }
        let free = |index: &u8| {
            let own = self.ranges.node(*index);
            !self.nodes.iter().any(|node| node.address == own)
        };
        let index = (0..MOST_NODES).find(free).ok_or(Error::Full { what: "range of Pods" })?;
        let first_free = || (0..=MOST_NODES).map(|at| format!("{cluster}-{at}")).find(|name| !taken(name));
        let name = name.map(str::to_owned).or_else(first_free).ok_or(Error::Full { what: "node's name" })?;
        let first = self.nodes.first().map(|node| node.size.clone()).unwrap_or_default();
        let node = self.node(index, name, size.or(first));
        self.nodes.push(node.clone());
        self.networked = true;
        Ok(node)
    }

    /// The API's address, as seen from this machine.
    pub fn server(&self) -> String {
        let local = || format!("https://127.0.0.1:{}", self.ports.api);
        self.joined.as_ref().map_or_else(local, |joined| joined.server.clone())
    }

    /// How many of each part of the control plane there are.
    pub fn control_planes(&self) -> usize {
        self.ports.control.len()
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
        // Keys, logs and what Pods hold lie below.
        make_private_dir(&layout.state)?;
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| Error::Format { path: path.clone(), source })?;
        write_file(&path, &text, 0o644)
    }
}

/// Makes a folder and its parents.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(file("make the folder", path))
}

/// Makes a folder that nobody else looks into, nor into what is below it.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    make_dir(path)?;
    let owners = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(path, owners).map_err(file("close the folder", path))
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
