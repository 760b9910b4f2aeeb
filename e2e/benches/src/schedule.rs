//! How fast Pods are placed: a thousand nodes without machines, five thousand Pods, first create to last bind.

use crate::Flags;
use crate::figures::{Against, Figure, Figures};
use crate::process::Process;
use crate::startup::Cluster;
use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use minik_client::{Change, Informer, Kubeconfig, Meta, Projection, Source, call, connect};
use minik_component::{Shutdown, SystemChance};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const NODES: u32 = 1000;
const PODS: usize = 5000;
/// POSTs under way.
const CLIENTS: usize = 32;
/// What takes longer than this failed.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Deserialize)]
struct Bound {
    metadata: Meta,
    #[serde(default)]
    spec: BoundSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BoundSpec {
    node_name: String,
}

impl Projection for Bound {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Measures `schedule`: with clusters of its own, each run.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for run in 0..flags.runs {
        let nodes = format!("--fake-nodes={NODES}");
        let cluster = Cluster::up(flags, &format!("bench-schedule{run}"), &["--nodes=0", &nodes])?;
        let before = cpu(cluster.name());
        let rate = one(cluster.kubeconfig()).await;
        let spent = cpu(cluster.name());
        cluster.delete()?;
        rates.push(rate?);
        costs.push((spent? - before?).as_secs_f64() * 1000.0 / PODS as f64);
    }
    figures.tell(
        Figure::rate("schedule_pods", "1/s", Against::Clock, rates)
            .target(1200.0)
            .also("nodes", NODES)
            .also("pods", PODS),
    )?;
    figures.tell(Figure::cost("schedule_cpu_a_pod", "ms", Against::Cpu, costs))
}

/// The CPU time of everything in the cluster.
fn cpu(cluster: &str) -> Result<Duration> {
    Process::all(cluster)?.iter().map(Process::cpu).sum()
}

async fn one(kubeconfig: &Path) -> Result<f64> {
    let (access, namespace) = Kubeconfig::load(kubeconfig)?.access(None)?;
    let client = connect(&access, &namespace)?;
    wait_for_nodes(&client).await?;
    let (count, bound) = watch::channel(0usize);
    let pods =
        Informer::<Bound>::builder(Source::all("/api/v1/namespaces/default/pods")).on_change(move |change| {
            let placed = |pod: &Bound| !pod.spec.node_name.is_empty();
            let newly = match change {
                Change::Added(pod) => placed(pod),
                Change::Updated { old, new } => placed(new) && !placed(old),
                Change::Deleted(_) => false,
            };
            if newly {
                count.send_modify(|count| *count += 1);
            }
        });
    let (informer, shutdown) = (pods.informer(), Shutdown::new());
    let following = tokio::spawn(pods.run(client.clone(), Arc::new(SystemChance), shutdown.clone()));
    informer.synced().await;
    let began = Instant::now();
    let created = stream::iter(0..PODS).map(|number| create(&client, number)).buffer_unordered(CLIENTS);
    created.try_collect::<Vec<()>>().await?;
    let mut all = bound.clone();
    let waited = tokio::time::timeout(LIMIT, all.wait_for(|count| *count >= PODS)).await;
    let took = began.elapsed();
    shutdown.request();
    following.await.context("the watch ended badly")?;
    match waited {
        Ok(result) => result.map(drop)?,
        Err(_) => bail!("{} of {PODS} Pods are placed after {} s", *bound.borrow(), LIMIT.as_secs()),
    }
    Ok(PODS as f64 / took.as_secs_f64())
}

async fn create(client: &kube::Client, number: usize) -> Result<()> {
    let requests = json!({"cpu": "100m", "memory": "64Mi"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("bench-{number}"), "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}});
    let created: Result<Value, _> = call::post(client, "/api/v1/namespaces/default/pods", &pod).await;
    created.map(drop).with_context(|| format!("creating Pod {number}"))
}

async fn wait_for_nodes(client: &kube::Client) -> Result<()> {
    let began = Instant::now();
    loop {
        let nodes: Value = call::get(client, "/api/v1/nodes").await?;
        let ready = |node: &&Value| {
            let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            // The taint of a new node is taken away once it is seen to be ready.
            conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
                && node["spec"]["taints"].is_null()
        };
        let count = nodes["items"].as_array().into_iter().flatten().filter(ready).count();
        if count >= NODES as usize {
            return Ok(());
        }
        if began.elapsed() > LIMIT {
            bail!("{count} of {NODES} nodes are ready after {} s", LIMIT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
