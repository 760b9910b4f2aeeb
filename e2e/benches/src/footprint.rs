//! What an idle cluster costs: proportional set size and CPU time of every process in its cgroups.

use crate::figures::{Against, Figure, Figures};
use crate::process::Process;
use crate::startup::Cluster;
use crate::{Flags, pods};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a cluster may settle before it counts as idle.
const SETTLE: Duration = Duration::from_secs(10);
/// How long CPU time is counted.
const WINDOW: Duration = Duration::from_secs(30);

/// Measures `footprint`: of a cluster of one node that ran a Pod.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::up(flags, "bench-footprint", &[])?;
    let measured = async {
        cluster.load_image(flags)?;
        pods::one(cluster.kubeconfig(), &flags.image).await?;
        idle(figures, cluster.name()).await
    };
    let measured = measured.await;
    cluster.delete()?;
    measured
}

async fn idle(figures: &mut Figures, cluster: &str) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let processes = Process::all(cluster)?;
    ensure!(!processes.is_empty(), "no process is in a cgroup minik/{cluster}");
    let (began, before) = (Instant::now(), cpu(&processes)?);
    tokio::time::sleep(WINDOW).await;
    let share = (cpu(&processes)? - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let mib = |kib: u64| (kib as f64 / 102.4).round() / 10.0;
    let (mut all, mut each) = (0, Vec::new());
    for process in &processes {
        let kib = process.pss_kib()?;
        all += kib;
        each.push(json!({"process": process.name, "pss_mib": mib(kib)}));
    }
    figures.tell(
        Figure::cost("footprint_pss", "MiB", Against::Nothing, vec![mib(all)])
            .target(100.0)
            .also("processes", Value::from(each)),
    )?;
    figures.tell(Figure::cost("footprint_cpu", "percent of a core", Against::Cpu, vec![share * 100.0]))
}

fn cpu(processes: &[Process]) -> Result<Duration> {
    processes.iter().map(Process::cpu).sum()
}
