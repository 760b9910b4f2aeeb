//! Two nodes that serve: from nothing to an app that answers by its name, a Deployment from 0 to 50, and how soon a
//! connecting client sees that a Service leads elsewhere.

use crate::Flags;
use crate::figures::{Figure, Figures};
use crate::startup::Cluster;
use anyhow::{Context, Result, bail};
use minik_client::call::{self, PatchKind};
use minik_client::{Kubeconfig, connect};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BASE: &str = "/api/v1/namespaces/default";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// What takes longer than this failed.
const LIMIT: Duration = Duration::from_secs(60);
/// How long one try to reach something may take.
const TRY: Duration = Duration::from_millis(500);
/// Between two looks at what nobody tells.
const LOOK: Duration = Duration::from_millis(2);
/// Pods of the large Deployment.
const MANY: u64 = 50;
/// How often a Service is led elsewhere.
const TURNS: usize = 40;

/// Measures `services`: with clusters of its own, each run.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let (mut named, mut scaled, mut turned) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..flags.runs {
        let began = Instant::now();
        let cluster = Cluster::up(flags, &format!("bench-services{run}"), &["--nodes=2"])?;
        let measured = async {
            cluster.load_image(flags)?;
            let (access, namespace) = Kubeconfig::load(cluster.kubeconfig())?.access(None)?;
            let bench = Bench { client: connect(&access, &namespace)?, image: flags.image.clone() };
            bench.app().await?;
            named.push(began.elapsed());
            scaled.push(bench.scale().await?);
            turned.extend(bench.turn().await?);
            anyhow::Ok(())
        };
        let result = measured.await;
        cluster.delete()?;
        result?;
    }
    figures.tell(Figure::times("services_app_by_name_from_nothing", &named).target(1500.0))?;
    figures.tell(Figure::times("services_deployment_0_to_50_ready", &scaled).target(1500.0))?;
    figures.tell(Figure::times("services_endpoint_change_seen", &turned).target(20.0))
}

struct Bench {
    client: kube::Client,
    image: String,
}

impl Bench {
    async fn post(&self, path: &str, object: &Value) -> Result<Value> {
        call::post(&self.client, path, object).await.with_context(|| format!("POST {path}"))
    }

    fn deployment(&self, name: &str, replicas: u64) -> Value {
        let labels = json!({"app": name});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": self.image}]}}}})
    }

    /// An app of two Pods behind a Service, reached by its name from a Pod.
    async fn app(&self) -> Result<()> {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        self.post(&format!("{BASE}/services"), &service).await?;
        self.post(DEPLOYMENTS, &self.deployment("web", 2)).await?;
        let probe = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": self.image}]}});
        self.post(&format!("{BASE}/pods"), &probe).await?;
        let path = format!("{BASE}/pods/probe");
        let address = wait("the probe has an address", async || {
            let pod: Value = call::get(&self.client, &path).await?;
            Ok(pod["status"]["podIP"].as_str().map(str::to_owned))
        })
        .await?;
        wait("the app answers by its name", async || {
            let asked = get(&format!("{address}:8080"), "/connect?to=web.default.svc.cluster.local:80").await;
            Ok(asked.ok().filter(|answer| answer.starts_with("HTTP/1.1 200")))
        })
        .await
        .map(drop)
    }

    /// From the wish for fifty Pods to all of them ready.
    async fn scale(&self) -> Result<Duration> {
        self.post(DEPLOYMENTS, &self.deployment("many", 0)).await?;
        let path = format!("{DEPLOYMENTS}/many");
        let began = Instant::now();
        let change = json!({"spec": {"replicas": MANY}});
        call::patch::<Value>(&self.client, &path, PatchKind::Merge, &change).await?;
        wait("fifty Pods are ready", async || {
            let deployment: Value = call::get(&self.client, &path).await?;
            Ok((deployment["status"]["readyReplicas"] == MANY).then_some(()))
        })
        .await?;
        let took = began.elapsed();
        call::delete(&self.client, &path, &json!({})).await?;
        Ok(took)
    }

    /// A Service without a selector is led from one Pod to the other and back; from each write to the first answer of the
    /// other Pod to a client that connects again and again.
    async fn turn(&self) -> Result<Vec<Duration>> {
        let pods: Value = call::get(&self.client, &format!("{BASE}/pods?labelSelector=app%3Dweb")).await?;
        let pods: Vec<(String, String)> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                Some((text(&pod["metadata"]["name"])?, text(&pod["status"]["podIP"])?))
            })
            .collect();
        let [(_, first), _] = pods.as_slice() else { bail!("the app has {} Pods, not 2", pods.len()) };
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "edge"}, "spec": {"ports": [{"port": 80}]}});
        let service = self.post(&format!("{BASE}/services"), &service).await?;
        let target = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap_or_default());
        let endpoints = |address: &str| json!([{"addresses": [address], "conditions": {"ready": true}}]);
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "edge", "labels": {"kubernetes.io/service-name": "edge"}},
            "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints(first)});
        self.post(SLICES, &slice).await?;
        let path = format!("{SLICES}/edge");
        let mut times = Vec::new();
        for turn in 0..=TURNS {
            let (name, address) = &pods[turn % 2];
            let began = Instant::now();
            let change = json!({"endpoints": endpoints(address)});
            call::patch::<Value>(&self.client, &path, PatchKind::Merge, &change).await?;
            wait("the Service leads to the other Pod", async || {
                Ok(get(&target, "/who").await.ok().filter(|answer| answer.contains(name.as_str())))
            })
            .await?;
            // The first turn only finds out that the Service works.
            if turn > 0 {
                times.push(began.elapsed());
            }
        }
        Ok(times)
    }
}

/// Looks until there is something.
async fn wait<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > LIMIT {
            bail!("not within {} s: {what}", LIMIT.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The whole answer to a GET on a connection of its own.
async fn get(address: &str, path: &str) -> Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(TRY, ask).await.context("no answer")?
}
