//! What shims tell.

use super::{Runtime, RuntimeError};
use crate::record::Phase;
use crate::shims::Shim;
use minik_cri::v1::ContainerEventType;
use minik_shim::protocol::{Event, Exit};
use std::sync::PoisonError;

impl Runtime {
    /// Listens to a sandbox's shim for as long as it lives.
    pub(super) fn follow(&self, sandbox: &str, shim: Shim) {
        let (runtime, sandbox) = (self.clone(), sandbox.to_owned());
        self.tasks.spawn(async move {
            shim.listen(|event| runtime.told(&sandbox, event)).await;
            runtime.shim_gone(&sandbox).await;
        });
    }

    fn told(&self, sandbox: &str, event: Event) {
        match event {
            Event::Exited { container, exit } => self.exited(sandbox, &container, &exit),
            Event::ExecExited { exec, exit } => {
                let waiter = self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(&exec);
                if let Some((_, waiter)) = waiter {
                    // Whoever waited may have given up.
                    let _ = waiter.send(exit);
                }
            }
            // Whoever stops the sandbox has killed it, and tells so.
            Event::PauseExited { .. } if self.is_being_stopped(sandbox) => {}
            Event::PauseExited { .. } => {
                tracing::warn!(sandbox, "the pause process has ended");
                self.change_sandbox(sandbox, |record| record.ready = false);
                self.happened(sandbox, sandbox, ContainerEventType::ContainerStoppedEvent);
            }
        }
    }

    fn is_being_stopped(&self, sandbox: &str) -> bool {
        let state = self.state();
        state.sandboxes.get(sandbox).is_some_and(|found| found.turn.try_lock().is_err())
    }

    pub(super) fn exited(&self, sandbox: &str, container: &str, exit: &Exit) {
        self.change_container(container, |record| {
            record.phase = Phase::Exited;
            record.exit_code = exit.code;
            record.finished_at_ns = exit.finished_at_ns;
            record.process = None;
            record.reason = match exit {
                exit if exit.oom_killed => "OOMKilled",
                exit if exit.code == 0 => "Completed",
                _ => "Error",
            }
            .to_owned();
        });
        self.happened(container, sandbox, ContainerEventType::ContainerStoppedEvent);
    }

    async fn shim_gone(&self, sandbox: &str) {
        // Who waits for a command's end learns by this that nobody will tell it.
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (of, _)| of != sandbox);
        let record = {
            let mut state = self.state();
            let Some(found) = state.sandboxes.get_mut(sandbox) else { return };
            found.shim = None;
            found.gone.send_replace(true);
            found.record.clone()
        };
        // A sandbox that is being stopped is released by whoever stops it.
        let Some(turn) = self.state().sandboxes.get(sandbox).map(|found| found.turn.clone()) else { return };
        let Ok(_turn) = turn.try_lock() else { return };
        if record.released {
            return;
        }
        tracing::warn!(sandbox, "the shim was lost; killing its containers");
        self.lose_sandbox(sandbox).await;
    }

    /// A sandbox without its shim: whatever is left of it is killed.
    pub(super) async fn lose_sandbox(&self, sandbox: &str) {
        self.end_containers(sandbox).await;
        self.change_sandbox(sandbox, |record| record.ready = false);
        let ended: Result<(), RuntimeError> = async {
            let record = self.sandbox(sandbox)?;
            let parent = crate::spec::cgroup_parent(&record.config);
            self.remove_cgroup(&minik_shim::cgroup::CgroupSpec { parent, name: record.id }).await
        }
        .await;
        if let Err(error) = ended {
            tracing::error!(sandbox, error = error.to_string(), "cannot remove what a lost sandbox left");
        }
        self.happened(sandbox, sandbox, ContainerEventType::ContainerStoppedEvent);
    }
}
