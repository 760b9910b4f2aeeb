//! `endpoints.jsonl`: the EndpointSlices and Endpoints that the running controllers make of a Service and its Pods.

use crate::{plain, worlds};
use minik_sim::{Parts, Sim};
use serde_json::{Value, json};
use std::time::Duration;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
/// Worlds that one cluster sees, one after the other, before its nodes, which nobody keeps alive, count as lost.
const WORLDS: usize = 10;
/// Without a change for so long, nothing more comes.
const QUIET: Duration = Duration::from_secs(1);

async fn prepare(sim: &Sim) -> anyhow::Result<()> {
    for (name, zone) in [("n0", "a"), ("n1", "a"), ("n2", "b")] {
        let labels = json!({"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        sim.create("/api/v1/nodes", &node).await?;
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        sim.set_status(&format!("/api/v1/nodes/{name}"), &ready).await?;
    }
    sim.account().await
}

/// A slice or an Endpoints object as the recording has it. Lists without a meaning of their order, which stock sorts by a
/// hash of Go's memory, are sorted.
fn stripped(mut object: Value) -> Value {
    plain(&mut object);
    tidy(&mut object);
    object
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "targetRef" => reference(value),
                    _ => tidy(value),
                }
                if let Some(list) = value.as_array_mut() {
                    list.sort_by_key(Value::to_string);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn reference(target: &mut Value) {
    if let Some(target) = target.as_object_mut() {
        target.retain(|name, _| ["kind", "name"].contains(&name.as_str()));
    }
}

async fn differs(sim: &Sim, world: &Value) -> anyhow::Result<Option<String>> {
    sim.create("/api/v1/namespaces/default/services", &world["service"]).await?;
    for one in world["pods"].as_array().into_iter().flatten() {
        let pod = sim.create(PODS, &one["pod"]).await?;
        let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
        sim.set_status(&path, &one["status"]).await?;
        if one["terminating"] == true {
            sim.delete(&path, &json!({"gracePeriodSeconds": 3600})).await?;
        }
    }
    sim.settled(&["endpointslices", "services/endpoints"], QUIET).await?;
    let ours = |name: &str| name.starts_with("svc");
    let named = |list: Vec<Value>| {
        list.into_iter()
            .filter(|one| ours(one["metadata"]["name"].as_str().unwrap_or_default()))
            .map(stripped)
    };
    let mut slices: Vec<Value> = named(sim.list(SLICES).await?).collect();
    let endpoints = named(sim.list(ENDPOINTS).await?).next();
    sim.delete(PODS, &json!({"gracePeriodSeconds": 0})).await?;
    sim.delete("/api/v1/namespaces/default/services/svc", &json!({})).await?;
    sim.until("what belonged to the Service is gone", async |sim: &Sim| {
        let left = named(sim.list(SLICES).await?).count() + named(sim.list(ENDPOINTS).await?).count();
        Ok(left == 0)
    })
    .await?;
    let mut stock: Vec<Value> =
        world["endpointslices"].as_array().into_iter().flatten().cloned().map(stripped).collect();
    let key = |slice: &Value| format!("{} {} {}", slice["addressType"], slice["ports"], slice["endpoints"]);
    slices.sort_by_key(key);
    stock.sort_by_key(key);
    if slices != stock {
        return Ok(Some(format!("slices {}\n  stock {}", json!(slices), json!(stock))));
    }
    let stock = world.get("endpoints").filter(|one| !one.is_null()).cloned().map(stripped);
    Ok((endpoints != stock).then(|| format!("endpoints {endpoints:?}\n  stock {stock:?}")))
}

#[test]
fn endpoints_are_those_of_stock() {
    let parts = Parts { controllers: true, ..Parts::default() };
    worlds("endpoints.jsonl", &parts, (WORLDS, prepare), differs);
}
