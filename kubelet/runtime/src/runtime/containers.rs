//! Containers: create, start, stop, remove, update.

use super::{Container, Runtime, RuntimeError, file};
use crate::record::{ContainerRecord, Phase, SandboxRecord};
use crate::shims::ShimError;
use crate::spec::{self, Parts};
use crate::users;
use minik_cri::v1;
use minik_cri::v1::ContainerEventType;
use minik_shim::protocol::{Answer, Request};
use std::sync::Arc;
use std::time::Duration;

/// How long a killed container may take to go.
const KILLED_WITHIN: Duration = Duration::from_secs(30);
/// The exit code of a container whose program could not be started.
const START_ERROR_CODE: i32 = 128;

impl Runtime {
    /// Makes a container in a sandbox. Gives its id.
    ///
    /// # Errors
    /// When the sandbox is not running, the image is not there, or something is asked for that cannot be had.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let pod = self.sandbox(sandbox)?;
        if !pod.ready {
            return Err(RuntimeError::State(format!("sandbox container {:?} is not running", pod.id)));
        }
        let id = self.new_id();
        let created = self.make_container(id.clone(), pod, config).await;
        if created.is_err() {
            // Nobody knows of it: nothing of it may stay.
            if let Err(error) = self.images.remove_rootfs(&id).await {
                tracing::error!(container = id, error = error.to_string(), "cannot undo a failed container");
            }
            let _ = self.container_records.remove(&id);
        }
        created.map(|()| id)
    }

    async fn make_container(
        &self,
        id: String,
        pod: SandboxRecord,
        config: v1::ContainerConfig,
    ) -> Result<(), RuntimeError> {
        let asked = config.image.clone().unwrap_or_default().image;
        let image = self.images.get(&asked).await.ok_or(crate::images::ImageError::NotFound(asked))?;
        let image_config = self.images.image_config(&image.id).await?;
        let rootfs = self.images.prepare_rootfs(&image.id, &id).await?;
        let security =
            config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
        let made = users::resolve(&rootfs.lower, &security, &image_config.user).map_err(RuntimeError::from);
        let made = made.and_then(|user| {
            Ok(spec::container(&Parts {
                id: &id,
                config: &config,
                sandbox: &pod.config,
                image: &image_config,
                rootfs: &rootfs,
                mountpoint: &self.mountpoint,
                files: &self.sandbox_records.folder(&pod.id),
                user: &user,
            })?)
        });
        let made = made.and_then(|spec| {
            make_sources(&spec, &config).map_err(file("make a host path"))?;
            Ok(spec)
        });
        let spec = made?;
        minik_fault::point("runtime.container.sources");
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: pod.id.clone(),
            stop_signal: spec::stop_signal(&config, &image_config),
            config,
            image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
            image_id: image.id,
            spec,
            phase: Phase::Created,
            created_at_ns: self.now_ns(),
            started_at_ns: 0,
            finished_at_ns: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            process: None,
            resources,
        };
        self.container_records.write(&id, &record).map_err(file("write the container's record"))?;
        self.state().containers.insert(id.clone(), Container::new(record));
        self.happened(&id, &pod.id, ContainerEventType::ContainerCreatedEvent);
        Ok(())
    }

    fn turn(&self, id: &str) -> Result<Arc<tokio::sync::Mutex<()>>, RuntimeError> {
        let state = self.state();
        let container = state.containers.get(id).ok_or_else(|| RuntimeError::NoContainer(id.to_owned()))?;
        Ok(container.turn.clone())
    }

    /// Starts a container.
    ///
    /// # Errors
    /// When it was started before, or its program cannot be started; its record tells that as well.
    pub async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let id = self.container_id(id)?;
        let turn = self.turn(&id)?;
        let _turn = turn.lock().await;
        let record = self.container(&id)?;
        if record.phase != Phase::Created {
            let state = format!("container {id:?} is in {:?} state", record.phase);
            return Err(RuntimeError::State(state));
        }
        let shim = self.shim(&record.sandbox)?;
        minik_fault::point("runtime.start.asks");
        match shim.call(Request::Start(Box::new(record.spec))).await {
            Ok(Answer::Started(process)) => {
                minik_fault::point("runtime.started");
                self.change_container(&id, |record| {
                    record.started_at_ns = process.started_at_ns;
                    // Its end may have been told already.
                    if record.phase == Phase::Created {
                        record.phase = Phase::Running;
                        record.process = Some(process);
                    }
                });
                self.happened(&id, &record.sandbox, ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Ok(_) => Err(RuntimeError::State("the shim answers something else".to_owned())),
            Err(error) => {
                let error = match super::of_program(&error) {
                    Some(refusal) => RuntimeError::Start(refusal.clone()),
                    None => RuntimeError::from(error),
                };
                let now = self.now_ns();
                self.change_container(&id, |record| {
                    // One whose start was asked for before a restart may have run and ended, and that was told.
                    if record.phase != Phase::Created {
                        return;
                    }
                    record.phase = Phase::Exited;
                    record.exit_code = START_ERROR_CODE;
                    record.finished_at_ns = now;
                    record.reason = "StartError".to_owned();
                    record.message = error.to_string();
                });
                self.happened(&id, &record.sandbox, ContainerEventType::ContainerStoppedEvent);
                Err(error)
            }
        }
    }

    /// Ends a container: politely, and by force when `grace` is over. Again is as good.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Ok(id) = self.container_id(id) else { return Ok(()) };
        let record = self.container(&id)?;
        if record.phase != Phase::Running {
            return Ok(());
        }
        let Some(mut ended) = self.state().containers.get(&id).map(|container| container.ended.subscribe())
        else {
            return Ok(());
        };
        let shim = self.shim(&record.sandbox)?;
        let gone = |result: Result<Answer, ShimError>| match result {
            Ok(_) | Err(ShimError::Refused(_) | ShimError::Gone) => Ok(()),
            Err(error) => Err(RuntimeError::from(error)),
        };
        if !grace.is_zero() {
            let signal = Request::Signal { container: id.clone(), signal: record.stop_signal };
            // One that has just ended is as good; so is a shim that has gone: its end is noticed elsewhere.
            gone(shim.call(signal).await)?;
            minik_fault::point("runtime.stop.signalled");
            if tokio::time::timeout(grace, ended.wait_for(|ended| *ended)).await.is_ok() {
                return Ok(());
            }
        }
        gone(shim.call(Request::Kill { container: id.clone() }).await)?;
        minik_fault::point("runtime.stop.killed");
        match tokio::time::timeout(KILLED_WITHIN, ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(RuntimeError::TimedOut(format!("container {id:?} does not go after it was killed")))
            }
        }
    }

    /// Removes a container, by force when it runs. Again is as good.
    ///
    /// # Errors
    /// When something of it stays.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(id) = self.container_id(id) else { return Ok(()) };
        self.stop_container(&id, Duration::ZERO).await?;
        let turn = self.turn(&id)?;
        let _turn = turn.lock().await;
        let Ok(record) = self.container(&id) else { return Ok(()) };
        if let Ok(shim) = self.shim(&record.sandbox) {
            match shim.call(Request::Remove { container: id.clone() }).await {
                // It was never started there.
                Ok(_) | Err(ShimError::Refused(_) | ShimError::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        minik_fault::point("runtime.remove.shim");
        self.remove_cgroup(&record.spec.cgroup).await?;
        self.images.remove_rootfs(&id).await?;
        minik_fault::point("runtime.remove.root");
        self.container_records.remove(&id).map_err(file("remove the container's files"))?;
        self.happened(&id, &record.sandbox, ContainerEventType::ContainerDeletedEvent);
        self.state().containers.remove(&id);
        Ok(())
    }

    /// Sets a container's limits anew; zero and empty leave what was.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub async fn update_container(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let record = self.container(id)?;
        if record.phase == Phase::Exited {
            return Err(RuntimeError::State(format!("container {:?} has ended", record.id)));
        }
        let limits = spec::limits(&resources);
        if record.phase == Phase::Running {
            self.trees.cgroup(&record.spec.cgroup).update(&limits)?;
        }
        self.change_container(&record.id, |record| {
            merge(&mut record.resources, &resources);
            let devices = record.spec.limits.devices.take();
            record.spec.limits = spec::limits(&record.resources);
            record.spec.limits.devices = devices;
        });
        Ok(())
    }

    /// Opens a container's log anew.
    ///
    /// # Errors
    /// When it does not run, or the file cannot be opened.
    pub async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let record = self.container(id)?;
        if record.phase != Phase::Running {
            return Err(RuntimeError::State(format!("container {:?} is not running", record.id)));
        }
        let request = Request::ReopenLog { container: record.id };
        self.shim(&record.sandbox)?.call(request).await?;
        Ok(())
    }
}

/// Host paths that do not exist are made, as folders.
fn make_sources(
    spec: &minik_shim::protocol::ContainerSpec,
    config: &v1::ContainerConfig,
) -> std::io::Result<()> {
    let asked = config.mounts.iter().map(|mount| std::path::Path::new(&mount.host_path));
    asked.filter(|path| !path.exists()).try_for_each(std::fs::create_dir_all)?;
    match spec.log_path.as_ref().and_then(|path| path.parent()) {
        Some(folder) => std::fs::create_dir_all(folder),
        None => Ok(()),
    }
}

fn merge(known: &mut v1::LinuxContainerResources, new: &v1::LinuxContainerResources) {
    let set = |known: &mut i64, new: i64| {
        if new != 0 {
            *known = new;
        }
    };
    set(&mut known.cpu_period, new.cpu_period);
    set(&mut known.cpu_quota, new.cpu_quota);
    set(&mut known.cpu_shares, new.cpu_shares);
    set(&mut known.memory_limit_in_bytes, new.memory_limit_in_bytes);
    set(&mut known.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    set(&mut known.oom_score_adj, new.oom_score_adj);
    if !new.cpuset_cpus.is_empty() {
        known.cpuset_cpus.clone_from(&new.cpuset_cpus);
    }
    if !new.cpuset_mems.is_empty() {
        known.cpuset_mems.clone_from(&new.cpuset_mems);
    }
    known.unified.extend(new.unified.clone());
}
