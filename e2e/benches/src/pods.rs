//! From POST to Running, one Pod at a time and many at once.

use crate::Flags;
use crate::figures::{Figure, Figures};
use crate::startup::Cluster;
use anyhow::{Context, Result, bail};
use minik_client::{Change, Informer, Kubeconfig, Meta, Projection, Source, call, connect};
use minik_component::{Shutdown, SystemChance};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const NAMESPACE: &str = "default";
/// Pods that start at once.
const AT_ONCE: usize = 20;
/// A Pod that does not run by then never will.
const RUNNING_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
struct PodPhase {
    metadata: Meta,
    #[serde(default)]
    status: Phase,
}

#[derive(Debug, Default, Deserialize)]
struct Phase {
    #[serde(default)]
    phase: String,
}

impl Projection for PodPhase {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What was seen of a Pod, and when.
enum Seen {
    Running(Arc<str>),
    Gone,
}

struct Bench {
    client: kube::Client,
    image: String,
    seen: mpsc::UnboundedReceiver<(Instant, Seen)>,
    shutdown: Shutdown,
    watch: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn start(kubeconfig: &Path, image: &str) -> Result<Bench> {
        let (access, namespace) = Kubeconfig::load(kubeconfig)?.access(None)?;
        let client = connect(&access, &namespace)?;
        // Unbounded, as a bench's Pods are few.
        let (sender, seen) = mpsc::unbounded_channel();
        let source = Source::all(&format!("/api/v1/namespaces/{NAMESPACE}/pods"));
        let pods = Informer::<PodPhase>::builder(source).on_change(move |change| {
            let name = change.object().metadata.name.clone();
            let running = change.object().status.phase == "Running";
            let seen = match change {
                Change::Deleted(_) => Seen::Gone,
                _ if running => Seen::Running(name),
                _ => return,
            };
            // The bench that went away needs nothing any more.
            let _ = sender.send((Instant::now(), seen));
        });
        let informer = pods.informer();
        let shutdown = Shutdown::new();
        let watch = tokio::spawn(pods.run(client.clone(), Arc::new(SystemChance), shutdown.clone()));
        informer.synced().await;
        Ok(Bench { client, image: image.to_owned(), seen, shutdown, watch })
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.request();
        self.watch.await.context("the watch ended badly")
    }

    async fn create(&self, name: &str) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": self.image}]}});
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let created: Result<Value, _> = call::post(&self.client, &path, &pod).await;
        created.map(drop).with_context(|| format!("creating {name}"))
    }

    /// Starts these at once; gives for each how long it took from the first POST.
    async fn run(&mut self, names: &[String]) -> Result<Vec<Duration>> {
        let began = Instant::now();
        let creating = names.iter().map(|name| self.create(name));
        futures::future::try_join_all(creating).await?;
        let mut times: BTreeMap<Arc<str>, Duration> = BTreeMap::new();
        while times.len() < names.len() {
            let (when, seen) = self.next(began).await?;
            if let Seen::Running(name) = seen {
                times.entry(name).or_insert(when - began);
            }
        }
        Ok(times.into_values().collect())
    }

    /// Deletes these and waits until they are gone, so that the next run finds the node as this one did.
    async fn clear(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}");
            call::delete(&self.client, &path, &json!({"gracePeriodSeconds": 0})).await?;
        }
        let (began, mut gone) = (Instant::now(), 0);
        while gone < names.len() {
            if let (_, Seen::Gone) = self.next(began).await? {
                gone += 1;
            }
        }
        Ok(())
    }

    async fn next(&mut self, began: Instant) -> Result<(Instant, Seen)> {
        let left = RUNNING_WITHIN.saturating_sub(began.elapsed());
        match tokio::time::timeout(left, self.seen.recv()).await {
            Ok(Some(seen)) => Ok(seen),
            Ok(None) => bail!("the watch of Pods ended"),
            Err(_) => bail!("not all Pods ran, or went, within {} s", RUNNING_WITHIN.as_secs()),
        }
    }
}

/// Runs one Pod.
pub async fn one(kubeconfig: &Path, image: &str) -> Result<Duration> {
    let mut bench = Bench::start(kubeconfig, image).await?;
    let times = bench.run(&["bench".to_owned()]).await?;
    bench.stop().await?;
    times.into_iter().next().context("no Pod ran")
}

/// Measures `pods`: in a cluster of its own, or in the one that runs already.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    if let Some(kubeconfig) = &flags.kubeconfig {
        return running(flags, figures, kubeconfig).await;
    }
    let cluster = Cluster::up(flags, "bench-pods", &[])?;
    let measured = async {
        cluster.load_image(flags)?;
        running(flags, figures, cluster.kubeconfig()).await
    };
    let measured = measured.await;
    cluster.delete()?;
    measured
}

async fn running(flags: &Flags, figures: &mut Figures, kubeconfig: &Path) -> Result<()> {
    let mut bench = Bench::start(kubeconfig, &flags.image).await?;
    let mut single = Vec::new();
    for run in 0..flags.runs * 4 {
        let names = [format!("bench-one-{run}")];
        single.extend(bench.run(&names).await?);
        bench.clear(&names).await?;
    }
    figures.tell(Figure::times("pod_post_to_running", &single))?;
    let mut all = Vec::new();
    for run in 0..flags.runs {
        let names: Vec<String> = (0..AT_ONCE).map(|pod| format!("bench-many-{run}-{pod}")).collect();
        all.extend(bench.run(&names).await?.into_iter().max());
        bench.clear(&names).await?;
    }
    figures.tell(Figure::times("pods_20_at_once_all_running", &all))?;
    bench.stop().await
}
