//! The life of a cluster: created, started, stopped, deleted. Each step can be taken again.

use crate::cgroup::Cgroups;
use crate::config::{
    ClusterConfig, ControlPorts, Joined, Node, Ports, Size, Wanted, make_dir, make_private_dir, write_file,
};
use crate::error::{Error, Result, file};
use crate::layout::{Layout, Roots, check_name};
use crate::ranges::Ranges;
use crate::spawn::Spawn;
use crate::supervise::SUPERVISOR;
use crate::supervise::control::{self, Ask, Report, Reports};
use crate::supervise::process::{Process, boot_id};
use crate::{host, network, node, pki};
use jiff::Timestamp;
use minik_client::{PartialObject, ServerAccess, call};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long everything may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A cluster that exists on this machine.
#[derive(Debug, Clone)]
pub struct Cluster {
    layout: Layout,
    config: ClusterConfig,
}

/// What a start found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It ran already.
    Already,
    /// Its processes ran without a supervisor; they have one again.
    Adopted,
    /// It was started.
    Fresh,
}

/// How a cluster is.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its description.
    pub config: ClusterConfig,
    /// Its processes; `None` when no supervisor runs.
    pub report: Option<Report>,
}

impl Cluster {
    /// Opens a cluster.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none of this name.
    pub fn open(roots: &Roots, name: &str) -> Result<Cluster> {
        let layout = roots.cluster(name)?;
        let config = ClusterConfig::load(&layout)?.ok_or_else(|| Error::Unknown { name: name.to_owned() })?;
        Ok(Cluster { layout, config })
    }

    /// Opens a cluster, or chooses its addresses and ports and writes them down.
    ///
    /// # Errors
    /// When it exists in another shape, needs root, or nothing is free.
    pub fn create(roots: &Roots, wanted: &Wanted) -> Result<Cluster> {
        let layout = roots.cluster(&wanted.name)?;
        let existing = ClusterConfig::load(&layout)?;
        let nodes = existing.as_ref().map_or(wanted.nodes.unwrap_or(1), |config| config.nodes.len() as u8);
        if nodes.max(wanted.nodes.unwrap_or(0)) > 0 && !rustix::process::geteuid().is_root() {
            return Err(Error::Root);
        }
        let _lock = host::lock(roots)?;
        let programs = programs()?;
        if let Some(config) = ClusterConfig::load(&layout)? {
            let mut cluster = Cluster { layout, config };
            cluster.check_shape(wanted)?;
            if wanted.api_address.is_some() && wanted.api_address != cluster.config.api_address {
                cluster.config.api_address = wanted.api_address;
                pki::forget_server(&cluster.layout)?;
                cluster.config.save(&cluster.layout)?;
            }
            if cluster.config.programs != programs {
                cluster.config.programs = programs;
                cluster.config.save(&cluster.layout)?;
            }
            return Ok(cluster);
        }
        let others = others(roots)?;
        let mut in_use = network::host_ranges()?;
        in_use.extend(others.iter().map(|config| config.ranges.whole()));
        let planes = wanted.control_planes.unwrap_or(1);
        if planes > 1 && wanted.etcd.is_empty() {
            return Err(Error::Embedded);
        }
        let ports = choose_ports(&others, planes)?;
        let config = ClusterConfig::new(wanted, programs, Ranges::choose(&in_use)?, ports);
        config.save(&layout)?;
        Ok(Cluster { layout, config })
    }

    /// Writes down that this machine is a node of a cluster on another one.
    ///
    /// # Errors
    /// When our programs are not there, or the description cannot be written.
    pub(crate) fn joined(
        roots: &Roots,
        name: &str,
        joined: Joined,
        node: Node,
        ranges: Ranges,
    ) -> Result<()> {
        let wanted = Wanted { name: name.to_owned(), nodes: Some(0), ..Wanted::default() };
        let ports = Ports { api: 0, control: Vec::new() };
        let config = ClusterConfig {
            joined: Some(joined),
            nodes: vec![node],
            networked: true,
            ..ClusterConfig::new(&wanted, programs()?, ranges, ports)
        };
        config.save(&roots.cluster(name)?)
    }

    fn check_shape(&self, wanted: &Wanted) -> Result<()> {
        let differs = |what: String| Err(Error::Shape { name: wanted.name.clone(), what });
        let config = &self.config;
        let count = |number: usize, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let is = |wanted: Option<usize>, number| wanted.is_none_or(|wanted| wanted == number);
        let (nodes, planes, fake) = (config.nodes.len(), config.control_planes(), config.fake.nodes as usize);
        if !is(wanted.nodes.map(usize::from), nodes) {
            return differs(count(nodes, "node"));
        }
        if !is(wanted.control_planes.map(usize::from), planes) {
            return differs(count(planes, "control plane"));
        }
        if !is(wanted.fake_nodes.map(|fake| fake as usize), fake) {
            return differs(count(fake, "fake node"));
        }
        if config.joined.is_some() {
            return differs("a node of a cluster on another machine".into());
        }
        if wanted.api_address.is_some() && wanted.api_address != config.api_address && self.is_prepared() {
            return differs("another --api-address, or none, and runs: stop it".into());
        }
        if !wanted.etcd.is_empty() && wanted.etcd != config.etcd {
            return match config.etcd.servers.as_slice() {
                [] => differs("the embedded store".into()),
                servers => differs(format!("the etcd servers {}", servers.join(","))),
            };
        }
        Ok(())
    }

    /// Its files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its description.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// How its administrator reaches it from this host.
    ///
    /// # Errors
    /// When its certificates cannot be read.
    pub fn admin(&self) -> Result<ServerAccess> {
        pki::admin_access(&self.layout, &self.config)
    }

    /// Starts it, or does nothing when it runs. Returns before it is ready.
    ///
    /// # Errors
    /// When the kernel refuses something; what was made so far is taken away again by the next start or by delete.
    pub async fn start(&self) -> Result<Started> {
        let lock = host::lock(&self.layout.roots)?;
        if Reports::ask(&self.layout, Ask::Follow).await?.is_some() {
            return Ok(Started::Already);
        }
        let adopts = self.is_prepared();
        if !adopts {
            self.tear_down(&lock).await?;
            self.prepare(&lock)?;
        }
        make_dir(&self.layout.state.join("logs"))?;
        pki::ensure(&self.layout, &self.config, Timestamp::now())?;
        self.start_supervisor()?;
        Ok(if adopts { Started::Adopted } else { Started::Fresh })
    }

    fn prepared_mark(&self) -> PathBuf {
        self.layout.run.join("prepared")
    }

    fn is_prepared(&self) -> bool {
        let mark = std::fs::read_to_string(self.prepared_mark());
        matches!((mark, boot_id()), (Ok(mark), Ok(boot)) if mark == boot)
    }

    /// Builds what the processes run in. The last step is the mark that all of it is there.
    fn prepare(&self, lock: &host::Lock) -> Result<()> {
        make_private_dir(&self.layout.state)?;
        make_private_dir(&self.layout.run)?;
        if self.config.networked {
            host::prepare(&self.layout.roots, &self.layout.name, lock)?;
            node::make_private(&self.layout.run)?;
            match self.config.joined {
                None => network::build(&self.layout, &self.config)?,
                Some(_) => network::build_joined(&self.layout, &self.config)?,
            }
            let cgroups = Cgroups::of(&self.layout.name)?;
            for one in &self.config.nodes {
                node::build(&self.layout.node(&one.name), &one.name, &cgroups)?;
            }
        }
        let boot = boot_id().map_err(file("read the boot's id for", &self.layout.run))?;
        write_file(&self.prepared_mark(), boot.as_bytes(), 0o644)
    }

    /// Takes away what [`Cluster::prepare`] and the processes made, as far as it is there.
    async fn tear_down(&self, lock: &host::Lock) -> Result<()> {
        let cgroups = Cgroups::of(&self.layout.name)?;
        cgroups.kill("")?;
        self.kill_remembered().await?;
        if self.config.networked && rustix::process::geteuid().is_root() {
            match self.config.joined {
                None => network::remove(&self.layout, &self.config)?,
                Some(_) => network::remove_joined(&self.layout, &self.config)?,
            }
            node::unmount_all(&self.layout.run)?;
            host::restore(&self.layout.roots, &self.layout.name, lock)?;
        }
        remove_all(&self.layout.run)?;
        // Other clusters may be in it.
        let _ = std::fs::remove_dir(&self.layout.roots.run);
        cgroups.remove("")
    }

    /// Where there are no cgroups of ours, processes are known by what was written down.
    async fn kill_remembered(&self) -> Result<()> {
        let entries = std::fs::read_dir(self.layout.run.join("pids")).into_iter().flatten().flatten();
        for entry in entries {
            if let Some(process) = Process::recall(&entry.path()) {
                process.signal(Signal::KILL)?;
                process.ended().await;
            }
        }
        Ok(())
    }

    fn start_supervisor(&self) -> Result<()> {
        let log = self.layout.log(SUPERVISOR);
        let out = File::options().create(true).append(true).open(&log).map_err(file("open", &log))?;
        let program = self.config.programs.join("minik");
        let path = |path: &Path| path.display().to_string();
        let args = [
            "supervise".to_owned(),
            format!("--cluster={}", self.layout.name),
            format!("--state-root={}", path(&self.layout.roots.state)),
            format!("--run-root={}", path(&self.layout.roots.run)),
        ];
        // Listened on before it runs: who asks now waits for it.
        let socket: OwnedFd = control::bind(&self.layout)?.into();
        let spawn = Spawn {
            program: &program,
            args: &args,
            log: &out,
            cgroups: &Cgroups::of(&self.layout.name)?.enter(SUPERVISOR)?,
            namespaces: &[],
            sockets: &[socket],
        };
        let (pid, pidfd) = spawn.start().map_err(file("start", &program))?;
        Process::watch(pid, pidfd)?.remember(&self.layout.pid(SUPERVISOR))
    }

    /// Stops it; its data stays. One that does not run is no error.
    ///
    /// # Errors
    /// When something does not stop, or cannot be taken away.
    pub async fn stop(&self) -> Result<()> {
        let lock = host::lock(&self.layout.roots)?;
        if let Some(mut reports) = Reports::ask(&self.layout, Ask::Stop).await? {
            let stopped = async {
                while let Some(report) = reports.next().await? {
                    if report.stopped {
                        break;
                    }
                }
                Ok::<_, Error>(())
            };
            let late = |_| Error::Late {
                what: "the processes did not stop",
                seconds: STOP_WITHIN.as_secs(),
                state: "killing them".to_owned(),
            };
            // What has not stopped by itself is killed below.
            if let Err(error) =
                tokio::time::timeout(STOP_WITHIN, stopped).await.map_err(late).and_then(|done| done)
            {
                tracing::warn!(error = minik_component::chain(&error), "the stop was not orderly");
            }
        }
        self.tear_down(&lock).await
    }

    /// Deletes it with its data.
    ///
    /// # Errors
    /// As [`Cluster::stop`].
    pub async fn delete(self) -> Result<()> {
        self.stop().await?;
        let _lock = host::lock(&self.layout.roots)?;
        remove_all(&self.layout.state)?;
        if self.layout.roots.clusters()?.is_empty() {
            // The lock's file goes last; who waits for it notices.
            let _ = std::fs::remove_file(self.layout.roots.lock());
            let _ = std::fs::remove_dir(&self.layout.roots.state);
        }
        Ok(())
    }

    /// Adds a node; the cluster need not run. Returns before it is ready.
    ///
    /// # Errors
    /// When its name or every range is taken, or the kernel refuses something; [`Cluster::remove_node`] cleans up.
    pub async fn add_node(&mut self, name: Option<&str>, size: &Size) -> Result<Node> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Root);
        }
        name.map_or(Ok(()), check_name)?;
        let _lock = host::lock(&self.layout.roots)?;
        self.reload()?;
        let runs = self.is_prepared();
        if runs && !self.config.networked {
            return Err(Error::Unnetworked { name: self.layout.name.clone() });
        }
        let node = self.config.add_node(&self.layout.name, name, size)?;
        self.config.save(&self.layout)?;
        if runs {
            pki::ensure(&self.layout, &self.config, Timestamp::now())?;
            network::add_node(&self.layout, &self.config, &node)?;
            node::build(&self.layout.node(&node.name), &node.name, &Cgroups::of(&self.layout.name)?)?;
            Reports::ask(&self.layout, Ask::Reload).await?;
        }
        Ok(node)
    }

    /// Removes a node of this machine with everything that runs on it. Its object is the caller's affair.
    ///
    /// # Errors
    /// When there is no such node, or something does not stop or cannot be taken away; it can be tried again.
    pub async fn remove_node(&mut self, name: &str) -> Result<()> {
        let _lock = host::lock(&self.layout.roots)?;
        self.reload()?;
        let node = self.config.nodes.iter().find(|node| node.name == name).cloned();
        let node = node.ok_or_else(|| Error::NodeUnknown { name: name.to_owned() })?;
        let mut config = self.config.clone();
        config.nodes.retain(|other| other.name != name);
        // Written down for the supervisor; until all is gone it is taken back when something fails.
        config.save(&self.layout)?;
        if let Err(error) = self.clear_node(&config, &node).await {
            self.config.save(&self.layout)?;
            return Err(error);
        }
        self.config = config;
        Ok(())
    }

    /// Deletes what the API keeps of a node: its object, what its DNS published, and, where it is known that nothing runs
    /// there any more, its Pods, so that others take their places at once. Else controllers see to them in their time.
    ///
    /// # Errors
    /// When the server refuses or cannot be reached.
    pub async fn forget_node(&self, name: &str, is_dead: bool) -> Result<()> {
        let client = minik_client::connect(&self.admin()?, "default")?;
        let slice =
            format!("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-{name}");
        let mut paths = vec![format!("/api/v1/nodes/{name}"), slice];
        if is_dead {
            let query = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}");
            let pods: List<PartialObject> = call::get(&client, &query).await?;
            paths.extend(pods.items.iter().map(|pod| {
                format!("/api/v1/namespaces/{}/pods/{}", pod.metadata.namespace, pod.metadata.name)
            }));
        }
        for path in paths {
            match call::delete(&client, &path, &serde_json::json!({"gracePeriodSeconds": 0})).await {
                Err(error) if call::refusal(&error) != Some(404) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    async fn clear_node(&self, config: &ClusterConfig, node: &Node) -> Result<()> {
        let (layout, cgroups) = (self.layout.node(&node.name), Cgroups::of(&self.layout.name)?);
        if let Some(mut reports) = Reports::ask(&self.layout, Ask::Reload).await? {
            let own = format!("{}/", node.name);
            let stopped = async {
                while let Some(report) = reports.next().await? {
                    if !report.units.keys().any(|unit| unit.starts_with(&own)) {
                        break;
                    }
                }
                Ok::<_, Error>(())
            };
            // What has not stopped by itself is killed below.
            if let Ok(result) = tokio::time::timeout(STOP_WITHIN, stopped).await {
                result?;
            }
        }
        if self.is_prepared() {
            cgroups.kill(&node.name)?;
            for pin in ["mnt", "cgroup"] {
                node::unmount_all(&layout.pin(pin))?;
            }
            network::remove_node(&self.layout, config, node)?;
            remove_all(&layout.run)?;
            cgroups.remove(&node.name)?;
        }
        pki::remove_node(&self.layout, &node.name)?;
        remove_all(&layout.state)
    }

    fn reload(&mut self) -> Result<()> {
        let unknown = || Error::Unknown { name: self.layout.name.clone() };
        self.config = ClusterConfig::load(&self.layout)?.ok_or_else(unknown)?;
        Ok(())
    }

    /// How it is now.
    ///
    /// # Errors
    /// When the supervisor answers what it should not.
    pub async fn status(&self) -> Result<Status> {
        let report = match Reports::ask(&self.layout, Ask::Follow).await? {
            None => None,
            Some(mut reports) => reports.first().await?,
        };
        Ok(Status { config: self.config.clone(), report })
    }
}

/// A list, as far as it is read.
#[derive(serde::Deserialize)]
struct List<T> {
    items: Vec<T>,
}

fn remove_all(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", dir)),
    }
}

fn others(roots: &Roots) -> Result<Vec<ClusterConfig>> {
    let load = |name: String| ClusterConfig::load(&roots.cluster(&name)?);
    roots.clusters()?.into_iter().filter_map(|name| load(name).transpose()).collect()
}

/// The folder of our programs: named by `MINIK_PROGRAMS`, or that of the running program or the one above it.
fn programs() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("MINIK_PROGRAMS").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    let own = std::env::current_exe().map_err(file("find", Path::new("the running program")))?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    [Some(beside), beside.parent()]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("minik").is_file())
        .map(Path::to_owned)
        .ok_or_else(|| Error::Program { path: beside.join("minik") })
}

/// Ports that nobody listens on and no other cluster keeps.
fn choose_ports(others: &[ClusterConfig], planes: u8) -> Result<Ports> {
    let mut kept: BTreeSet<u16> = BTreeSet::new();
    for Ports { api, control } in others.iter().map(|config| &config.ports) {
        kept.insert(*api);
        kept.extend(control.iter().flat_map(|ports| [ports.scheduler, ports.controller_manager]));
    }
    let mut first = |from: u16, step: usize| {
        let free =
            |port: &u16| !kept.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let port = (from..from + 1000).step_by(step).find(free);
        kept.extend(port);
        port.ok_or(Error::Full { what: "port of 127.0.0.1 from 6443 or 10257 on" })
    };
    let api = first(6443, 1)?;
    let one = |_| Ok(ControlPorts { scheduler: first(10259, 10)?, controller_manager: first(10257, 10)? });
    Ok(Ports { api, control: (0..planes).map(one).collect::<Result<_>>()? })
}
