//! Rollouts of a real app over two nodes: without a lost request, back, by revision, paused, all at once, and by kubectl
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>).

mod load;
mod watched;

use anyhow::{Context, Result, ensure};
use load::{Load, ask};
use minik_e2e::harness::{TestCluster, eventually, programs};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use watched::Watched;

const SOON: Duration = Duration::from_secs(120);

/// An app that listens a second after it starts, and that is asked for a while longer once it is to end.
fn app(name: &str, strategy: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 3
  strategy: {{type: {strategy}}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: c
        image: minik.local/demo:1
        args: [serve, --listen-delay, '1']
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /readyz, port: 8080}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{exec: {{command: [/demo, sleep, '2']}}}}}}
"
    )
}

/// Runs minikctl; gives what it printed.
fn minikctl(cluster: &TestCluster, words: &str) -> Result<String> {
    let words: Vec<&str> = words.split(' ').collect();
    let said = cluster.minikctl(&words)?;
    ensure!(said.code == 0, "minikctl {words:?} ended with {}: {}{}", said.code, said.out, said.err);
    Ok(said.out)
}

fn rolled_out(cluster: &TestCluster, name: &str) -> Result<()> {
    let said = minikctl(cluster, &format!("rollout status deployment/{name} --timeout 60s"))?;
    ensure!(said.contains("successfully rolled out"), "{said}");
    Ok(())
}

/// A field of an object.
fn field(cluster: &TestCluster, object: &str, path: &str) -> Result<String> {
    cluster.kubectl_ok(&format!("get {object} -o jsonpath={{{path}}}"), "")
}

/// Numbers of the status of `web`.
fn counts(cluster: &TestCluster, names: &[&str]) -> Result<String> {
    let fields: Vec<String> = names.iter().map(|name| format!("{{.status.{name}}}")).collect();
    cluster.kubectl_ok(&format!("get deployment web -o 'jsonpath={}'", fields.join(" ")), "")
}

fn image(cluster: &TestCluster) -> Result<String> {
    field(cluster, "deployment web", ".spec.template.spec.containers[0].image")
}

fn revision(cluster: &TestCluster) -> Result<String> {
    field(cluster, "deployment web", ".metadata.annotations.deployment\\.kubernetes\\.io/revision")
}

#[test]
fn rollouts_go_as_they_are_asked_to() -> Result<()> {
    let cluster = TestCluster::up(2)?;
    for version in 1..=3 {
        let name = format!("minik.local/demo:{version}");
        let demo = Command::new(programs()?.join("minik-demo")).args(["image", "--image", &name]).output()?;
        let archive = cluster.scratch().join("demo.tar");
        std::fs::write(&archive, demo.stdout)?;
        let loaded = minikctl(&cluster, &format!("image load {}", archive.display()))?;
        ensure!(loaded.contains(&name), "{loaded}");
    }
    cluster.kubectl_ok("create -f -", &app("web", "RollingUpdate"))?;
    rolled_out(&cluster, "web")?;
    let nodes = field(&cluster, "pods -l app=web", ".items[*].spec.nodeName")?;
    let used: std::collections::BTreeSet<&str> = nodes.split(' ').collect();
    assert_eq!(used.len(), 2, "{nodes}");
    a_broken_image_stops_and_is_undone(&cluster)?;
    a_pause_gathers_changes(&cluster)?;
    revisions_come_and_go(&cluster)?;
    kubectl_does_the_same(&cluster)?;
    no_request_is_lost(&cluster)?;
    recreating_has_old_or_new(&cluster)?;
    cluster.finish()
}

/// Of three Pods none may be missing, and one may be more.
fn a_broken_image_stops_and_is_undone(cluster: &TestCluster) -> Result<()> {
    minikctl(cluster, "set image deployment/web c=minik.local/demo:broken")?;
    eventually(SOON, || {
        let reasons =
            field(cluster, "pods -l app=web", ".items[*].status.containerStatuses[*].state.waiting.reason");
        let reasons = reasons.map_err(|error| format!("{error:#}"))?;
        if reasons.contains("ImagePull") { Ok(()) } else { Err(format!("waiting for {reasons:?}")) }
    })?;
    let late = cluster.minikctl(&["rollout", "status", "deployment/web", "--timeout", "2s"])?;
    ensure!(late.code != 0, "{late:?}");
    assert_eq!(counts(cluster, &["replicas", "updatedReplicas", "availableReplicas"])?, "4 1 3");
    minikctl(cluster, "rollout undo deployment/web")?;
    rolled_out(cluster, "web")?;
    assert_eq!(image(cluster)?, "minik.local/demo:1");
    assert_eq!(counts(cluster, &["replicas", "availableReplicas"])?, "3 3");
    Ok(())
}

fn a_pause_gathers_changes(cluster: &TestCluster) -> Result<()> {
    let before: u32 = revision(cluster)?.parse()?;
    let sets = || {
        field(cluster, "replicasets -l app=web", ".items[*].metadata.name").map(|all| all.split(' ').count())
    };
    let made = sets()?;
    minikctl(cluster, "rollout pause deployment/web")?;
    minikctl(cluster, "set image deployment/web c=minik.local/demo:2")?;
    minikctl(cluster, "set image deployment/web c=minik.local/demo:3")?;
    minikctl(cluster, "rollout resume deployment/web")?;
    rolled_out(cluster, "web")?;
    assert_eq!((revision(cluster)?.parse::<u32>()?, sets()?), (before + 1, made + 1));
    Ok(())
}

/// The template of each image has its own revision, which becomes the newest when it comes back.
fn revisions_come_and_go(cluster: &TestCluster) -> Result<()> {
    minikctl(cluster, "set image deployment/web c=minik.local/demo:2")?;
    rolled_out(cluster, "web")?;
    let second = revision(cluster)?;
    minikctl(cluster, "set image deployment/web c=minik.local/demo:1")?;
    rolled_out(cluster, "web")?;
    let first = revision(cluster)?;
    minikctl(cluster, "set image deployment/web c=minik.local/demo:3")?;
    rolled_out(cluster, "web")?;
    for (to, version) in [(&first, "1"), (&second, "2")] {
        minikctl(cluster, &format!("rollout undo deployment/web --to-revision {to}"))?;
        rolled_out(cluster, "web")?;
        assert_eq!(image(cluster)?, format!("minik.local/demo:{version}"));
        let history = minikctl(cluster, "rollout history deployment/web")?;
        let gone = history.lines().all(|line| line.split_whitespace().next() != Some(to));
        ensure!(gone, "revision {to} has become another:\n{history}");
    }
    Ok(())
}

fn kubectl_does_the_same(cluster: &TestCluster) -> Result<()> {
    let status = "rollout status deployment/web --timeout=120s";
    cluster.kubectl_ok("set image deployment/web c=minik.local/demo:3", "")?;
    cluster.kubectl_ok(status, "")?;
    cluster.kubectl_ok("rollout undo deployment/web", "")?;
    cluster.kubectl_ok(status, "")?;
    assert_eq!(image(cluster)?, "minik.local/demo:2");
    cluster.kubectl_ok("rollout pause deployment/web", "")?;
    cluster.kubectl_ok("set image deployment/web c=minik.local/demo:1", "")?;
    cluster.kubectl_ok("rollout resume deployment/web", "")?;
    cluster.kubectl_ok(status, "")?;
    cluster.kubectl_ok("rollout restart deployment/web", "")?;
    cluster.kubectl_ok(status, "")?;
    cluster.kubectl_ok("scale deployment/web --replicas=2", "")?;
    cluster.kubectl_ok(status, "")?;
    assert_eq!(field(cluster, "deployment web", ".status.availableReplicas")?, "2");
    cluster.kubectl_ok("scale deployment/web --replicas=3", "")?;
    cluster.kubectl_ok(status, "")?;
    cluster.kubectl_ok("expose deployment/web --port=80 --target-port=8080", "")?;
    Ok(())
}

fn no_request_is_lost(cluster: &TestCluster) -> Result<()> {
    let address = field(cluster, "service web", ".spec.clusterIP")?;
    let address: SocketAddr = format!("{address}:80").parse().context(address)?;
    eventually(SOON, || ask(address).map_err(|error| format!("{error:#}")))?;
    let load = Load::start(address);
    minikctl(cluster, "set image deployment/web c=minik.local/demo:2")?;
    let rolled = rolled_out(cluster, "web");
    // The old ones end in their own time.
    let ended = eventually(SOON, || {
        let pods = field(cluster, "pods -l app=web", ".items[*].metadata.name")
            .map_err(|error| format!("{error:#}"))?;
        if pods.split(' ').count() == 3 { Ok(()) } else { Err(pods) }
    });
    let tally = load.stop();
    rolled.and(ended)?;
    ensure!(
        tally.failed.is_empty(),
        "{} of {} requests failed: {:#?}",
        tally.failed.len(),
        tally.sent,
        tally.failed
    );
    let versions: Vec<&str> = tally.versions.keys().map(String::as_str).collect();
    assert_eq!(versions, ["1", "2"], "{tally:?}");
    ensure!(tally.sent > 500, "too few requests to tell: {}", tally.sent);
    Ok(())
}

fn recreating_has_old_or_new(cluster: &TestCluster) -> Result<()> {
    cluster.kubectl_ok("create -f -", &app("whole", "Recreate"))?;
    rolled_out(cluster, "whole")?;
    let watched = Watched::start(cluster, "app=whole")?;
    minikctl(cluster, "set image deployment/whole c=minik.local/demo:2")?;
    rolled_out(cluster, "whole")?;
    let seen = watched.stop()?;
    ensure!(seen.together.is_empty(), "Pods of several templates at once: {:?}", seen.together);
    assert_eq!(seen.templates.len(), 2, "{seen:?}");
    Ok(())
}
