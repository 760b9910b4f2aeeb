//! Twenty thousand small Pods: what each costs in memory, how long a list of five thousand takes, and what it needs in memory
//! while it is sent.

use crate::Flags;
use crate::figures::{Against, Figure, Figures};
use crate::server::{Server, limited, pod};
use anyhow::{Result, ensure};
use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use minik_client::call;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NAMESPACES: usize = 4;
const PODS: usize = 5000;
/// Lists of one run.
const LISTS: usize = 20;
/// Between two looks at what nobody tells.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Measured {
    pod_kib: Vec<f64>,
    list_ms: Vec<f64>,
    list_cpu_ms: Vec<f64>,
    above_mib: Vec<f64>,
    bytes: usize,
}

/// Measures `list`: with a control plane of its own each run.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let mut seen = Measured::default();
    for run in 0..flags.runs {
        let server = Server::up(flags, &format!("bench-list{run}")).await?;
        let measured = one(&server, &mut seen).await;
        server.down(measured)?;
    }
    figures.tell(
        Figure::cost("list_memory_a_pod", "KiB", Against::Nothing, seen.pod_kib)
            .target(4.0)
            .also("pods", NAMESPACES * PODS),
    )?;
    figures.tell(
        Figure::cost("list_5000_pods", "ms", Against::Clock, seen.list_ms)
            .target(25.0)
            .also("bytes", seen.bytes),
    )?;
    figures.tell(Figure::cost("list_5000_pods_cpu", "ms", Against::Cpu, seen.list_cpu_ms))?;
    figures.tell(Figure::cost("list_5000_pods_memory", "MiB", Against::Nothing, seen.above_mib).target(2.0))
}

async fn one(server: &Server, seen: &mut Measured) -> Result<()> {
    let names: Vec<String> = (0..NAMESPACES).map(|number| format!("bench-{number}")).collect();
    for name in &names {
        namespace(server, name).await?;
    }
    let before = server.process.pss_kib()?;
    for name in &names {
        server.create(&path(name), PODS, pod).await?;
    }
    let more = server.process.pss_kib()?.saturating_sub(before);
    seen.pod_kib.push(more as f64 / (NAMESPACES * PODS) as f64);
    let client = server.clients(1).await?.remove(0);
    server.process.forget_peak()?;
    let (rss, _) = server.process.rss_and_peak_kib()?;
    let lists = async {
        for _ in 0..LISTS {
            let began = Instant::now();
            seen.bytes = list(&client, &path(&names[0])).await?;
            seen.list_ms.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(())
    };
    let (_, took) = server.took(limited("the lists are there", lists)).await?;
    seen.list_cpu_ms.push(took.cpu_seconds * 1000.0 / LISTS as f64);
    let (_, peak) = server.process.rss_and_peak_kib()?;
    seen.above_mib.push(peak.saturating_sub(rss) as f64 / 1024.0);
    Ok(())
}

fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// Makes a namespace, and waits for the account that its Pods have.
async fn namespace(server: &Server, name: &str) -> Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let _: Value = call::post(server.client(), "/api/v1/namespaces", &object).await?;
    let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
    limited("the namespace has its account", async {
        while let Err(error) = call::get::<Value>(server.client(), &account).await {
            ensure!(call::refusal(&error) == Some(404), "{error}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    })
    .await
}

/// Reads a list to its end; gives its size.
async fn list(client: &kube::Client, path: &str) -> Result<usize> {
    let answer = client.send(Request::get(path).body(Body::empty())?).await?;
    ensure!(answer.status().is_success(), "a list was answered by {}", answer.status());
    let (mut body, mut bytes) = (answer.into_body(), 0);
    while let Some(frame) = body.frame().await {
        bytes += frame?.into_data().map_or(0, |data| data.len());
    }
    Ok(bytes)
}
