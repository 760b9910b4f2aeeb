//! The recorded Pods settle in a real cluster as they did on a stock node.

use anyhow::{Context, Result, ensure};
use minik_e2e::harness::TestCluster;
use minik_e2e::recorded_pods;
use std::path::Path;
use std::time::Duration;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream-1.37/pods.jsonl");
/// The slowest waits out a probe, a grace period and two back-offs; the recording was made after 150 s.
const SETTLE_WITHIN: Duration = Duration::from_secs(150);

#[test]
fn every_recorded_pod_settles_as_on_a_stock_node() -> Result<()> {
    let cluster = TestCluster::up(1)?;
    let recorded = recorded_pods::read(Path::new(RECORDING), &format!("{}-0", cluster.name))?;
    let archive = cluster.scratch().join("busybox.tar");
    std::fs::write(&archive, minik_testkit::image::busybox("docker.io/library/busybox:1")?.docker_archive())?;
    let said = cluster.minikctl(&["image", "load", archive.to_str().context("path")?])?;
    ensure!(said.code == 0, "{said:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        recorded_pods::run(&cluster.client()?, "default", &recorded, SETTLE_WITHIN).await
    })?;
    println!("recorded Pods: {} of {} agree", report.passed, report.total);
    ensure!(report.differences.is_empty(), "they differ:\n{}", report.differences.join("\n"));
    cluster.finish()
}
