//! A Pod's whole life with a process killed between any two effects: the runtime, its zygote, the shim, the pause process, a
//! container's first process.
//!
//! ```text
//!  a life without faults ──> the points that it passes, in order
//!  for each point: a life in which somebody is killed there ──> it ends as it should, and nothing is left
//! ```
//!
//! The runtime is this very program, started again in a network namespace of its own. What drives the life does as a
//! kubelet does: it looks what there is and asks for what is missing, until all is done. CI takes the first time that each
//! point is passed; `MINIK_FAULTS=all` every time, and every process that can be killed there.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod common;

use common::{Fixture, cgroup_folders, command, config, eventually, remove_empty, shell, shim};
use minik_component::Shutdown;
use minik_cri::v1::{self, runtime_service_client::RuntimeServiceClient};
use minik_fault::{FAULT, GO, PASSED, REACHED, VARIABLE};
use minik_net::{NetNs, Netlink};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Tells this program to be a runtime.
const ALONE: &str = "MINIK_TEST_RUNTIME";
/// Addresses of the Pods; the namespace is of our own.
const RANGE: &str = "10.99.0.0/24";
/// How long one life may take.
const WITHIN: Duration = Duration::from_secs(40);

/// The process that the others kill; nothing to be tested when the variable is absent.
#[test]
fn alone() {
    let Some(folder) = std::env::var_os(ALONE) else { return };
    let config = config(Path::new(&folder), RANGE.to_owned(), shim());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(minik_runtime::run(config, Shutdown::new())).unwrap();
}

/// A life that takes longer waits for something; it is worth a look.
const SLOW: Duration = Duration::from_secs(2);

/// Who is killed while a process is at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Itself,
    Runtime,
    Zygote,
    Shim,
    Pause,
}

/// The runtime's process, and what its Pods are made of.
struct Alone {
    // Dropped first: the folder cannot go while a namespace is pinned in it.
    guard: Guard,
    fixture: Fixture,
    process: Child,
    netns: PathBuf,
    faults: PathBuf,
    client: common::Runtimes,
    starts: u32,
}

/// Leaves neither processes nor the namespace behind, however the test ends.
struct Guard {
    netns: PathBuf,
    faults: PathBuf,
}

impl Drop for Guard {
    fn drop(&mut self) {
        for one in processes(&self.faults) {
            let _ = kill_process(Pid::from_raw(one.pid as i32).unwrap(), Signal::KILL);
        }
        let _ = NetNs::unpin(&self.netns);
    }
}

impl Alone {
    async fn start() -> Alone {
        let mut fixture = Fixture::new().await;
        // It has loaded the image; from here on another process serves the same folders.
        fixture.stop_runtime().await;
        let folder = fixture.folder.path().to_owned();
        let (netns, faults) = (folder.join("net"), folder.join("faults"));
        NetNs::create_pinned(&netns).unwrap();
        Netlink::open_in(&NetNs::open(&netns).unwrap()).unwrap().loopback_up().unwrap();
        std::fs::create_dir(&faults).unwrap();
        std::fs::create_dir(folder.join("data")).unwrap();
        std::fs::write(folder.join("data/file"), "kept").unwrap();
        let process = spawn(&fixture, &netns, &faults);
        let client = fixture.client.clone();
        let guard = Guard { netns: netns.clone(), faults: faults.clone() };
        let mut alone = Alone { fixture, process, netns, faults, client, starts: 1, guard };
        alone.connect().await;
        alone
    }

    async fn connect(&mut self) {
        let listen = self.fixture.config.listen.clone();
        let (process, faults) = (&mut self.process, &self.faults);
        let channel = eventually("the runtime listens", async || {
            if let Some(status) = process.try_wait().unwrap() {
                let log = std::fs::read_to_string(faults.join("log")).unwrap_or_default();
                return Err(format!("it ended with {status}: {log}"));
            }
            minik_cri::connect(&listen).await.map_err(|error| error.to_string())
        })
        .await;
        self.client = RuntimeServiceClient::new(channel);
    }

    /// Starts the runtime again if it was killed. Anything else that ends it is a failure.
    async fn revive(&mut self) {
        let Some(status) = self.process.try_wait().unwrap() else { return };
        let log = std::fs::read_to_string(self.faults.join("log")).unwrap_or_default();
        assert_eq!(status.signal(), Some(9), "the runtime ended by itself: {log}");
        self.process = spawn(&self.fixture, &self.netns, &self.faults);
        self.starts += 1;
        // It may be killed once more while it recovers.
        let began = Instant::now();
        while self.process.try_wait().unwrap().is_none() && began.elapsed() < WITHIN {
            if let Ok(channel) = minik_cri::connect(&self.fixture.config.listen).await {
                self.client = RuntimeServiceClient::new(channel);
                return;
            }
            // bounded: by the loop's limit
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn passed(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.faults.join(PASSED)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// One life with one fault, and a look at what is left of it.
    async fn live(&mut self, fault: Option<(&str, usize, Victim)>) {
        for file in [PASSED, REACHED, GO, FAULT] {
            let _ = std::fs::remove_file(self.faults.join(file));
        }
        // Pause processes are nobody's.
        let anyone =
            |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(self.faults.join(PASSED), "").unwrap();
        anyone(&self.faults.join(PASSED));
        anyone(&self.faults);
        let reaper = fault.map(|(name, count, victim)| {
            let what = if victim == Victim::Itself { "kill" } else { "hold" };
            let text = format!("{name} {count} {what}");
            std::fs::write(self.faults.join(FAULT), text).unwrap();
            tokio::spawn(reap(self.faults.clone(), self.process.id(), victim))
        });
        let mut life = Life::new(self);
        let began = Instant::now();
        let mut last = String::new();
        loop {
            self.revive().await;
            match tokio::time::timeout(WITHIN, life.turn(&mut self.client)).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => last = format!("{error:?}"),
                Err(_) => last = "a call was not answered".to_owned(),
            }
            assert!(began.elapsed() < WITHIN, "{fault:?} at {life:?}: {last}; passed {:?}", self.passed());
            // bounded: by the assertion above
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(life.ran && life.ran_again, "{life:?}");
        let happened = self.faults.join(REACHED).exists();
        // What waits for the kernel passes some points as often as it has to look again.
        let may_miss = fault.is_none_or(|(_, count, _)| count > 1);
        assert!(happened || may_miss, "{fault:?} was not reached; passed {:?}", self.passed());
        match reaper {
            Some(reaper) if happened => reaper.await.unwrap(),
            Some(reaper) => reaper.abort(),
            None => {}
        }
        if began.elapsed() > SLOW {
            println!("{fault:?} took {:?}", began.elapsed());
        }
        // The last thing that it did may have killed it.
        self.revive().await;
        self.nothing_is_left(&format!("{fault:?}")).await;
    }

    async fn nothing_is_left(&mut self, after: &str) {
        let (netns, faults, root) =
            (self.netns.clone(), self.faults.clone(), self.fixture.folder.path().to_owned());
        let runtime = self.process.id();
        eventually(&format!("nothing is left after {after}"), async || {
            let mut left = Vec::new();
            for folder in
                ["root/sandboxes", "root/containers", "images/roots", "state/shims", "network/ports"]
            {
                left.extend(names(&root.join(folder)).into_iter().map(|name| format!("{folder}/{name}")));
            }
            let addresses = names(&root.join("network")).into_iter();
            left.extend(addresses.filter(|name| name.starts_with("10.") || name.starts_with('.')));
            let links = Netlink::open_in(&NetNs::open(&netns).unwrap()).unwrap().links().unwrap();
            left.extend(links.into_iter().map(|link| link.name).filter(|name| name != "lo"));
            let processes = processes(&faults);
            left.extend(
                processes.iter().filter(|one| one.parent != runtime && one.pid != runtime).map(Process::line),
            );
            let zygotes = processes.iter().filter(|one| one.parent == runtime).count();
            left.extend((zygotes > 1).then(|| format!("{zygotes} zygotes")));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        let rules = Command::new("nsenter")
            .arg(format!("--net={}", self.netns.display()))
            .args(["nft", "list", "ruleset"])
            .output()
            .unwrap();
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        assert!(!rules.contains("elements"), "host ports are left after {after}: {rules}");
        // The kubelet's part: the Pod's cgroup. It fails when anything is in it.
        let top = self.fixture.parent.split('/').nth(1).unwrap().to_owned();
        for folder in cgroup_folders(&top) {
            remove_empty(&folder);
        }
    }

    async fn finish(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let faults = self.faults.clone();
        eventually("the zygote ends with its runtime", async || {
            let left: Vec<_> = processes(&faults).iter().map(Process::line).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        drop(self.guard);
        assert!(!NetNs::is_pinned(&self.netns), "the namespace is pinned still");
        self.fixture.start_runtime().await;
        self.fixture.finish().await;
    }
}

fn spawn(fixture: &Fixture, netns: &Path, faults: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(faults.join("log")).unwrap();
    Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "alone", "--nocapture"])
        .env(ALONE, fixture.folder.path())
        .env("MINIK_TEST_SHIM", &fixture.config.shim)
        .env(VARIABLE, faults)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A process that bears our folder in its environment: the runtime, zygotes, shims, pauses, and what becomes a container.
#[derive(Debug)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
}

impl Process {
    fn line(&self) -> String {
        format!("process {} {} of {}", self.pid, self.name, self.parent)
    }
}

fn processes(faults: &Path) -> Vec<Process> {
    let mark = format!("{VARIABLE}={}", faults.display());
    let mut found = Vec::new();
    for pid in names(Path::new("/proc")).iter().filter_map(|name| name.parse::<u32>().ok()) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if !environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()) {
            continue;
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let mut fields = tail.split(' ');
        // The dead whom nobody has waited for yet have no environment any more; one may have died just now.
        let (state, parent) = (fields.next().unwrap(), fields.next().unwrap().parse().unwrap());
        if state != "Z" {
            let name = head.split_once('(').unwrap().1.to_owned();
            found.push(Process { pid, parent, name });
        }
    }
    found
}

/// Kills the victim once the point is reached, and lets who is held there go on.
async fn reap(faults: PathBuf, runtime: u32, victim: Victim) {
    let reached = faults.join(REACHED);
    let began = Instant::now();
    while !reached.exists() && began.elapsed() < WITHIN {
        // bounded: by the loop's limit
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let all = processes(&faults);
    let zygotes: Vec<u32> = all.iter().filter(|one| one.parent == runtime).map(|one| one.pid).collect();
    let is_shim = |one: &&Process| {
        one.name == "minik-shim"
            && !all.iter().any(|other| other.pid == one.parent && other.name == "minik-shim")
    };
    let victims: Vec<u32> = match victim {
        Victim::Itself => return,
        Victim::Runtime => vec![runtime],
        Victim::Zygote => zygotes,
        Victim::Shim => all.iter().filter(is_shim).map(|one| one.pid).collect(),
        Victim::Pause => all.iter().filter(|one| one.name == "pause").map(|one| one.pid).collect(),
    };
    for pid in victims {
        // It may have gone by itself.
        let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
    }
    std::fs::write(faults.join(GO), "").unwrap();
}

/// A Pod's life, by who wants it.
#[derive(Debug)]
struct Life {
    pod: v1::PodSandboxConfig,
    data: String,
    attempt: u32,
    runs: u32,
    /// Its container has run, and a command in it.
    ran: bool,
    /// It has run again after it was ended.
    ran_again: bool,
}

impl Life {
    fn new(alone: &Alone) -> Life {
        let mut pod = alone.fixture.pod("life");
        pod.port_mappings =
            vec![v1::PortMapping { host_port: 8080, container_port: 80, ..Default::default() }];
        let data = alone.fixture.folder.path().join("data").display().to_string();
        Life { pod, data, attempt: 0, runs: 0, ran: false, ran_again: false }
    }

    /// Looks what there is, and does the next thing. Gives whether all is done.
    async fn turn(&mut self, client: &mut common::Runtimes) -> Result<bool, tonic::Status> {
        let sandboxes =
            client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner().items;
        if self.ran_again {
            for sandbox in &sandboxes {
                end(client, &sandbox.id).await?;
            }
            return Ok(sandboxes.is_empty());
        }
        let (ready, lost): (Vec<_>, Vec<_>) =
            sandboxes.into_iter().partition(|one| one.state() == v1::PodSandboxState::SandboxReady);
        for sandbox in lost {
            end(client, &sandbox.id).await?;
        }
        let Some(sandbox) = ready.first() else {
            self.pod.metadata.as_mut().unwrap().attempt = self.attempt;
            self.attempt += 1;
            let request = v1::RunPodSandboxRequest { config: Some(self.pod.clone()), ..Default::default() };
            client.run_pod_sandbox(request).await?;
            return Ok(false);
        };
        let containers =
            client.list_containers(v1::ListContainersRequest::default()).await?.into_inner().containers;
        let latest = |name: &str| {
            let of =
                containers.iter().filter(|one| one.metadata.as_ref().is_some_and(|data| data.name == name));
            of.max_by_key(|one| one.metadata.as_ref().unwrap().attempt)
        };
        match latest("init") {
            Some(init) if init.state() == v1::ContainerState::ContainerRunning => return Ok(false),
            Some(init) if init.state() == v1::ContainerState::ContainerExited => {
                let request = v1::ContainerStatusRequest { container_id: init.id.clone(), verbose: false };
                let status = client.container_status(request).await?.into_inner().status.unwrap();
                if status.exit_code != 0 {
                    return self.run(client, &sandbox.id, "init").await;
                }
            }
            _ => return self.run(client, &sandbox.id, "init").await,
        }
        match latest("main") {
            Some(main) if main.state() == v1::ContainerState::ContainerRunning => {
                self.use_it(client, main).await
            }
            _ => self.run(client, &sandbox.id, "main").await,
        }
    }

    async fn run(
        &mut self,
        client: &mut common::Runtimes,
        sandbox: &str,
        name: &str,
    ) -> Result<bool, tonic::Status> {
        let mut config = match name {
            "init" => command(&["test", "-f", "/data/file"]),
            _ => shell("trap 'exit 0' TERM; echo runs; while true; do sleep 0.02; done"),
        };
        config.metadata = Some(v1::ContainerMetadata { name: name.to_owned(), attempt: self.runs });
        config.log_path = format!("{name}/{}.log", self.runs);
        self.runs += 1;
        let (host_path, container_path) = (self.data.clone(), "/data".to_owned());
        config.mounts = vec![v1::Mount { host_path, container_path, ..Default::default() }];
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.pod.clone()),
        };
        let container_id = client.create_container(request).await?.into_inner().container_id;
        client.start_container(v1::StartContainerRequest { container_id }).await?;
        Ok(false)
    }

    /// A command in it; then its end, so that it is started again; then the Pod's end.
    async fn use_it(
        &mut self,
        client: &mut common::Runtimes,
        main: &v1::Container,
    ) -> Result<bool, tonic::Status> {
        if self.ran {
            self.ran_again = true;
            return Ok(false);
        }
        let cmd = ["cat", "/data/file"].map(str::to_owned).into();
        let request = v1::ExecSyncRequest { container_id: main.id.clone(), cmd, timeout: 10 };
        let said = client.exec_sync(request).await?.into_inner();
        if said.stdout != b"kept" {
            return Err(tonic::Status::aborted(format!("{said:?}")));
        }
        client.stop_container(v1::StopContainerRequest { container_id: main.id.clone(), timeout: 5 }).await?;
        self.ran = true;
        Ok(false)
    }
}

/// Ends a sandbox with all that is in it.
async fn end(client: &mut common::Runtimes, sandbox: &str) -> Result<(), tonic::Status> {
    let pod_sandbox_id = sandbox.to_owned();
    client.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id }).await?;
    let pod_sandbox_id = sandbox.to_owned();
    client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await?;
    Ok(())
}

/// Who can be killed while a process is at this point, beside itself.
fn victims(name: &str) -> &'static [Victim] {
    match name.split('.').next() {
        Some("runtime" | "network" | "ports" | "root" | "file" | "record") => {
            &[Victim::Itself, Victim::Zygote, Victim::Shim, Victim::Pause]
        }
        Some("zygote") => &[Victim::Itself, Victim::Runtime],
        Some("shim" | "cgroup") => &[Victim::Itself, Victim::Runtime, Victim::Pause],
        Some("init") => &[Victim::Itself, Victim::Runtime, Victim::Shim, Victim::Pause],
        Some("pause") => &[Victim::Itself, Victim::Runtime, Victim::Shim],
        other => panic!("nobody passes {other:?}"),
    }
}

/// Each time that each point is passed, in order, counted.
fn counted(passed: &[String]) -> Vec<(&str, usize)> {
    let mut counts = HashMap::new();
    let mut count = |name: &str| {
        let count: &mut usize = counts.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    };
    passed.iter().map(|name| (name.as_str(), count(name))).collect()
}

#[tokio::test]
async fn whoever_dies_at_any_point_the_pod_lives_its_life_and_nothing_is_left() {
    let mut alone = Alone::start().await;
    alone.live(None).await;
    let passed = alone.passed();
    let all = std::env::var_os("MINIK_FAULTS").is_some_and(|which| which == "all");
    let mut lives = BTreeMap::<&str, usize>::new();
    for (name, count) in counted(&passed) {
        let chosen = match all {
            true => victims(name),
            // A shim that dies under what it is starting is what differs most from a death of one's own.
            false if count == 1 && matches!(name.split('.').next(), Some("init" | "pause")) => {
                &[Victim::Itself, Victim::Shim]
            }
            false if count == 1 => &[Victim::Itself],
            false => continue,
        };
        for victim in chosen {
            alone.live(Some((name, count, *victim))).await;
            *lives.entry(name.split('.').next().unwrap()).or_default() += 1;
        }
    }
    println!("{} points passed; lives with a fault, by who was at the point: {lives:?}", passed.len());
    println!("the runtime was started {} times", alone.starts);
    alone.finish().await;
}
