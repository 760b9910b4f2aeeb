//! From what the kubelet asks for to what the shim starts. Pure.

use crate::images::{ImageConfig, Rootfs};
use minik_cri::v1;
use minik_shim::cgroup::{CgroupSpec, DeviceRule, Limits};
use minik_shim::protocol::{
    Capabilities, ContainerSpec, DeviceSpec, MountSpec, PidNamespace, ProcessSpec, Propagation, RootfsSpec,
    SandboxSpec, Seccomp,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where programs are looked for when neither image nor Pod says.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The `/dev/shm` of a Pod.
const SHM_BYTES: u64 = 64 * 1024 * 1024;
/// The pause process is among the last to be killed for memory.
const SANDBOX_OOM_SCORE_ADJ: i32 = -998;

/// Why something cannot be started as asked. All are final.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Something that every request has is missing.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// There is no such capability.
    #[error("unknown capability {0:?}")]
    Capability(String),
    /// Nothing is to be run.
    #[error("no command specified")]
    NoCommand,
    /// Not built yet.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The seccomp profile cannot be read. Retryable.
    #[error("failed to load the seccomp profile {path:?}: {source}")]
    Profile {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A bidirectional mount of what is not shared.
    #[error("a device {0:?} cannot be used")]
    Device(String),
}

/// The namespaces that the kubelet asks for.
pub fn namespaces(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

/// Whether a mode is the node's.
pub fn of_node(mode: i32) -> bool {
    mode == v1::NamespaceMode::Node as i32
}

/// The Pod's cgroup.
pub fn cgroup_parent(config: &v1::PodSandboxConfig) -> String {
    let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
    if parent.is_empty() { "/minik-runtime".to_owned() } else { parent }
}

/// What the shim makes of a sandbox.
///
/// # Errors
/// When something is asked for that is not built yet.
pub fn sandbox(id: &str, config: &v1::PodSandboxConfig) -> Result<SandboxSpec, SpecError> {
    let namespaces = namespaces(config);
    if namespaces.userns_options.as_ref().is_some_and(|options| options.mode() == v1::NamespaceMode::Pod) {
        return Err(SpecError::Unsupported("a user namespace of the Pod's own"));
    }
    let host_network = of_node(namespaces.network);
    let mut sysctls = BTreeMap::new();
    if !host_network {
        // As other runtimes do: inside a Pod's own network these need no privilege.
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    if let Some(linux) = &config.linux {
        sysctls.extend(linux.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    Ok(SandboxSpec {
        id: id.to_owned(),
        hostname: config.hostname.clone(),
        host_network,
        host_ipc: of_node(namespaces.ipc),
        host_pid: of_node(namespaces.pid),
        sysctls,
        cgroup: CgroupSpec { parent: cgroup_parent(config), name: id.to_owned() },
        shm_bytes: SHM_BYTES,
        oom_score_adj: SANDBOX_OOM_SCORE_ADJ,
    })
}

/// A user, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
}

/// What a container is made of.
pub struct Parts<'a> {
    /// Its id.
    pub id: &'a str,
    /// What the kubelet asks for.
    pub config: &'a v1::ContainerConfig,
    /// Its Pod.
    pub sandbox: &'a v1::PodSandboxConfig,
    /// Its image.
    pub image: &'a ImageConfig,
    /// Its root.
    pub rootfs: &'a Rootfs,
    /// An empty folder.
    pub mountpoint: &'a Path,
    /// The folder of the Pod's `hostname`, `hosts` and `resolv.conf`.
    pub files: &'a Path,
    /// Its user.
    pub user: &'a User,
}

/// What the shim starts.
///
/// # Errors
/// When something is asked for that is not there, or not built yet.
pub fn container(parts: &Parts<'_>) -> Result<ContainerSpec, SpecError> {
    let config = parts.config;
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let resources = linux.resources.clone().unwrap_or_default();
    let process = process(parts, &security)?;
    let namespaces = security.namespace_options.clone().unwrap_or_default();
    let log_path = match (parts.sandbox.log_directory.as_str(), config.log_path.as_str()) {
        ("", _) | (_, "") => None,
        (folder, name) => Some(Path::new(folder).join(name)),
    };
    let mut limits = limits(&resources);
    limits.devices = if security.privileged { None } else { Some(device_rules(&config.devices)?) };
    let device = |device: &v1::Device| DeviceSpec {
        source: PathBuf::from(&device.host_path),
        target: PathBuf::from(&device.container_path),
        permissions: device.permissions.clone(),
    };
    let hidden = |paths: &[String]| if security.privileged { Vec::new() } else { paths.to_vec() };
    Ok(ContainerSpec {
        id: parts.id.to_owned(),
        rootfs: RootfsSpec {
            lower: parts.rootfs.lower.clone(),
            upper: parts.rootfs.upper.clone(),
            work: parts.rootfs.work.clone(),
            mountpoint: parts.mountpoint.to_owned(),
            readonly: security.readonly_rootfs,
        },
        process,
        mounts: mounts(parts, security.readonly_rootfs),
        devices: config.devices.iter().map(device).collect(),
        masked_paths: hidden(&security.masked_paths),
        readonly_paths: hidden(&security.readonly_paths),
        privileged: security.privileged,
        pid: match namespaces.pid() {
            v1::NamespaceMode::Pod => PidNamespace::Pod,
            v1::NamespaceMode::Container => PidNamespace::Own,
            v1::NamespaceMode::Node => PidNamespace::Host,
            v1::NamespaceMode::Target => PidNamespace::Container(namespaces.target_id.clone()),
        },
        cgroup: CgroupSpec { parent: cgroup_parent(parts.sandbox), name: parts.id.to_owned() },
        limits,
        oom_score_adj: linux
            .resources
            .as_ref()
            .and_then(|resources| i32::try_from(resources.oom_score_adj).ok()),
        log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
    })
}

fn process(
    parts: &Parts<'_>,
    security: &v1::LinuxContainerSecurityContext,
) -> Result<ProcessSpec, SpecError> {
    let (config, image) = (parts.config, parts.image);
    let args = match (config.command.as_slice(), config.args.as_slice()) {
        ([], []) => [image.entrypoint.as_slice(), image.cmd.as_slice()].concat(),
        ([], args) => [image.entrypoint.as_slice(), args].concat(),
        (command, args) => [command, args].concat(),
    };
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let mut env = Environment::default();
    env.set(DEFAULT_PATH.to_owned());
    if config.tty {
        env.set("TERM=xterm".to_owned());
    }
    if !parts.sandbox.hostname.is_empty() {
        env.set(format!("HOSTNAME={}", parts.sandbox.hostname));
    }
    image.env.iter().for_each(|variable| env.set(variable.clone()));
    for variable in &config.envs {
        env.set(format!("{}={}", variable.key, String::from_utf8_lossy(&variable.value)));
    }
    let cwd = match (config.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => "/",
        ("", cwd) | (cwd, _) => cwd,
    };
    Ok(ProcessSpec {
        args,
        env: env.0,
        cwd: cwd.to_owned(),
        uid: parts.user.uid,
        gid: parts.user.gid,
        groups: parts.user.groups.clone(),
        terminal: config.tty,
        capabilities: capabilities(security)?,
        no_new_privileges: security.no_new_privs,
        seccomp: seccomp(security)?,
        rlimits: Vec::new(),
    })
}

/// Variables in the order in which they came; a later value takes an earlier one's place.
#[derive(Default)]
struct Environment(Vec<String>);

impl Environment {
    fn set(&mut self, variable: String) {
        let name = variable.split('=').next().unwrap_or_default();
        match self.0.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = variable,
            None => self.0.push(variable),
        }
    }
}

const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// All capabilities, as bits by number.
const ALL_CAPABILITIES: u64 = (1 << CAPABILITIES.len()) - 1;
/// What a container has unless the Pod says otherwise.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

fn capability(name: &str) -> Result<u64, SpecError> {
    let short = name.to_ascii_uppercase();
    let short = short.strip_prefix("CAP_").unwrap_or(&short);
    let number = CAPABILITIES.iter().position(|known| *known == short);
    number.map(|number| 1 << number).ok_or_else(|| SpecError::Capability(name.to_owned()))
}

fn capabilities(security: &v1::LinuxContainerSecurityContext) -> Result<Capabilities, SpecError> {
    if security.privileged {
        return Ok(Capabilities { bounding: ALL_CAPABILITIES, ambient: 0 });
    }
    let Some(wanted) = &security.capabilities else {
        return Ok(Capabilities { bounding: DEFAULT_CAPABILITIES, ambient: 0 });
    };
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let bits = |names: &[String]| {
        let named = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
        named.map(|name| capability(name)).try_fold(0, |bits, bit| bit.map(|bit| bits | bit))
    };
    let mut bounding = DEFAULT_CAPABILITIES;
    if all(&wanted.add_capabilities) {
        bounding = ALL_CAPABILITIES;
    }
    if all(&wanted.drop_capabilities) {
        bounding = 0;
    }
    bounding |= bits(&wanted.add_capabilities)?;
    bounding &= !bits(&wanted.drop_capabilities)?;
    let ambient = bits(&wanted.add_ambient_capabilities)?;
    Ok(Capabilities { bounding: bounding | ambient, ambient })
}

fn seccomp(security: &v1::LinuxContainerSecurityContext) -> Result<Seccomp, SpecError> {
    let Some(profile) = security.seccomp.as_ref().filter(|_| !security.privileged) else {
        return Ok(Seccomp::Unconfined);
    };
    Ok(match profile.profile_type() {
        v1::security_profile::ProfileType::Unconfined => Seccomp::Unconfined,
        v1::security_profile::ProfileType::RuntimeDefault => Seccomp::RuntimeDefault,
        v1::security_profile::ProfileType::Localhost => {
            let path = PathBuf::from(profile.localhost_ref.trim_start_matches("localhost/"));
            // Small, and read once a container.
            let text =
                std::fs::read_to_string(&path).map_err(|source| SpecError::Profile { path, source })?;
            Seccomp::Profile(text)
        }
    })
}

/// Limits in the shim's terms.
pub fn limits(resources: &v1::LinuxContainerResources) -> Limits {
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota_us: resources.cpu_quota,
        cpu_period_us: resources.cpu_period,
        memory_bytes: resources.memory_limit_in_bytes,
        memory_swap_bytes: resources.memory_swap_limit_in_bytes,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepages: resources
            .hugepage_limits
            .iter()
            .map(|page| (page.page_size.clone(), page.limit))
            .collect(),
        unified: resources.unified.clone().into_iter().collect(),
        devices: None,
    }
}

fn device_rules(devices: &[v1::Device]) -> Result<Vec<DeviceRule>, SpecError> {
    use rustix::fs::{FileType, major, minor, stat};
    let rule = |device: &v1::Device| {
        let refused = || SpecError::Device(device.host_path.clone());
        let stat = stat(&device.host_path).map_err(|_| refused())?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            _ => return Err(refused()),
        };
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        Ok(DeviceRule::new(kind, Some(major(stat.st_rdev)), Some(minor(stat.st_rdev)), access))
    };
    devices.iter().map(rule).collect()
}

fn mounts(parts: &Parts<'_>, readonly_root: bool) -> Vec<MountSpec> {
    let asked = &parts.config.mounts;
    let mut mounts: Vec<_> = asked.iter().map(mount).collect();
    for (name, target) in
        [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")]
    {
        let source = parts.files.join(name);
        // The kubelet brings a hosts file of its own as a rule.
        if !mounts.iter().any(|mount| mount.target == Path::new(target)) {
            let target = PathBuf::from(target);
            mounts.push(MountSpec { source, target, readonly: readonly_root, ..MountSpec::default() });
        }
    }
    // Parents come before what lies in them.
    mounts.sort_by_key(|mount| mount.target.components().count());
    mounts
}

fn mount(mount: &v1::Mount) -> MountSpec {
    MountSpec {
        source: PathBuf::from(&mount.host_path),
        target: PathBuf::from(&mount.container_path),
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_read_only,
        propagation: match mount.propagation() {
            v1::MountPropagation::PropagationPrivate => Propagation::Private,
            v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
            v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
        },
    }
}

/// The signal that ends a container politely: what the Pod says, or the image, or SIGTERM.
pub fn stop_signal(config: &v1::ContainerConfig, image: &ImageConfig) -> i32 {
    let name = match config.stop_signal() {
        v1::Signal::RuntimeDefault => image.stop_signal.clone(),
        // The enum's names carry its own name in front.
        signal => signal.as_str_name().trim_start_matches("SIGNAL_").to_owned(),
    };
    signal_number(&name).unwrap_or(libc::SIGTERM)
}

fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |base: &str, sign: i32, from: i32| {
        let offset = short.strip_prefix(base)?.trim_start_matches(['+', '-']);
        let offset = offset.trim_start_matches("PLUS").trim_start_matches("MINUS");
        let offset = if offset.is_empty() { 0 } else { offset.parse().ok()? };
        Some(from + sign * offset)
    };
    if let Some(number) = realtime("RTMIN", 1, 34).or_else(|| realtime("RTMAX", -1, 64)) {
        return Some(number);
    }
    let names = [
        ("ABRT", libc::SIGABRT),
        ("ALRM", libc::SIGALRM),
        ("BUS", libc::SIGBUS),
        ("CHLD", libc::SIGCHLD),
        ("CLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("FPE", libc::SIGFPE),
        ("HUP", libc::SIGHUP),
        ("ILL", libc::SIGILL),
        ("INT", libc::SIGINT),
        ("IO", libc::SIGIO),
        ("IOT", libc::SIGABRT),
        ("KILL", libc::SIGKILL),
        ("PIPE", libc::SIGPIPE),
        ("POLL", libc::SIGIO),
        ("PROF", libc::SIGPROF),
        ("PWR", libc::SIGPWR),
        ("QUIT", libc::SIGQUIT),
        ("SEGV", libc::SIGSEGV),
        ("STKFLT", libc::SIGSTKFLT),
        ("STOP", libc::SIGSTOP),
        ("SYS", libc::SIGSYS),
        ("TERM", libc::SIGTERM),
        ("TRAP", libc::SIGTRAP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("VTALRM", libc::SIGVTALRM),
        ("WINCH", libc::SIGWINCH),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
    ];
    names.iter().find(|(known, _)| *known == short).map(|(_, number)| *number)
}

/// The Pod's `resolv.conf`; without any DNS settings the node's own.
pub fn resolv_conf(dns: Option<&v1::DnsConfig>, own: &str) -> String {
    let Some(dns) =
        dns.filter(|dns| !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()))
    else {
        return own.to_owned();
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    dns.servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(add: &[&str], drop: &[&str]) -> Result<u64, String> {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let capabilities = v1::Capability {
            add_capabilities: strings(add),
            drop_capabilities: strings(drop),
            ..Default::default()
        };
        let security =
            v1::LinuxContainerSecurityContext { capabilities: Some(capabilities), ..Default::default() };
        super::capabilities(&security).map(|sets| sets.bounding).map_err(|error| error.to_string())
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(caps(&[], &[]), Ok(0xa804_25fb));
        assert_eq!(caps(&[], &["ALL"]), Ok(0));
        assert_eq!(caps(&["NET_BIND_SERVICE"], &["all"]), Ok(1 << 10));
        assert_eq!(caps(&["ALL"], &["CAP_SYS_ADMIN"]), Ok(ALL_CAPABILITIES & !(1 << 21)));
        assert_eq!(caps(&["FLY"], &[]), Err("unknown capability \"FLY\"".to_owned()));
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        let known = |name| signal_number(name);
        assert_eq!(
            ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAXMINUS1"].map(known),
            [15, 15, 9, 37, 63].map(Some)
        );
        assert_eq!(["0", "65", "", "FOO"].map(known), [None; 4]);
        let config = v1::ContainerConfig { stop_signal: v1::Signal::Sigusr1 as i32, ..Default::default() };
        assert_eq!(stop_signal(&config, &ImageConfig::default()), libc::SIGUSR1);
    }

    fn args(command: &[&str], args: &[&str]) -> Result<Vec<String>, String> {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let config =
            v1::ContainerConfig { command: strings(command), args: strings(args), ..Default::default() };
        let image = ImageConfig { entrypoint: strings(&["e"]), cmd: strings(&["c"]), ..Default::default() };
        let parts = Parts {
            id: "id",
            config: &config,
            sandbox: &v1::PodSandboxConfig::default(),
            image: &image,
            rootfs: &Rootfs { lower: vec![], upper: "/u".into(), work: "/w".into() },
            mountpoint: Path::new("/m"),
            files: Path::new("/f"),
            user: &User::default(),
        };
        container(&parts).map(|spec| spec.process.args).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_and_args_replace_those_of_the_image() {
        assert_eq!(args(&[], &[]), Ok(vec!["e".into(), "c".into()]));
        assert_eq!(args(&[], &["a"]), Ok(vec!["e".into(), "a".into()]));
        assert_eq!(args(&["x"], &[]), Ok(vec!["x".into()]));
        assert_eq!(args(&["x"], &["a"]), Ok(vec!["x".into(), "a".into()]));
    }

    #[test]
    fn later_variables_win() {
        let mut env = Environment::default();
        ["A=1", "B=2", "A=3"].iter().for_each(|variable| env.set((*variable).to_owned()));
        assert_eq!(env.0, ["A=3", "B=2"]);
    }
}
