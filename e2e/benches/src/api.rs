//! Creates at 16 clients, each durable before it is answered: how many, and what each costs the apiserver (its store
//! included, which is in the same process).

use crate::Flags;
use crate::figures::{Against, Figure, Figures};
use crate::server::{PODS, Server, WRITERS, pod};
use anyhow::Result;
use serde_json::{Value, json};

const CREATES: usize = 8000;
/// So many first, uncounted: caches and the allocator warm up.
const FIRST: usize = 800;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Eight times stock's, which spends 1.3 ms of CPU on a write, etcd included: some 1,200 writes at the same time with two cores.
const TARGET_PER_CPU_SECOND: f64 = 9600.0;

/// Measures `api`: with a control plane of its own each run.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let (mut rates, mut pods, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..flags.runs {
        let server = Server::up(flags, &format!("bench-api{run}")).await?;
        let measured = async {
            server.create(PODS, FIRST, pod).await?;
            let (_, took) = server.took(server.create(PODS, CREATES, |number| pod(number + FIRST))).await?;
            rates.push(CREATES as f64 / took.seconds);
            pods.push(CREATES as f64 / took.cpu_seconds);
            let (_, took) = server.took(server.create(CONFIG_MAPS, CREATES, config_map)).await?;
            maps.push(CREATES as f64 / took.cpu_seconds);
            anyhow::Ok(())
        };
        let measured = measured.await;
        server.down(measured)?;
    }
    figures.tell(
        Figure::rate("api_pod_creates", "1/s", Against::Clock, rates)
            .also("clients", WRITERS)
            .also("creates", CREATES),
    )?;
    figures.tell(
        Figure::rate("api_pod_creates_by_cpu", "1/CPU-s", Against::Cpu, pods).target(TARGET_PER_CPU_SECOND),
    )?;
    figures.tell(
        Figure::rate("api_config_map_creates_by_cpu", "1/CPU-s", Against::Cpu, maps)
            .target(TARGET_PER_CPU_SECOND),
    )
}

fn config_map(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("bench-{number}")}, "data": {"key": "value"}})
}
