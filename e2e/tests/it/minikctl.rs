//! minikctl's object commands against a real server, beside the real kubectl.

use anyhow::{Result, ensure};
use minik_e2e::harness::{Said, TestCluster, programs, run};
use minik_e2e::images::BUSYBOX;

const OBJECTS: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
  labels: {app: web}
data:
  \"on\": \"yes\"
  script: |
    echo: a
    exit 0
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  nodeSelector: {disk: none}
  initContainers:
  - {name: first, image: \"minik.local/demo:1\", command: [a, \"b c\"]}
  containers:
  - name: web
    image: minik.local/demo:1
    ports: [{containerPort: 80}]
    env: [{name: A, value: b}, {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {requests: {cpu: 100m}, limits: {memory: 64Mi}}
    livenessProbe: {httpGet: {path: /healthz, port: 80}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - {name: data, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
";

fn minikctl(cluster: &TestCluster, words: &str, input: &str) -> Result<String> {
    let args: Vec<&str> = words.split_whitespace().collect();
    let said = cluster.minikctl_with(&args, input)?;
    ensure!(said.code == 0, "minikctl {words} ended with {}: {}{}", said.code, said.out, said.err);
    Ok(said.out)
}

/// Takes out what changes from one second to the next: ages.
fn ageless(text: &str) -> String {
    let is_age =
        |word: &str| word.ends_with(['s', 'm', 'h', 'd']) && word.starts_with(|c: char| c.is_ascii_digit());
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').map(|word| if is_age(word) { "AGE" } else { word }).collect();
        words.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn objects_are_made_shown_and_deleted_as_kubectl_shows_them() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let made = minikctl(&cluster, "apply -f -", OBJECTS)?;
    assert_eq!(made, "configmap/settings created\nsecret/key created\npod/web created\n");
    let again = minikctl(&cluster, "apply -f -", &OBJECTS.replace("hunter2", "other"))?;
    assert_eq!(again, "configmap/settings unchanged\nsecret/key configured\npod/web unchanged\n");
    for words in [
        "get pods",
        "get po,cm,secrets -o wide",
        "get all -A",
        "get namespaces --show-labels",
        "get pod/web configmap/settings",
        "get configmaps -l app=web --no-headers",
        "get clusterroles",
        "get pods -L app",
        "get pod web -o yaml",
        "get configmap settings -o yaml",
        "get configmaps -o json",
        "get pods -A -o name",
        "get pods -o jsonpath={range.items[*]}{.metadata.name}{end}",
        "get pod web -o jsonpath={.spec.containers[*].image}",
        "get cm -o jsonpath={.items[?(@.metadata.name==\"settings\")].data.script}",
        "api-resources",
        "api-resources -o wide --namespaced=false",
        "get pods --field-selector status.phase=Running",
    ] {
        let (ours, theirs) = (minikctl(&cluster, words, "")?, cluster.kubectl_ok(words, "")?);
        assert_eq!(ageless(&ours), ageless(&theirs), "{words}");
    }
    let (ours, theirs) =
        (minikctl(&cluster, "describe pod web", "")?, cluster.kubectl_ok("describe pod web", "")?);
    let why = ageless(&ours).strip_prefix(&ageless(&theirs)).map(str::to_owned);
    ensure!(
        why.as_ref().is_some_and(|why| why.starts_with("\nWhy Pending: ")),
        "ours\n{ours}\ntheirs\n{theirs}"
    );
    let late = cluster.minikctl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=1s"])?;
    assert_eq!(
        (late.code, late.err.as_str()),
        (1, "minikctl: timed out waiting for the condition on pods/web\n")
    );
    let missing = cluster.minikctl(&["get", "pod", "none"])?;
    assert_eq!(missing.err, "minikctl: error from server (NotFound): pods \"none\" not found\n");
    let deleted = minikctl(&cluster, "delete pod web --now", "")?;
    assert_eq!(deleted, cluster_words("pod", "web"));
    assert_eq!(minikctl(&cluster, "delete cm,secret -l app=web --all", "")?.lines().count(), 1);
    assert_eq!(minikctl(&cluster, "wait --for=delete pod/web", "")?, "pod/web condition met\n");
    cluster.finish()
}

/// Runs a line on a terminal of its own.
fn on_a_terminal(cluster: &TestCluster, line: &str) -> Result<Said> {
    let path = format!("{}:/usr/bin:/bin", programs()?.display());
    let mut command = std::process::Command::new("script");
    command.args(["-qec", line, "/dev/null"]).env("PATH", path).env("KUBECONFIG", &cluster.kubeconfig);
    run(&mut command, "")
}

fn cluster_words(kind: &str, name: &str) -> String {
    format!("{kind} {name:?} deleted from default namespace\n")
}

#[test]
fn without_a_cluster_it_is_said_what_to_do() -> Result<()> {
    let cluster = TestCluster::up(0)?;
    let down = cluster.minikctl(&["cluster", "down"])?;
    assert_eq!(down.code, 0, "{}", down.err);
    let said = cluster.minikctl(&["get", "pods"])?;
    assert_eq!(said.code, 3);
    assert!(
        said.err.contains("no cluster is running at https://") && said.err.contains("minikctl cluster up"),
        "{}",
        said.err
    );
    cluster.finish()
}

#[test]
fn commands_run_in_containers_and_end_as_they_ended() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: box}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: main, image: \"{BUSYBOX}\", command: [sh, -c, \"echo started; trap 'exit 0' TERM; sleep 1000 & wait\"]}}\n"
    );
    minikctl(&cluster, "apply -f -", &pod)?;
    minikctl(&cluster, "wait --for=condition=Ready pod/box", "")?;
    assert_eq!(minikctl(&cluster, "exec box -- echo hello", "")?, "hello\n");
    assert_eq!(minikctl(&cluster, "exec -i pod/box -c main -- cat", "through\n")?, "through\n");
    let failed = cluster.minikctl(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 3"])?;
    assert_eq!((failed.code, failed.out.as_str()), (3, "out\n"));
    assert_eq!(failed.err, "err\ncommand terminated with exit code 3\n");
    assert_eq!(minikctl(&cluster, "logs box", "")?, "started\n");
    let terminal = on_a_terminal(&cluster, "minikctl exec -it box -- sh -c 'tty; stty size; exit 7'")?;
    ensure!(terminal.code == 7 && terminal.out.contains("/dev/pts/"), "{terminal:?}");
    let none = cluster.minikctl(&["exec", "box", "-c", "none", "--", "true"])?;
    assert_eq!(none.err, "minikctl: container none is not valid for pod box: it has main\n");
    assert_eq!(minikctl(&cluster, "delete pod box", "")?, cluster_words("pod", "box"));
    cluster.finish()
}

/// Both programs say the same of the same.
fn alike(cluster: &TestCluster, all: &[&str]) -> Result<()> {
    for words in all {
        let (ours, theirs) = (minikctl(cluster, words, "")?, cluster.kubectl_ok(words, "")?);
        ensure!(ageless(&ours) == ageless(&theirs), "{words}: ours\n{ours}\ntheirs\n{theirs}");
    }
    Ok(())
}

#[test]
fn workloads_are_rolled_out_as_kubectl_does_it() -> Result<()> {
    let cluster = TestCluster::with_node()?;
    let said = |words: &str| minikctl(&cluster, words, "");
    let make = format!("create deployment web --image={BUSYBOX} --replicas=2 --port=8080 -- sleep 1000");
    assert_eq!(said(&make)?, "deployment.apps/web created\n");
    let rolled = said("rollout status deployment/web --timeout=120s")?;
    ensure!(rolled.ends_with("deployment \"web\" successfully rolled out\n"), "{rolled}");
    assert_eq!(
        said("expose deployment web --port=80 --target-port=8080 --type=NodePort")?,
        "service/web exposed\n"
    );
    assert_eq!(said("expose deploy/web --name=both --cluster-ip=None")?, "service/both exposed\n");
    assert_eq!(
        said("annotate deployment/web kubernetes.io/change-cause=first")?,
        "deployment.apps/web annotated\n"
    );
    alike(
        &cluster,
        &[
            "rollout status deployment/web",
            "rollout history deployment/web",
            "rollout history deployment/web --revision=1",
            "get deployments,replicasets -o wide",
            "get services --show-labels",
            "describe deployment web",
            "describe replicasets",
            "describe service both",
            "describe service kubernetes",
        ],
    )?;
    assert_eq!(
        said("set image deploy/web busybox=registry.invalid/absent:1")?,
        "deployment.apps/web image updated\n"
    );
    let late = cluster.minikctl(&["rollout", "status", "deploy/web", "--timeout=1s"])?;
    ensure!(late.code == 1 && late.out.contains("1 out of 2 new replicas have been updated"), "{late:?}");
    let why = said("why deployment/web")?;
    ensure!(why.contains("registry.invalid/absent:1"), "{why}");
    assert_eq!(said("rollout undo deployment/web")?, "deployment.apps/web rolled back\n");
    said("rollout status deployment/web --timeout=120s")?;
    for (words, theirs) in [
        ("rollout pause deployment/web", "deployment.apps/web paused\n"),
        ("rollout resume deployment/web", "deployment.apps/web resumed\n"),
        ("scale deployment/web --replicas=1 --current-replicas=2", "deployment.apps/web scaled\n"),
        ("rollout restart deployment/web", "deployment.apps/web restarted\n"),
        ("label deployment web tier=front", "deployment.apps/web labeled\n"),
        ("rollout undo deployment/web --to-revision=2", "deployment.apps/web rolled back\n"),
        ("rollout undo deployment/web", "deployment.apps/web rolled back\n"),
    ] {
        assert_eq!(said(words)?, theirs);
    }
    said("rollout status deployment/web --timeout=120s")?;
    alike(&cluster, &["rollout history deployment/web"])?;
    let node = said("get nodes -o jsonpath={.items[0].metadata.name}")?;
    let drained = said(&format!("drain {node} --grace-period=1 --timeout=120s"))?;
    ensure!(
        drained.contains("evicted\n") && drained.ends_with(&format!("node/{node} drained\n")),
        "{drained}"
    );
    assert_eq!(said(&format!("cordon {node}"))?, format!("node/{node} already cordoned\n"));
    let why = said("why deployment/web")?;
    ensure!(why.contains("cordoned") && why.contains(&format!("minikctl uncordon {node}")), "{why}");
    assert_eq!(said(&format!("uncordon {node}"))?, format!("node/{node} uncordoned\n"));
    said("rollout status deployment/web --timeout=120s")?;
    cluster.finish()
}
