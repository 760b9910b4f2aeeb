//! Containers on the real kernel, through CRI.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod common;

use common::{Fixture, command, lines, security, shell};
use minik_cri::v1;
use std::time::Instant;

#[tokio::test]
async fn a_container_runs_and_its_end_is_told() {
    let mut runtime = Fixture::new().await;
    let (status, log) = runtime.run_to_end("ends", shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.started_at > 0 && status.finished_at >= status.started_at);
    let mut lines = lines(&log);
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    let (status, _) = runtime.run_to_end("zero", command(&["true"])).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    runtime.finish().await;
}

#[tokio::test]
async fn the_steps_of_a_start_are_fast() {
    let mut runtime = Fixture::new().await;
    for round in 0..6 {
        let pod = runtime.pod(&format!("fast{round}"));
        let began = Instant::now();
        let sandbox = runtime.run_pod(&pod).await;
        let ran = began.elapsed();
        let id = runtime.create(&sandbox, &pod, command(&["sleep", "1000"])).await.unwrap();
        let created = began.elapsed();
        runtime.start(&id).await.unwrap();
        println!("sandbox {ran:?} create {:?} start {:?}", created - ran, began.elapsed() - created);
        let began = Instant::now();
        runtime.stop(&id, 0).await;
        let stopped = began.elapsed();
        runtime.remove(&id).await;
        runtime.remove_pod(&sandbox).await;
        println!("stop {stopped:?} remove {:?}", began.elapsed() - stopped);
    }
    runtime.finish().await;
}

#[tokio::test]
async fn programs_that_cannot_start_are_told_in_words() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("words");
    let sandbox = runtime.run_pod(&pod).await;
    for (words, expected) in [
        (&["nope"][..], "exec: \"nope\": executable file not found in $PATH"),
        (&["/nope"], "exec: \"/nope\": stat /nope: no such file or directory"),
        (&["/etc/passwd"], "exec: \"/etc/passwd\": permission denied"),
    ] {
        let id = runtime.create(&sandbox, &pod, command(words)).await.unwrap();
        let error = runtime.start(&id).await.unwrap_err();
        let whole = "failed to create shim task: OCI runtime create failed: unable to start container process: \
            error during container init: ";
        assert_eq!(error.message(), format!("{whole}{expected}"));
        let status = runtime.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.ends_with(expected), "{}", status.message);
        runtime.remove(&id).await;
    }
    let mut config = command(&["true"]);
    security(&mut config).run_as_username = "nobody".into();
    let error = runtime.create(&sandbox, &pod, config).await.unwrap_err();
    assert_eq!(error.message(), "unable to find user nobody: no matching entries in passwd file");
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

#[tokio::test]
async fn a_container_sees_only_what_is_its_own() {
    let mut runtime = Fixture::new().await;
    let script = "hostname; echo $$; ls /proc | grep -c '^[0-9]'; cat /etc/hostname; id -G; \
        test -s /proc/keys || echo hidden; echo 1 2>/dev/null >/proc/sys/kernel/panic || echo closed; \
        grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; touch /x && echo writes; \
        mknod /tmp/disk b 254 0 && (head -c 1 /tmp/disk || echo no disk) 2>/dev/null; echo $HOME $HOSTNAME";
    let (_, log) = runtime.run_to_end("own", shell(script)).await;
    let expected = [
        "own",
        "1",
        "own",
        "0",
        "hidden",
        "closed",
        "CapEff:\t00000000a80425fb",
        "Seccomp:\t0",
        "writes",
        "no disk",
        "/root own",
    ];
    let mut seen = lines(&log)
        .into_iter()
        .map(|line| line.trim_start_matches("stdout F ").to_owned())
        .collect::<Vec<_>>();
    let processes = seen.remove(2).parse::<u32>().unwrap();
    assert!(processes <= 4, "{processes}");
    assert_eq!(seen, expected);
    let mut config = shell(
        "id -u; id -G; touch /x || echo closed; echo x >/dev/null && echo null; grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; unshare -U true || echo denied",
    );
    let context = security(&mut config);
    context.run_as_user = Some(v1::Int64Value { value: 1000 });
    context.run_as_group = Some(v1::Int64Value { value: 3000 });
    context.supplemental_groups = vec![2000, 4000];
    context.readonly_rootfs = true;
    context.no_new_privs = true;
    context.seccomp = Some(v1::SecurityProfile::default());
    let (_, log) = runtime.run_to_end("user", config).await;
    let seen: Vec<_> = lines(&log).into_iter().filter(|line| line.starts_with("stdout")).collect();
    let expected = [
        "1000",
        "3000 2000 4000",
        "closed",
        "null",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "denied",
    ];
    assert_eq!(seen, expected.map(|line| format!("stdout F {line}")));
    runtime.finish().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_told_as_such() {
    let mut runtime = Fixture::new().await;
    let mut config = shell("x=a; while true; do x=$x$x; done");
    config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 24 << 20,
        cpu_shares: 102,
        ..Default::default()
    });
    let (status, _) = runtime.run_to_end("oom", config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    runtime.finish().await;
}

#[tokio::test]
async fn commands_run_in_a_container() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("exec");
    let sandbox = runtime.run_pod(&pod).await;
    let id = runtime.started(&sandbox, &pod, command(&["sleep", "1000"])).await;
    let output =
        runtime.exec(&id, &["/bin/sh", "-c", "cat /proc/1/comm; echo e >&2; exit 7"], 10).await.unwrap();
    assert_eq!(
        (output.exit_code, output.stdout.as_slice(), output.stderr.as_slice()),
        (7, &b"sleep\n"[..], &b"e\n"[..])
    );
    let error = runtime.exec(&id, &["/absent"], 10).await.unwrap_err();
    assert!(
        error.message().ends_with("exec: \"/absent\": stat /absent: no such file or directory"),
        "{error:?}"
    );
    let error = runtime.exec(&id, &["sleep", "100"], 1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    let left = runtime.exec(&id, &["/bin/sh", "-c", "ps | grep -c 'sleep 100$'"], 10).await.unwrap();
    assert_eq!(left.stdout, b"0\n", "it was killed");
    runtime.stop(&id, 0).await;
    assert_eq!(runtime.status(&id).await.exit_code, 137);
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

/// Runs tests of this file again where only version 2 of cgroups is to be seen, as on most machines.
#[tokio::test]
async fn the_same_holds_under_version_2_of_cgroups() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !mounts.contains(" - cgroup cgroup ") {
        println!("probe: no version 1 is mounted here, so every test runs under version 2 already");
        return;
    }
    // In a mount namespace of its own: version 1 goes, version 2 takes its place, and nobody else sees that.
    let script = "set -eu
        grep ' - cgroup2\\? ' /proc/self/mountinfo | cut -d' ' -f5 | grep '^/sys/fs/cgroup/' | sort -r | while read -r at; do
            umount \"$at\"
        done
        umount /sys/fs/cgroup 2>/dev/null || true
        mount -t cgroup2 none /sys/fs/cgroup
        exec \"$@\"";
    let own = std::env::current_exe().unwrap();
    let tests = ["a_container_sees_only_what_is_its_own", "commands_run_in_a_container"];
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(own)
        .args(tests)
        .env("MINIK_TEST_SHIM", common::shim())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
