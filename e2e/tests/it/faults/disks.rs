//! A node whose disk runs short, is full, or takes no writes: it says so, its services run on, and all goes on later.

use super::SOON;
use anyhow::{Context, Result, ensure};
use minik_e2e::harness::{TestCluster, eventually};
use minik_e2e::images::BUSYBOX;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Above what the node wants to have free.
const ROOM_BYTES: u64 = 2 << 30;
/// Below it, and not nothing.
const SHORT_BYTES: u64 = 128 << 20;

/// The node's folder, as a file system in memory whose size can be changed: nothing has to be written to fill it.
struct Disk(PathBuf);

impl Disk {
    fn over(folder: &Path) -> Result<Disk> {
        mount("tmpfs", folder, "tmpfs", MountFlags::empty(), Some(size(ROOM_BYTES)?.as_c_str()))?;
        Ok(Disk(folder.to_owned()))
    }

    /// Leaves so many bytes free.
    fn leave(&self, bytes: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.0)?;
        let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        Ok(mount_remount(&self.0, MountFlags::empty(), size(used + bytes)?.as_c_str())?)
    }

    fn close(&self) -> Result<()> {
        Ok(mount_remount(&self.0, MountFlags::RDONLY, c"")?)
    }

    fn open(&self) -> Result<()> {
        Ok(mount_remount(&self.0, MountFlags::empty(), size(ROOM_BYTES)?.as_c_str())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may have been taken away already.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn size(bytes: u64) -> Result<CString> {
    Ok(CString::new(format!("size={bytes}"))?)
}

/// A Pod that is not evicted, and goes where disks are short.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: kube-system}}\nspec:\n  \
         priorityClassName: system-node-critical\n  tolerations: [{{operator: Exists}}]\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: main, image: {BUSYBOX}}}\n"
    )
}

fn get(cluster: &TestCluster, words: &str) -> Result<String, String> {
    cluster.kubectl_ok(&format!("get {words}"), "").map_err(|error| format!("{error:#}"))
}

fn phase(cluster: &TestCluster, pod: &str, wanted: &str) -> Result<()> {
    eventually(SOON, || {
        match get(cluster, &format!("pod -n kube-system {pod} -o jsonpath={{.status.phase}}"))? {
            phase if phase == wanted => Ok(()),
            phase => Err(phase),
        }
    })
}

/// The Pod's events say it.
fn told(cluster: &TestCluster, pod: &str, words: &str) -> Result<()> {
    eventually(SOON, || {
        let query = format!("events -n kube-system --field-selector involvedObject.name={pod}");
        let events = get(
            cluster,
            &format!("{query} -o jsonpath='{{range .items[*]}}{{.reason}}: {{.message}}|{{end}}'"),
        )?;
        if events.to_lowercase().contains(words) { Ok(()) } else { Err(events) }
    })
}

fn pressure(cluster: &TestCluster, node: &str, wanted: &str) -> Result<()> {
    eventually(SOON, || {
        let path = "{range .status.conditions[?(@.type==\"DiskPressure\")]}{.status} {.reason}{end}";
        let found = get(cluster, &format!("node {node} -o 'jsonpath={path}'"))?;
        if found == wanted { Ok(()) } else { Err(found) }
    })
}

#[test]
#[ignore = "waits for what a kubelet looks at every ten seconds: nightly"]
fn a_node_whose_disk_is_full_or_closed_says_so_and_goes_on_later() -> Result<()> {
    let cluster = TestCluster::up(1)?;
    let node = format!("{}-0", cluster.name);
    let folder = cluster.cluster()?.layout().node(&node).state;
    let down = || -> Result<()> {
        let said = cluster.minikctl(&["cluster", "down"])?;
        ensure!(said.code == 0, "{said:?}");
        Ok(())
    };
    down()?;
    let disk = Disk::over(&folder)?;
    super::up(&cluster)?;
    cluster.load()?;
    let services = cluster.pids()?;
    cluster.kubectl_ok("create configmap settings --from-literal=word=kept", "")?;
    pressure(&cluster, &node, "False KubeletHasNoDiskPressure")?;

    disk.close()?;
    cluster.kubectl_ok("apply -f -", &pod("closed"))?;
    told(&cluster, "closed", "read-only file system")?;
    disk.open()?;
    phase(&cluster, "closed", "Running")?;

    disk.leave(0)?;
    cluster.kubectl_ok("apply -f -", &pod("full"))?;
    told(&cluster, "full", "no space left on device")?;
    disk.leave(SHORT_BYTES)?;
    phase(&cluster, "full", "Running")?;
    pressure(&cluster, &node, "True KubeletHasDiskPressure")?;
    let taints =
        get(&cluster, &format!("node {node} -o jsonpath={{.spec.taints}}")).map_err(anyhow::Error::msg)?;
    ensure!(taints.contains("node.kubernetes.io/disk-pressure"), "{taints}");
    disk.open()?;
    pressure(&cluster, &node, "False KubeletHasNoDiskPressure")?;
    phase(&cluster, "closed", "Running")?;
    let now = cluster.pids()?;
    ensure!(now == services, "services were started again: {services:?} {now:?}");
    cluster.kubectl_ok("delete pods -n kube-system closed full", "")?;
    down()?;
    drop(disk);
    cluster.finish().context("after the disk was taken away")
}
