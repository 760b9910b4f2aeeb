//! Sandboxes: run, stop, remove.

use super::{Runtime, RuntimeError, Sandbox, file, identity};
use crate::record::{Phase, SandboxRecord, write_whole};
use crate::shims::Shim;
use crate::spec;
use minik_cri::v1;
use minik_cri::v1::ContainerEventType;
use minik_shim::cgroup::CgroupSpec;
use minik_shim::protocol::{Answer, Process, Request};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the processes of a sandbox may take to go after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How long between two looks at what the kernel is about to remove.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl Runtime {
    /// Makes a sandbox and starts its pause process. Gives its id.
    ///
    /// # Errors
    /// When a part of it cannot be had; nothing is left behind then.
    pub async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<String, RuntimeError> {
        let id = self.new_id();
        let mut record = SandboxRecord {
            id: id.clone(),
            config,
            handler,
            created_at_ns: self.now_ns(),
            boot: self.boot.clone(),
            addresses: Vec::new(),
            pause: None,
            ready: false,
            released: false,
            making: true,
        };
        let made = self.make_sandbox(&mut record).await;
        let shim = match made {
            Ok(shim) => shim,
            Err(error) => {
                self.unmake_sandbox(&record).await;
                return Err(error);
            }
        };
        self.state().sandboxes.insert(id.clone(), Sandbox::new(record, Some(shim.clone())));
        if shim.is_gone() {
            // It went while nobody knew the sandbox yet.
            self.lose_sandbox(&id).await;
        } else if shim.is_unpaused() {
            self.change_sandbox(&id, |record| record.ready = false);
        }
        self.happened(&id, &id, ContainerEventType::ContainerCreatedEvent);
        self.happened(&id, &id, ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    async fn make_sandbox(&self, record: &mut SandboxRecord) -> Result<Shim, RuntimeError> {
        let id = record.id.clone();
        let id = id.as_str();
        let spec = spec::sandbox(id, &record.config)?;
        let host_network = spec.host_network;
        let folder = self.sandbox_records.folder(id);
        // Before anything else: whoever finds it after a crash knows what to take apart.
        self.sandbox_records.write(id, record).map_err(file("write the sandbox's record"))?;
        write_files(&folder, &record.config).map_err(file("write the sandbox's files"))?;
        if !record.config.log_directory.is_empty() {
            std::fs::create_dir_all(&record.config.log_directory).map_err(file("make the log folder"))?;
        }
        let shim = Shim::new(self.shims.spawn(id).await?);
        self.follow(id, shim.clone());
        minik_fault::point("runtime.sandbox.shim");
        let answer = shim.call(Request::CreateSandbox(Box::new(spec))).await?;
        minik_fault::point("runtime.sandbox.paused");
        let Answer::Started(pause) = answer else {
            return Err(RuntimeError::State("the shim answers something else".to_owned()));
        };
        let netns = netns_path(&pause);
        record.pause = Some(pause);
        if !host_network {
            record.addresses = self.join_network(record, &netns).await?;
        }
        (record.ready, record.making) = (true, false);
        self.sandbox_records.write(id, record).map_err(file("write the sandbox's record"))?;
        Ok(shim)
    }

    async fn join_network(&self, record: &SandboxRecord, netns: &Path) -> Result<Vec<IpAddr>, RuntimeError> {
        let failed = |source| RuntimeError::Network { sandbox: record.id.clone(), source };
        self.network.add(&identity(record), netns).await.map_err(failed)
    }

    /// Undoes what was made of a sandbox that never came to be.
    pub(super) async fn unmake_sandbox(&self, record: &SandboxRecord) {
        if let Err(error) = self.release(record, None).await {
            tracing::error!(sandbox = record.id, error = error.to_string(), "cannot undo a failed sandbox");
        }
        let _ = self.sandbox_records.remove(&record.id);
    }

    /// Gives back everything that a sandbox holds on this machine; its record stays.
    async fn release(&self, record: &SandboxRecord, shim: Option<Shim>) -> Result<(), RuntimeError> {
        let id = &record.id;
        let netns = record.pause.as_ref().map(netns_path).filter(|path| path.exists());
        let mut network = Ok(());
        if !spec::of_node(spec::namespaces(&record.config).network) {
            network = self.network.remove(&identity(record), netns.as_deref()).await;
        }
        minik_fault::point("runtime.release.network");
        match shim {
            Some(shim) => self.end_shim(id, &shim).await,
            None => self.end_unknown_shim(id).await,
        }
        minik_fault::point("runtime.release.shim");
        self.shims.forget(id);
        minik_fault::point("runtime.release.socket");
        self.remove_cgroup(&CgroupSpec { parent: spec::cgroup_parent(&record.config), name: id.clone() })
            .await?;
        network.map_err(|source| RuntimeError::Network { sandbox: id.clone(), source })
    }

    /// Ends a shim that a task of this runtime listens to.
    async fn end_shim(&self, id: &str, shim: &Shim) {
        if shim.is_gone() {
            // Perhaps before the sandbox was known: then nobody tells it a second time.
            return;
        }
        let gone = self.state().sandboxes.get(id).map(|sandbox| sandbox.gone.subscribe());
        // One that has gone already is as good.
        let _ = shim.call(Request::Shutdown).await;
        if let Some(mut gone) = gone {
            let _ = tokio::time::timeout(GONE_WITHIN, gone.wait_for(|gone| *gone)).await;
        }
    }

    /// Ends a shim that nobody listens to: of a sandbox that was never finished, or of an earlier runtime.
    pub(super) async fn end_unknown_shim(&self, id: &str) {
        let Ok(stream) = self.shims.reconnect(id).await else { return };
        let shim = Shim::new(stream);
        // Cancel-safe: listening ends when the shim does, and that is what is waited for.
        let ended = async {
            let _ = tokio::join!(shim.call(Request::Shutdown), shim.listen(|_| {}));
        };
        let _ = tokio::time::timeout(GONE_WITHIN, ended).await;
    }

    /// Kills what is left in a cgroup and removes it.
    pub(super) async fn remove_cgroup(&self, spec: &CgroupSpec) -> Result<(), RuntimeError> {
        let cgroup = self.trees.cgroup(spec);
        let started = self.clock.elapsed();
        loop {
            let empty = cgroup.kill();
            match cgroup.remove() {
                Ok(()) => return Ok(()),
                Err(error) if self.clock.elapsed() - started > GONE_WITHIN => return Err(error.into()),
                Err(error) if empty && self.clock.elapsed() - started > GONE_WITHIN / 10 => {
                    return Err(error.into());
                }
                // Killed processes take a moment to go; the kernel does not tell when, in version 1.
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Stops everything in a sandbox and gives back what it holds. Again is as good.
    ///
    /// # Errors
    /// When something of it stays.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        // One that is not known has nothing left.
        let Ok(id) = self.sandbox_id(id) else { return Ok(()) };
        let Some(turn) = self.state().sandboxes.get(&id).map(|sandbox| sandbox.turn.clone()) else {
            return Ok(());
        };
        let _turn = turn.lock().await;
        let found =
            self.state().sandboxes.get(&id).map(|sandbox| (sandbox.record.clone(), sandbox.shim.clone()));
        let Some((record, shim)) = found else { return Ok(()) };
        if record.released {
            return Ok(());
        }
        self.release(&record, shim).await?;
        minik_fault::point("runtime.released");
        self.end_containers(&id).await;
        let was_ready = record.ready;
        self.change_sandbox(&id, |record| {
            (record.ready, record.released, record.pause) = (false, true, None);
        });
        if was_ready {
            self.happened(&id, &id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// Removes a sandbox and its containers. Again is as good.
    ///
    /// # Errors
    /// When something of it stays.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(id) = self.sandbox_id(id) else { return Ok(()) };
        self.stop_sandbox(&id).await?;
        for container in self.containers_of(&id) {
            self.remove_container(&container.id).await?;
        }
        self.sandbox_records.remove(&id).map_err(file("remove the sandbox's files"))?;
        // Told before it is forgotten: the event carries its last status.
        self.happened(&id, &id, ContainerEventType::ContainerDeletedEvent);
        self.state().sandboxes.remove(&id);
        Ok(())
    }

    /// Marks what still counts as running in a sandbox without a shim: nobody can tell how it ended.
    pub(super) async fn end_containers(&self, sandbox: &str) {
        for container in self.containers_of(sandbox) {
            if let Err(error) = self.remove_cgroup(&container.spec.cgroup).await {
                tracing::error!(
                    container = container.id,
                    error = error.to_string(),
                    "cannot remove its cgroup"
                );
            }
            if container.phase != Phase::Running {
                continue;
            }
            let now = self.now_ns();
            self.change_container(&container.id, |record| {
                if record.phase == Phase::Running {
                    record.phase = Phase::Exited;
                    record.exit_code = 137;
                    record.finished_at_ns = now;
                    record.reason = "ContainerStatusUnknown".to_owned();
                    record.message = "the process that watched over the container was lost".to_owned();
                    record.process = None;
                }
            });
            self.happened(&container.id, sandbox, ContainerEventType::ContainerStoppedEvent);
        }
    }
}

/// The network namespace that a pause process holds.
pub(super) fn netns_path(pause: &Process) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", pause.pid))
}

fn write_files(folder: &Path, config: &v1::PodSandboxConfig) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let own = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let host_network = spec::of_node(spec::namespaces(config).network);
    let hostname = match config.hostname.as_str() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        name => name.to_owned(),
    };
    let hosts =
        if host_network { own("/etc/hosts") } else { "127.0.0.1 localhost\n::1 localhost\n".to_owned() };
    let resolv = spec::resolv_conf(config.dns_config.as_ref(), &own("/etc/resolv.conf"));
    write_whole(folder, "hostname", format!("{hostname}\n").as_bytes())?;
    write_whole(folder, "hosts", hosts.as_bytes())?;
    write_whole(folder, "resolv.conf", resolv.as_bytes())
}
