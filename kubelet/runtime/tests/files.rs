//! Mounts, devices, terminals and limits of containers.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod common;

use common::{Fixture, command, lines, logged, said, shell, volume};
use minik_cri::v1;

#[tokio::test]
async fn host_paths_are_mounted_as_asked() {
    let mut runtime = Fixture::new().await;
    let host = runtime.folder.path().join("host");
    std::fs::create_dir_all(host.join("sub")).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let mut config = shell(
        "cat /deep/er/file; touch /deep/er/new; touch /ro/x 2>/dev/null || echo closed; cat /single; \
         pwd; ls -d /made; cat /etc/hosts",
    );
    config.mounts = vec![
        volume(&host, "/deep/er"),
        v1::Mount { readonly: true, ..volume(&host, "/ro") },
        v1::Mount { readonly: true, ..volume(&host.join("file"), "/single") },
        volume(&host.join("made"), "/made"),
        volume(&host.join("file"), "/etc/hosts"),
    ];
    config.working_dir = "/not/there/yet".into();
    let (_, log) = runtime.run_to_end("mounts", config).await;
    assert_eq!(said(&log), ["content", "closed", "content", "/not/there/yet", "/made", "content"]);
    assert!(host.join("new").exists() && host.join("made").is_dir() && !host.join("x").exists());
    runtime.finish().await;
}

#[tokio::test]
async fn containers_of_a_pod_share_memory_files_and_names() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("shared");
    let sandbox = runtime.run_pod(&pod).await;
    let first = runtime
        .create(&sandbox, &pod, shell("echo hello >/dev/shm/x; hostname >/dev/shm/h; sleep 1000"))
        .await
        .unwrap();
    let mut second = shell(
        "while ! test -s /dev/shm/h; do sleep 0.02; done; cat /dev/shm/x /dev/shm/h; mount | grep -c ' /dev/shm '",
    );
    second.log_path = "d/0.log".into();
    let second = runtime.create(&sandbox, &pod, second).await.unwrap();
    runtime.start(&first).await.unwrap();
    runtime.start(&second).await.unwrap();
    let status = runtime.ended(&second).await;
    let log = std::fs::read_to_string(status.log_path).unwrap();
    let name = if std::env::var_os("MINIK_TEST_HOST_NETWORK").is_some() {
        said(&log)[1].clone()
    } else {
        "shared".into()
    };
    assert_eq!(said(&log), ["hello", &name, "1"]);
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

#[tokio::test]
async fn privileges_are_as_asked() {
    let mut runtime = Fixture::new().await;
    let mut config = shell(
        "mkdir /m && mount -t tmpfs t /m && echo mounts; grep CapEff /proc/self/status; ls /dev | grep -c vda",
    );
    common::security(&mut config).privileged = true;
    let (_, log) = runtime.run_to_end("privileged", config).await;
    let said = said(&log);
    assert_eq!(said[0], "mounts");
    assert!(said[1].starts_with("CapEff:\t000001ff"), "{said:?}");
    let mut config = shell("grep CapEff /proc/self/status; unshare -m true 2>/dev/null || echo denied");
    let capabilities = v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() };
    common::security(&mut config).capabilities = Some(capabilities);
    let (_, log) = runtime.run_to_end("dropped", config).await;
    assert_eq!(self::said(&log), ["CapEff:\t0000000000000000", "denied"]);
    runtime.finish().await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let mut runtime = Fixture::new().await;
    let mut config = shell("test -t 0 && test -t 1 && tty; echo $TERM");
    config.tty = true;
    config.stdin = true;
    let (status, log) = runtime.run_to_end("terminal", config).await;
    assert_eq!(status.exit_code, 0);
    assert_eq!(said(&log), ["/dev/pts/0", "xterm"]);
    runtime.finish().await;
}

#[tokio::test]
async fn limits_are_set_and_changed() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("limits");
    let sandbox = runtime.run_pod(&pod).await;
    let mut config = command(&["sleep", "1000"]);
    config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        cpu_shares: 51,
        oom_score_adj: 500,
        ..Default::default()
    });
    let id = runtime.started(&sandbox, &pod, config).await;
    let read = async |runtime: &mut Fixture| {
        let files = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.shares 2>/dev/null \
             || cat memory.max cpu.max; cat /proc/1/oom_score_adj; echo 1 2>/dev/null >memory/memory.limit_in_bytes || echo closed";
        let output = runtime.exec(&id, &["/bin/sh", "-c", files], 10).await.unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(read(&mut runtime).await, ["67108864", "20000", "51", "500", "closed"]);
    let linux = v1::LinuxContainerResources {
        memory_limit_in_bytes: 128 << 20,
        cpu_quota: 50_000,
        ..Default::default()
    };
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    runtime.client.update_container_resources(request).await.unwrap();
    assert_eq!(read(&mut runtime).await[..2], ["134217728", "50000"]);
    let resources = runtime.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_shares), (128 << 20, 51));
    let request = v1::ContainerStatsRequest { container_id: id.clone() };
    let stats = runtime.client.container_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats = runtime.client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert_eq!(stats.linux.unwrap().containers.len(), 1);
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

#[tokio::test]
async fn a_moved_log_goes_on_in_a_new_file() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("log");
    let sandbox = runtime.run_pod(&pod).await;
    let config = shell("echo one; while ! test -e /tmp/go; do sleep 0.02; done; echo two");
    let id = runtime.started(&sandbox, &pod, config).await;
    let log = std::path::PathBuf::from(runtime.status(&id).await.log_path);
    logged(log.to_str().unwrap(), "one").await;
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
    runtime.client.reopen_container_log(request).await.unwrap();
    runtime.exec(&id, &["touch", "/tmp/go"], 5).await.unwrap();
    runtime.ended(&id).await;
    assert_eq!(lines(&std::fs::read_to_string(&log).unwrap()), ["stdout F two"]);
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}
