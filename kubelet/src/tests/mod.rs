//! The running kubelet against a runtime and an apiserver in memory, on a paused clock.

mod api;

mod runtime;

use crate::config::Config;
use crate::service::run_with;
use api::Server;
use minik_component::{Clock, SeededChance, Shutdown};
use minik_cri::v1;
use runtime::FakeRuntime;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A time of day that goes on with the paused clock, but for the seconds that somebody sets it ahead.
struct PausedClock(tokio::time::Instant, AtomicI64);

impl PausedClock {
    fn new() -> Arc<PausedClock> {
        Arc::new(PausedClock(tokio::time::Instant::now(), AtomicI64::new(0)))
    }
}

impl Clock for PausedClock {
    fn now(&self) -> jiff::Timestamp {
        let since = jiff::SignedDuration::try_from(self.0.elapsed()).unwrap();
        jiff::Timestamp::from_second(1_800_000_000 + self.1.load(Ordering::Relaxed)).unwrap() + since
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

struct Running {
    server: Server,
    runtime: Arc<FakeRuntime>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<(), crate::KubeletError>>,
    dir: tempfile::TempDir,
    clock: Arc<PausedClock>,
}

fn config(dir: &tempfile::TempDir, clock: Arc<PausedClock>) -> Config {
    Config {
        node_name: "n1".into(),
        certificates: Default::default(),
        runtime_endpoint: String::new(),
        node_ips: vec!["192.0.2.7".parse().unwrap()],
        root_dir: dir.path().join("kubelet"),
        pod_log_dir: dir.path().join("logs"),
        api: None,
        stream_idle: Duration::from_secs(3600),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        max_pods: 110,
        pod_max_pids: -1,
        cgroup_root: None,
        labels: Vec::new(),
        taints: Vec::new(),
        pod_cidr: None,
        register: true,
        resolv_conf: "/dev/null".into(),
        cpu: Some("2".into()),
        memory: Some("4Gi".into()),
        thresholds: Default::default(),
        unsafe_sysctls: Vec::new(),
        clock,
        chance: Arc::new(SeededChance::new(1)),
        metrics: prometheus::Registry::new(),
    }
}

impl Running {
    fn start() -> Running {
        Running::with(Server::new(), None, tempfile::tempdir().unwrap())
    }

    fn with(server: Server, runtime: Option<Arc<FakeRuntime>>, dir: tempfile::TempDir) -> Running {
        let clock = PausedClock::new();
        let config = config(&dir, clock.clone());
        let runtime = runtime.unwrap_or_else(|| Arc::new(FakeRuntime::new(config.clock.clone())));
        let version = v1::VersionResponse {
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            ..Default::default()
        };
        let shutdown = Shutdown::new();
        let run = run_with(config, server.client(), runtime.clone(), version, shutdown.clone());
        Running { server, runtime, shutdown, task: tokio::spawn(run), dir, clock }
    }

    fn create(&self, name: &str, spec: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "s", "uid": format!("uid-{name}"), "generation": 1},
            "spec": spec, "status": {"phase": "Pending", "qosClass": "BestEffort",
                "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}]}});
        self.server.put("/api/v1/namespaces/s/pods", object);
    }

    fn pod(&self, name: &str) -> Option<Value> {
        self.server.get(&format!("/api/v1/namespaces/s/pods/{name}"))
    }

    /// Waits until a Pod's status is so.
    async fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3000 {
            if let Some(pod) = self.pod(name).filter(|pod| is(&pod["status"])) {
                return pod["status"].clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "{name} never was {what}: {:#}\n{:?}",
            self.pod(name).unwrap_or_default(),
            self.server.events()
        );
    }

    async fn until_phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, phase, |status| status["phase"] == phase).await
    }

    async fn until_gone(&self, name: &str) {
        for _ in 0..3000 {
            if self.pod(name).is_none() && self.runtime.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} never was gone: {:#}", self.pod(name).unwrap_or_default());
    }

    async fn stop(self) -> (Server, Arc<FakeRuntime>, tempfile::TempDir) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
        (self.server, self.runtime, self.dir)
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let of = |one: &'a Value, field| one[field].as_str().unwrap_or_default();
    let list = status["conditions"].as_array().unwrap();
    list.iter().find(|one| one["type"] == kind).map_or(("", ""), |one| (of(one, "status"), of(one, "reason")))
}

fn one(policy: &str, command: &[&str]) -> Value {
    json!({"nodeName": "n1", "restartPolicy": policy, "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "c", "image": "busybox:1", "command": command}]})
}

#[tokio::test(start_paused = true)]
async fn the_node_registers_and_renews_its_lease() {
    let running = Running::start();
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    let mut renewed = Vec::new();
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if let Some(time) = running.server.get(lease).map(|lease| lease["spec"]["renewTime"].clone()) {
            renewed.push(time.to_string());
        }
    }
    renewed.dedup();
    assert!(renewed.len() >= 10, "renewed {} times in 150 s", renewed.len());
    let node = running.server.get("/api/v1/nodes/n1").unwrap();
    assert_eq!(condition(&node["status"], "Ready"), ("True", "KubeletReady"));
    assert_eq!(node["status"]["capacity"]["memory"], "4Gi");
    assert_eq!(node["status"]["nodeInfo"]["containerRuntimeVersion"], "fake://1");
    running.runtime.set_ready(false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let node = running.server.get("/api/v1/nodes/n1").unwrap();
    assert_eq!(condition(&node["status"], "Ready"), ("False", "KubeletNotReady"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_is_deleted() {
    let running = Running::start();
    running.create("p", one("Always", &["sleep"]));
    let status = running.until_phase("p", "Running").await;
    assert_eq!(condition(&status, "Ready"), ("True", ""));
    assert_eq!(status["podIP"], "10.9.0.1");
    assert_eq!(status["hostIP"], "192.0.2.7");
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["containerStatuses"][0]["started"], true);
    running.server.mark_deleted("/api/v1/namespaces/s/pods/p", 5);
    running.until_gone("p").await;
    let events = running.server.events();
    for event in ["Pulled", "Created", "Started", "Killing"] {
        assert!(events.iter().any(|one| one == event), "{event} in {events:?}");
    }
    assert!(!running.dir.path().join("kubelet/pods/uid-p").exists());
    assert!(!running.dir.path().join("logs/s_p_uid-p").exists());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ended_pods_say_how() {
    let running = Running::start();
    running.create("ok", one("Never", &["exit", "0"]));
    running.create("bad", one("OnFailure", &["exit", "3"]));
    let status = running.until_phase("ok", "Succeeded").await;
    assert_eq!(condition(&status, "Ready"), ("False", "PodCompleted"));
    let status = running
        .until("ok", "without sandbox", |status| condition(status, "PodReadyToStartContainers").0 == "False");
    status.await;
    let waits = |status: &Value| {
        let one = &status["containerStatuses"][0];
        one["state"]["waiting"]["reason"] == "CrashLoopBackOff" && one["restartCount"] == 2
    };
    let status = running.until("bad", "restarted twice", waits).await;
    assert_eq!(status["phase"], "Running");
    let message = "back-off 20s restarting failed container=c pod=bad_s(uid-bad)";
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["message"], message);
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_named() {
    let running = Running::start();
    let mut absent = one("Always", &["sleep"]);
    absent["containers"][0]["image"] = "absent:1".into();
    running.create("image", absent);
    let mut env = one("Always", &["sleep"]);
    env["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "absent"}}]);
    running.create("env", env);
    let mut volume = one("Always", &["sleep"]);
    volume["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    volume["volumes"] = json!([{"name": "v", "secret": {"secretName": "absent"}}]);
    running.create("volume", volume);
    running.create("cpu", json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "900"}}}]}));
    let waits = |reason: &'static str| {
        move |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
    };
    running.until("image", "ErrImagePull", waits("ErrImagePull")).await;
    let status = running.until("image", "ImagePullBackOff", waits("ImagePullBackOff")).await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Back-off pulling image \"absent:1\": ErrImagePull: rpc error"), "{message}");
    let status =
        running.until("env", "CreateContainerConfigError", waits("CreateContainerConfigError")).await;
    let message = &status["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "configmap \"absent\" not found");
    let status = running.until("volume", "ContainerCreating", waits("ContainerCreating")).await;
    assert_eq!(condition(&status, "PodReadyToStartContainers"), ("False", "PodSandboxNotReady"));
    let status = running.until_phase("cpu", "Failed").await;
    assert_eq!(status["reason"], "OutOfcpu");
    assert!(status["conditions"].as_array().is_none_or(Vec::is_empty), "{status:#}");
    running.server.put(
        "/api/v1/namespaces/s/configmaps",
        json!({"metadata": {"name": "absent", "namespace": "s"}, "data": {"A": "b"}}),
    );
    running.until_phase("env", "Running").await;
    assert!(running.runtime.env_of("env").contains(&"A=b".to_owned()));
    let events = running.server.events();
    for event in ["FailedMount", "OutOfcpu", "BackOff", "Failed"] {
        assert!(events.iter().any(|one| one == event), "{event} in {events:?}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn probes_decide() {
    let running = Running::start();
    let mut ready = one("Always", &["sleep"]);
    ready["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    ready["containers"][0]["startupProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    running.create("ready", ready);
    let mut dead = one("Never", &["sleep"]);
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    dead["containers"][0]["livenessProbe"] = probe;
    running.create("dead", dead);
    running.until("ready", "ready", |status| condition(status, "Ready").0 == "True").await;
    let status = running.until_phase("dead", "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn containers_run_on_without_the_kubelet() {
    let running = Running::start();
    running.create("kept", one("Always", &["sleep"]));
    running.create("lost", one("Always", &["sleep"]));
    running.until_phase("kept", "Running").await;
    running.until_phase("lost", "Running").await;
    let started = running.runtime.started();
    let (server, runtime, dir) = running.stop().await;
    server.remove("/api/v1/namespaces/s/pods/lost");
    let running = Running::with(server, Some(runtime), dir);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(running.runtime.pods(), ["kept"]);
    assert_eq!(running.runtime.started(), started, "nothing is started again");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_sandbox_is_rebuilt() {
    let running = Running::start();
    running.create("p", one("Always", &["sleep"]));
    running.until_phase("p", "Running").await;
    running.runtime.lose_sandbox("p");
    let again = |status: &Value| {
        let one = &status["containerStatuses"][0];
        one["restartCount"] == 1 && !one["state"]["running"].is_null()
    };
    running.until("p", "running again", again).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_lives_too_long_fails() {
    let running = Running::start();
    let mut spec = one("Always", &["sleep"]);
    spec["activeDeadlineSeconds"] = 3.into();
    running.create("p", spec);
    running.until_phase("p", "Running").await;
    let status = running.until_phase("p", "Failed").await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    running
        .until("p", "ended", |status| !status["containerStatuses"][0]["state"]["terminated"].is_null())
        .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_ends_no_pod_and_stops_no_renewal() {
    for set_seconds in [3600, -3600] {
        let running = Running::start();
        let mut limited = one("Always", &["sleep"]);
        limited["activeDeadlineSeconds"] = 600.into();
        running.create("limited", limited);
        running.create("crashes", one("Always", &["exit", "3"]));
        running.until_phase("limited", "Running").await;
        let runs = |status: &Value| status["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0);
        let before = runs(&running.until("crashes", "started again", |status| runs(status) >= 2).await);
        running.clock.1.store(set_seconds, Ordering::Relaxed);
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        let renewed = || running.server.get(lease).unwrap()["spec"]["renewTime"].clone();
        let mut times = Vec::new();
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            times.push(renewed().to_string());
        }
        times.dedup();
        assert!(times.len() >= 25, "renewed {} times in 300 s", times.len());
        let node = running.server.get("/api/v1/nodes/n1").unwrap();
        assert_eq!(condition(&node["status"], "Ready"), ("True", "KubeletReady"));
        assert_eq!(running.pod("limited").unwrap()["status"]["phase"], "Running", "{set_seconds}");
        let after = runs(&running.pod("crashes").unwrap()["status"]);
        assert!((before + 1..before + 6).contains(&after), "{set_seconds}: {before} runs, then {after}");
        let status = running.until_phase("limited", "Failed").await;
        assert_eq!(status["reason"], "DeadlineExceeded");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_and_sidecars_come_first() {
    let running = Running::start();
    let mut spec = one("Never", &["exit", "0"]);
    spec["initContainers"] = json!([
        {"name": "i", "image": "busybox:1", "command": ["exit", "0"]},
        {"name": "s", "image": "busybox:1", "command": ["sleep"], "restartPolicy": "Always"}]);
    running.create("p", spec);
    let status = running.until_phase("p", "Succeeded").await;
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    running
        .until("p", "ended", |status| !status["initContainerStatuses"][1]["state"]["terminated"].is_null())
        .await;
    assert_eq!(running.runtime.order(), ["i", "s", "c"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_ends_in_order() {
    let running = Running::start();
    let mut spec = one("Always", &["sleep"]);
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["note", "hook"]}}});
    spec["initContainers"] = json!([
        {"name": "s1", "image": "busybox:1", "command": ["sleep"], "restartPolicy": "Always"},
        {"name": "s2", "image": "busybox:1", "command": ["sleep"], "restartPolicy": "Always"}]);
    running.create("p", spec);
    running.until_phase("p", "Running").await;
    running.server.mark_deleted("/api/v1/namespaces/s/pods/p", 8);
    running.until_gone("p").await;
    assert_eq!(running.runtime.ends(), ["hook", "c", "s2", "s1"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn volumes_follow_their_objects() {
    let running = Running::start();
    let maps = "/api/v1/namespaces/s/configmaps";
    let map = |text: &str| json!({"metadata": {"name": "m", "namespace": "s"}, "data": {"k": text}});
    running.server.put(maps, map("one"));
    let mut spec = one("Always", &["sleep"]);
    spec["containers"][0]["volumeMounts"] =
        json!([{"name": "m", "mountPath": "/m"}, {"name": "d", "mountPath": "/d"}]);
    let label = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    spec["volumes"] =
        json!([{"name": "m", "configMap": {"name": "m"}}, {"name": "d", "downwardAPI": {"items": [label]}}]);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    running.create("p", spec);
    running.until_phase("p", "Running").await;
    let volumes = running.dir.path().join("kubelet/pods/uid-p/volumes");
    let read = |path: &str| std::fs::read_to_string(volumes.join(path)).unwrap_or_default();
    assert_eq!(read("kubernetes.io~configmap/m/k"), "one");
    // The watch begins after the volume was made.
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.server.put(maps, map("two"));
    let mut pod = running.pod("p").unwrap();
    pod["metadata"]["labels"] = json!({"a": "b"});
    running.server.put("/api/v1/namespaces/s/pods", pod);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(read("kubernetes.io~configmap/m/k"), "two");
    assert_eq!(read("kubernetes.io~downward-api/d/labels"), "a=\"b\"");
    running.server.mark_deleted("/api/v1/namespaces/s/pods/p", 1);
    running.until_gone("p").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_are_renewed_in_time() {
    let objects = crate::objects::Objects::new(Server::new().client(), PausedClock::new());
    let key = crate::objects::TokenKey {
        namespace: "s".into(),
        account: "default".into(),
        pod: "p".into(),
        uid: "u".into(),
        audience: String::new(),
        seconds: 3600,
    };
    assert_eq!(objects.token(&key).await.unwrap(), "token1");
    tokio::time::sleep(Duration::from_secs(2800)).await;
    assert!(!objects.is_due("u"));
    assert_eq!(objects.token(&key).await.unwrap(), "token1");
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(objects.is_due("u"));
    assert_eq!(objects.token(&key).await.unwrap(), "token2");
}
