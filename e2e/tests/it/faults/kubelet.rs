//! The kubelet killed between any two things that it does for a Pod.
//!
//! ```text
//!  a life without faults ──> the points that the kubelet passes ──> for each: a Pod's life with the kubelet killed there
//! ```
//! CI takes some points, fixed below; `MINIK_FAULTS=all` each time that each is passed.

use super::{SOON, gone, kill, replaced, up};
use anyhow::{Context, Result, ensure};
use minik_e2e::harness::{TestCluster, eventually};
use minik_e2e::images::BUSYBOX;
use minik_fault::{FAULT, PASSED, REACHED};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// What CI kills it at: of each kind of effect the one after which most is half done.
const SOME: [&str; 5] = [
    "kubelet.payload.changed",
    "kubelet.volume.folder",
    "kubelet.status.told",
    "kubelet.container.started",
    "kubelet.sandbox.removed",
];

/// A Pod with everything that the kubelet makes: an init container, volumes on disk, in memory and of objects, a part of one,
/// a token, a probe.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  \
         securityContext: {{runAsUser: 1000}}\n  \
         volumes:\n  - {{name: disk, emptyDir: {{}}}}\n  - {{name: memory, emptyDir: {{medium: Memory}}}}\n  \
         - {{name: settings, configMap: {{name: settings}}}}\n  \
         initContainers:\n  - name: init\n    image: {BUSYBOX}\n    \
         command: [sh, -c, 'cat /settings/word > /disk/word && cat /settings/word > /memory/word']\n    volumeMounts:\n    \
         - {{name: disk, mountPath: /disk}}\n    - {{name: memory, mountPath: /memory}}\n    \
         - {{name: settings, mountPath: /settings}}\n  \
         containers:\n  - name: main\n    image: {BUSYBOX}\n    \
         command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.05; done']\n    \
         readinessProbe: {{exec: {{command: [test, -f, /part]}}, periodSeconds: 1}}\n    volumeMounts:\n    \
         - {{name: disk, mountPath: /disk}}\n    - {{name: memory, mountPath: /memory}}\n    \
         - {{name: settings, mountPath: /part, subPath: word}}\n"
    )
}

struct Seen {
    ready: bool,
    container: String,
    uid: String,
}

fn look(cluster: &TestCluster, name: &str) -> Result<Seen, String> {
    let text =
        cluster.kubectl_ok(&format!("get pod {name} -o json"), "").map_err(|error| format!("{error:#}"))?;
    let pod: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let main = &pod["status"]["containerStatuses"][0];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Seen {
        ready: main["ready"] == true,
        container: word(&main["containerID"]),
        uid: word(&pod["metadata"]["uid"]),
    })
}

fn ready(cluster: &TestCluster, name: &str, not: &str) -> Result<Seen> {
    eventually(SOON, || {
        let seen = look(cluster, name)?;
        let is_it = seen.ready && seen.container != not;
        if is_it { Ok(seen) } else { Err(format!("{} is ready: {}", seen.container, seen.ready)) }
    })
}

/// A Pod's whole life; the kubelet is killed where `fault` says, if anywhere.
fn live(cluster: &TestCluster, name: &str, fault: Option<(&str, usize)>) -> Result<()> {
    let node = format!("{}-0", cluster.name);
    let unit = format!("{node}-kubelet");
    let before = *cluster.pids()?.get(&unit).context("no kubelet")?;
    for file in [PASSED, REACHED, FAULT] {
        let _ = std::fs::remove_file(cluster.faults().join(file));
    }
    if let Some((point, count)) = fault {
        std::fs::write(cluster.faults().join(FAULT), format!("{point} {count} kill"))?;
    }
    cluster.kubectl_ok("apply -f -", &pod(name))?;
    let first = ready(cluster, name, "")?;
    eventually(SOON, || {
        let said = cluster.kubectl(&format!("exec {name} -c main -- cat /part /disk/word /memory/word"));
        let said = said.map_err(|error| error.to_string())?;
        if said.out == "keptkeptkept" { Ok(()) } else { Err(format!("{said:?}")) }
    })?;
    // Its container ends and is started again.
    eventually(SOON, || {
        let seen = look(cluster, name)?;
        if seen.container == first.container && seen.ready {
            let _ = cluster.kubectl(&format!("exec {name} -c main -- kill -TERM 1"));
        }
        if seen.container != first.container { Ok(()) } else { Err("it is not started again".to_owned()) }
    })?;
    ready(cluster, name, &first.container)?;
    cluster.kubectl_ok(&format!("delete pod {name} --wait=false"), "")?;
    eventually(SOON, || match look(cluster, name) {
        Ok(seen) => Err(format!("it is there still, ready: {}", seen.ready)),
        Err(words) if words.contains("NotFound") => Ok(()),
        Err(words) => Err(words),
    })?;
    let killed = match fault {
        None => false,
        Some((_, 1)) => eventually(SOON, || match cluster.faults().join(REACHED).exists() {
            true => Ok(true),
            false => Err("the point was not reached".to_owned()),
        })?,
        Some(_) => cluster.faults().join(REACHED).exists(),
    };
    if killed {
        replaced(cluster, &unit, before)?;
    }
    nothing_is_left(cluster, &node, &first.uid)?;
    if killed {
        // The next one is not made to wait for what was done to this one.
        let supervisor = *cluster.pids()?.get("supervise").context("no supervisor")?;
        kill(supervisor);
        gone(supervisor)?;
        up(cluster)?;
    }
    Ok(())
}

/// Neither folders, mounts, cgroups nor the runtime know the Pod any more.
fn nothing_is_left(cluster: &TestCluster, node: &str, uid: &str) -> Result<()> {
    let layout = cluster.cluster()?.layout().node(node);
    eventually(SOON, || {
        let mut left = Vec::new();
        for folder in
            ["kubelet/pods", "pods", "runtime/sandboxes", "runtime/containers", "runtime/images/roots"]
        {
            let entries = std::fs::read_dir(layout.state.join(folder)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let kubelet =
            cluster.pids().map_err(|error| error.to_string())?.get(&format!("{node}-kubelet")).copied();
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", kubelet.unwrap_or_default()));
        let mounts = mounts.map_err(|error| error.to_string())?;
        left.extend(mounts.lines().filter(|line| line.contains(uid)).map(str::to_owned));
        let found = Command::new("find").args(["/sys/fs/cgroup", "-name", &format!("*{uid}*")]).output();
        left.extend(
            found
                .ok()
                .map(|found| String::from_utf8_lossy(&found.stdout).into_owned())
                .filter(|out| !out.is_empty()),
        );
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    })
}

#[test]
fn a_kubelet_killed_at_any_step_carries_its_pods_out() -> Result<()> {
    let cluster = TestCluster::with_faults()?;
    cluster.kubectl_ok("create configmap settings --from-literal=word=kept", "")?;
    live(&cluster, "life", None)?;
    let text = std::fs::read_to_string(cluster.faults().join(PASSED))?;
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut chosen = Vec::new();
    let all = std::env::var_os("MINIK_FAULTS").is_some_and(|which| which == "all");
    for name in text.lines().filter(|name| name.starts_with("kubelet.")) {
        let count = counts.entry(name).or_default();
        *count += 1;
        if all || (*count == 1 && SOME.contains(&name)) {
            chosen.push((name, *count));
        }
    }
    let passed = SOME.iter().find(|name| !counts.contains_key(**name));
    ensure!(passed.is_none(), "{passed:?} is not passed: {counts:?}");
    for (number, fault) in chosen.iter().enumerate() {
        live(&cluster, &format!("life-{number}"), Some(*fault))
            .with_context(|| format!("killed at {fault:?}"))?;
    }
    println!(
        "{} points passed {} times; {} lives with a kill",
        counts.len(),
        counts.values().sum::<usize>(),
        chosen.len()
    );
    cluster.finish()
}
