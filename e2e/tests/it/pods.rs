//! Pods on a real node: from a file to running processes, seen alike by minikctl and by kubectl.

use anyhow::{Context, Result, ensure};
use minik_e2e::harness::{TestCluster, eventually};
use minik_e2e::images::BUSYBOX;
use std::time::Duration;

/// How long a Pod may take to do what it is waited for.
const SOON: Duration = Duration::from_secs(120);

/// A Pod of one container that runs a shell script.
fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    \
         command: [sh, -c, {script:?}]\n"
    )
}

/// What kubectl gives of a Pod by a JSON path.
fn of(cluster: &TestCluster, pod: &str, path: &str) -> Result<String> {
    cluster.kubectl_ok(&format!("get pod {pod} -o jsonpath={{{path}}}"), "")
}

#[test]
fn a_pod_runs_from_a_file_by_minikctl() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let file = cluster.scratch().join("pod.yaml");
    std::fs::write(&file, pod("web", "echo hello from $(hostname); exec sleep 1000"))?;
    let path = file.display().to_string();
    let applied = cluster.minikctl(&["apply", "-f", &path])?;
    ensure!(applied.code == 0 && applied.out.contains("pod/web created"), "{applied:?}");
    let waited = cluster.minikctl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=120s"])?;
    ensure!(waited.code == 0, "{waited:?}");
    let again = cluster.minikctl(&["apply", "-f", &path])?;
    ensure!(again.out.contains("pod/web unchanged"), "{again:?}");
    let shown = cluster.minikctl(&["get", "pods"])?;
    let seen = cluster.kubectl_ok("get pods", "")?;
    let row = |text: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with("web")).unwrap_or_default();
        line.split_whitespace().take(4).map(str::to_owned).collect()
    };
    assert_eq!(row(&shown.out), ["web", "1/1", "Running", "0"], "{shown:?}");
    assert_eq!(row(&seen), row(&shown.out));
    let logs = cluster.minikctl(&["logs", "web"])?;
    assert_eq!(logs.out, "hello from web\n", "{logs:?}");
    assert_eq!(cluster.kubectl_ok("logs web", "")?, logs.out);
    let described = cluster.minikctl(&["describe", "pod", "web"])?;
    for text in ["Name:", "Node:", "Container started", "Successfully assigned default/web"] {
        ensure!(described.out.contains(text), "{text:?} is not in\n{}", described.out);
    }
    let deleted = cluster.minikctl(&["delete", "pod", "web"])?;
    ensure!(deleted.code == 0, "{deleted:?}");
    cluster.finish()
}

#[test]
fn a_pod_has_namespaces_cgroups_and_an_address_of_its_own() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let script = "hostname; readlink /proc/self/ns/net; exec httpd -f -p 8080 -h /etc";
    cluster.kubectl_ok("apply -f -", &pod("own", script))?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/own --timeout=120s", "")?;
    let address = of(&cluster, "own", ".status.podIP")?;
    ensure!(address.starts_with("10.") || address.starts_with("172."), "{address:?}");
    // The host reaches the Pod by the route to its node.
    eventually(SOON, || {
        let answer = std::net::TcpStream::connect((address.as_str(), 8080));
        answer.map(drop).map_err(|error| format!("{address}:8080: {error}"))
    })?;
    let logs = cluster.kubectl_ok("logs own", "")?;
    let own = std::fs::read_link("/proc/self/ns/net")?.display().to_string();
    ensure!(logs.starts_with("own\n") && logs.contains("net:[") && !logs.contains(&own), "{logs}");
    cluster.finish()
}

#[test]
fn kubectl_runs_logs_waits_describes_and_deletes() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let run = format!("run job --image={BUSYBOX} --restart=Never --command -- sh -c pwd");
    let said = cluster.kubectl_ok(&run, "")?;
    ensure!(said.contains("pod/job created"), "{said}");
    cluster.kubectl_ok("wait --for=jsonpath={.status.phase}=Succeeded pod/job --timeout=120s", "")?;
    assert_eq!(cluster.kubectl_ok("logs job", "")?, "/\n");
    let described = cluster.kubectl_ok("describe pod job", "")?;
    for text in ["Status:           Succeeded", "Exit Code:    0", "Reason:       Completed"] {
        ensure!(described.contains(text), "{text:?} is not in\n{described}");
    }
    let node = cluster.kubectl_ok("describe nodes", "")?;
    ensure!(node.contains("KubeletReady") && node.contains("Capacity:"), "{node}");
    cluster.kubectl_ok("delete pod job", "")?;
    cluster.kubectl_ok("wait --for=delete pod/job --timeout=120s", "")?;
    cluster.finish()
}

#[test]
fn what_is_wrong_with_a_pod_stands_in_its_status() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let cases = [
        (
            "noimage",
            pod("noimage", "true").replace(BUSYBOX, "localhost:1/none:1"),
            "ErrImagePull|ImagePullBackOff",
        ),
        (
            "nocommand",
            pod("nocommand", "true").replace("[sh, -c, \"true\"]", "[/nope]"),
            "RunContainerError|CrashLoopBackOff",
        ),
        (
            "noconfig",
            pod("noconfig", "true") + "    envFrom: [{configMapRef: {name: absent}}]\n",
            "CreateContainerConfigError",
        ),
    ];
    for (_, yaml, _) in &cases {
        cluster.kubectl_ok("apply -f -", yaml)?;
    }
    for (name, _, reasons) in &cases {
        eventually(SOON, || {
            let path = ".status.containerStatuses[0].state.waiting.reason";
            let reason = of(&cluster, name, path).map_err(|error| error.to_string())?;
            if reasons.split('|').any(|one| one == reason) {
                Ok(())
            } else {
                Err(format!("{name}: {reason:?}"))
            }
        })?;
    }
    cluster.finish()
}

#[test]
fn pods_outlive_a_killed_kubelet_and_runtime() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    cluster.kubectl_ok("apply -f -", &pod("stays", "exec sleep 1000"))?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/stays --timeout=120s", "")?;
    let container = of(&cluster, "stays", ".status.containerStatuses[0].containerID")?;
    let node = format!("{}-0", cluster.name);
    for unit in ["kubelet", "runtime"] {
        let path = cluster.cluster()?.layout().pid(&format!("{node}/{unit}"));
        let pid = || -> Result<i64> {
            let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            value["pid"].as_i64().context("no pid")
        };
        let before = pid()?;
        std::process::Command::new("kill").args(["-9", &before.to_string()]).status()?;
        eventually(SOON, || match pid() {
            Ok(now) if now != before => Ok(()),
            other => Err(format!("{unit}: {other:?}")),
        })?;
    }
    // A new Pod shows that both work again; the old one is the same container.
    cluster.kubectl_ok("apply -f -", &pod("after", "exec sleep 1000"))?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/after --timeout=120s", "")?;
    assert_eq!(of(&cluster, "stays", ".status.containerStatuses[0].containerID")?, container);
    assert_eq!(of(&cluster, "stays", ".status.containerStatuses[0].restartCount")?, "0");
    cluster.finish()
}

#[test]
fn pods_are_back_after_down_and_up() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    cluster.kubectl_ok("apply -f -", &pod("back", "exec sleep 1000"))?;
    cluster.kubectl_ok("wait --for=condition=Ready pod/back --timeout=120s", "")?;
    let container = of(&cluster, "back", ".status.containerStatuses[0].containerID")?;
    ensure!(cluster.minikctl(&["cluster", "down"])?.code == 0);
    let up = cluster.minikctl(&["cluster", "up"])?;
    ensure!(up.code == 0, "{up:?}");
    eventually(SOON, || {
        let path = ".status.containerStatuses[0].containerID}{.status.containerStatuses[0].ready";
        let now = of(&cluster, "back", path).map_err(|error| error.to_string())?;
        if now.ends_with("true") && !now.starts_with(&container) { Ok(()) } else { Err(now) }
    })?;
    cluster.finish()
}

#[test]
fn two_clusters_live_side_by_side() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let other = format!("{}b", cluster.name);
    let file = cluster.scratch().join("other").display().to_string();
    let up = cluster.minikctl(&["--kubeconfig", &file, "cluster", "up", "--name", &other])?;
    ensure!(up.code == 0, "{up:?}");
    let nodes = cluster.kubectl_ok(&format!("--kubeconfig={file} get nodes -o name"), "")?;
    assert_eq!(nodes, format!("node/{other}-0\n"));
    cluster.kubectl_ok("apply -f -", &pod("here", "exec sleep 1000"))?;
    let deleted = cluster.minikctl(&["--kubeconfig", &file, "cluster", "delete", "--name", &other])?;
    ensure!(deleted.code == 0, "{deleted:?}");
    cluster.kubectl_ok("wait --for=condition=Ready pod/here --timeout=120s", "")?;
    cluster.finish()
}
