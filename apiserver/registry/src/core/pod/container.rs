//! Containers of every sort: what they run, see and may use.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::options::Options;
use super::{handler, mount, resources, security};
use crate::core::pod::env;
use crate::format::{self, invalid};
use crate::view::{items, text};

/// What a container is checked against: its Pod.
pub(crate) struct PodContext<'a> {
    /// Volumes that are right in themselves, by name.
    pub(crate) volumes: BTreeMap<&'a str, &'a api::Volume>,
    /// Names of the Pod's resource claims.
    pub(crate) claims: BTreeSet<&'a str>,
    /// Seconds that the Pod gives its containers to stop.
    pub(crate) grace: Option<i64>,
    /// The Pod's restart policy.
    pub(crate) restart_policy: &'a str,
    /// The Pod shares the host's users.
    pub(crate) host_users: bool,
    /// The Pod's operating system, if it says one.
    pub(crate) os: Option<&'a str>,
    /// What is tolerated because it was there before.
    pub(crate) options: &'a Options,
}

/// A container as every sort of container is looked at.
pub(crate) fn as_container(c: &api::EphemeralContainer) -> api::Container {
    let c = c.clone();
    api::Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}

/// The ordinary containers.
pub(crate) fn check_containers(
    containers: &[api::Container],
    pod: &PodContext<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    if containers.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        check_common(container, pod, &at, errors);
        if !names.insert(container.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), container.name.as_str()));
        }
        check_running(container, pod, &at, errors);
        check_restart_policy(container, &at, errors);
    }
    check_host_ports(containers, path, errors);
}

/// The init containers, sidecars among them.
pub(crate) fn check_init_containers(
    spec: &api::PodSpec,
    pod: &PodContext<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut names: BTreeSet<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in items(&spec.init_containers).iter().enumerate() {
        let at = path.index(i);
        check_common(container, pod, &at, errors);
        if container.restart_policy.is_some() {
            check_restart_policy(container, &at, errors);
        } else if !items(&container.restart_policy_rules).is_empty() {
            errors.push(FieldError::required(
                &at.child("restartPolicy"),
                "restart rules need a restart policy",
            ));
        }
        if names.contains(container.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), container.name.as_str()));
        } else if !container.name.is_empty() {
            names.insert(&container.name);
        }
        // Init containers run one by one: only their own ports can clash.
        check_host_ports(std::slice::from_ref(container), path, errors);
        if is_sidecar(container) {
            check_running(container, pod, &at, errors);
        } else {
            forbid_running(container, pod, &at, errors);
        }
    }
}

/// An init container that keeps running beside the ordinary ones.
pub(crate) fn is_sidecar(container: &api::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Probes and lifecycle of a container that runs as long as its Pod.
fn check_running(container: &api::Container, pod: &PodContext<'_>, path: &Path, errors: &mut ErrorList) {
    if let Some(lifecycle) = &container.lifecycle {
        handler::check_lifecycle(lifecycle, pod, &path.child("lifecycle"), errors);
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, probe) in probes {
        if let Some(probe) = probe {
            handler::check_probe(probe, field == "readinessProbe", pod, &path.child(field), errors);
        }
    }
}

/// An init container that ends has neither probes nor a lifecycle.
fn forbid_running(container: &api::Container, pod: &PodContext<'_>, path: &Path, errors: &mut ErrorList) {
    let set = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (field, is_set) in set {
        if is_set {
            let detail = "only an init container with restartPolicy Always may have one";
            errors.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
    if pod.options.init_restart_on_resize {
        return;
    }
    for (j, policy) in items(&container.resize_policy).iter().enumerate() {
        if policy.restart_policy == "RestartContainer" {
            let at = path.child("resizePolicy").index(j).child("restartPolicy");
            let detail = "an init container that is no sidecar cannot restart on resize";
            errors.push(FieldError::invalid(&at, policy.restart_policy.as_str(), detail));
        }
    }
}

const EPHEMERAL: &str = "an ephemeral container cannot have it";

/// The containers that were added to a running Pod.
pub(crate) fn check_ephemeral_containers(
    spec: &api::PodSpec,
    pod: &PodContext<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let ephemeral = items(&spec.ephemeral_containers);
    if ephemeral.is_empty() {
        return;
    }
    let others: BTreeSet<&str> =
        spec.containers.iter().chain(items(&spec.init_containers)).map(|c| c.name.as_str()).collect();
    let mut names = others.clone();
    for (i, special) in ephemeral.iter().enumerate() {
        let at = path.index(i);
        let container = as_container(special);
        check_common(&container, pod, &at, errors);
        check_image_padding(&container, &at, errors);
        if !names.insert(special.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), special.name.as_str()));
        }
        let target = text(&special.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(&at.child("targetContainerName"), target));
        }
        forbid_for_ephemeral(&container, &at, errors);
    }
}

fn forbid_for_ephemeral(c: &api::Container, path: &Path, errors: &mut ErrorList) {
    let resources = c.resources.as_ref().is_some_and(|r| *r != api::ResourceRequirements::default());
    let set = [
        ("ports", c.ports.is_some()),
        ("resources", resources),
        ("resizePolicy", c.resize_policy.is_some()),
        ("restartPolicy", c.restart_policy.is_some()),
        ("restartPolicyRules", c.restart_policy_rules.is_some()),
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
        ("lifecycle", c.lifecycle.is_some()),
    ];
    for (field, is_set) in set {
        if is_set {
            errors.push(FieldError::forbidden(&path.child(field), EPHEMERAL));
        }
    }
    for (i, mount) in items(&c.volume_mounts).iter().enumerate() {
        let at = path.child("volumeMounts").index(i);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !text(value).is_empty() {
                errors.push(FieldError::forbidden(&at.child(field), EPHEMERAL));
            }
        }
    }
}

/// What every sort of container has.
fn check_common(c: &api::Container, pod: &PodContext<'_>, path: &Path, errors: &mut ErrorList) {
    let name_path = path.child("name");
    if c.name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        invalid(format::dns_label(&c.name), &c.name, &name_path, errors);
    }
    if text(&c.image).is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    one_of(
        text(&c.termination_message_policy),
        &["File", "FallbackToLogsOnError"],
        &path.child("terminationMessagePolicy"),
        errors,
    );
    check_ports(items(&c.ports), &path.child("ports"), errors);
    env::check_env(items(&c.env), &path.child("env"), errors);
    env::check_env_from(items(&c.env_from), &path.child("envFrom"), errors);
    mount::check_mounts(c, pod, &path.child("volumeMounts"), errors);
    mount::check_devices(c, pod, &path.child("volumeDevices"), errors);
    check_pull_policy(text(&c.image_pull_policy), &path.child("imagePullPolicy"), errors);
    if let Some(requirements) = &c.resources {
        let at = path.child("resources");
        resources::check(requirements, resources::Level::Container, (&pod.claims, pod.options), &at, errors);
    }
    check_resize_policy(items(&c.resize_policy), pod.restart_policy, &path.child("resizePolicy"), errors);
    if let Some(context) = &c.security_context {
        security::check_context(context, pod, &path.child("securityContext"), errors);
    }
}

/// A value that must be there and be one of a few.
pub(crate) fn one_of(value: &str, supported: &[&str], path: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// When an image is pulled.
pub(crate) fn check_pull_policy(policy: &str, path: &Path, errors: &mut ErrorList) {
    one_of(policy, &["Always", "IfNotPresent", "Never"], path, errors);
}

/// Images of Pods are written without blanks around them (templates may have them).
pub(crate) fn check_image_padding(c: &api::Container, path: &Path, errors: &mut ErrorList) {
    let image = text(&c.image);
    if image.trim() != image {
        errors.push(FieldError::invalid(&path.child("image"), image, "must not begin or end with blanks"));
    }
}

fn check_ports(ports: &[api::ContainerPort], path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            let faults = format::port_name(name);
            if !faults.is_empty() {
                invalid(faults, name, &at.child("name"), errors);
            } else if !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        let mut number = |field: &str, port: i32| {
            for fault in format::port_number(port) {
                errors.push(FieldError::invalid(&at.child(field), port, fault));
            }
        };
        let host_port = port.host_port.unwrap_or(0);
        if host_port != 0 {
            number("hostPort", host_port);
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(&at.child("containerPort"), ""));
        } else {
            number("containerPort", port.container_port);
        }
        one_of(text(&port.protocol), &["SCTP", "TCP", "UDP"], &at.child("protocol"), errors);
    }
}

/// A port of the host can be taken once.
fn check_host_ports(containers: &[api::Container], path: &Path, errors: &mut ErrorList) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in items(&container.ports).iter().enumerate() {
            let Some(number) = port.host_port.filter(|p| *p != 0) else { continue };
            let key = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
            let at = path.index(i).child("ports").index(j).child("hostPort");
            if !taken.insert(key.clone()) {
                errors.push(FieldError::duplicate(&at, key));
            }
        }
    }
}

fn check_resize_policy(
    policies: &[api::ContainerResizePolicy],
    restart_policy: &str,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut seen = BTreeSet::new();
    for (i, policy) in policies.iter().enumerate() {
        let (resource, restart) = (policy.resource_name.as_str(), policy.restart_policy.as_str());
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&path.index(i), resource));
        }
        one_of(resource, &["cpu", "memory"], path, errors);
        one_of(restart, &["NotRequired", "RestartContainer"], path, errors);
        if restart_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' in a Pod that never restarts containers";
            errors.push(FieldError::invalid(path, restart, detail));
        }
    }
}

const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

/// A container's own restart policy, with rules about exit codes.
fn check_restart_policy(c: &api::Container, path: &Path, errors: &mut ErrorList) {
    let rules = items(&c.restart_policy_rules);
    let policy_path = path.child("restartPolicy");
    match c.restart_policy.as_deref() {
        None if rules.is_empty() => return,
        None => errors.push(FieldError::required(&policy_path, "restart rules need a restart policy")),
        Some("Always" | "Never" | "OnFailure") => {}
        Some(other) => {
            errors.push(FieldError::not_supported(&policy_path, other, &["Always", "Never", "OnFailure"]));
        }
    }
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.push(FieldError::too_many(&rules_path, rules.len(), RESTART_RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = rules_path.index(i);
        let actions = ["Restart", "RestartAllContainers"];
        if !actions.contains(&rule.action.as_str()) {
            errors.push(FieldError::not_supported(&at.child("action"), rule.action.as_str(), &actions));
        }
        let at = at.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errors.push(FieldError::required(&at, ""));
            continue;
        };
        if !["In", "NotIn"].contains(&codes.operator.as_str()) {
            let operator = codes.operator.as_str();
            errors.push(FieldError::not_supported(&at.child("operator"), operator, &["In", "NotIn"]));
        }
        let count = items(&codes.values).len();
        if count > EXIT_CODES_MAX {
            errors.push(FieldError::too_many(&at.child("values"), count, EXIT_CODES_MAX));
        }
    }
}
