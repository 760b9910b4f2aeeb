//! Other resources for containers that run
//! (<https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>).

use super::Worker;
use crate::containers::resources::container_resources;
use crate::core::memory::Failure;
use crate::core::plan::End;
use crate::core::view::{Instance, State};
use crate::pod::{Kind, PodObject, list};
use k8s_openapi::api::core::v1 as api;
use minik_cri::v1;
use minik_placement::{NodeState, Reason, fit};

/// What of a container's limits is not as it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Difference {
    cpu: bool,
    memory: bool,
}

impl Difference {
    fn of(run: &Instance, wanted: &v1::LinuxContainerResources) -> Option<Difference> {
        let has = run.limits?;
        // A quota of zero or less is none, however it is written.
        let quota = |quota: i64| quota.max(0);
        let memory = |bytes: i64| bytes.max(0);
        let difference = Difference {
            cpu: has.cpu_shares != wanted.cpu_shares || quota(has.cpu_quota) != quota(wanted.cpu_quota),
            memory: memory(has.memory_bytes) != memory(wanted.memory_limit_in_bytes),
        };
        (difference.cpu || difference.memory).then_some(difference)
    }

    /// Whether the container wants to be started anew for it.
    fn needs_restart(self, container: &api::Container) -> bool {
        list(&container.resize_policy).iter().any(|policy| {
            policy.restart_policy == "RestartContainer"
                && match policy.resource_name.as_str() {
                    "cpu" => self.cpu,
                    "memory" => self.memory,
                    _ => false,
                }
        })
    }
}

impl Worker {
    /// Containers that run with other limits than are wanted.
    fn differences<'a>(
        &self,
        pod: &'a PodObject,
    ) -> Vec<(&'a api::Container, Instance, v1::LinuxContainerResources, Difference)> {
        let memory = self.context.node.machine.memory_bytes;
        pod.containers()
            .filter(|(kind, _)| matches!(kind, Kind::Main | Kind::Sidecar))
            .filter_map(|(_, container)| {
                let run = self.view.latest(&container.name).filter(|run| run.state == State::Running)?;
                let wanted = container_resources(pod, container, memory);
                let difference = Difference::of(run, &wanted)?;
                Some((container, run.clone(), wanted, difference))
            })
            .collect()
    }

    /// Gives running containers the limits that are wanted, if the node has room. Says whether anything has changed.
    pub(super) async fn resize(&mut self, pod: &PodObject) -> bool {
        let differences = self.differences(pod);
        if differences.is_empty() {
            self.memory.resize = None;
            return false;
        }
        self.memory.resize = self.no_room(pod);
        if self.memory.resize.is_some() {
            return false;
        }
        if let Err(error) = self.context.cgroups.make(pod).await {
            tracing::warn!(
                pod = pod.long_name(),
                error = minik_component::chain(&error),
                "cannot resize the Pod"
            );
            return false;
        }
        let mut changed = false;
        for (container, run, wanted, difference) in differences {
            if difference.needs_restart(container) {
                continue;
            }
            match self.context.runtime.update_container(&run.id, wanted).await {
                Ok(()) => {
                    tracing::info!(pod = pod.long_name(), container = container.name, "resized a container");
                    self.observer.forget(&run.id);
                    changed = true;
                }
                Err(error) => {
                    tracing::warn!(pod = pod.long_name(), container = container.name, %error, "cannot resize a container");
                }
            }
        }
        changed
    }

    /// Containers that are to be started anew with other limits.
    pub(super) fn resize_by_restart(&self, pod: &PodObject) -> Vec<End> {
        if self.memory.resize.is_some() {
            return Vec::new();
        }
        self.differences(pod)
            .into_iter()
            .filter(|(container, _, _, difference)| difference.needs_restart(container))
            .map(|(container, run, ..)| End {
                id: run.id,
                name: container.name.clone(),
                message: format!("Container {} resize requires restart", container.name),
                grace_seconds: None,
            })
            .collect()
    }

    /// Why the node cannot give what is wanted.
    fn no_room(&self, pod: &PodObject) -> Option<Failure> {
        let node = self.context.node.placement(self.context.now());
        let words = |reasons: Vec<Reason>| {
            let resource = reasons.into_iter().find_map(|reason| match reason {
                Reason::Insufficient { resource, requested, capacity, .. } => {
                    Some(format!("{resource}, requested: {requested}, capacity: {capacity}"))
                }
                _ => None,
            });
            format!("Node didn't have enough capacity: {}", resource.unwrap_or_default())
        };
        let mut state = NodeState::new(node);
        if let Err(reasons) = fit::resources(&pod.placement, &state) {
            return Some(Failure::new("Infeasible", words(reasons)));
        }
        for mailbox in self.context.mailboxes.all() {
            let other = mailbox.wanted().pod;
            if other.uid() != pod.uid() && !other.has_ended() {
                state.add(other.placement.clone());
            }
        }
        match fit::resources(&pod.placement, &state) {
            Ok(()) => None,
            Err(_) => {
                let message = "Node didn't have enough resource for the resize now";
                Some(Failure::new("Deferred", message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::view::Limits;

    #[test]
    fn only_true_differences_count() {
        let run = |shares, quota, memory_bytes| Instance {
            limits: Some(Limits { cpu_shares: shares, cpu_quota: quota, cpu_period: 100_000, memory_bytes }),
            ..Default::default()
        };
        let wanted = v1::LinuxContainerResources {
            cpu_shares: 102,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        assert_eq!(Difference::of(&run(102, -1, 1 << 20), &wanted), None);
        let both = Difference::of(&run(51, 0, 2 << 20), &wanted).unwrap();
        assert_eq!(both, Difference { cpu: true, memory: true });
        assert_eq!(Difference::of(&Instance::default(), &wanted), None);
        let container: api::Container = serde_json::from_str(
            r#"{"name": "c", "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}"#,
        )
        .unwrap();
        assert!(both.needs_restart(&container));
        assert!(!Difference { cpu: true, memory: false }.needs_restart(&container));
    }
}
