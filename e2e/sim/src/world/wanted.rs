//! Whether all is as it is wanted, once nothing goes wrong any more.

use super::{BASE, DEPLOYMENTS, REPLICA_SETS, SLICES};
use crate::cluster::Sim;
use anyhow::ensure;
use serde_json::Value;
use std::collections::BTreeSet;

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Fails with what is not as it is wanted.
pub async fn all_is_as_wanted(sim: &Sim) -> anyhow::Result<()> {
    let pods = sim.list(&format!("{BASE}/pods")).await?;
    let (deployments, sets) = (sim.list(DEPLOYMENTS).await?, sim.list(REPLICA_SETS).await?);
    no_orphans(&deployments, &sets, &pods)?;
    for deployment in &deployments {
        has_its_pods(deployment, &pods)?;
    }
    let slices = sim.list(SLICES).await?;
    for service in sim.list(&format!("{BASE}/services")).await? {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        if name != "kubernetes" {
            endpoints_follow(name, &slices, &pods)?;
        }
    }
    Ok(())
}

fn no_orphans(deployments: &[Value], sets: &[Value], pods: &[Value]) -> anyhow::Result<()> {
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let owner = |object: &Value| object["metadata"]["ownerReferences"][0]["uid"].clone();
    for set in sets {
        ensure!(deployments.iter().any(|one| uid(one) == owner(set)), "an orphan is left: {set}");
    }
    for pod in pods {
        ensure!(sets.iter().any(|one| uid(one) == owner(pod)), "an orphan is left: {pod}");
    }
    Ok(())
}

fn has_its_pods(deployment: &Value, pods: &[Value]) -> anyhow::Result<()> {
    let (name, status) = (&deployment["metadata"]["name"], &deployment["status"]);
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let own: Vec<&Value> = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == *name).collect();
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    let fits = own.iter().all(|pod| is_ready(pod) && pod["spec"]["containers"][0]["image"] == *image);
    ensure!(
        own.len() as i64 == wanted && fits,
        "{name} has {} Pods, not {wanted} ready ones of its template: {status}",
        own.len()
    );
    for count in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        ensure!(
            status[count].as_i64().unwrap_or(0) == wanted,
            "{name} says {count} in {status}, and wants {wanted}"
        );
    }
    Ok(())
}

fn endpoints_follow(service: &str, slices: &[Value], pods: &[Value]) -> anyhow::Result<()> {
    let own =
        slices.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let told: BTreeSet<String> = own
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
        .filter(|one| one["conditions"]["ready"] == true)
        .map(|one| one["addresses"][0].to_string())
        .collect();
    let of_service = |pod: &&Value| pod["metadata"]["labels"]["app"] == service && is_ready(pod);
    let ready: BTreeSet<String> =
        pods.iter().filter(of_service).map(|pod| pod["status"]["podIP"].to_string()).collect();
    ensure!(told == ready, "the endpoints of {service} are {told:?}, ready are {ready:?}");
    Ok(())
}
