//! Hunts for defects in worlds of chance (`hunt FIRST COUNT`, seeds): a user changes what is wanted while everything goes
//! wrong, and at no step may anything be broken; in the end all is as wanted. A seed does not yet give the same world twice:
//! the runtime's own chance is not of the seed.

#![allow(clippy::unwrap_used)] // a tool that cannot go on should stop

use anyhow::{bail, ensure};
use minik_sim::{Parts, Sim};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const NODES: u32 = 5;
/// What the user does in a world.
const ACTS: u64 = 14;
const APPS: [&str; 3] = ["a", "b", "c"];
const BASE: &str = "/api/v1/namespaces/default";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const QUIET: Duration = Duration::from_secs(30);

fn parts() -> Parts {
    let fake = minik_fake_nodes::Config {
        nodes: NODES,
        // Often enough that no node counts as lost, whatever happens to single renewals.
        lease_renewal: Duration::from_secs(5),
        capacity: "cpu=4,memory=8Gi,pods=20".parse().unwrap(),
        rules: minik_fake_nodes::Rules::parse(
            "rules:\n- {startAfter: 0.5, readyAfter: 0.5, stopAfter: 1, jitter: 2}\n",
        )
        .unwrap(),
        ..minik_fake_nodes::Config::default()
    };
    Parts { scheduler: true, controllers: true, fake_nodes: Some(fake), lagging_server: true }
}

/// One thing that a user does; what is not possible is not done.
async fn act(sim: &Sim) -> anyhow::Result<()> {
    let chance = sim.chance();
    let app = APPS[chance.below(3) as usize];
    let path = format!("{DEPLOYMENTS}/{app}");
    let there = sim.find::<Value>(&path).await?.is_some();
    match chance.below(10) {
        _ if !there => {
            sim.create(DEPLOYMENTS, &deployment(app, chance.below(6), chance.below(4))).await?;
        }
        0..3 => {
            let spec = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": format!("v{}", chance.below(4))}]}}}});
            sim.patch(&path, &spec).await?;
        }
        3..6 => {
            sim.patch(&path, &json!({"spec": {"replicas": chance.below(13)}})).await?;
        }
        6 => {
            sim.patch(&path, &json!({"spec": {"paused": chance.below(2) == 0}})).await?;
        }
        7 => {
            let policy = ["Background", "Foreground"][chance.below(2) as usize];
            sim.delete(&path, &json!({"propagationPolicy": policy})).await?;
        }
        _ => {
            let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app},
                "spec": {"type": "NodePort", "selector": {"app": app}, "ports": [{"port": 80}]}});
            let services = format!("{BASE}/services");
            match sim.find::<Value>(&format!("{services}/{app}")).await? {
                None => sim.create(&services, &service).await?,
                Some(_) => sim.delete(&format!("{services}/{app}"), &json!({})).await?,
            };
        }
    }
    Ok(())
}

fn deployment(app: &str, replicas: u64, kind: u64) -> Value {
    let strategy = match kind {
        0 => json!({"type": "Recreate"}),
        1 => json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        2 => json!({"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}),
        _ => json!({}),
    };
    let requests = json!({"cpu": "500m", "memory": "100Mi"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app}, "spec": {
        "replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": app}},
        "template": {"metadata": {"labels": {"app": app}}, "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "c", "image": "v0", "resources": {"requests": requests}}]}}}})
}

async fn world(sim: &Sim) -> anyhow::Result<u64> {
    sim.account().await?;
    sim.weather().set_stormy(true);
    for _ in 0..ACTS {
        act(sim).await?;
        tokio::time::sleep(Duration::from_millis(sim.chance().below(6000))).await;
    }
    sim.weather().set_stormy(false);
    for app in APPS {
        let path = format!("{DEPLOYMENTS}/{app}");
        if sim.find::<Value>(&path).await?.is_some() {
            sim.patch(&path, &json!({"spec": {"paused": false}})).await.ok();
        }
    }
    let pods = format!("{BASE}/pods");
    sim.settled(&[&pods, DEPLOYMENTS, REPLICA_SETS, SLICES], QUIET).await?;
    let wrong = sim.ledger().wrong();
    ensure!(wrong.is_empty(), "{} steps were wrong, first: {}", wrong.len(), wrong[0]);
    all_is_as_wanted(sim, &sim.list(&pods).await?).await?;
    Ok(sim.ledger().trace())
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

async fn all_is_as_wanted(sim: &Sim, pods: &[Value]) -> anyhow::Result<()> {
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let owner = |object: &Value| object["metadata"]["ownerReferences"][0]["uid"].clone();
    let (deployments, sets) = (sim.list(DEPLOYMENTS).await?, sim.list(REPLICA_SETS).await?);
    for set in &sets {
        ensure!(deployments.iter().any(|one| uid(one) == owner(set)), "an orphan is left: {set}");
    }
    for pod in pods {
        ensure!(sets.iter().any(|one| uid(one) == owner(pod)), "an orphan is left: {pod}");
    }
    for deployment in &deployments {
        let (name, status) = (&deployment["metadata"]["name"], &deployment["status"]);
        let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let own: Vec<&Value> = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == *name).collect();
        let fits = own.iter().all(|pod| {
            is_ready(pod)
                && pod["spec"]["containers"][0]["image"]
                    == deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        });
        ensure!(
            own.len() as i64 == wanted && fits,
            "{name} has not {wanted} ready Pods of its template: {status}"
        );
        for count in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
            ensure!(
                status[count].as_i64().unwrap_or(0) == wanted,
                "{name} says {count} in {status}, and wants {wanted}"
            );
        }
    }
    for service in sim.list(&format!("{BASE}/services")).await? {
        let Some(name) = service["metadata"]["name"].as_str().filter(|name| *name != "kubernetes") else {
            continue;
        };
        let all = sim.list(SLICES).await?;
        let own =
            all.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name);
        let told: BTreeSet<String> = own
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
            .filter(|one| one["conditions"]["ready"] == true)
            .map(|one| one["addresses"][0].to_string())
            .collect();
        let of_service = |pod: &&Value| pod["metadata"]["labels"]["app"] == name && is_ready(pod);
        let ready: BTreeSet<String> =
            pods.iter().filter(of_service).map(|pod| pod["status"]["podIP"].to_string()).collect();
        ensure!(told == ready, "the endpoints of {name} are {told:?}, ready are {ready:?}");
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    minik_component::TelemetryFlags::default().init();
    let numbers: Vec<u64> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [first, count] = numbers[..] else { bail!("usage: hunt FIRST COUNT") };
    let mut broken = 0;
    for seed in first..first + count {
        if let Err(error) = Sim::run(seed, parts(), async |sim: &Sim| world(sim).await) {
            broken += 1;
            println!("seed {seed}: {error:#}");
        }
    }
    ensure!(broken == 0, "{broken} of {count} seeds are broken");
    println!("{count} seeds hold");
    Ok(())
}
