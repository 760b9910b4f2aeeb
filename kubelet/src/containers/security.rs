//! Security contexts (<https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>).

use crate::pod::{PodObject, list};
use k8s_openapi::api::core::v1 as api;
use minik_cri::v1;

/// Paths that a container does not see by default.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_POWERCAP: &str = "/sys/devices/virtual/powercap";
/// Paths that a container cannot write to by default.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Why a container may not run as the user that it would run as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// It is told to run as root.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    Root {
        /// The Pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// Its image runs as root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRoot {
        /// The Pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// Its image names a user, whose number is not known.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    ImageName {
        /// The user.
        user: String,
        /// The Pod.
        pod: String,
        /// The container.
        container: String,
    },
}

/// What the container says, or the Pod where it says nothing.
pub fn effective(pod: &PodObject, container: &api::Container) -> api::SecurityContext {
    let of_pod = pod.spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    api::SecurityContext {
        run_as_user: own.run_as_user.or(of_pod.run_as_user),
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        run_as_non_root: own.run_as_non_root.or(of_pod.run_as_non_root),
        seccomp_profile: own.seccomp_profile.or(of_pod.seccomp_profile),
        app_armor_profile: own.app_armor_profile.or(of_pod.app_armor_profile),
        se_linux_options: own.se_linux_options.or(of_pod.se_linux_options),
        ..own
    }
}

/// Checks `runAsNonRoot` against what the container or its image says.
///
/// # Errors
/// When it would run as root, or might.
pub fn check_user(pod: &PodObject, container: &api::Container, image: &v1::Image) -> Result<(), UserError> {
    let context = effective(pod, container);
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let (pod, container) = (pod.long_name(), container.name.clone());
    match (context.run_as_user, &image.uid, image.username.as_str()) {
        (Some(0), ..) => Err(UserError::Root { pod, container }),
        (Some(_), ..) => Ok(()),
        (None, Some(uid), _) if uid.value == 0 => Err(UserError::ImageRoot { pod, container }),
        (None, Some(_), _) => Ok(()),
        (None, None, "") => Err(UserError::ImageRoot { pod, container }),
        (None, None, user) => Err(UserError::ImageName { user: user.to_owned(), pod, container }),
    }
}

/// A container's security context, as the runtime is told it.
pub fn container_context(
    pod: &PodObject,
    container: &api::Container,
    image: &v1::Image,
    target_id: Option<String>,
) -> v1::LinuxContainerSecurityContext {
    let context = effective(pod, container);
    let privileged = context.privileged == Some(true);
    let adds_admin = list(&context.capabilities.as_ref().and_then(|all| all.add.clone()))
        .iter()
        .any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN"));
    let user = context.run_as_user.or(image.uid.as_ref().map(|uid| uid.value));
    let unmasked = context.proc_mount.as_deref() == Some("Unmasked");
    let (masked, read_only) = if unmasked { (Vec::new(), Vec::new()) } else { default_paths() };
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: names(context.capabilities.as_ref().and_then(|all| all.add.as_ref())),
            drop_capabilities: names(context.capabilities.as_ref().and_then(|all| all.drop.as_ref())),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target_id)),
        run_as_user: user.map(|value| v1::Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| v1::Int64Value { value }),
        run_as_username: if user.is_none() { image.username.clone() } else { String::new() },
        readonly_rootfs: context.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: context.allow_privilege_escalation == Some(false) && !adds_admin,
        masked_paths: masked,
        readonly_paths: read_only,
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), privileged)),
        apparmor: context
            .app_armor_profile
            .as_ref()
            .map(|profile| profile_of(&profile.type_, profile.localhost_profile.as_deref())),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        ..Default::default()
    }
}

fn names(names: Option<&Vec<String>>) -> Vec<String> {
    names.cloned().unwrap_or_default()
}

fn default_paths() -> (Vec<String>, Vec<String>) {
    let masked = MASKED.iter().copied().chain([MASKED_POWERCAP]).map(str::to_owned).collect();
    (masked, READ_ONLY.map(str::to_owned).into())
}

fn seccomp(profile: Option<&api::SeccompProfile>, privileged: bool) -> v1::SecurityProfile {
    match profile {
        Some(profile) if !privileged => profile_of(&profile.type_, profile.localhost_profile.as_deref()),
        _ => profile_of("Unconfined", None),
    }
}

fn profile_of(kind: &str, local: Option<&str>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let profile_type = match kind {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    v1::SecurityProfile {
        profile_type: profile_type as i32,
        localhost_ref: local.unwrap_or_default().to_owned(),
    }
}

fn selinux(options: &api::SELinuxOptions) -> v1::SeLinuxOption {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

/// Further groups of every process of the Pod.
fn groups(pod: &PodObject) -> Vec<i64> {
    let context = pod.spec.security_context.clone().unwrap_or_default();
    let mut groups = context.fs_group.map(|group| vec![group]).unwrap_or_default();
    groups.extend(list(&context.supplemental_groups));
    groups
}

fn groups_policy(pod: &PodObject) -> i32 {
    let context = pod.spec.security_context.as_ref();
    match context.and_then(|context| context.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

/// Which namespaces the Pod's containers share with what.
pub fn namespaces(pod: &PodObject, target_id: Option<String>) -> v1::NamespaceOption {
    let spec = &pod.spec;
    let mode = |host: Option<bool>, other| if host == Some(true) { v1::NamespaceMode::Node } else { other };
    let pid = match (&target_id, spec.share_process_namespace) {
        (Some(_), _) => v1::NamespaceMode::Target,
        (None, Some(true)) => v1::NamespaceMode::Pod,
        (None, _) => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: mode(spec.host_network, v1::NamespaceMode::Pod) as i32,
        pid: mode(spec.host_pid, pid) as i32,
        ipc: mode(spec.host_ipc, v1::NamespaceMode::Pod) as i32,
        target_id: target_id.unwrap_or_default(),
        // The runtime says whether it can do that; what it cannot do is not left out.
        userns_options: (pod.spec.host_users == Some(false))
            .then(|| v1::UserNamespace { mode: v1::NamespaceMode::Pod as i32, ..Default::default() }),
    }
}

/// The sandbox's security context.
pub fn sandbox_context(pod: &PodObject) -> v1::LinuxSandboxSecurityContext {
    let context = pod.spec.security_context.clone().unwrap_or_default();
    let privileged = pod.containers().any(|(_, one)| {
        one.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))
    });
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        run_as_user: context.run_as_user.map(|value| v1::Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| v1::Int64Value { value }),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged,
        // The pause process needs little; upstream confines it by default, too.
        seccomp: Some(profile_of("RuntimeDefault", None)),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(context: serde_json::Value, uid: Option<i64>, user: &str, want: Option<&str>) {
        let object = json!({"metadata": {"name": "p", "namespace": "s", "uid": "u"},
            "spec": {"containers": [{"name": "c", "securityContext": context}]}});
        let pod: PodObject = serde_json::from_str(&object.to_string()).unwrap();
        let image = v1::Image {
            uid: uid.map(|value| v1::Int64Value { value }),
            username: user.into(),
            ..Default::default()
        };
        let got = check_user(&pod, &pod.spec.containers[0], &image).err().map(|error| error.to_string());
        assert_eq!(got.as_deref(), want);
    }

    #[test]
    fn users_are_checked() {
        let demand = json!({"runAsNonRoot": true});
        check(json!({}), Some(0), "", None);
        check(demand.clone(), Some(5), "", None);
        let at = "(pod: \"p_s(u)\", container: c)";
        let root = format!("container has runAsNonRoot and image will run as root {at}");
        check(demand.clone(), Some(0), "", Some(&root));
        check(demand.clone(), None, "", Some(&root));
        let named = format!(
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {at}"
        );
        check(demand, None, "web", Some(&named));
        let told = format!("container's runAsUser breaks non-root policy {at}");
        check(json!({"runAsNonRoot": true, "runAsUser": 0}), Some(5), "", Some(&told));
        check(json!({"runAsNonRoot": true, "runAsUser": 7}), Some(0), "", None);
    }
}
