//! Security contexts, kernel parameters, and what differs between operating systems.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use minik_apimachinery::field::{ErrorList, FieldError, Path};

use super::container::PodContext;
use super::options::Options;
use super::visit_containers;
use super::volume::check_descending;
use crate::format::{self, invalid};
use crate::view::{items, text, yes};

fn check_id(id: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let Some(id) = id else { return };
    for fault in format::unix_id(id) {
        errors.push(FieldError::invalid(path, id, fault));
    }
}

fn supported(value: Option<&str>, values: &[&str], path: &Path, errors: &mut ErrorList) {
    if let Some(value) = value.filter(|v| !values.contains(v)) {
        errors.push(FieldError::not_supported(path, value, values));
    }
}

/// A container's security context.
pub(crate) fn check_context(
    sc: &api::SecurityContext,
    pod: &PodContext<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    check_id(sc.run_as_user, &path.child("runAsUser"), errors);
    check_id(sc.run_as_group, &path.child("runAsGroup"), errors);
    let proc_path = path.child("procMount");
    supported(sc.proc_mount.as_deref(), &["Default", "Unmasked"], &proc_path, errors);
    if pod.host_users && sc.proc_mount.as_deref() == Some("Unmasked") {
        errors.push(FieldError::invalid(&proc_path, "Unmasked", "needs `hostUsers` to be false"));
    }
    check_seccomp(sc.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    if sc.allow_privilege_escalation == Some(false) {
        if yes(&sc.privileged) {
            errors.push(FieldError::invalid(path, "privileged", "privileged needs allowPrivilegeEscalation"));
        }
        let added = sc.capabilities.iter().flat_map(|c| items(&c.add));
        let admin = added.filter(|c| *c == "CAP_SYS_ADMIN").count();
        if !pod.options.sys_admin {
            let detail = "CAP_SYS_ADMIN needs allowPrivilegeEscalation";
            (0..admin).for_each(|_| errors.push(FieldError::invalid(path, "CAP_SYS_ADMIN", detail)));
        }
    }
    check_windows(sc.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    check_app_armor(sc.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

/// The Pod's security context.
pub(crate) fn check_pod_context(
    sc: &api::PodSecurityContext,
    spec: &api::PodSpec,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    check_id(sc.fs_group, &path.child("fsGroup"), errors);
    check_id(sc.run_as_user, &path.child("runAsUser"), errors);
    check_id(sc.run_as_group, &path.child("runAsGroup"), errors);
    for (i, group) in items(&sc.supplemental_groups).iter().enumerate() {
        check_id(Some(*group), &path.child("supplementalGroups").index(i), errors);
    }
    check_sysctls(items(&sc.sysctls), spec, options, &path.child("sysctls"), errors);
    let policies: [(&str, &Option<String>, &[&str]); 3] = [
        ("fsGroupChangePolicy", &sc.fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &sc.supplemental_groups_policy, &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &sc.se_linux_change_policy, &["MountOption", "Recursive"]),
    ];
    for (field, value, values) in policies {
        supported(value.as_deref(), values, &path.child(field), errors);
    }
    check_seccomp(sc.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    check_windows(sc.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    check_app_armor(sc.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn check_seccomp(profile: Option<&api::SeccompProfile>, path: &Path, errors: &mut ErrorList) {
    let Some(profile) = profile else { return };
    let kind = profile.type_.as_str();
    super::container::one_of(kind, PROFILES, &path.child("type"), errors);
    let at = path.child("localhostProfile");
    match (kind, &profile.localhost_profile) {
        ("Localhost", None) => errors.push(FieldError::required(&at, "the type Localhost needs it")),
        ("Localhost", Some(file)) => check_descending(file, &at, errors),
        (_, Some(file)) => errors.push(FieldError::invalid(&at, file.as_str(), "needs the type Localhost")),
        (_, None) => {}
    }
}

const APP_ARMOR_MAX_BYTES: usize = 4095;

/// An AppArmor profile.
pub(crate) fn check_app_armor(profile: Option<&api::AppArmorProfile>, path: &Path, errors: &mut ErrorList) {
    let Some(profile) = profile else { return };
    let at = path.child("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => errors.push(FieldError::required(&at, "the type Localhost needs it")),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.push(FieldError::invalid(&at, name, "must not begin or end with blanks"));
            } else if name.is_empty() {
                errors.push(FieldError::required(&at, "the type Localhost needs it"));
            }
            if name.len() > APP_ARMOR_MAX_BYTES {
                errors.push(FieldError::too_long(&at, APP_ARMOR_MAX_BYTES));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.push(FieldError::invalid(&at, name, "needs the type Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        (other, _) => super::container::one_of(other, PROFILES, &path.child("type"), errors),
    }
}

const SYSCTL_MAX_BYTES: usize = 253;

/// Whether a kernel parameter's name is well-formed: words joined by dots or slashes.
pub(crate) fn is_sysctl_name(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let word = |w: &str| {
        let b = w.as_bytes();
        edge(b.first())
            && edge(b.last())
            && b.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    name.len() <= SYSCTL_MAX_BYTES && name.split(['.', '/']).all(word)
}

fn check_sysctls(
    sysctls: &[api::Sysctl],
    spec: &api::PodSpec,
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut names = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let at = path.index(i).child("name");
        let name = sysctl.name.as_str();
        let again = !names.insert(name);
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if !is_sysctl_name(name) {
            errors.push(FieldError::invalid(&at, name, "must be the name of a kernel parameter"));
        } else if again {
            errors.push(FieldError::duplicate(&at, name));
        }
        if !options.host_sysctls
            && let Some(switch) = sysctl_of_host(name, spec)
        {
            errors.push(FieldError::invalid(&at, name, format!("would change the host's with '{switch}'")));
        }
    }
}

/// The switch by which a kernel parameter of the Pod would be the host's.
pub(crate) fn sysctl_of_host(name: &str, spec: &api::PodSpec) -> Option<&'static str> {
    const IPC: &[&str] = &[
        "kernel.sem",
        "kernel.shm",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
    ];
    // Names may be written with slashes; then a dot stands for a dot within a word.
    let name = match name.find(['.', '/']) {
        Some(i) if name.as_bytes()[i] == b'/' => name.replace('.', "\0").replace('/', ".").replace('\0', "/"),
        _ => name.to_owned(),
    };
    let bare = name.split('*').next().unwrap_or("").trim_end_matches('.');
    let under = |prefix: &str| bare == prefix || bare.starts_with(&format!("{prefix}."));
    if yes(&spec.host_network) && under("net") {
        Some("hostNetwork")
    } else if yes(&spec.host_ipc) && (under("fs.mqueue") || IPC.contains(&bare)) {
        Some("hostIPC")
    } else {
        None
    }
}

const CREDENTIAL_SPEC_MAX_BYTES: usize = 64 * 1024;

fn check_windows(options: Option<&api::WindowsSecurityContextOptions>, path: &Path, errors: &mut ErrorList) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        invalid(format::dns_subdomain(name), name, &path.child("gmsaCredentialSpecName"), errors);
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() || spec.len() > CREDENTIAL_SPEC_MAX_BYTES {
            errors.push(FieldError::invalid(&at, "", "must hold between 1 byte and 64 KiB"));
        }
    }
    if let Some(user) = &options.run_as_user_name {
        let at = path.child("runAsUserName");
        errors.extend(
            windows_user_faults(user).into_iter().map(|f| FieldError::invalid(&at, user.as_str(), f)),
        );
    }
}

const WINDOWS_DOMAIN_MAX_BYTES: usize = 255;
const WINDOWS_USER_MAX_BYTES: usize = 104;

/// `USER` or `DOMAIN\USER`.
fn windows_user_faults(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["must not be empty"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["must not contain control characters"];
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["must not contain more than one backslash"],
    };
    let mut faults = Vec::new();
    if let Some(domain) = domain {
        if domain.len() > WINDOWS_DOMAIN_MAX_BYTES {
            faults.push("the domain is too long");
        }
        let plain = |c: char| !matches!(c, '\\' | '/' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        let net_bios = !domain.starts_with('.')
            && (1..=15).contains(&domain.chars().count())
            && domain.chars().all(plain);
        let dns = domain.split('.').all(|l| format::dns_label(&l.to_ascii_lowercase()).is_empty());
        if !net_bios && !dns {
            faults.push("the domain must be a NetBIOS or DNS name");
        }
    }
    if user.is_empty() {
        faults.push("the user must not be empty");
    } else if user.len() > WINDOWS_USER_MAX_BYTES {
        faults.push("the user is too long");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        faults.push("the user must not be dots and blanks only");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        faults.push("the user must not contain any of \"/\\:;|=,+*?<>@[]");
    }
    faults
}

/// Host processes of Windows: all containers or none.
pub(crate) fn check_host_process(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let host_process = |o: Option<&api::WindowsSecurityContextOptions>| o.and_then(|o| o.host_process);
    let of_pod = host_process(spec.security_context.as_ref().and_then(|s| s.windows_options.as_ref()));
    let (mut all, mut host) = (0, 0);
    visit_containers(spec, path, |container, at| {
        all += 1;
        let own = host_process(container.security_context.as_ref().and_then(|s| s.windows_options.as_ref()));
        if let (Some(own), Some(of_pod)) = (own, of_pod)
            && own != of_pod
        {
            let at = at.child("securityContext.windowsOptions.hostProcess");
            errors.push(FieldError::invalid(&at, own, "must be the same as the Pod's"));
        }
        if own.or(of_pod) == Some(true) {
            host += 1;
        }
    });
    if host == 0 {
        return;
    }
    if host != all {
        errors.push(FieldError::invalid(path, "", "all containers must be host processes, or none"));
    }
    if !yes(&spec.host_network) {
        errors.push(FieldError::invalid(&path.child("hostNetwork"), false, "host processes need it"));
    }
}

/// Fields that belong to the other operating system.
pub(crate) fn check_os(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(os) = &spec.os else { return };
    match os.name.as_str() {
        "" => errors.push(FieldError::required(&path.child("os").child("name"), "")),
        "linux" => check_linux(spec, path, errors),
        "windows" => check_windows_pod(spec, path, errors),
        other => errors.push(FieldError::not_supported(&path.child("os"), other, &["linux", "windows"])),
    }
}

fn check_linux(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "cannot be set for a Linux Pod";
    if spec.security_context.as_ref().is_some_and(|s| s.windows_options.is_some()) {
        errors.push(FieldError::forbidden(&path.child("securityContext.windowsOptions"), DETAIL));
    }
    visit_containers(spec, path, |container, at| {
        if container.security_context.as_ref().is_some_and(|s| s.windows_options.is_some()) {
            errors.push(FieldError::forbidden(&at.child("securityContext.windowsOptions"), DETAIL));
        }
    });
}

fn check_windows_pod(spec: &api::PodSpec, path: &Path, errors: &mut ErrorList) {
    let mut forbid = |at: &Path, fields: &[(&str, bool)]| {
        for (field, _) in fields.iter().filter(|(_, is_set)| *is_set) {
            errors.push(FieldError::forbidden(&at.child(field), "cannot be set for a Windows Pod"));
        }
    };
    if let Some(s) = &spec.security_context {
        let fields = [
            ("appArmorProfile", s.app_armor_profile.is_some()),
            ("seLinuxOptions", s.se_linux_options.is_some()),
            ("seccompProfile", s.seccomp_profile.is_some()),
            ("fsGroup", s.fs_group.is_some()),
            ("fsGroupChangePolicy", s.fs_group_change_policy.is_some()),
            ("sysctls", !items(&s.sysctls).is_empty()),
            ("runAsUser", s.run_as_user.is_some()),
            ("runAsGroup", s.run_as_group.is_some()),
            ("supplementalGroups", s.supplemental_groups.is_some()),
            ("supplementalGroupsPolicy", s.supplemental_groups_policy.is_some()),
            ("seLinuxChangePolicy", s.se_linux_change_policy.is_some()),
        ];
        forbid(&path.child("securityContext"), &fields);
    }
    let fields = [
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", yes(&spec.host_pid)),
        ("hostIPC", yes(&spec.host_ipc)),
        ("shareProcessNamespace", spec.share_process_namespace.is_some()),
    ];
    forbid(path, &fields);
    visit_containers(spec, path, |container, at| {
        let Some(s) = &container.security_context else { return };
        let fields = [
            ("appArmorProfile", s.app_armor_profile.is_some()),
            ("seLinuxOptions", s.se_linux_options.is_some()),
            ("seccompProfile", s.seccomp_profile.is_some()),
            ("capabilities", s.capabilities.is_some()),
            ("readOnlyRootFilesystem", s.read_only_root_filesystem.is_some()),
            ("privileged", s.privileged.is_some()),
            ("allowPrivilegeEscalation", s.allow_privilege_escalation.is_some()),
            ("procMount", s.proc_mount.is_some()),
            ("runAsUser", s.run_as_user.is_some()),
            ("runAsGroup", s.run_as_group.is_some()),
        ];
        forbid(&at.child("securityContext"), &fields);
    });
}

/// A user namespace of the Pod's own shares nothing with the host.
pub(crate) fn check_host_users(spec: &api::PodSpec, options: &Options, path: &Path, errors: &mut ErrorList) {
    if spec.host_users != Some(false) {
        return;
    }
    const DETAIL: &str = "cannot be set when `hostUsers` is false";
    let shared =
        [("hostNetwork", &spec.host_network), ("HostPID", &spec.host_pid), ("HostIPC", &spec.host_ipc)];
    for (field, is_set) in shared {
        if yes(is_set) {
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
        }
    }
    if options.user_namespace_devices {
        return;
    }
    visit_containers(spec, path, |container, at| {
        if !items(&container.volume_devices).is_empty() {
            errors.push(FieldError::forbidden(&at.child("volumeDevices"), DETAIL));
        }
    });
}

const SECCOMP_LOCAL: &str = "localhost/";

/// What an annotation of old says about seccomp must be what the field says.
pub(crate) fn check_seccomp_annotation(
    annotation: &str,
    profile: &api::SeccompProfile,
    path: &Path,
    errors: &mut ErrorList,
) {
    const DETAIL: &str = "the annotation says something else";
    let fits = match profile.type_.as_str() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => annotation == "runtime/default" || annotation == "docker/default",
        "Localhost" => match annotation.strip_prefix(SECCOMP_LOCAL) {
            Some(file) => {
                if file != text(&profile.localhost_profile) {
                    errors.push(FieldError::forbidden(&path.child("localhostProfile"), DETAIL));
                }
                true
            }
            None => false,
        },
        _ => true,
    };
    if !fits {
        errors.push(FieldError::forbidden(&path.child("type"), DETAIL));
    }
}
