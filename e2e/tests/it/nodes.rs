//! Clusters of several nodes: they come and go while Pods run, and machines join from outside.

use anyhow::{Context, Result, ensure};
use minik_e2e::harness::{Said, TestCluster, eventually, programs, run};
use minik_e2e::images::BUSYBOX;
use minik_net::{Cidr, NetNs, Netlink, Veth};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long something may take that a test waits for.
pub const SOON: Duration = Duration::from_secs(120);

/// A web server of so many replicas, spread over the nodes, behind a Service.
pub fn web(replicas: u8) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      topologySpreadConstraints:\n      - maxSkew: 1\n        \
         topologyKey: kubernetes.io/hostname\n        whenUnsatisfiable: ScheduleAnyway\n        \
         labelSelector: {{matchLabels: {{app: web}}}}\n      containers:\n      - name: main\n        image: {BUSYBOX}\n        \
         command: [sh, -c, 'mkdir /w; hostname > /w/name; exec httpd -f -p 8080 -h /w']\n        \
         readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  selector: {{app: web}}\n  \
         ports: [{{port: 80, targetPort: 8080}}]\n---\n\
         apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: web}}\nspec:\n  maxUnavailable: 1\n  \
         selector: {{matchLabels: {{app: web}}}}\n"
    )
}

/// A Pod's node, container, its start and its restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub pod: String,
    node: String,
    container: String,
    started: String,
    restarts: String,
}

/// The Pods that are Ready and not about to end.
fn ready(cluster: &TestCluster) -> Result<Vec<Seen>, String> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.containerStatuses[0].containerID} \
                {.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready} \
                {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let text =
        cluster.kubectl_ok(&format!("get pods -l app=web -o '{path}'"), "").map_err(|e| e.to_string())?;
    let rows = text.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    Ok(rows
        .filter_map(|row| match row.as_slice() {
            [pod, node, container, started, restarts, ready, end] if ready == "true" && end.is_empty() => {
                Some(Seen {
                    pod: pod.clone(),
                    node: node.clone(),
                    container: container.clone(),
                    started: started.clone(),
                    restarts: restarts.clone(),
                })
            }
            _ => None,
        })
        .collect())
}

pub fn on_nodes(cluster: &TestCluster, replicas: usize, nodes: &[&str]) -> Result<Vec<Seen>> {
    eventually(SOON, || {
        let seen = ready(cluster)?;
        let all = seen.len() == replicas && seen.iter().all(|one| nodes.contains(&&*one.node));
        let every = nodes.iter().all(|node| seen.iter().any(|one| one.node == *node));
        if all && every { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
}

/// Asks the Service from inside a Pod until each of the Pods has answered.
pub fn all_answer(cluster: &TestCluster, from: &str, pods: &[Seen]) -> Result<()> {
    let address = cluster.kubectl_ok("get service web -o jsonpath={.spec.clusterIP}", "")?;
    let ask = format!("printf \"GET /name HTTP/1.0\\r\\n\\r\\n\" | nc {address} 80 | tail -n 1");
    let mut missing: Vec<&str> = pods.iter().map(|one| &*one.pod).collect();
    eventually(SOON, || {
        let said =
            cluster.kubectl(&format!("exec {from} -- sh -c '{ask}'")).map_err(|error| error.to_string())?;
        missing.retain(|pod| *pod != said.out.trim());
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} did not answer; {said:?}")) }
    })
}

#[test]
fn nodes_come_and_go_while_pods_run() -> Result<()> {
    let cluster = TestCluster::up(2)?;
    let name = &cluster.name;
    let (first, second, third) = (format!("{name}-0"), format!("{name}-1"), format!("{name}-2"));
    cluster.load()?;
    cluster.kubectl_ok("apply -f -", &web(4))?;
    let before = on_nodes(&cluster, 4, &[&first, &second])?;
    for node in [&first, &second] {
        let from = &before.iter().find(|one| one.node == **node).context("no Pod")?.pod;
        all_answer(&cluster, from, &before)?;
    }

    // A third node comes, and one is drained under the budget and goes.
    let added = cluster.minikctl(&["node", "add"])?;
    ensure!(added.code == 0 && added.err.contains(&third), "{added:?}");
    let taken = cluster.minikctl(&["node", "add", &third])?;
    ensure!(taken.code == 1 && taken.err.contains("has a node"), "{taken:?}");
    cluster.load()?;
    let drained = cluster.minikctl(&["drain", &second, "--timeout=120s"])?;
    ensure!(drained.code == 0, "{drained:?}");
    on_nodes(&cluster, 4, &[&first, &third])?;
    let removed = cluster.minikctl(&["node", "remove", &second])?;
    ensure!(removed.code == 0, "{removed:?}");
    let listed = cluster.minikctl(&["node", "list"])?;
    ensure!(listed.out.contains(&third) && !listed.out.contains(&second), "{listed:?}");

    // One goes without warning: its Pods are made again where there are nodes.
    let removed = cluster.minikctl(&["node", "remove", &first])?;
    ensure!(removed.code == 0, "{removed:?}");
    let left = on_nodes(&cluster, 4, &[&third])?;
    all_answer(&cluster, &left[0].pod, &left)?;
    let unknown = cluster.minikctl(&["node", "remove", &first])?;
    ensure!(unknown.code == 1 && unknown.err.contains("has no node"), "{unknown:?}");
    cluster.finish()
}

/// Another machine, as far as a network namespace can be one: a link to this one, and folders of its own.
struct Elsewhere {
    dir: tempfile::TempDir,
    name: String,
    link: String,
}

/// This machine's address on the link, and the other's.
const HERE: &str = "198.51.100.1";
const THERE: &str = "198.51.100.2";

impl Elsewhere {
    fn new() -> Result<Elsewhere> {
        let dir = tempfile::Builder::new().prefix("minik-e2e-elsewhere-").tempdir()?;
        let id = std::process::id();
        let (name, link) = (format!("far{id}"), format!("far{id}"));
        let there = NetNs::create_pinned(&dir.path().join("net"))?;
        let other = Elsewhere { dir, name, link };
        let mut here = Netlink::open()?;
        let veth = Veth { name: &other.link, peer: "up0", peer_netns: Some(&there), ..Veth::default() };
        let index = here.add_veth(&veth)?;
        // Its own address of version 6 would come a moment later, and look like something left behind.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", other.link), "1")?;
        let cidr = |address: &str| format!("{address}/24").parse::<Cidr>();
        here.add_address(index, cidr(HERE)?)?;
        let mut inside = Netlink::open_in(&there)?;
        inside.loopback_up()?;
        let index = inside.index_of("up0")?;
        inside.add_address(index, cidr(THERE)?)?;
        inside.set_up(index)?;
        Ok(other)
    }

    fn pin(&self) -> PathBuf {
        self.dir.path().join("net")
    }

    fn minik(&self, words: &str) -> Result<Said> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.pin().display())).arg(programs()?.join("minik"));
        command.args(words.split(' ')).current_dir("/");
        command
            .env("MINIK_STATE", self.dir.path().join("state"))
            .env("MINIK_RUN", self.dir.path().join("run"));
        run(&mut command, "")
    }

    fn leave(&self) -> Result<Said> {
        self.minik(&format!("node leave --name {}", self.name))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // One that has left already is what is wished for.
        let _ = self.leave();
        let _ = Netlink::open().and_then(|mut here| here.delete_link(&self.link));
        let _ = NetNs::unpin(&self.pin());
    }
}

#[test]
fn a_machine_joins_from_a_network_of_its_own_and_leaves() -> Result<()> {
    let (cluster, far) = TestCluster::up_beside(1, &["--api-address", HERE], Elsewhere::new)?;
    let token = cluster.minikctl(&["node", "token", "create", "--ttl", "1h"])?;
    ensure!(token.code == 0, "{token:?}");
    let join = token.out.trim().strip_prefix("minik ").context("no command")?.to_owned();
    let join = format!("{join} --name {} --node-name far", far.name);

    // What is wrong is said, and nothing is left of it.
    let words: Vec<&str> = join.split(' ').collect();
    let (secret, hash) = (words[4], words[6]);
    let refused = far.minik(&join.replace(secret, "abcdef.0123456789abcdef"))?;
    ensure!(refused.code == 1 && refused.err.contains("does not take the token"), "{refused:?}");
    let refused = far.minik(&join.replace(hash, &format!("sha256:{}", "0".repeat(64))))?;
    ensure!(refused.code == 1 && refused.err.contains("shows no CA with the hash"), "{refused:?}");
    let refused = far.minik(&join.replace("--node-name far", &format!("--node-name {}-0", cluster.name)))?;
    ensure!(refused.code == 1 && refused.err.contains("has a node"), "{refused:?}");

    let joined = far.minik(&join)?;
    ensure!(joined.code == 0 && joined.out.contains("far is a ready node"), "{joined:?}");
    let again = far.minik(&join)?;
    ensure!(again.code == 1 && again.err.contains("is a node already"), "{again:?}");
    let range = cluster.kubectl_ok("get node far -o jsonpath={.spec.podCIDR}", "")?;
    ensure!(range.ends_with(".192.0/24"), "{range}");

    // Pods of both machines reach each other, by name; their logs come from both.
    cluster.load()?;
    let archive = cluster.scratch().join("busybox.tar").display().to_string();
    let mut command = Command::new(programs()?.join("minikctl"));
    command.args(["image", "load", &archive, "--name", &far.name]);
    command.env("MINIK_STATE", far.dir.path().join("state")).env("MINIK_RUN", far.dir.path().join("run"));
    let loaded = run(&mut command, "")?;
    ensure!(loaded.code == 0, "{loaded:?}");
    cluster.kubectl_ok("apply -f -", &web(2))?;
    let near = format!("{}-0", cluster.name);
    let pods = on_nodes(&cluster, 2, &["far", &near])?;
    for one in &pods {
        all_answer(&cluster, &one.pod, &pods)?;
        cluster.kubectl_ok(&format!("logs {}", one.pod), "")?;
    }

    // A used token stops where it is deleted.
    let deleted = cluster.minikctl(&["node", "token", "delete", secret])?;
    ensure!(deleted.code == 0, "{deleted:?}");
    let left = far.leave()?;
    ensure!(left.code == 0, "{left:?}");
    let refused = eventually(SOON, || {
        let said = far.minik(&join).map_err(|error| error.to_string())?;
        if said.err.contains("does not take the token") { Ok(said) } else { Err(format!("{said:?}")) }
    })?;
    ensure!(refused.code == 1, "{refused:?}");
    let removed = cluster.minikctl(&["node", "remove", "far"])?;
    ensure!(removed.code == 0, "{removed:?}");
    // Nobody here knows that its Pods have ended; upstream's controller waits for 40 s before it says so.
    let inside = Command::new("nsenter")
        .arg(format!("--net={}", far.pin().display()))
        .args(["sh", "-c", "ip route show; nft list tables; ip -br link"])
        .output()?;
    let inside = String::from_utf8_lossy(&inside.stdout).into_owned();
    ensure!(
        inside.lines().filter(|line| !line.starts_with("lo") && !line.starts_with("up0")).count() == 1,
        "{inside}"
    );
    cluster.finish_beside(far)
}
