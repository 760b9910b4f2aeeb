//! Worlds of chance: a user changes what is wanted while everything goes wrong, and at no step may anything be broken; in
//! the end all is as it is wanted.

mod forked;
mod wanted;

pub use forked::{World, each};

use crate::cluster::{Parts, Sim};
use anyhow::ensure;
use minik_client::{ClientError, call};
use minik_fake_nodes::{Config, Lost, Rules};
use serde_json::{Value, json};
use std::time::Duration;
use wanted::all_is_as_wanted;

const NODES: u32 = 5;
/// So many Pods of each Deployment have room in a small cluster, while they are replaced too.
const MOST_IN_THE_END: u64 = 4;
/// What the user does in a world.
const ACTS: u64 = 14;
/// The longest time from one of these to the next, and the same where nodes are lost, which takes its time to be noticed.
const PAUSE_MS: [u64; 2] = [6000, 30_000];
/// The longest time until it storms: every clock's turns come at another moment.
const BEFORE_MS: u64 = 20_000;
/// The longest time until a node is lost, and until it is back: mostly before it counts as lost, or long after.
const NODE_LIVES_MS: u64 = 60_000;
const NODE_GONE_MS: [u64; 2] = [90_000, 450_000];
const APPS: [&str; 3] = ["a", "b", "c"];
const BASE: &str = "/api/v1/namespaces/default";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// What is to come to rest.
const LOOKED_AT: [&str; 5] = ["pods", "replicasets", "deployments", "services/specs", "endpointslices"];
/// Nothing more comes when nothing came for so long.
const QUIET: Duration = Duration::from_secs(20);
/// Within this time all is as it is wanted. Shorter than what would heal by itself what was missed: the resync after ten
/// minutes, and the five after which a ReplicaSet no longer waits to see what it did.
const PATIENCE: Duration = Duration::from_secs(250);

/// What a seed came to: the number that stands for all that happened, or what was wrong.
pub type Outcome = anyhow::Result<u64>;

/// Lives through a world, which begins with a cluster at rest.
async fn live(sim: Sim, lost: &Lost, World { seed, plant }: World) -> Outcome {
    minik_component::plant(plant);
    sim.reseed(seed);
    let told = story(&sim, lost).await;
    let ended = sim.end().await;
    told.and_then(|trace| ended.map(|()| trace))
}

/// A cluster with room for all, or one that is mostly full.
fn parts(lost: Lost, is_small: bool) -> anyhow::Result<Parts> {
    let rules = Rules::parse("rules:\n- {startAfter: 0.5, readyAfter: 0.5, stopAfter: 1, jitter: 2}\n");
    let fake = Config {
        nodes: NODES,
        // Often enough that no node counts as lost, whatever happens to single renewals.
        lease_renewal: Duration::from_secs(5),
        capacity: if is_small { "cpu=2,memory=8Gi,pods=20" } else { "cpu=4,memory=8Gi,pods=20" }
            .parse()
            .map_err(anyhow::Error::msg)?,
        rules: rules.map_err(anyhow::Error::msg)?,
        lost,
        ..Config::default()
    };
    Ok(Parts {
        scheduler: true,
        controllers: true,
        fake_nodes: Some(fake),
        lagging_server: true,
        is_narrow: true,
        witness: true,
        climate: None,
    })
}

async fn story(sim: &Sim, lost: &Lost) -> Outcome {
    sim.weather().pass(BEFORE_MS).await;
    sim.weather().set_stormy(true);
    let acts = async {
        let pause = PAUSE_MS[usize::from(sim.weather().climate().nodes)];
        for _ in 0..ACTS {
            act(sim).await?;
            tokio::time::sleep(Duration::from_millis(sim.chance().below(pause))).await;
        }
        sim.weather().set_stormy(false);
        anyhow::Ok(())
    };
    let (acted, (), ()) = futures::join!(acts, lose_nodes(sim, lost), sim.move_clocks());
    acted?;
    for app in APPS {
        let path = format!("{DEPLOYMENTS}/{app}");
        if let Some(deployment) = sim.find::<Value>(&path).await? {
            let replicas = deployment["spec"]["replicas"].as_u64().unwrap_or(1).min(MOST_IN_THE_END);
            sim.ledger().set_user_acts(true);
            sim.patch(&path, &json!({"spec": {"paused": false, "replicas": replicas}})).await?;
            sim.ledger().set_user_acts(false);
        }
    }
    comes_to_rest(sim).await?;
    let wrong = sim.ledger().wrong();
    ensure!(wrong.is_empty(), "{} steps were wrong, first: {}", wrong.len(), wrong[0]);
    Ok(sim.trace())
}

async fn comes_to_rest(sim: &Sim) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(QUIET).await;
        let resting = sim.ledger().quiet(&LOOKED_AT) >= QUIET && sim.ledger().all_nodes_well();
        let wrong = sim.ledger().wrong();
        ensure!(wrong.is_empty(), "{} steps were wrong, first: {}", wrong.len(), wrong[0]);
        let result = all_is_as_wanted(sim).await;
        match result {
            Ok(()) if resting => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Ok(()) if begun.elapsed() > PATIENCE => anyhow::bail!("it does not come to rest"),
            _ => {}
        }
    }
}

/// Cuts one node after the other off for a while, where nodes are lost at all.
async fn lose_nodes(sim: &Sim, lost: &Lost) {
    let weather = sim.weather();
    while weather.climate().nodes && weather.is_stormy() {
        weather.pass(NODE_LIVES_MS).await;
        let node = weather.below(NODES.into()) as u32;
        let gone_ms = NODE_GONE_MS[usize::from(weather.below(3) == 0)];
        lost.set_lost(node, weather.is_stormy());
        weather.pass(gone_ms).await;
        lost.set_lost(node, false);
    }
}

/// One thing that a user does, who may fail; what is not possible is not done.
async fn act(sim: &Sim) -> anyhow::Result<()> {
    let chance = sim.chance();
    let app = APPS[chance.below(3) as usize];
    let path = format!("{DEPLOYMENTS}/{app}");
    let there = sim.find::<Value>(&path).await?.is_some();
    sim.ledger().set_user_acts(true);
    let done = match chance.below(12) {
        _ if !there => create(sim, DEPLOYMENTS, &deployment(app, chance.below(6), chance.below(4))).await,
        0..3 => {
            let container = json!({"name": "c", "image": format!("v{}", chance.below(4))});
            patch(sim, &path, &json!({"template": {"spec": {"containers": [container]}}})).await
        }
        3..6 => patch(sim, &path, &json!({"replicas": chance.below(13)})).await,
        6 => patch(sim, &path, &json!({"paused": chance.below(2) == 0})).await,
        7 => patch(sim, &path, &json!({"strategy": strategy(chance.below(4))})).await,
        8 => {
            let policy = ["Background", "Foreground"][chance.below(2) as usize];
            delete(sim, &path, &json!({"propagationPolicy": policy})).await
        }
        9 => delete_a_pod(sim, app).await?,
        10 => toggle_service(sim, app).await?,
        // Several at the same moment, maybe at different servers.
        _ => {
            let (a, b, c) = futures::join!(
                toggle_service(sim, APPS[0]),
                toggle_service(sim, APPS[1]),
                toggle_service(sim, APPS[2])
            );
            note(sim, a?);
            note(sim, b?);
            c?
        }
    };
    note(sim, done);
    sim.ledger().set_user_acts(false);
    Ok(())
}

fn note(sim: &Sim, done: Acknowledged) {
    match done {
        Ok(Some((revision, name))) => sim.ledger().acknowledged(revision, &name),
        Ok(None) => {}
        Err(error) => tracing::debug!(error = minik_component::chain(&error), "the user failed"),
    }
}

/// What was acknowledged: the revision and the name, if anything was written.
type Acknowledged = Result<Option<(u64, String)>, ClientError>;

fn acknowledged(object: &Value) -> Option<(u64, String)> {
    let metadata = &object["metadata"];
    let revision = metadata["resourceVersion"].as_str()?.parse().ok()?;
    Some((revision, metadata["name"].as_str()?.to_owned()))
}

async fn create(sim: &Sim, path: &str, object: &Value) -> Acknowledged {
    call::post(sim.user(), path, object).await.map(|created: Value| acknowledged(&created))
}

async fn patch(sim: &Sim, path: &str, spec: &Value) -> Acknowledged {
    let change = json!({"spec": spec});
    let patched = call::patch(sim.user(), path, call::PatchKind::Strategic, &change).await;
    patched.map(|patched: Value| acknowledged(&patched))
}

async fn delete(sim: &Sim, path: &str, options: &Value) -> Acknowledged {
    call::delete(sim.user(), path, options).await.map(|_| None)
}

async fn delete_a_pod(sim: &Sim, app: &str) -> anyhow::Result<Acknowledged> {
    let pods = sim.list(&format!("{BASE}/pods?labelSelector=app%3D{app}")).await?;
    let Some(pod) = pods.get(sim.chance().below(pods.len() as u64) as usize) else { return Ok(Ok(None)) };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    Ok(delete(sim, &format!("{BASE}/pods/{name}"), &json!({})).await)
}

async fn toggle_service(sim: &Sim, app: &str) -> anyhow::Result<Acknowledged> {
    let services = format!("{BASE}/services");
    let path = format!("{services}/{app}");
    if sim.find::<Value>(&path).await?.is_some() {
        return Ok(delete(sim, &path, &json!({})).await);
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app},
        "spec": {"type": "NodePort", "selector": {"app": app}, "ports": [{"port": 80}]}});
    Ok(create(sim, &services, &service).await)
}

fn strategy(kind: u64) -> Value {
    match kind {
        0 => json!({"type": "Recreate", "rollingUpdate": null}),
        1 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        2 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}),
        _ => json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
    }
}

fn deployment(app: &str, replicas: u64, kind: u64) -> Value {
    let requests = json!({"cpu": "500m", "memory": "100Mi"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app}, "spec": {
        "replicas": replicas, "strategy": strategy(kind), "selector": {"matchLabels": {"app": app}},
        "template": {"metadata": {"labels": {"app": app}}, "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "c", "image": "v0", "resources": {"requests": requests}}]}}}})
}
