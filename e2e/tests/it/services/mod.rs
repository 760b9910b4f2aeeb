//! Services in a real cluster of two nodes: who reaches what, from where, and by which name.
//! <https://kubernetes.io/docs/concepts/services-networking/service/>
//!
//! One cluster serves all checks, for clusters cost time; each check leaves the world as it found it.

mod client;
mod cluster_ip;
mod names;
mod node_port;
mod policies;

use anyhow::{Context, Result, bail, ensure};
use minik_e2e::harness::{TestCluster, eventually, programs};
use minik_e2e::images;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(120);

/// A Pod that serves.
#[derive(Debug, Clone)]
pub struct Server {
    pub name: String,
    pub ip: IpAddr,
    pub node: String,
}

/// What the checks look at.
pub struct World {
    pub cluster: TestCluster,
    /// The nodes' names and addresses.
    pub nodes: Vec<(String, IpAddr)>,
    /// The three servers behind `web`.
    pub web: Vec<Server>,
    /// The one on the first node.
    pub solo: Server,
    /// All Services.
    services: Vec<Value>,
}

impl World {
    fn build() -> Result<World> {
        let cluster = TestCluster::up(2)?;
        let archive = cluster.scratch().join("demo.tar");
        std::fs::write(&archive, images::demo(&programs()?, images::DEMO)?)?;
        let said = cluster.minikctl(&["image", "load", &archive.display().to_string()])?;
        ensure!(said.code == 0, "the image cannot be loaded: {said:?}");
        let nodes = items(&cluster, "nodes")?;
        let nodes: Vec<(String, IpAddr)> = nodes
            .iter()
            .map(|node| Ok((text(node, "/metadata/name")?, ip(node, "/status/addresses/0/address")?)))
            .collect::<Result<_>>()?;
        let [(first, _), (second, _)] = &nodes[..] else { bail!("not two nodes: {nodes:?}") };
        cluster.kubectl_ok(
            "apply -f -",
            &include_str!("world.yaml").replace("FIRST", first).replace("SECOND", second),
        )?;
        cluster.kubectl_ok("wait --for=condition=Available deployment/web --timeout=120s", "")?;
        cluster.kubectl_ok("wait --for=condition=Ready pod/solo pod/heir --timeout=120s", "")?;
        let web = servers(&cluster, "app=web")?;
        let solo = servers(&cluster, "app=solo")?.pop().context("no solo")?;
        let services = items(&cluster, "services -A")?;
        Ok(World { cluster, nodes, web, solo, services })
    }

    fn service(&self, name: &str) -> Result<&Value> {
        let found = self.services.iter().find(|service| service["metadata"]["name"] == name);
        found.with_context(|| format!("no Service {name}"))
    }

    /// The cluster IP of a Service.
    pub fn address(&self, service: &str) -> Result<IpAddr> {
        ip(self.service(service)?, "/spec/clusterIP")
    }

    /// The node port of a Service's named port.
    pub fn node_port(&self, service: &str, port: &str) -> Result<u16> {
        let ports = self.service(service)?["spec"]["ports"].as_array();
        let found = ports.into_iter().flatten().find(|one| one["name"] == port);
        let number = found.and_then(|port| port["nodePort"].as_u64());
        Ok(number.with_context(|| format!("no node port of {port} of {service}"))?.try_into()?)
    }

    /// All servers.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.web.iter().chain([&self.solo])
    }
}

fn items(cluster: &TestCluster, words: &str) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&cluster.kubectl_ok(&format!("get {words} -o json"), "")?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn text(object: &Value, at: &str) -> Result<String> {
    Ok(object.pointer(at).and_then(Value::as_str).with_context(|| format!("no {at} in {object}"))?.to_owned())
}

fn ip(object: &Value, at: &str) -> Result<IpAddr> {
    Ok(text(object, at)?.parse()?)
}

/// The Pods that a selector fits and that are not about to end.
fn servers(cluster: &TestCluster, selector: &str) -> Result<Vec<Server>> {
    let pods = items(cluster, &format!("pods -l {selector}"))?;
    let staying = pods.iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
    staying
        .map(|pod| {
            Ok(Server {
                name: text(pod, "/metadata/name")?,
                ip: ip(pod, "/status/podIP")?,
                node: text(pod, "/spec/nodeName")?,
            })
        })
        .collect()
}

/// Waits until something is reached.
pub fn reached<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    eventually(SOON, || look().map_err(|error| format!("{error:#}"))).with_context(|| what.to_owned())
}

#[test]
fn services_of_every_form_are_reached_from_everywhere() -> Result<()> {
    let world = World::build()?;
    ensure!(world.web.len() == 3, "{:?}", world.web);
    for (node, _) in &world.nodes {
        ensure!(world.web.iter().any(|server| server.node == *node), "none on {node}: {:?}", world.web);
    }
    type Check = fn(&World) -> Result<()>;
    let checks: [(&str, Check); 10] = [
        ("cluster IPs", cluster_ip::every_client_reaches_every_server),
        ("the source's address", cluster_ip::servers_see_the_address_of_the_pod),
        ("session affinity", cluster_ip::a_client_stays_with_its_server),
        ("no endpoints", cluster_ip::a_service_without_endpoints_refuses),
        ("UDP flows", cluster_ip::datagrams_follow_the_endpoints),
        ("node ports", node_port::both_nodes_lead_to_every_server),
        ("internal traffic policy", policies::internal_traffic_stays_on_the_node),
        ("external traffic policy", policies::external_traffic_keeps_its_source),
        ("names", names::every_form_resolves_from_pods),
        ("the end of a DNS server", names::a_killed_server_is_replaced),
    ];
    // All of them tell: one cluster is paid for once.
    let failed: Vec<String> = checks
        .iter()
        .filter_map(|(what, check)| check(&world).err().map(|error| format!("{what}: {error:#}")))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    world.cluster.finish()
}
