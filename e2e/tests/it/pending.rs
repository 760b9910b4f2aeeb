//! Why Pods do not run: each cause made for real from `manifests/pending/`, named by `why` and `describe`, and mended as
//! they suggest.
//!
//! The head of a manifest says what is expected: `Object` what is asked about (the Pod of the file's name if not given),
//! `Why` the cause, `Before` a command that prepares it, `Mend` what makes it run: a change of the manifest, a command that
//! is suggested, or (`lower`) a request lowered as is suggested.

use anyhow::{Context, Result, ensure};
use minik_e2e::harness::{TestCluster, eventually, programs};
use minik_e2e::images::BUSYBOX;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a cause may take to show, or a Pod to run.
const SOON: Duration = Duration::from_secs(120);
/// How long a node may be silent until it counts as not ready, and some more.
const STANDS_STILL: Duration = Duration::from_secs(90);
const DEMO: &str = "minik.local/demo:1";

/// Keeps the images in use, so that a node whose disk fills does not remove them.
const KEEPER: &str = "apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - {name: demo, image: \"minik.local/demo:1\"}
  - {name: busybox, image: \"minik.local/busybox:1\"}
";

/// A manifest with its head.
struct Case {
    name: String,
    text: String,
}

impl Case {
    fn all(node: &str) -> Result<Vec<Case>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/pending");
        let mut cases = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_stem().context("no name")?.to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path)?.replace("NODE", node).replace("busybox:1.37", BUSYBOX);
            cases.push(Case { name, text });
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cases)
    }

    fn head(&self, key: &str) -> Option<&str> {
        let mark = format!("# {key}: ");
        self.text.lines().find_map(|line| line.strip_prefix(&mark))
    }
}

/// `pod/web`, as JSON.
fn why(cluster: &TestCluster, object: &str) -> Result<Value, String> {
    let said = cluster.minikctl(&["why", object, "-o", "json"]).map_err(|error| format!("{error:#}"))?;
    serde_json::from_str(&said.out).map_err(|_| format!("{said:?}"))
}

fn names(diagnosis: &Value, cause: &str) -> bool {
    let causes = diagnosis["diagnosis"]["causes"].as_array();
    causes.is_some_and(|causes| causes.iter().any(|one| one["cause"] == cause))
}

/// Runs a line as a person would, with `minikctl` in the path.
fn shell(cluster: &TestCluster, line: &str, input: Option<&str>) -> Result<()> {
    let words = match input {
        Some(_) => format!("{line} -f -"),
        None => line.to_owned(),
    };
    let roots = cluster.roots();
    let path = format!("{}:/usr/bin:/bin", programs()?.display());
    let mut command = Command::new("sh");
    command.args(["-c", &words]).env("PATH", path).env("KUBECONFIG", &cluster.kubeconfig);
    command.env("MINIK_STATE", &roots.state).env("MINIK_RUN", &roots.run).env("MINIK_CLUSTER", &cluster.name);
    let said = minik_e2e::harness::run(&mut command, input.unwrap_or_default())?;
    ensure!(said.code == 0, "{line}: {said:?}");
    Ok(())
}

/// Checks one manifest from its cause to its end.
fn check(cluster: &TestCluster, case: &Case) -> Result<()> {
    let (cause, mend) = (case.head("Why").context("no Why")?, case.head("Mend").context("no Mend")?);
    let pod = case.head("Object").map_or_else(|| format!("pod/{}", case.name), str::to_owned);
    if let Some(before) = case.head("Before") {
        shell(cluster, before, None)?;
    }
    shell(cluster, "minikctl apply", Some(&case.text))?;
    let gone = mend.ends_with(", gone");
    if gone {
        shell(cluster, &format!("minikctl delete {pod} --wait=false --now"), None)?;
    }
    let found = eventually(SOON, || {
        let found = why(cluster, &pod)?;
        if names(&found, cause) { Ok(found) } else { Err(found.to_string()) }
    })?;
    println!("--- {}\n{}", case.name, cluster.minikctl(&["why", &pod])?.out);
    if pod.starts_with("pod/") {
        let described = cluster.minikctl(&["describe", &pod])?;
        ensure!(described.out.contains("\nWhy "), "{}", described.out);
    }
    if let Some(prefix) = mend.strip_prefix("run `").and_then(|rest| rest.split('`').next()) {
        let all = found["diagnosis"]["suggestions"].as_array().cloned().unwrap_or_default();
        let command =
            all.iter().filter_map(|one| one["command"].as_str()).find(|one| one.starts_with(prefix));
        let command = command.with_context(|| format!("no {prefix} is suggested: {found}"))?;
        shell(cluster, &command.replace("IMAGE", DEMO), None)?;
    } else {
        let text = mended(case, mend, &found)?;
        shell(cluster, "minikctl delete --now --ignore-not-found", Some(&case.text))?;
        shell(cluster, "minikctl apply", Some(&text))?;
    }
    if gone {
        return shell(cluster, &format!("minikctl wait --for=delete {pod} --timeout=120s"), None);
    }
    eventually(SOON, || {
        let after = cluster.minikctl(&["why", &pod]).map_err(|error| format!("{error:#}"))?;
        if after.out.contains("is as it should be") { Ok(()) } else { Err(format!("{after:?}")) }
    })?;
    shell(cluster, "minikctl delete --now --ignore-not-found", Some(&case.text))
}

/// The manifest as the suggestion, or its head, would have it.
fn mended(case: &Case, mend: &str, found: &Value) -> Result<String> {
    if mend == "lower" {
        let said = found["diagnosis"]["suggestions"][0]["what"].as_str().unwrap_or_default();
        let (name, amount) = said.split_once(" request to ").with_context(|| format!("no amount: {said}"))?;
        let resource = name.rsplit(' ').next().unwrap_or_default();
        let (before, rest) = case.text.split_once(&format!("{resource}: ")).context("no request")?;
        let end = rest.find('}').context("no end")?;
        return Ok(format!("{before}{resource}: {amount}{}", &rest[end..]));
    }
    let parts: Vec<&str> = mend.split('`').collect();
    let [_, from, _, to, ..] = parts.as_slice() else { anyhow::bail!("{mend:?} says nothing") };
    let head = format!("# Mend: {mend}");
    Ok(case.text.replace(&head, "#").replace(from, to))
}

#[test]
fn each_cause_is_named_and_mended_as_suggested() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let archive = cluster.scratch().join("demo.tar");
    let demo = Command::new(programs()?.join("minik-demo")).arg("image").output().context("minik-demo")?;
    std::fs::write(&archive, demo.stdout)?;
    shell(&cluster, &format!("minikctl image load {}", archive.display()), None)?;
    shell(&cluster, "minikctl apply", Some(KEEPER))?;
    let node = cluster.kubectl_ok("get nodes -o jsonpath={.items[0].metadata.name}", "")?;
    let only = std::env::var("MINIK_PENDING").unwrap_or_default();
    let mut failed = Vec::new();
    for case in Case::all(&node)?.iter().filter(|case| only.is_empty() || only == case.name) {
        if let Err(error) = check(&cluster, case) {
            failed.push(format!("{}: {error:#}", case.name));
            shell(&cluster, "minikctl delete --now --ignore-not-found --wait=false", Some(&case.text))?;
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    stops(&cluster, "scheduler", "SchedulerNotRunning")?;
    stops(&cluster, "kubelet", "NodeNotReady")?;
    cluster.finish()
}

/// A process of the cluster that stands still makes a cause, and going on mends it.
fn stops(cluster: &TestCluster, process: &str, cause: &str) -> Result<()> {
    let status = cluster.minikctl(&["cluster", "status"])?;
    let is_row = |line: &&str| line.split_whitespace().next().is_some_and(|name| name.ends_with(process));
    let row = status.out.lines().find(is_row).unwrap_or_default();
    let pid = row.split_whitespace().nth(1).with_context(|| format!("no pid of {process}: {status:?}"))?;
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: waits}\nspec: {terminationGracePeriodSeconds: 1, containers: [{name: web, image: minik.local/demo:1}]}\n";
    ensure!(Command::new("kill").args(["-STOP", pid]).status()?.success());
    let found = shell(cluster, "minikctl apply", Some(text)).and_then(|()| {
        eventually(STANDS_STILL, || {
            let found = why(cluster, "pod/waits")?;
            if names(&found, cause) { Ok(()) } else { Err(found.to_string()) }
        })
    });
    ensure!(Command::new("kill").args(["-CONT", pid]).status()?.success());
    found?;
    shell(cluster, "minikctl wait --for=condition=Ready pod/waits --timeout=120s", None)?;
    shell(cluster, "minikctl delete pod/waits --now", None)
}

#[test]
fn a_cluster_without_nodes_says_so() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let text =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: waits}\nspec: {containers: [{name: web, image: x}]}\n";
    shell(&cluster, "minikctl apply", Some(text))?;
    let said = cluster.minikctl(&["why", "waits"])?;
    ensure!(said.out.contains("there is no node") && said.out.contains("minikctl node add"), "{said:?}");
    cluster.finish()
}
