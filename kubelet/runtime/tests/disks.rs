//! Disks that are full, or take no writes: what cannot be done says why, nothing of it is left, and all goes on later.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod common;

use common::{Fixture, command, shell};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Room enough for the image and everything else.
const ROOM_BYTES: u64 = 96 << 20;

/// A small file system in memory that can be filled and closed; unmounted with its value.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str) -> Disk {
        let path = std::env::temp_dir().join(format!("minik-disk-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let size = CString::new(format!("size={ROOM_BYTES}")).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(size.as_c_str())).unwrap();
        Disk(path)
    }

    fn resize(&self, bytes: u64) {
        let size = CString::new(format!("size={bytes}")).unwrap();
        mount_remount(&self.0, MountFlags::empty(), size.as_c_str()).unwrap();
    }

    /// Leaves no block free.
    fn fill(&self) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        self.resize((stat.f_blocks - stat.f_bfree) * stat.f_frsize);
    }

    fn close(&self) {
        mount_remount(&self.0, MountFlags::RDONLY, c"").unwrap();
    }

    /// As it was at first.
    fn open(&self) {
        mount_remount(&self.0, MountFlags::empty(), c"").unwrap();
        self.resize(ROOM_BYTES);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// How many entries the runtime's folders have: of sandboxes, containers, roots, addresses, sockets.
fn entries(runtime: &Fixture) -> Vec<usize> {
    let config = &runtime.config;
    let roots = config.images.root.join("roots");
    let folders = [config.root.join("sandboxes"), config.root.join("containers"), roots];
    let others = [config.network.state.clone(), config.state.join("shims")];
    let count = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    folders.iter().chain(&others).map(|folder| count(folder)).collect()
}

#[tokio::test]
async fn a_full_disk_is_told_and_forgotten() {
    let disk = Disk::new("full");
    let mut runtime = Fixture::below(&disk.0, |_| {}).await;
    let pod = runtime.pod("full");
    let nothing = entries(&runtime);

    disk.fill();
    let request = minik_cri::v1::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
    let refused = runtime.client.run_pod_sandbox(request).await.unwrap_err();
    assert!(refused.message().contains("No space left on device"), "{refused:?}");
    assert_eq!(entries(&runtime), nothing, "a failed sandbox leaves something");
    runtime.restart().await;
    disk.open();
    let sandbox = runtime.run_pod(&pod).await;
    let before = entries(&runtime);

    disk.fill();
    let refused = runtime.create(&sandbox, &pod, command(&["true"])).await.unwrap_err();
    assert!(refused.message().contains("No space left on device"), "{refused:?}");
    assert_eq!(entries(&runtime), before, "a failed container leaves something");
    disk.open();
    let script = "trap 'exit 7' TERM; echo runs; while true; do sleep 0.02; done";
    let id = runtime.create(&sandbox, &pod, shell(script)).await.unwrap();

    // What is made already starts, answers and ends on a full disk, and over a restart; only its log has nothing in it.
    disk.fill();
    runtime.start(&id).await.unwrap();
    let said = runtime.exec(&id, &["echo", "here"], 5).await.unwrap();
    assert_eq!(said.stdout, b"here\n");
    runtime.restart().await;
    assert_eq!(runtime.exec(&id, &["echo", "here"], 5).await.unwrap().stdout, b"here\n");
    runtime.stop(&id, 5).await;
    assert_eq!(runtime.ended(&id).await.exit_code, 7);
    runtime.remove(&id).await;
    runtime.remove_pod(&sandbox).await;
    assert_eq!(entries(&runtime), nothing);
    disk.open();
    runtime.run_to_end("after", command(&["true"])).await;
    runtime.finish().await;
}

#[tokio::test]
async fn a_disk_that_takes_no_writes_is_told_and_forgotten() {
    let disk = Disk::new("closed");
    let run = tempfile::tempdir().unwrap();
    // Sockets and logs are elsewhere, as on a real machine.
    let mut runtime = Fixture::below(&disk.0, |config| {
        config.state = run.path().join("state");
        config.listen = format!("unix://{}", run.path().join("cri.sock").display());
    })
    .await;
    let mut pod = runtime.pod("closed");
    pod.log_directory = run.path().join("logs").display().to_string();
    let sandbox = runtime.run_pod(&pod).await;
    let id = runtime.create(&sandbox, &pod, command(&["true"])).await.unwrap();
    runtime.remove(&id).await;
    let nothing = entries(&runtime);

    disk.close();
    let request = minik_cri::v1::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
    let refused = runtime.client.run_pod_sandbox(request).await.unwrap_err();
    assert!(refused.message().contains("Read-only file system"), "{refused:?}");
    let refused = runtime.create(&sandbox, &pod, command(&["true"])).await.unwrap_err();
    assert!(refused.message().contains("Read-only file system"), "{refused:?}");
    assert_eq!(entries(&runtime), nothing);
    // It starts, and has its images and Pods still.
    runtime.restart().await;
    let sandboxes = runtime.client.list_pod_sandbox(minik_cri::v1::ListPodSandboxRequest::default()).await;
    let sandboxes = sandboxes.unwrap().into_inner().items;
    assert_eq!(sandboxes.len(), 1);
    assert_eq!(sandboxes[0].state(), minik_cri::v1::PodSandboxState::SandboxReady);
    disk.open();
    let id = runtime.started(&sandbox, &pod, command(&["true"])).await;
    assert_eq!(runtime.ended(&id).await.exit_code, 0);
    runtime.remove(&id).await;
    runtime.remove_pod(&sandbox).await;
    runtime.finish().await;
}
