//! ServiceCIDRs: ready once they are there, gone once no Service needs them.

use minik_sim::{Parts, Sim};
use serde_json::{Value, json};

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

/// Whether the range is told ready, and why; nothing when it is gone.
async fn ready(sim: &Sim) -> anyhow::Result<Option<(Value, Value)>> {
    let range: Option<Value> = sim.find(&format!("{RANGES}/more")).await?;
    Ok(range.map(|range| {
        let condition = &range["status"]["conditions"][0];
        (condition["status"].clone(), condition["reason"].clone())
    }))
}

async fn story(sim: &Sim) -> anyhow::Result<()> {
    assert!(sim.create(SERVICES, &service("early", "10.99.0.7")).await.is_err(), "no range has it");
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": ["10.99.0.0/24"]}});
    sim.create(RANGES, &range).await?;
    sim.until("the range is ready", async |sim: &Sim| {
        Ok(ready(sim).await? == Some((json!("True"), json!(""))))
    })
    .await?;
    sim.create(SERVICES, &service("a", "10.99.0.7")).await?;
    sim.delete(&format!("{RANGES}/more"), &json!({})).await?;
    let held = Some((json!("False"), json!("Terminating")));
    sim.until("the Service holds the range", async |sim: &Sim| Ok(ready(sim).await? == held)).await?;
    assert!(sim.create(SERVICES, &service("late", "10.99.0.8")).await.is_err(), "it gives nothing any more");
    sim.delete(&format!("{SERVICES}/a"), &json!({})).await?;
    sim.until("the range is gone", async |sim: &Sim| Ok(ready(sim).await?.is_none())).await
}

#[test]
fn a_range_goes_with_the_last_service_that_needs_it() {
    let parts = Parts { controllers: true, ..Parts::default() };
    Sim::run(1, parts, story).unwrap();
}
