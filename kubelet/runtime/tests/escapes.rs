//! Ways out of a container that other runtimes once had, tried here and found closed.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod common;

use common::{Fixture, command, said, security, shell, volume};
use minik_cri::v1;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Descriptors that a process of the runtime may have while it becomes a container's.
const DESCRIPTORS: std::ops::Range<u32> = 3..24;

/// Says so when the working folder is below the host's root.
fn from_here(marker: &Path) -> String {
    format!("test -e ../../../../../../../../..{} && echo escaped; echo done", marker.display())
}

/// The class of CVE-2024-21626: a folder of the host that was left open becomes the working folder.
#[tokio::test]
async fn no_working_folder_leads_out() {
    let mut runtime = Fixture::new().await;
    let host = runtime.folder.path().join("volume");
    std::fs::create_dir_all(host.join("w")).unwrap();
    let marker = host.join("marker");
    std::fs::write(&marker, "").unwrap();
    let pod = runtime.pod("cwd");
    let sandbox = runtime.run_pod(&pod).await;
    for number in DESCRIPTORS {
        let link = host.join(format!("link{number}"));
        symlink(format!("/proc/self/fd/{number}"), &link).unwrap();
        for folder in [format!("/proc/self/fd/{number}"), format!("/v/link{number}")] {
            let mut config = shell(&from_here(&marker));
            config.log_path = format!("c/{}.log", folder.replace('/', "-"));
            config.mounts = vec![volume(&host, "/v")];
            config.working_dir.clone_from(&folder);
            let id = runtime.create(&sandbox, &pod, config).await.unwrap();
            if runtime.start(&id).await.is_ok() {
                let status = runtime.ended(&id).await;
                let log = std::fs::read_to_string(&status.log_path).unwrap();
                assert_eq!(said(&log), ["done"], "{folder}");
            }
            runtime.remove(&id).await;
        }
    }
    // A command begins in the container's working folder, which the container may have put a link in the place of.
    let mut config = command(&["sleep", "1000"]);
    config.mounts = vec![volume(&host, "/v")];
    config.working_dir = "/v/w".into();
    let id = runtime.started(&sandbox, &pod, config).await;
    std::fs::remove_dir(host.join("w")).unwrap();
    for number in DESCRIPTORS {
        symlink(format!("/proc/self/fd/{number}"), host.join("w")).unwrap();
        // A refusal is as good.
        if let Ok(answer) = runtime.exec(&id, &["/bin/sh", "-c", &from_here(&marker)], 10).await {
            assert_eq!(answer.stdout, b"done\n", "descriptor {number}");
        }
        std::fs::remove_file(host.join("w")).unwrap();
    }
    std::fs::create_dir(host.join("w")).unwrap();
    for number in DESCRIPTORS {
        let program = format!("/proc/self/fd/{number}/../../../../../../../..{}", "/bin/busybox");
        for program in [program, format!("/proc/self/fd/{number}")] {
            // The one that is open still is the socket to the shim, which is no program.
            let ran = runtime.exec(&id, &[&program, "true"], 10).await;
            let failed = ran.as_ref().map_or(true, |answer| answer.exit_code == 255);
            assert!(failed, "{program} is a program of the host: {ran:?}");
        }
    }
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

/// The class of CVE-2019-5736: the runtime's own program is overwritten through `/proc/PID/exe`.
#[tokio::test]
async fn the_runtimes_program_cannot_be_overwritten() {
    let mut runtime = Fixture::new().await;
    let pod = runtime.pod("exe");
    let sandbox = runtime.run_pod(&pod).await;
    // Every process that comes is tried, those too that are not yet the container's program.
    let script = "while true; do for p in /proc/[0-9]*; do \
        case $(readlink $p/exe) in *memfd*|*minik*) (: >> $p/exe) 2>/dev/null && echo wrote;; esac; done; done";
    let id = runtime.started(&sandbox, &pod, shell(script)).await;
    for _ in 0..10 {
        runtime.exec(&id, &["true"], 10).await.unwrap();
        // Runs the runtime's own program inside the container, where it is as open to the loop as can be.
        let _ = runtime.exec(&id, &["/proc/self/exe"], 10).await;
    }
    let log = runtime.status(&id).await.log_path;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "", "something could be written");
    let shims: Vec<_> = processes_with_exe("memfd").collect();
    assert!(!shims.is_empty(), "no shim runs from memory");
    for shim in shims {
        let Ok(file) = std::fs::File::open(format!("/proc/{shim}/exe")) else { continue };
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        use rustix::fs::SealFlags;
        let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        assert!(seals.contains(wanted), "{seals:?}");
    }
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}

fn processes_with_exe(part: &'static str) -> impl Iterator<Item = u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |pid: &u32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| exe.to_string_lossy().contains(part) && exe.to_string_lossy().contains("minik"))
    })
}

/// The classes of CVE-2025-31133 and CVE-2021-30465: what hides or is mounted is changed for a link meanwhile.
#[tokio::test]
async fn what_is_hidden_stays_hidden_whatever_lies_in_dev() {
    let mut runtime = Fixture::new().await;
    let dev = runtime.folder.path().join("dev");
    std::fs::create_dir(&dev).unwrap();
    symlink("/etc/passwd", dev.join("null")).unwrap();
    let mut config = shell("stat -c %t:%T /proc/keys; test -s /proc/keys || echo hidden; wc -c < /proc/keys");
    config.mounts = vec![volume(&dev, "/dev")];
    let (_, log) = runtime.run_to_end("dev", config).await;
    assert_eq!(said(&log), ["1:3", "hidden", "0"]);

    // Targets that lead out, by links in another volume and in the image's own paths.
    let volumes = runtime.folder.path().join("links");
    let outside = runtime.folder.path().join("outside");
    std::fs::create_dir_all(&volumes).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    symlink(&outside, volumes.join("absolute")).unwrap();
    symlink("../../../../../../../../..".to_owned() + &outside.display().to_string(), volumes.join("up"))
        .unwrap();
    let own = runtime.folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    let pod = runtime.pod("links");
    let sandbox = runtime.run_pod(&pod).await;
    for target in ["/v/absolute", "/v/up", "/v/up/deeper", "/v/absolute/deeper"] {
        let mut config = shell(&format!("touch {target}/in"));
        config.mounts = vec![volume(&volumes, "/v"), volume(&own, target)];
        let id = runtime.create(&sandbox, &pod, config).await.unwrap();
        // A refusal is as good.
        if runtime.start(&id).await.is_ok() {
            runtime.ended(&id).await;
        }
        runtime.remove(&id).await;
    }
    runtime.remove_pod(&sandbox).await;
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
    runtime.finish().await;
}

/// What a root in a container without further privileges can do to the kernel: nothing.
#[tokio::test]
async fn the_kernels_switches_are_closed() {
    let mut runtime = Fixture::new().await;
    // Opening is what must fail; nothing is ever written, should it not.
    let script = r#"
        try() { (eval "$1") 2>/dev/null && echo "open: $1"; }
        for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches; do
            try ": >> $f"
        done
        for f in $(find /sys -name release_agent -o -name notify_on_release -o -name uevent_helper -o -name cgroup.procs 2>/dev/null | head -20); do
            try ": >> $f"
        done
        try 'mkdir /sys/fs/cgroup/memory/escape'
        try 'mkdir /sys/fs/cgroup/escape'
        mkdir -p /m
        try 'mount -t cgroup -o memory none /m'
        try 'mount -t tmpfs none /m'
        try 'mount -o remount,rw /proc/sys'
        try 'umount /proc/keys'
        try 'unshare -Um true && unshare -Urm mount -o remount,rw,bind /proc/sys'
        try 'unshare -Urm umount /proc/keys'
        try 'unshare -Urpmf mount -t proc none /m'
        try 'unshare -Urm mount -t cgroup -o memory none /m'
        try 'unshare -Urm mount -t sysfs none /m'
        try 'chroot /proc/1/root/.. test -e /etc/debian_version'
        try 'mknod /m/mem c 1 1 && : < /m/mem'
        try 'mknod /m/kmsg c 1 11 && : >> /m/kmsg'
        try 'mknod /m/disk b 8 0 && : < /m/disk'
        try 'insmod /m/none.ko'
        try 'hostname other'
        try 'sysctl -w kernel.domainname=x'
        try 'nsenter -t 1 -m -p test -e /etc/debian_version'
        try 'ls /dev/mem /dev/kmsg /dev/sda /dev/fuse'
        echo done
    "#;
    let (_, log) = runtime.run_to_end("switches", shell(script)).await;
    assert_eq!(said(&log), ["done"]);
    // The same for a user who is not root, who may become nobody else either.
    let mut config = shell(
        "id -u; (: >> /proc/sysrq-trigger) 2>/dev/null && echo open; (: >> /etc/passwd) 2>/dev/null && echo open; \
         grep -c 'NoNewPrivs.*1' /proc/self/status; su root -c id 2>/dev/null; echo done",
    );
    let context = security(&mut config);
    context.run_as_user = Some(v1::Int64Value { value: 1000 });
    context.no_new_privs = true;
    let (_, log) = runtime.run_to_end("user", config).await;
    let out: Vec<_> = said(&log).into_iter().filter(|line| !line.starts_with("stderr")).collect();
    assert_eq!(out, ["1000", "1", "done"]);
    runtime.finish().await;
}
