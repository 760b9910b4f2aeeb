//! `kill -9` of every process of a cluster in turn, and of all at once, under writes, watches and questions.

use super::history::{Asker, ClientMaker, History};
use super::{SOON, gone, kill, named, replaced, shims, up, zygotes};
use crate::nodes::{all_answer, on_nodes, web};
use anyhow::{Context, Result, ensure};
use minik_client::{Kubeconfig, connect};
use minik_e2e::harness::{TestCluster, eventually};
use std::sync::Arc;

fn client(cluster: &TestCluster) -> ClientMaker {
    let kubeconfig = cluster.kubeconfig.clone();
    Arc::new(move || {
        let (access, namespace) = Kubeconfig::load(&kubeconfig)?.access(None)?;
        Ok(connect(&access, &namespace)?)
    })
}

/// The processes that the cluster's supervisor keeps, the supervisor last.
fn units(cluster: &TestCluster) -> Result<Vec<(String, i32)>> {
    let (supervisor, mut units): (Vec<_>, Vec<_>) =
        cluster.pids()?.into_iter().partition(|(unit, _)| unit == "supervise");
    units.extend(supervisor);
    Ok(units)
}

#[test]
fn whoever_is_killed_nothing_is_lost_and_pods_run_on() -> Result<()> {
    let cluster = TestCluster::up(2)?;
    let nodes = [0, 1].map(|number| format!("{}-{number}", cluster.name));
    let nodes = nodes.each_ref().map(String::as_str);
    cluster.load()?;
    cluster.kubectl_ok("apply -f -", &web(4))?;
    let before = on_nodes(&cluster, 4, &nodes)?;
    all_answer(&cluster, &before[0].pod, &before)?;
    let address = cluster.kubectl_ok("get service web -o jsonpath={.spec.clusterIP}", "")?;
    let asker = Asker::begin(format!("{address}:80").parse()?);
    let history = History::begin(client(&cluster));

    // One after the other, and who makes Pods' processes.
    for (unit, pid) in units(&cluster)? {
        kill(pid);
        if unit == "supervise" {
            gone(pid)?;
            up(&cluster)?;
        }
        replaced(&cluster, &unit, pid).with_context(|| format!("killing {unit}"))?;
        cluster.kubectl_ok(&format!("create configmap after-{}", unit.replace('/', "-")), "")?;
        ensure!(asker.refused().is_empty(), "after {unit} was killed: {:?}", asker.refused());
    }
    zygotes(&cluster)?.into_iter().for_each(kill);
    // All at once.
    let all = units(&cluster)?;
    all.iter().rev().for_each(|(_, pid)| kill(*pid));
    all.iter().try_for_each(|(_, pid)| gone(*pid))?;
    up(&cluster)?;
    ensure!(on_nodes(&cluster, 4, &nodes)? == before, "containers were started again; before: {before:?}");
    all_answer(&cluster, &before[0].pod, &before)?;
    ensure!(asker.refused().is_empty(), "{:?}", asker.refused());

    // What Pods consist of: they are made again.
    asker.forgive();
    for victims in [shims(&cluster), named(&cluster, "pause")] {
        ensure!(victims.len() == 4, "{victims:?}");
        victims.iter().copied().for_each(kill);
        let seen = eventually(SOON, || {
            let seen = on_nodes(&cluster, 4, &nodes).map_err(|error| error.to_string())?;
            if seen.iter().all(|one| !before.contains(one)) { Ok(seen) } else { Err(format!("{seen:?}")) }
        })?;
        all_answer(&cluster, &seen[0].pod, &seen)?;
    }

    // Everything that runs in it, as a power cut would, but for the kernel's namespaces.
    let whole = cgroup(&cluster)?;
    std::fs::write(whole.join("cgroup.kill"), "1")?;
    for (_, pid) in units(&cluster)? {
        gone(pid)?;
    }
    up(&cluster)?;
    let seen = on_nodes(&cluster, 4, &nodes)?;
    all_answer(&cluster, &seen[0].pod, &seen)?;
    println!("{}; {} answers of the Service", history.end()?, asker.end()?);
    cluster.finish()
}

/// The cgroup that everything of the cluster is in.
fn cgroup(cluster: &TestCluster) -> Result<std::path::PathBuf> {
    let below = format!("minik/{}", cluster.name);
    let tops = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|top| std::path::Path::new(top).join(&below));
    tops.into_iter().find(|top| top.join("cgroup.kill").exists()).context("no cgroup of version 2")
}
