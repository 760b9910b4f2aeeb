//! Ports of the node that lead to a Pod.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#ports>

use anyhow::{Result, ensure};
use minik_e2e::harness::{TestCluster, eventually};
use minik_e2e::images::BUSYBOX;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);

fn pod(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [httpd, -f, -p, \"80\"]\n    \
         ports: [{{containerPort: 80, hostPort: {port}}}]\n"
    )
}

fn connects(address: SocketAddr) -> Result<(), String> {
    TcpStream::connect_timeout(&address, Duration::from_secs(2))
        .map(drop)
        .map_err(|e| format!("{address}: {e}"))
}

#[test]
fn a_host_port_leads_to_the_pod_and_belongs_to_one() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    cluster.kubectl_ok("apply -f -", &pod("web", 8080))?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/web --timeout=120s", "")?;
    let node = cluster.kubectl_ok("get pod web -o jsonpath={.status.hostIP}", "")?;
    let address: SocketAddr = format!("{node}:8080").parse()?;
    eventually(SOON, || connects(address))?;
    // The next one waits for the port.
    cluster.kubectl_ok("apply -f -", &pod("second", 8080))?;
    eventually(SOON, || {
        let path = "get pod second -o jsonpath={.status.conditions[*].message}";
        let message = cluster.kubectl_ok(path, "").map_err(|error| error.to_string())?;
        if message.contains("didn't have free ports") { Ok(()) } else { Err(message) }
    })?;
    cluster.kubectl_ok("delete pod web", "")?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/second --timeout=120s", "")?;
    eventually(SOON, || connects(address))?;
    cluster.kubectl_ok("delete pod second", "")?;
    ensure!(connects(address).is_err(), "the port still leads somewhere");
    cluster.finish()
}
