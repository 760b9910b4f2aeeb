//! What outlives what: restarts of the runtime, lost shims and pause processes.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod common;

use common::{Fixture, command, eventually, lines, logged, namespaces, security, shell, volume};
use minik_cri::v1;
use std::time::Duration;

/// The pid that a verbose status tells of a sandbox's pause process.
async fn pause_pid(runtime: &mut Fixture, sandbox: &str) -> i32 {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.into(), verbose: true };
    let response = runtime.client.pod_sandbox_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&response.info["info"]).unwrap();
    i32::try_from(info["pause"]["pid"].as_i64().unwrap()).unwrap()
}

fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn not_ready(runtime: &mut Fixture, sandbox: &str) {
    let mut client = runtime.client.clone();
    eventually("it is not ready any more", async || {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.into(), verbose: false };
        let status = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
        let ready = status.state() == v1::PodSandboxState::SandboxReady;
        if ready { Err(format!("{status:?}")) } else { Ok(()) }
    })
    .await;
}

/// The pid that a verbose status tells of a container's first process.
async fn container_pid(runtime: &mut Fixture, container: &str) -> i32 {
    let request = v1::ContainerStatusRequest { container_id: container.into(), verbose: true };
    let response = runtime.client.container_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&response.info["info"]).unwrap();
    i32::try_from(info["process"]["pid"].as_i64().unwrap()).unwrap()
}

#[tokio::test]
async fn containers_outlive_the_runtime() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("restart");
    let sandbox = runtime.run_pod(&pod).await;
    let script = "echo before; while ! test -e /tmp/go; do sleep 0.05; done; echo after; exit 5";
    let runs = runtime.create(&sandbox, &pod, shell(script)).await.unwrap();
    let mut other = shell("while ! test -e /go/now; do sleep 0.02; done; exit 6");
    other.mounts = vec![volume(&runtime.folder.path().join("go"), "/go")];
    other.log_path = "d/0.log".into();
    let ends = runtime.create(&sandbox, &pod, other).await.unwrap();
    let mut third = command(&["true"]);
    third.log_path = "e/0.log".into();
    let waits = runtime.create(&sandbox, &pod, third).await.unwrap();
    for id in [&runs, &ends] {
        runtime.start(id).await.unwrap();
    }
    let started = runtime.status(&runs).await.started_at;
    let address = runtime
        .client
        .pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false })
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap()
        .network
        .unwrap()
        .ip;
    let pid = container_pid(&mut runtime, &ends).await;
    runtime.stop_runtime().await;
    // It ends while nobody listens to its shim, which reaps it.
    std::fs::write(runtime.folder.path().join("go/now"), "").unwrap();
    eventually("it is reaped", async || {
        if std::path::Path::new(&format!("/proc/{pid}")).exists() {
            Err("it is there".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    runtime.start_runtime().await;
    let status = runtime.ended(&ends).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (6, "Error"));
    let status = runtime.status(&runs).await;
    assert_eq!((status.state(), status.started_at), (v1::ContainerState::ContainerRunning, started));
    assert_eq!(runtime.status(&waits).await.state(), v1::ContainerState::ContainerCreated);
    runtime.start(&waits).await.unwrap();
    assert_eq!(runtime.ended(&waits).await.exit_code, 0);
    let sandboxes = runtime.client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap();
    assert_eq!(sandboxes.into_inner().items[0].state(), v1::PodSandboxState::SandboxReady);
    assert!(!address.is_empty() || std::env::var_os("MINIK_TEST_HOST_NETWORK").is_some());
    runtime.exec(&runs, &["touch", "/tmp/go"], 5).await.unwrap();
    let status = runtime.ended(&runs).await;
    assert_eq!(status.exit_code, 5);
    assert_eq!(
        lines(&std::fs::read_to_string(&status.log_path).unwrap()),
        ["stdout F before", "stdout F after"]
    );
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

#[tokio::test]
async fn what_is_asked_for_is_made_whole_though_who_asked_has_gone() {
    let mut runtime = Fixture::new().await;
    for number in 1..=6 {
        let pod = runtime.pod(&format!("asked{number}"));
        let request = v1::RunPodSandboxRequest { config: Some(pod), ..Default::default() };
        let asked = runtime.client.run_pod_sandbox(request);
        // One that is answered so soon is as good.
        drop(tokio::time::timeout(Duration::from_millis(number), asked).await);
    }
    runtime.run_pod(&runtime.pod("asked")).await;
    let mut client = runtime.client.clone();
    let sandboxes = eventually("no sandbox is there by half", async || {
        let listed = client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await;
        let items = listed.map_err(|error| error.to_string())?.into_inner().items;
        // Those whose callers went before anybody heard of them are not made at all.
        let folders =
            std::fs::read_dir(runtime.config.root.join("sandboxes")).map_err(|error| error.to_string())?;
        let known = folders.count();
        if items.len() == known { Ok(items) } else { Err(format!("{known} and {items:?}")) }
    })
    .await;
    for sandbox in sandboxes {
        assert_eq!(sandbox.state(), v1::PodSandboxState::SandboxReady);
        runtime.remove_pod(&sandbox.id).await;
    }
    runtime.finish().await;
}

#[tokio::test]
async fn containers_of_a_lost_shim_are_killed_and_told() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("shim");
    let sandbox = runtime.run_pod(&pod).await;
    let id = runtime.started(&sandbox, &pod, command(&["sleep", "1000"])).await;
    let pause = pause_pid(&mut runtime, &sandbox).await;
    kill(parent(pause));
    let status = runtime.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "ContainerStatusUnknown"));
    not_ready(&mut runtime, &sandbox).await;
    // The same while the runtime is down.
    let second = runtime.run_pod(&runtime.pod("shim2")).await;
    let other = runtime.started(&second, &runtime.pod("shim2"), command(&["sleep", "1000"])).await;
    let pause = pause_pid(&mut runtime, &second).await;
    runtime.stop_runtime().await;
    kill(parent(pause));
    runtime.start_runtime().await;
    assert_eq!(runtime.ended(&other).await.reason, "ContainerStatusUnknown");
    not_ready(&mut runtime, &second).await;
    runtime.remove_pod(&sandbox).await;
    runtime.remove_pod(&second).await;
    runtime.finish().await;
}

#[tokio::test]
async fn a_command_whose_shim_is_lost_is_not_waited_for() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("lost");
    let sandbox = runtime.run_pod(&pod).await;
    let id = runtime.started(&sandbox, &pod, command(&["sleep", "1000"])).await;
    let pause = pause_pid(&mut runtime, &sandbox).await;
    let mut client = runtime.client.clone();
    let cmd = ["sh", "-c", "touch /tmp/begun; sleep 1000"].map(str::to_owned).into();
    let request = v1::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 0 };
    let waits = tokio::spawn(async move { client.exec_sync(request).await });
    eventually("it has begun", async || {
        let said = runtime.exec(&id, &["test", "-f", "/tmp/begun"], 5).await.unwrap();
        if said.exit_code == 0 { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    kill(parent(pause));
    let said = tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap().unwrap();
    assert!(said.unwrap_err().message().contains("the shim has gone"));
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

#[tokio::test]
async fn a_sandbox_without_pause_is_not_ready() {
    let mut runtime = Fixture::new().await;
    let mut events = runtime.client.get_container_events(v1::GetEventsRequest {}).await.unwrap().into_inner();
    let pod = runtime.pod("pause");
    let sandbox = runtime.run_pod(&pod).await;
    let mut config = command(&["sleep", "1000"]);
    security(&mut config).namespace_options = Some(namespaces(v1::NamespaceMode::Pod));
    let id = runtime.started(&sandbox, &pod, config).await;
    // With the Pod's PID namespace the pause process is the first one.
    let output = runtime.exec(&id, &["cat", "/proc/1/comm"], 5).await.unwrap();
    assert_eq!(output.stdout, b"pause\n");
    kill(pause_pid(&mut runtime, &sandbox).await);
    not_ready(&mut runtime, &sandbox).await;
    assert_eq!(runtime.ended(&id).await.exit_code, 137);
    let mut seen = Vec::new();
    while seen.iter().filter(|(kind, _)| *kind == v1::ContainerEventType::ContainerStoppedEvent).count() < 2 {
        let event =
            tokio::time::timeout(Duration::from_secs(10), events.message()).await.unwrap().unwrap().unwrap();
        seen.push((event.container_event_type(), event.container_id));
    }
    use v1::ContainerEventType::{ContainerCreatedEvent as Created, ContainerStartedEvent as Started};
    let expected = [(Created, &sandbox), (Started, &sandbox), (Created, &id), (Started, &id)];
    assert!(expected.into_iter().all(|(kind, id)| seen.contains(&(kind, id.clone()))), "{seen:?}");
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

#[tokio::test]
async fn what_is_left_running_is_stopped_with_its_pod() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("left");
    let sandbox = runtime.run_pod(&pod).await;
    let mut shared = shell("(sleep 1000 &) ; exec sleep 2000");
    security(&mut shared).namespace_options = Some(namespaces(v1::NamespaceMode::Pod));
    let id = runtime.started(&sandbox, &pod, shared).await;
    // Its first process ends; what it left behind in the shared namespace goes with it.
    runtime.stop(&id, 1).await;
    runtime.remove(&id).await;
    let mut trap = shell("trap 'echo asked; exit 9' TERM; echo ready; while true; do sleep 0.05; done");
    trap.log_path = "t/0.log".into();
    let polite = runtime.started(&sandbox, &pod, trap).await;
    let log = runtime.status(&polite).await.log_path;
    logged(&log, "ready").await;
    runtime.stop(&polite, 20).await;
    assert_eq!(runtime.status(&polite).await.exit_code, 9);
    let mut deaf = command(&["sleep", "1000"]);
    deaf.log_path = "u/0.log".into();
    runtime.started(&sandbox, &pod, deaf).await;
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}
