//! A thousand watchers over four connections hear of a thousand creates, while one of them reads nothing; and one watcher
//! that reads every event of five thousand creates is never dropped.

use crate::Flags;
use crate::figures::{Against, Figure, Figures};
use crate::server::{LIMIT, PODS, Server, limited, pod};
use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use futures::future::{try_join, try_join_all};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

const CONNECTIONS: usize = 4;
const WATCHERS: usize = 1000;
const CREATES: usize = 1000;
/// Creates that the single watcher hears of.
const MANY: usize = 5000;

/// Measures `watch`: with a control plane of its own each run.
pub async fn measure(flags: &Flags, figures: &mut Figures) -> Result<()> {
    let (mut rates, mut costs, mut dropped, mut single) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..flags.runs {
        let server = Server::up(flags, &format!("bench-watch{run}")).await?;
        let measured = async {
            let many = thousand(&server).await?;
            rates.push(many.deliveries as f64 / many.seconds);
            costs.push(many.cpu_seconds * 1e6 / many.deliveries as f64);
            dropped.push(many.dropped as f64);
            single.push(busy(&server).await? as f64);
            anyhow::Ok(())
        };
        let measured = measured.await;
        server.down(measured)?;
    }
    figures.tell(
        Figure::rate("watch_deliveries", "1/s", Against::Clock, rates)
            .target(250_000.0)
            .also("watchers", WATCHERS)
            .also("creates", CREATES),
    )?;
    // What the creates cost is in it.
    figures.tell(Figure::cost("watch_cpu_a_delivery", "us", Against::Cpu, costs).target(3.0))?;
    figures.tell(
        Figure::cost("watch_dropped_but_the_stalled", "watchers", Against::Nothing, dropped).target(0.0),
    )?;
    figures.tell(
        Figure::cost("watch_single_dropped", "times", Against::Nothing, single)
            .target(0.0)
            .also("creates", MANY),
    )
}

struct Delivered {
    deliveries: usize,
    dropped: usize,
    seconds: f64,
    cpu_seconds: f64,
}

async fn thousand(server: &Server) -> Result<Delivered> {
    let (connections, revision) = (server.clients(CONNECTIONS).await?, server.revision().await?);
    let opening = (0..WATCHERS).map(|number| open(&connections[number % CONNECTIONS], &revision));
    let mut watches = limited("all watches stand", try_join_all(opening)).await?;
    let stalled = watches.pop().context("there are watches")?;
    let readers = watches.into_iter().map(|watch| count(watch.into_body()));
    let creates = server.create(PODS, CREATES, pod);
    let work = limited("all heard of all", async {
        let (seen, ()) = try_join(try_join_all(readers), creates).await?;
        Ok(seen)
    });
    let (seen, took) = server.took(work).await?;
    drop(stalled);
    Ok(Delivered {
        deliveries: seen.iter().sum(),
        dropped: seen.iter().filter(|seen| **seen < CREATES).count(),
        seconds: took.seconds,
        cpu_seconds: took.cpu_seconds,
    })
}

async fn open(client: &kube::Client, revision: &str) -> Result<Response<Body>> {
    let path = format!("{PODS}?watch=1&resourceVersion={revision}&timeoutSeconds={}", LIMIT.as_secs());
    let answer = client.send(Request::get(path).body(Body::empty())?).await?;
    ensure!(answer.status().is_success(), "a watch was answered by {}", answer.status());
    Ok(answer)
}

/// Reads until every create was heard of, or the server ends the watch. Each event ends in the only line break that it has.
async fn count(mut body: Body) -> Result<usize> {
    let mut seen = 0;
    while seen < CREATES {
        let Some(frame) = body.frame().await else { break };
        let data = frame?.into_data().unwrap_or_default();
        seen += data.iter().filter(|byte| **byte == b'\n').count();
    }
    Ok(seen)
}

/// One watcher that reads every event, beside sixteen clients that create; gives how often it was dropped.
async fn busy(server: &Server) -> Result<usize> {
    let (client, revision) = (server.clients(1).await?.remove(0), server.revision().await?);
    let reading = limited("the watcher heard of all", read_all(&client, revision));
    let creates = server.create(PODS, MANY, |number| pod(number + CREATES));
    Ok(try_join(reading, creates).await?.0)
}

async fn read_all(client: &kube::Client, mut revision: String) -> Result<usize> {
    let (mut seen, mut dropped) = (0, 0);
    loop {
        let mut body = open(client, &revision).await?.into_body();
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame?.into_data().unwrap_or_default());
            while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                let event: Value = serde_json::from_slice(&read.split_to(end + 1))?;
                ensure!(event["type"] == "ADDED", "not the event of a create: {event}");
                let known = event["object"]["metadata"]["resourceVersion"].as_str();
                revision = known.context("an event without a revision")?.to_owned();
                seen += 1;
                if seen == MANY {
                    return Ok(dropped);
                }
            }
        }
        dropped += 1;
    }
}
