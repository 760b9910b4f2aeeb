//! The multi-call binary: dispatch only.

// For its symbols.
extern crate minik_mem as _;

use clap::{Parser, Subcommand};
use minik_client::Kubeconfig;
use minik_component::{Shutdown, SystemChance, TelemetryFlags};
use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;

/// The parts of a minik cluster, one a process.
#[derive(Debug, Parser)]
#[command(name = "minik", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// Serves the API
    Apiserver(Box<minik_apiserver::Flags>),
    /// Backs up, restores, checks and moves a cluster's data
    Storage(minik_storage::cli::Flags),
    /// Makes this machine a node of a cluster on another one
    Node(minik_cluster::NodeFlags),
    /// Starts a cluster's processes, watches them, starts them again
    Supervise(minik_cluster::SuperviseFlags),
    /// Runs a node's Pods
    Kubelet(Box<minik_kubelet::Flags>),
    /// Runs a node's containers, for a kubelet
    Runtime(minik_runtime::Flags),
    /// Keeps nodes without machines, whose Pods live by rule
    FakeNodes(minik_fake_nodes::Flags),
    /// Places Pods on nodes
    Scheduler(minik_scheduler::Flags),
    /// Makes the cluster what its objects ask for: namespaces, accounts, garbage, nodes
    ControllerManager(minik_controller_manager::Flags),
    /// Answers for the names of Services and Pods
    Dns(minik_dns::Flags),
    /// Makes Services reachable: keeps the kernel's rules for them
    KubeProxy(minik_kube_proxy::Flags),
}

/// The name and version of a program, as the server names the manager of what it writes.
macro_rules! agent {
    ($name:literal) => {
        concat!($name, "/", env!("CARGO_PKG_VERSION"))
    };
}

/// musl's own allocator has one lock for all threads and is slow without it, too.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Ended = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    few_arenas();
    let service = Cli::parse().service;
    let name = service.name();
    match service.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minik {name}: {}", minik_component::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

impl Service {
    fn name(&self) -> &'static str {
        match self {
            Service::Apiserver(_) => "apiserver",
            Service::Storage(_) => "storage",
            Service::Node(_) => "node",
            Service::Supervise(_) => "supervise",
            Service::Scheduler(_) => "scheduler",
            Service::ControllerManager(_) => "controller-manager",
            Service::Kubelet(_) => "kubelet",
            Service::Runtime(_) => "runtime",
            Service::FakeNodes(_) => "fake-nodes",
            Service::Dns(_) => "dns",
            Service::KubeProxy(_) => "kube-proxy",
        }
    }

    fn run(self) -> Ended {
        match self {
            Service::Apiserver(flags) => threads(2, &flags.telemetry.clone(), async move |shutdown| {
                Ok(minik_apiserver::run(flags.config(), shutdown).await?)
            }),
            Service::Storage(flags) => threads(1, &TelemetryFlags::default(), async move |_| {
                Ok(minik_storage::cli::run(flags, &mut std::io::stderr()).await?)
            }),
            Service::Node(flags) => {
                threads(1, &TelemetryFlags::default(), async move |_| Ok(minik_cluster::node(flags).await?))
            }
            Service::Supervise(flags) => threads(1, &flags.telemetry.clone(), async move |shutdown| {
                Ok(minik_cluster::supervise(flags, shutdown).await?)
            }),
            Service::Kubelet(flags) => threads(1, &flags.telemetry.clone(), async move |shutdown| {
                flags.bootstrap(&host()).await?;
                let client = client(&flags.kubeconfig, agent!("kubelet"))?;
                Ok(minik_kubelet::run(flags.config(&host()), client, shutdown).await?)
            }),
            Service::Runtime(flags) => threads(1, &flags.telemetry.clone(), async move |shutdown| {
                Ok(minik_runtime::run(flags.config()?, shutdown).await?)
            }),
            Service::FakeNodes(flags) => threads(1, &flags.telemetry.clone(), async move |shutdown| {
                let client = client(&flags.kubeconfig, agent!("fake-nodes"))?;
                Ok(minik_fake_nodes::run(flags.config()?, client, shutdown).await?)
            }),
            Service::Dns(flags) => threads(1, &flags.telemetry.clone(), async move |shutdown| {
                let client = client(&flags.kubeconfig, agent!("dns"))?;
                Ok(minik_dns::run(flags.config(&host()), client, shutdown).await?)
            }),
            Service::KubeProxy(flags) => threads(1, &flags.telemetry.clone(), async move |shutdown| {
                let Some(kubeconfig) = flags.kubeconfig.as_deref().filter(|_| !flags.cleanup) else {
                    return Ok(minik_kube_proxy::clean_up(&flags.table_name)?);
                };
                let client = client(kubeconfig, agent!("kube-proxy"))?;
                Ok(minik_kube_proxy::run(flags.config(&host()), client, shutdown).await?)
            }),
            Service::Scheduler(flags) => threads(1, &flags.telemetry.clone(), async move |shutdown| {
                let client = client(&flags.kubeconfig, agent!("kube-scheduler"))?;
                let config = flags.config(&host(), &SystemChance);
                Ok(minik_scheduler::run(config, client, shutdown).await?)
            }),
            Service::ControllerManager(flags) => {
                threads(1, &flags.telemetry.clone(), async move |shutdown| {
                    let client = client(&flags.kubeconfig, agent!("kube-controller-manager"))?;
                    let config = flags.config(&host(), &SystemChance)?;
                    Ok(minik_controller_manager::run(config, client, shutdown).await?)
                })
            }
        }
    }
}

/// Runs a service until SIGTERM or SIGINT; `workers` is 1 for one thread that does it all.
fn threads<F>(workers: usize, telemetry: &TelemetryFlags, service: impl FnOnce(Shutdown) -> F) -> Ended
where
    F: Future<Output = Ended>,
{
    telemetry.init();
    let mut builder = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    builder.enable_all().build()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        service(shutdown).await
    })
}

/// A client of the cluster that a kubeconfig's current context names, for a program of this name and version.
fn client(kubeconfig: &Path, agent: &'static str) -> Result<kube::Client, Box<dyn Error + Send + Sync>> {
    let (access, namespace) = Kubeconfig::load(kubeconfig)?.access(None)?;
    Ok(minik_client::connect_as(&access, &namespace, agent)?)
}

/// Threads share the allocator's one arena: each arena keeps memory of its own that it never gives back.
fn few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: called before there are other threads; it sets a number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The host's name.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
