//! After a restart: what runs is asked of the shims, and what nobody knows is cleared away.

use super::{Container, Runtime, RuntimeError, Sandbox, file};
use crate::record::{ContainerRecord, Phase, SandboxRecord};
use crate::shims::Shim;
use minik_shim::protocol::{Answer, ContainerState, Request, State};
use std::collections::BTreeSet;

impl Runtime {
    pub(super) async fn recover(&self) -> Result<(), RuntimeError> {
        let sandboxes: Vec<SandboxRecord> =
            self.sandbox_records.read().map_err(file("read the sandboxes"))?;
        let containers: Vec<ContainerRecord> =
            self.container_records.read().map_err(file("read the containers"))?;
        let (unmade, sandboxes): (Vec<_>, Vec<_>) = sandboxes.into_iter().partition(|record| record.making);
        for record in unmade {
            self.unmake_sandbox(&record).await;
        }
        {
            let mut state = self.state();
            for record in containers {
                state.containers.insert(record.id.clone(), Container::new(record));
            }
            for record in &sandboxes {
                state.sandboxes.insert(record.id.clone(), Sandbox::new(record.clone(), None));
            }
        }
        for record in sandboxes {
            self.recover_sandbox(record).await;
            minik_fault::point("runtime.recovered");
        }
        self.clear_leftovers().await
    }

    async fn recover_sandbox(&self, record: SandboxRecord) {
        let id = &record.id;
        if record.released {
            return;
        }
        if record.boot != self.boot {
            // Nothing of an earlier boot runs, and its pids mean others now.
            self.change_sandbox(id, |record| record.pause = None);
            return self.lose_sandbox(id).await;
        }
        let Ok(stream) = self.shims.reconnect(id).await else { return self.lose_sandbox(id).await };
        let shim = Shim::new(stream);
        if let Some(sandbox) = self.state().sandboxes.get_mut(id) {
            sandbox.shim = Some(shim.clone());
        }
        self.follow(id, shim.clone());
        match shim.call(Request::State).await {
            Ok(Answer::State(state)) => self.reconcile(&record, &state).await,
            Ok(_) => {}
            Err(error) => tracing::error!(sandbox = id, error = error.to_string(), "a shim tells nothing"),
        }
    }

    async fn reconcile(&self, record: &SandboxRecord, state: &State) {
        let (id, pause) = (&record.id, state.pause.clone());
        self.change_sandbox(id, |record| {
            record.ready &= pause.is_some();
            record.pause = pause;
        });
        for container in self.containers_of(id) {
            match state.containers.get(&container.id) {
                Some(ContainerState::Running(process)) => self.change_container(&container.id, |record| {
                    record.started_at_ns = process.started_at_ns;
                    // It may have ended since the shim answered, and that may have been told already.
                    if record.phase != Phase::Exited {
                        record.phase = Phase::Running;
                        record.process = Some(process.clone());
                    }
                }),
                Some(ContainerState::Exited { process, exit }) if container.phase != Phase::Exited => {
                    self.change_container(&container.id, |record| {
                        record.started_at_ns = process.started_at_ns
                    });
                    self.exited(id, &container.id, exit);
                }
                // Nobody was left to be answered that it has started: asked again, the shim answers this time.
                Some(ContainerState::Starting) if container.phase == Phase::Created => {
                    if let Err(error) = self.start_container(&container.id).await {
                        let error = error.to_string();
                        tracing::warn!(container = container.id, error, "its start has failed");
                    }
                }
                // Created and not started, or ended before.
                _ => {}
            }
        }
    }

    /// Removes what belongs to no record: a crash came between making it and writing that down.
    async fn clear_leftovers(&self) -> Result<(), RuntimeError> {
        let (sandboxes, live): (BTreeSet<_>, BTreeSet<_>) = {
            let state = self.state();
            let live = state.sandboxes.values().filter(|sandbox| !sandbox.record.released);
            (
                state.sandboxes.keys().cloned().collect(),
                live.map(|sandbox| sandbox.record.id.clone()).collect(),
            )
        };
        for id in self.shims.sockets().map_err(file("read the shims' folder"))? {
            if !live.contains(&id) {
                self.end_unknown_shim(&id).await;
                self.shims.forget(&id);
            }
        }
        for holder in self.network.holders().await {
            if !live.contains(&holder) {
                let pod = crate::network::PodIdentity { sandbox_id: holder.clone(), ..Default::default() };
                if let Err(error) = self.network.remove(&pod, None).await {
                    tracing::error!(
                        sandbox = holder,
                        error = error.to_string(),
                        "cannot give an address back"
                    );
                }
            }
        }
        for container in self.containers() {
            if !sandboxes.contains(&container.sandbox)
                && let Err(error) = self.remove_container(&container.id).await
            {
                let error = error.to_string();
                tracing::error!(container = container.id, error, "cannot remove a container that is left");
            }
        }
        let known: BTreeSet<_> = self.containers().into_iter().map(|container| container.id).collect();
        for key in self.images.rootfs_keys().await? {
            if !known.contains(&key)
                && let Err(error) = self.images.remove_rootfs(&key).await
            {
                tracing::error!(
                    container = key,
                    error = error.to_string(),
                    "cannot remove a root that is left"
                );
            }
        }
        Ok(())
    }
}
