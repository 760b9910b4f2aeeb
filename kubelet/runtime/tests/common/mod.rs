//! A runtime of its own for each test: folders, cgroups and names that no other test shares, cleaned up and compared.
#![allow(dead_code)] // each test file uses some of it
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

use minik_component::{Shutdown, SystemChance, SystemClock};
use minik_cri::v1::runtime_service_client::RuntimeServiceClient;
use minik_cri::v1::{self, ContainerConfig, ContainerStatus, PodSandboxConfig};
use minik_runtime::Config;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

pub type Runtimes = RuntimeServiceClient<Channel>;
/// The image of every test: static busybox with all applets.
pub const IMAGE: &str = "docker.io/library/busybox:1";
const WITHIN: Duration = Duration::from_secs(60);

/// Waits until `look` gives something; tells what it saw last when it never does.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(began.elapsed() < WITHIN, "{what}: {seen}"),
        }
        // bounded: by the assertion above
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The shim's program, as new as the sources.
pub fn shim() -> PathBuf {
    // Where there is no cargo: a bare root that the tests are tried in.
    if let Some(path) = std::env::var_os("MINIK_TEST_SHIM") {
        return path.into();
    }
    let status = Command::new(env!("CARGO"))
        .args(["build", "-q", "-p", "minik-shim"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "the shim does not build");
    // target/debug/deps/test-binary
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("minik-shim")
}

/// A runtime in this process, and a client of it.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub parent: String,
    pub client: Runtimes,
    pub config: Config,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

/// A runtime whose folders are all in one.
pub fn config(folder: &Path, pod_cidr: String, shim: PathBuf) -> Config {
    Config {
        listen: format!("unix://{}", folder.join("cri.sock").display()),
        root: folder.join("root"),
        state: folder.join("state"),
        shim,
        images: minik_runtime::images::StoreConfig { root: folder.join("images"), ..Default::default() },
        network: minik_runtime::network::NetworkConfig {
            pod_cidr: Some(pod_cidr),
            state: folder.join("network"),
            cni_conf_dir: folder.join("no-cni"),
            cni_bin_dir: folder.join("no-cni"),
        },
        clock: Arc::new(SystemClock::default()),
        chance: Arc::new(SystemChance),
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Fixture {
    pub async fn new() -> Fixture {
        Fixture::below(&std::env::temp_dir(), |_| {}).await
    }

    /// One whose folders are below another, and whose configuration is changed.
    pub async fn below(base: &Path, change: impl FnOnce(&mut Config)) -> Fixture {
        let folder = tempfile::Builder::new().prefix("minik-runtime-").tempdir_in(base).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/minik-test-{}-{number}/pod", std::process::id());
        let range = format!("10.{}.{}.0/24", 100 + number % 100, std::process::id() % 250);
        let mut config = config(folder.path(), range, shim());
        change(&mut config);
        let (client, shutdown, task) = start(&config).await;
        let mut fixture = Fixture { folder, parent, client, config, shutdown, task };
        fixture.load().await;
        fixture
    }

    /// Ends the runtime and starts it again, as after a crash or an upgrade.
    pub async fn restart(&mut self) {
        self.stop_runtime().await;
        let (client, shutdown, task) = start(&self.config).await;
        (self.client, self.shutdown, self.task) = (client, shutdown, task);
    }

    pub async fn stop_runtime(&mut self) {
        self.shutdown.request();
        (&mut self.task).await.unwrap();
    }

    pub async fn start_runtime(&mut self) {
        let (client, shutdown, task) = start(&self.config).await;
        (self.client, self.shutdown, self.task) = (client, shutdown, task);
    }

    async fn load(&mut self) {
        let channel = minik_cri::connect(&self.config.listen).await.unwrap();
        let mut images = minik_cri::images::images_client::ImagesClient::new(channel);
        let archive = busybox_archive();
        let pieces: Vec<_> = archive
            .chunks(256 * 1024)
            .map(|piece| minik_cri::images::LoadRequest { data: piece.to_vec().into() })
            .collect();
        let loaded = images.load(tokio_stream::iter(pieces)).await.unwrap().into_inner();
        assert_eq!(loaded.references, [IMAGE]);
    }

    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.folder.path().join("logs").join(name).display().to_string(),
            labels: HashMap::from([("pod".to_owned(), name.to_owned())]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}-{name}", self.parent),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(v1::NamespaceMode::Container)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn run_pod(&mut self, config: &PodSandboxConfig) -> String {
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        self.client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub async fn create(
        &mut self,
        sandbox: &str,
        pod: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self.client.create_container(request).await?.into_inner().container_id)
    }

    pub async fn start(&mut self, id: &str) -> Result<(), tonic::Status> {
        self.client.start_container(v1::StartContainerRequest { container_id: id.into() }).await.map(drop)
    }

    /// Makes a container and starts it.
    pub async fn started(
        &mut self,
        sandbox: &str,
        pod: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> String {
        let id = self.create(sandbox, pod, config).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    pub async fn status(&mut self, id: &str) -> ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.client.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// The status once the container has ended.
    pub async fn ended(&mut self, id: &str) -> ContainerStatus {
        eventually("it ends", async || {
            let status = self.status(id).await;
            let ended = status.state() == v1::ContainerState::ContainerExited;
            if ended { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    pub async fn exec(
        &mut self,
        id: &str,
        cmd: &[&str],
        timeout: i64,
    ) -> Result<v1::ExecSyncResponse, tonic::Status> {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        let request = v1::ExecSyncRequest { container_id: id.into(), cmd, timeout };
        self.client.exec_sync(request).await.map(tonic::Response::into_inner)
    }

    pub async fn stop(&mut self, id: &str, timeout: i64) {
        self.client
            .stop_container(v1::StopContainerRequest { container_id: id.into(), timeout })
            .await
            .unwrap();
    }

    pub async fn remove(&mut self, id: &str) {
        self.client.remove_container(v1::RemoveContainerRequest { container_id: id.into() }).await.unwrap();
    }

    pub async fn remove_pod(&mut self, sandbox: &str) {
        let pod_sandbox_id = sandbox.to_owned();
        self.client.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id }).await.unwrap();
        let pod_sandbox_id = sandbox.to_owned();
        self.client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
    }

    /// Runs one container to its end in a Pod of its own. Gives its status and log.
    pub async fn run_to_end(&mut self, name: &str, config: ContainerConfig) -> (ContainerStatus, String) {
        let pod = self.pod(name);
        let sandbox = self.run_pod(&pod).await;
        let id = self.started(&sandbox, &pod, config).await;
        let status = self.ended(&id).await;
        let log = std::fs::read_to_string(&status.log_path).unwrap();
        self.remove(&id).await;
        self.remove_pod(&sandbox).await;
        (status, log)
    }

    /// Ends the runtime and compares the machine with how it was.
    pub async fn finish(mut self) {
        self.stop_runtime().await;
        // The kubelet's part: the Pods' cgroups.
        let top = self.parent.split('/').nth(1).unwrap().to_owned();
        for folder in cgroup_folders(&top) {
            remove_empty(&folder);
        }
        let root = self.config.root.clone();
        for kind in ["sandboxes", "containers"] {
            let left: Vec<_> = std::fs::read_dir(root.join(kind)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let shims: Vec<_> = std::fs::read_dir(self.config.state.join("shims")).unwrap().flatten().collect();
        assert!(shims.is_empty(), "{shims:?}");
        // Others' mounts come and go meanwhile.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<_> =
            mounts.lines().filter(|line| line.contains(self.folder.path().to_str().unwrap())).collect();
        assert!(left.is_empty(), "mounts were left: {left:?}");
        assert!(cgroup_folders(&top).is_empty(), "cgroups were left");
    }
}

impl Drop for Fixture {
    /// A test that failed leaves nothing running either.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let top = self.parent.split('/').nth(1).unwrap_or_default().to_owned();
        for folder in cgroup_folders(&top) {
            let (began, mut left) = (Instant::now(), true);
            while left && began.elapsed() < Duration::from_secs(5) {
                left = kill_members(&folder);
            }
            remove_all(&folder);
        }
    }
}

/// Kills what is in a cgroup and below. Gives whether there was anything.
fn kill_members(folder: &Path) -> bool {
    let mut any = false;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            any |= kill_members(&entry.path());
        }
    }
    let processes = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        any = true;
    }
    any
}

fn remove_all(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}

async fn start(config: &Config) -> (Runtimes, Shutdown, tokio::task::JoinHandle<()>) {
    let shutdown = Shutdown::new();
    let (own, ended) = (config.clone(), shutdown.clone());
    let task = tokio::spawn(async move { minik_runtime::run(own, ended).await.unwrap() });
    let channel = eventually("the runtime listens", async || {
        assert!(!task.is_finished(), "the runtime has ended");
        minik_cri::connect(&config.listen).await.map_err(|error| error.to_string())
    })
    .await;
    (RuntimeServiceClient::new(channel), shutdown, task)
}

/// Waits until a log has a line with this in it.
pub async fn logged(path: &str, words: &str) {
    eventually("the log has it", async || {
        let log = std::fs::read_to_string(path).unwrap_or_default();
        if log.contains(words) { Ok(()) } else { Err(log) }
    })
    .await;
}

pub fn namespaces(pid: v1::NamespaceMode) -> v1::NamespaceOption {
    let network = if std::env::var_os("MINIK_TEST_HOST_NETWORK").is_some() {
        v1::NamespaceMode::Node
    } else {
        v1::NamespaceMode::Pod
    };
    v1::NamespaceOption { network: network as i32, pid: pid as i32, ..Default::default() }
}

/// A container that runs a shell script.
pub fn shell(script: &str) -> ContainerConfig {
    command(&["/bin/sh", "-c", script])
}

pub fn command(words: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        log_path: "c/0.log".into(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(v1::NamespaceMode::Container)),
                masked_paths: ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"]
                    .map(str::to_owned)
                    .into(),
                readonly_paths: ["/proc/sys", "/proc/bus", "/proc/sysrq-trigger"].map(str::to_owned).into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The security context of a container that [`command`] made.
pub fn security(config: &mut ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

/// What a log says, without times.
pub fn lines(log: &str) -> Vec<String> {
    log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// What a log says on stdout, without times.
pub fn said(log: &str) -> Vec<String> {
    lines(log).into_iter().map(|line| line.trim_start_matches("stdout F ").to_owned()).collect()
}

/// A folder or file of the host in a container.
pub fn volume(host: &Path, container: &str) -> v1::Mount {
    v1::Mount {
        host_path: host.display().to_string(),
        container_path: container.into(),
        ..Default::default()
    }
}

fn busybox_archive() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut layer = tar::Builder::new(Vec::new());
    let folder = |layer: &mut tar::Builder<Vec<u8>>, path: &str, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        layer.append_data(&mut header, path, std::io::empty()).unwrap();
    };
    let file = |layer: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        layer.append_data(&mut header, path, bytes).unwrap();
    };
    for (path, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700)] {
        folder(&mut layer, path, mode);
    }
    file(&mut layer, "bin/busybox", &busybox, 0o755);
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    file(&mut layer, "etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n", 0o644);
    file(&mut layer, "etc/group", b"root:x:0:\nweb:x:33:\nmail:x:8:web\n", 0o644);
    let layer = layer.into_inner().unwrap();
    let digest = sha256(&layer);
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Entrypoint":["sleep","1000000"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#,
        if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["busybox:1"],"Layers":["layer.tar"]}]"#;
    let mut archive = tar::Builder::new(Vec::new());
    file(&mut archive, "config.json", config.as_bytes(), 0o644);
    file(&mut archive, "layer.tar", &layer, 0o644);
    file(&mut archive, "manifest.json", manifest.as_bytes(), 0o644);
    archive.into_inner().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    String::from_utf8(output).unwrap().split(' ').next().unwrap().to_owned()
}

/// The folders of this name at the top of every cgroup tree, or below where this process is.
pub fn cgroup_folders(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut look = |folder: &Path| {
        if folder.join(name).exists() {
            found.push(folder.join(name));
        }
    };
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    look(Path::new("/sys/fs/cgroup"));
    for tree in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        look(&tree.path());
        for line in own.lines() {
            let path = line.splitn(3, ':').nth(2).unwrap_or("/").trim_start_matches('/');
            if !path.is_empty() {
                look(&tree.path().join(path));
            }
        }
    }
    found
}

/// Removes cgroups that nothing is in.
pub fn remove_empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    std::fs::remove_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}
