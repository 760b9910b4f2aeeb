//! What a cluster outlives: its processes killed, its kubelet killed at any step, its disks full or closed.

mod disks;
mod history;
mod kubelet;
mod processes;

use anyhow::Result;
use minik_e2e::harness::{TestCluster, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::Duration;

/// How long something may take that a test waits for; a busy machine is no failure.
const SOON: Duration = Duration::from_secs(120);

/// Kills a process of this cluster. One that has gone by itself is as good.
fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// A process of a node that no supervisor knows: a zygote, a shim, a pause process, what runs in a container.
#[derive(Debug, Clone)]
struct Process {
    pid: i32,
    parent: i32,
    name: String,
}

/// The processes in the cluster's cgroups.
fn processes(cluster: &TestCluster) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mark = format!("/minik/{}/", cluster.name);
    pids.filter_map(|pid| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let (mut fields, name) = (tail.split(' '), head.split_once('(')?.1.to_owned());
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        (cgroup.contains(&mark) && state != "Z").then_some(Process { pid, parent, name })
    })
    .collect()
}

/// The processes of this name.
fn named(cluster: &TestCluster, name: &str) -> Vec<i32> {
    processes(cluster).into_iter().filter(|one| one.name == name).map(|one| one.pid).collect()
}

/// Shims: their name is their containers' first processes' too, until those execute something.
fn shims(cluster: &TestCluster) -> Vec<i32> {
    let all = processes(cluster);
    let is_shim = |pid: i32| all.iter().any(|one| one.pid == pid && one.name == "minik-shim");
    all.iter().filter(|one| is_shim(one.pid) && !is_shim(one.parent)).map(|one| one.pid).collect()
}

/// The children of a node's runtime: its zygote.
fn zygotes(cluster: &TestCluster) -> Result<Vec<i32>> {
    let pids = cluster.pids()?;
    let runtimes: Vec<i32> =
        pids.iter().filter(|(unit, _)| unit.ends_with("-runtime")).map(|(_, pid)| *pid).collect();
    let all = processes(cluster).into_iter();
    Ok(all.filter(|one| runtimes.contains(&one.parent)).map(|one| one.pid).collect())
}

/// Waits until another process has the place of one that was killed.
fn replaced(cluster: &TestCluster, unit: &str, killed: i32) -> Result<()> {
    eventually(SOON, || {
        let pids = cluster.pids().map_err(|error| error.to_string())?;
        match pids.get(unit) {
            Some(pid) if *pid != killed && Path::new(&format!("/proc/{pid}")).exists() => Ok(()),
            other => Err(format!("{unit} was {killed} and is {other:?}")),
        }
    })
}

/// Waits until a process is gone: its locks and sockets go with it.
fn gone(pid: i32) -> Result<()> {
    eventually(SOON, || match std::fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(_) => Err(format!("{pid} is still there")),
        Err(_) => Ok(()),
    })
}

/// Starts a supervisor again whose processes run on, or the whole cluster.
fn up(cluster: &TestCluster) -> Result<()> {
    let said = cluster.minikctl(&["cluster", "up"])?;
    anyhow::ensure!(said.code == 0, "{said:?}");
    Ok(())
}
