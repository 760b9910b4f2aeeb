//! `scripts/bench`: measures a whole cluster, one JSON line a figure.
//!
//! ```text
//!  cluster up ... delete, again and again ──> startup, services (two nodes), schedule (1,000 without machines)
//!  a running cluster (own, or --kubeconfig) ──> pods (POST to Running), pods_at_once ──> footprint (PSS, CPU)
//! ```
//!
//! A figure is the median of its runs with the fastest and slowest beside it: machines are noisy, compare figures of
//! one run only.

mod footprint;
mod pods;
mod schedule;
mod services;
mod startup;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Measures a cluster, one JSON line a figure")]
struct Flags {
    /// Figures to measure: startup, pods, footprint, schedule, services; all by default
    figures: Vec<String>,
    /// A cluster to load that runs already; startup and footprint are not measured then
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The program that makes clusters
    #[arg(long, value_name = "FILE", default_value = "target/dist/minikctl")]
    minikctl: PathBuf,
    /// An archive with the image, loaded into each new cluster
    #[arg(long, value_name = "FILE")]
    image_archive: Option<PathBuf>,
    /// The image of the Pods; it must be on the node or be there to be pulled
    #[arg(long, default_value = "minik.local/demo:1", value_name = "IMAGE")]
    image: String,
    /// How often a figure is measured
    #[arg(long, default_value_t = 5, value_name = "NUMBER")]
    runs: usize,
}

impl Flags {
    fn wants(&self, figure: &str) -> bool {
        self.figures.is_empty() || self.figures.iter().any(|one| one == figure)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    ensure!(flags.runs > 0, "--runs 0: give a number of 1 or more");
    if let Some(kubeconfig) = &flags.kubeconfig {
        return pods::measure(&flags, kubeconfig).await;
    }
    if flags.wants("startup") {
        startup::measure(&flags).await?;
    }
    if flags.wants("services") {
        services::measure(&flags).await?;
    }
    if flags.wants("schedule") {
        schedule::measure(&flags).await?;
    }
    if flags.wants("pods") || flags.wants("footprint") {
        let cluster = startup::Cluster::up(&flags, "bench", &[])?;
        let measured = measure_running(&flags, &cluster).await;
        cluster.delete()?;
        measured?;
    }
    Ok(())
}

async fn measure_running(flags: &Flags, cluster: &startup::Cluster) -> Result<()> {
    cluster.load_image(flags)?;
    if flags.wants("pods") {
        pods::measure(flags, cluster.kubeconfig()).await?;
    }
    if flags.wants("footprint") {
        footprint::measure(cluster.name()).await?;
    }
    Ok(())
}

/// Prints a figure of times in milliseconds.
fn print_ms(figure: &str, times: &[Duration]) -> Result<()> {
    let mut ms: Vec<f64> = times.iter().map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0).collect();
    ms.sort_by(f64::total_cmp);
    let median = ms.get(ms.len() / 2).context("nothing was measured")?;
    let line = json!({"figure": figure, "median_ms": median, "least_ms": ms.first(), "most_ms": ms.last(), "runs": ms.len()});
    print(&line);
    Ok(())
}

fn print(line: &Value) {
    println!("{line}");
}
