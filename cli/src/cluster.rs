//! `minikctl cluster`: clusters on this machine.

use crate::progress::Progress;
use crate::{Failure, Globals};
use clap::Subcommand;
use minik_apimachinery::quantity::Quantity;
use minik_client::{Kubeconfig, default_path};
use minik_cluster::{Cluster, Error, Etcd, MOST_NODES, Roots, Size, Started, Status, Wanted};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The name of a cluster when none is given.
pub const DEFAULT_NAME: &str = "minik";
/// How long a cluster may take to get ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Arguments of `minikctl cluster`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster, made first where there is none, and wait until a Pod can start
    #[command(visible_aliases = ["create", "start"])]
    Up(Up),
    /// Stop a cluster; its data stays
    #[command(visible_alias = "stop")]
    Down(Name),
    /// Delete a cluster with its data, and put the machine back as it was
    Delete(Name),
    /// List the clusters
    List,
    /// Show a cluster's nodes and processes
    Status(Name),
}

#[derive(Debug, clap::Args)]
struct Name {
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME, env = "MINIK_CLUSTER")]
    name: String,
}

#[derive(Debug, clap::Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// Nodes of a new cluster (1 by default), or 0 for a control plane only, which needs no privileges
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=i64::from(MOST_NODES)))]
    nodes: Option<u8>,
    #[command(flatten)]
    size: NodeSize,
    /// How many apiservers, schedulers and controller-managers run side by side; more than 1 needs --etcd-servers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    control_planes: Option<u8>,
    /// Nodes without machines, whose Pods live by rule
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    fake_nodes: Option<u32>,
    /// How the Pods of fake nodes live, as YAML; without it they run at once and for good
    #[arg(long, value_name = "FILE", requires = "fake_nodes")]
    fake_rules: Option<PathBuf>,
    /// Address of this machine by which nodes on other machines reach the API (`minikctl node token create`)
    #[arg(long, value_name = "IP")]
    api_address: Option<IpAddr>,
    /// Keep the data in this etcd cluster instead of the embedded store, as https://HOST:PORT,...
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// CA of the etcd servers
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for the etcd servers
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Client key for the etcd servers
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
}

/// What a node has.
#[derive(Debug, clap::Args)]
pub struct NodeSize {
    /// CPU of each node, instead of its share of the machine (a quantity)
    #[arg(long, value_name = "QUANTITY")]
    node_cpu: Option<String>,
    /// Memory of each node, instead of its share of the machine (a quantity)
    #[arg(long, value_name = "QUANTITY")]
    node_memory: Option<String>,
}

impl NodeSize {
    /// Reads it.
    ///
    /// # Errors
    /// When one is no quantity.
    pub fn read(self) -> Result<Size, Failure> {
        for (flag, value) in [("--node-cpu", &self.node_cpu), ("--node-memory", &self.node_memory)] {
            if let Some(Err(error)) = value.as_ref().map(|value| value.parse::<Quantity>()) {
                let value = value.as_deref().unwrap_or_default();
                return Err(Failure::new(format!("{flag} {value:?} is no quantity: {error}")));
            }
        }
        Ok(Size { cpu: self.node_cpu, memory: self.node_memory })
    }
}

/// Does it.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    let roots = Roots::of_caller();
    match args.command {
        Command::Up(args) => up(globals, &roots, args).await,
        Command::Down(args) => down(&roots, &args.name).await,
        Command::Delete(args) => delete(globals, &roots, &args.name).await,
        Command::List => list(&roots).await,
        Command::Status(args) => status(&roots, &args.name).await,
    }
}

async fn up(globals: &Globals, roots: &Roots, args: Up) -> Result<(), Failure> {
    let name = args.name.name;
    let etcd = Etcd {
        servers: args.etcd_servers,
        ca_file: args.etcd_cafile,
        cert_file: args.etcd_certfile,
        key_file: args.etcd_keyfile,
    };
    let progress = Progress::start();
    progress.step(&format!("Starting the cluster {name}"));
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let wanted = Wanted {
        name: name.clone(),
        nodes: args.nodes,
        control_planes: args.control_planes,
        fake_nodes: args.fake_nodes,
        fake_rules: args.fake_rules.map(absolute),
        size: args.size.read()?,
        api_address: args.api_address,
        etcd,
    };
    let cluster = Cluster::create(roots, &wanted)?;
    let started = cluster.start().await?;
    let path = kubeconfig_path(globals);
    let mut config = Kubeconfig::load_or_empty(&path)?;
    config.set(&context(&name), &cluster.admin()?);
    config.save(&path)?;
    wait(&progress, &cluster).await?;
    progress.done(&match started {
        Started::Already => format!("The cluster {name} runs already"),
        Started::Adopted => format!("The cluster {name} ran on and is supervised again"),
        Started::Fresh => format!("The cluster {name} is ready"),
    });
    eprintln!("The context {} is the current one in {}", context(&name), path.display());
    Ok(())
}

/// Waits until all of a cluster is ready.
pub async fn wait(progress: &Progress, cluster: &Cluster) -> Result<(), Failure> {
    progress.step("Waiting until a Pod can start");
    Ok(cluster.ready(READY_WITHIN).await?)
}

async fn down(roots: &Roots, name: &str) -> Result<(), Failure> {
    let cluster = open(roots, name)?;
    let progress = Progress::start();
    progress.step(&format!("Stopping the cluster {name}"));
    cluster.stop().await?;
    progress.done(&format!("The cluster {name} is stopped; its data stays"));
    Ok(())
}

async fn delete(globals: &Globals, roots: &Roots, name: &str) -> Result<(), Failure> {
    let progress = Progress::start();
    match open(roots, name) {
        Ok(cluster) => {
            progress.step(&format!("Deleting the cluster {name}"));
            cluster.delete().await?;
            progress.done(&format!("The cluster {name} is deleted"));
        }
        Err(failure) if failure.is_no_cluster() => {
            progress.done(&format!("There is no cluster {name}"));
        }
        Err(failure) => return Err(failure),
    }
    let path = kubeconfig_path(globals);
    if path.exists() {
        let mut config = Kubeconfig::load(&path)?;
        if config.remove(&context(name)) {
            if config.is_empty() {
                std::fs::remove_file(&path)?;
            } else {
                config.save(&path)?;
            }
        }
    }
    Ok(())
}

async fn list(roots: &Roots) -> Result<(), Failure> {
    let mut rows = vec![["NAME", "STATUS", "NODES", "SERVER", "STORE"].map(str::to_owned)];
    for name in roots.clusters()? {
        let status = Cluster::open(roots, &name)?.status().await?;
        let store = match status.config.etcd.servers.as_slice() {
            [] => "embedded".to_owned(),
            servers => servers.join(","),
        };
        let server = status.config.server();
        let store = if status.config.joined.is_some() { "elsewhere".to_owned() } else { store };
        rows.push([name, state(&status), status.config.nodes.len().to_string(), server, store]);
    }
    if rows.len() == 1 {
        eprintln!("There are no clusters; start one with `minikctl cluster up`");
        return Ok(());
    }
    print_rows(&rows);
    Ok(())
}

fn state(status: &Status) -> String {
    match &status.report {
        None => "Stopped".to_owned(),
        Some(report) if report.units.values().all(|unit| unit.pid.is_some()) => "Running".to_owned(),
        Some(_) => "Degraded".to_owned(),
    }
}

async fn status(roots: &Roots, name: &str) -> Result<(), Failure> {
    let cluster = open(roots, name)?;
    let status = cluster.status().await?;
    println!("Cluster {name}: {}", state(&status));
    println!("API     {}", status.config.server());
    println!("Files   {}", cluster.layout().state.display());
    for node in &status.config.nodes {
        let pods = node.pod_cidr.as_deref().unwrap_or("as the cluster says");
        println!("Node    {}  {}  Pods {pods}", node.name, node.address);
    }
    let Some(report) = status.report else {
        return Err(Failure::new(format!("the cluster {name} does not run"))
            .hint(format!("start it with `minikctl cluster up --name {name}`"))
            .no_cluster());
    };
    let mut rows = vec![["PROCESS", "PID", "STARTS", "LAST END"].map(str::to_owned)];
    for (unit, state) in report.units {
        let pid = state.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        rows.push([unit, pid, state.starts.to_string(), state.last_end.unwrap_or_else(|| "-".to_owned())]);
    }
    println!();
    print_rows(&rows);
    Ok(())
}

/// Columns as kubectl prints them: three spaces between.
pub fn print_rows<const N: usize>(rows: &[[String; N]]) {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("   ").trim_end());
    }
}

/// Opens a cluster by name.
pub fn open(roots: &Roots, name: &str) -> Result<Cluster, Failure> {
    Cluster::open(roots, name).map_err(|error| match error {
        Error::Unknown { .. } => Failure::from(error).no_cluster(),
        other => other.into(),
    })
}

/// The context's name in a kubeconfig.
fn context(cluster: &str) -> String {
    match cluster {
        DEFAULT_NAME => DEFAULT_NAME.to_owned(),
        other => format!("{DEFAULT_NAME}-{other}"),
    }
}

/// The file that a context is merged into: under sudo, that of the caller.
fn kubeconfig_path(globals: &Globals) -> PathBuf {
    if let Some(path) = &globals.kubeconfig {
        return path.clone();
    }
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match caller_home() {
        Some(home) if !set("KUBECONFIG") && rustix::process::geteuid().is_root() => home.join(".kube/config"),
        _ => default_path(),
    }
}

/// The home of who called sudo.
fn caller_home() -> Option<PathBuf> {
    let uid = std::env::var("SUDO_UID").ok().filter(|uid| uid != "0")?;
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    // name:password:uid:gid:comment:home:shell
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields.get(2) == Some(&uid.as_str()))?.get(5).map(PathBuf::from)
}
