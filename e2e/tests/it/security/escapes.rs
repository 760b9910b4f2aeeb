//! Ways out of a container, as a Pod can try them. Those that need a look at the runtime's own descriptors and races are in
//! `kubelet/runtime/tests/escapes.rs` and in kubelet's tests of volumes.

use super::World;
use anyhow::{Context, Result, ensure};
use minik_e2e::harness::eventually;
use minik_e2e::images::BUSYBOX;
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
/// What upstream hides from and closes for containers.
const HIDDEN: &str = "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
    /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware";
const CLOSED: &str = "/proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname \
    /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/fs/cgroup/cgroup.procs \
    /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/memory/release_agent";

pub fn check(world: &World) -> Result<()> {
    let text = include_str!("escapes.yaml").replace("FIRST", &world.nodes[0].0).replace("IMAGE", BUSYBOX);
    world.cluster.kubectl_ok("apply -f -", &text)?;
    from_inside(world)?;
    subpath(world).context("subPath")?;
    cwd(world).context("working folders")?;
    let log = ended(world, "nulled").context("nulled")?;
    ensure!(log == "1:3\n0\n", "what hides files was changed: {log:?}");
    let log = ended(world, "tokenless").context("tokenless")?;
    let lines: Vec<&str> = log.lines().collect();
    let [secrets, bounds, privileges, seccomp, "done"] = lines[..] else { anyhow::bail!("{log:?}") };
    ensure!(secrets.contains("No such file"), "a token is there: {secrets}");
    ensure!(
        bounds.ends_with("0000000000000000") && privileges.ends_with('1') && seccomp.ends_with('2'),
        "{log}"
    );
    userns(world)
}

/// Root in an ordinary container.
fn from_inside(world: &World) -> Result<()> {
    let hidden = format!(
        "for f in {HIDDEN}; do if test -d $f; then ls -A $f; elif test -e $f; then head -c 10 $f | wc -c | grep -v ^0; fi; done"
    );
    // `/proc/interrupts` is upstream's newest, and no secret where it is not hidden.
    let hidden = world.exec("plain", &hidden.replace("/proc/interrupts ", ""))?;
    let left = hidden.lines().filter(|line| !line.contains("exit code")).collect::<Vec<_>>();
    ensure!(left.is_empty(), "something shows that should be hidden: {left:?}");
    let closed = world.exec(
        "plain",
        &format!("for f in {CLOSED}; do (: >> $f) 2>/dev/null && echo open $f; done; ls -d /dev/mem /dev/kmsg 2>/dev/null"),
    )?;
    let open: Vec<&str> =
        closed.lines().filter(|line| line.starts_with("open") || line.starts_with('/')).collect();
    ensure!(open.is_empty(), "{open:?}");
    let names = world.exec("plain", "hostname; ps | wc -l; ls /proc/1/root/ | grep -c boot")?;
    let lines: Vec<&str> = names.lines().collect();
    ensure!(lines.first() == Some(&"plain") && lines.get(2) == Some(&"0"), "{names:?}");
    Ok(())
}

fn pod(world: &World, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&world.cluster.kubectl_ok(&format!("get pod {name} -o json"), "")?)?)
}

/// The log of a Pod that ran to its end.
fn ended(world: &World, name: &str) -> Result<String> {
    eventually(SOON, || {
        let pod = pod(world, name).map_err(|error| error.to_string())?;
        match pod["status"]["phase"].as_str() {
            Some("Succeeded" | "Failed") => Ok(()),
            _ => Err(pod["status"].to_string()),
        }
    })?;
    world.cluster.kubectl_ok(&format!("logs {name}"), "")
}

fn subpath(world: &World) -> Result<()> {
    let states = eventually(SOON, || {
        let pod = pod(world, "subpath").map_err(|error| error.to_string())?;
        let states = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let told = |one: &Value| {
            one["state"]["waiting"]["message"].is_string() || one["state"]["running"].is_object()
        };
        if states.len() == 3 && states.iter().all(told) { Ok(states) } else { Err(pod["status"].to_string()) }
    })?;
    for one in states {
        let waiting = &one["state"]["waiting"];
        let refused = waiting["reason"] == "CreateContainerConfigError"
            && waiting["message"].as_str().unwrap_or_default().contains("failed to prepare subPath");
        ensure!(refused, "{one}");
    }
    Ok(())
}

fn cwd(world: &World) -> Result<()> {
    let states = eventually(SOON, || {
        let pod = pod(world, "cwd").map_err(|error| error.to_string())?;
        let states = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let over = |one: &Value| one["state"]["terminated"].is_object();
        if states.len() == 5 && states.iter().all(over) { Ok(states) } else { Err(pod["status"].to_string()) }
    })?;
    for one in states {
        let end = &one["state"]["terminated"];
        ensure!(end["reason"] == "StartError" && end["exitCode"] == 128, "a working folder leads out: {one}");
    }
    Ok(())
}

fn userns(world: &World) -> Result<()> {
    let why = eventually(SOON, || {
        let events = world.cluster.kubectl_ok("get events --field-selector involvedObject.name=userns", "");
        let events = events.map_err(|error| error.to_string())?;
        if events.contains("user namespace") { Ok(events) } else { Err(events) }
    })?;
    let phase = pod(world, "userns")?["status"]["phase"].clone();
    ensure!(phase != "Running", "it runs without what it asked for: {why}");
    Ok(())
}
