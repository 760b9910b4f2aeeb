//! `scripts/bench`: measures minik, one JSON line a figure.
//!
//! ```text
//!  cluster up ... delete, again and again ──> startup, services (two nodes), schedule (1,000 without machines)
//!  a cluster that runs (own, or --kubeconfig) ──> pods (POST to Running) ──> footprint (PSS, CPU)
//!  a control plane alone ──> api (creates), watch (deliveries), list (time and memory)
//!  no cluster at all ──> store (durable writes), proxy (Services to kernel rules)
//! ```
//!
//! A figure is the median of its runs with the least and the most beside it. Machines are noisy: CPU time a piece of work
//! says more than the clock, and figures are compared as multiples of fixed loops that run beside them (`figures`).

mod api;
mod figures;
mod footprint;
mod list;
mod pods;
mod process;
mod proxy;
mod schedule;
mod server;
mod services;
mod startup;
mod store;
mod watch;

use anyhow::{Result, ensure};
use clap::Parser;
use figures::Figures;
use std::path::PathBuf;

const PARTS: [&str; 10] =
    ["startup", "services", "schedule", "pods", "footprint", "api", "watch", "list", "store", "proxy"];

#[derive(Parser)]
#[command(about = "Measures minik, one JSON line a figure")]
struct Flags {
    /// What to measure; all by default
    #[arg(value_parser = PARTS)]
    parts: Vec<String>,
    /// A cluster to load that runs already; only pods are measured then
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
    /// Fails when a figure is 1.5 times its baseline or worse
    #[arg(long)]
    check: bool,
    /// Makes what is measured the new baseline
    #[arg(long, conflicts_with = "check")]
    save: bool,
    /// The baseline
    #[arg(long, default_value = "e2e/benches/baseline.json", value_name = "FILE")]
    baseline: PathBuf,
}

impl Flags {
    fn wants(&self, part: &str) -> bool {
        match self.kubeconfig {
            Some(_) => part == "pods",
            None => self.parts.is_empty() || self.parts.iter().any(|one| one == part),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    ensure!(flags.runs > 0, "--runs 0: give a number of 1 or more");
    let mut figures = Figures::default();
    for part in PARTS.into_iter().filter(|part| flags.wants(part)) {
        figures.calibrate()?;
        measure(part, &flags, &mut figures).await?;
    }
    if flags.save {
        figures.save(&flags.baseline)?;
    }
    if flags.check { figures.check(&flags.baseline) } else { Ok(()) }
}

async fn measure(part: &str, flags: &Flags, figures: &mut Figures) -> Result<()> {
    match part {
        "startup" => startup::measure(flags, figures).await,
        "services" => services::measure(flags, figures).await,
        "schedule" => schedule::measure(flags, figures).await,
        "pods" => pods::measure(flags, figures).await,
        "footprint" => footprint::measure(flags, figures).await,
        "api" => api::measure(flags, figures).await,
        "watch" => watch::measure(flags, figures).await,
        "list" => list::measure(flags, figures).await,
        "store" => store::measure(flags, figures).await,
        // The last of PARTS.
        _ => proxy::measure(flags, figures),
    }
}
