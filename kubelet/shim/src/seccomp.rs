//! Which system calls a container may make: the default of container runtimes, or a profile of the node.
//!
//! <https://kubernetes.io/docs/reference/node/seccomp/>

use crate::sys;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use serde::Deserialize;
use std::collections::BTreeMap;

mod calls;

/// Rules by system call; none for a call means any arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Why there is no filter. Final for the container.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The profile is not JSON of the form that container runtimes share.
    #[error("malformed seccomp profile: {0}")]
    Profile(#[source] serde_json::Error),
    /// The profile asks for something that is not there.
    #[error("seccomp profile: {0} is not supported")]
    Unsupported(String),
    /// It cannot be compiled.
    #[error("cannot compile the seccomp filter: {0}")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel refuses it.
    #[error("cannot install the seccomp filter: {0}")]
    Install(#[source] rustix::io::Errno),
}

/// Filters, in the order in which they are installed. The strictest answer of all of them counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Restricts this thread from here on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(&self) -> Result<(), SeccompError> {
        self.0.iter().try_for_each(|program| sys::seccomp(program).map_err(SeccompError::Install))
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

fn compile(
    rules: Rules,
    matched: SeccompAction,
    otherwise: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let filter = SeccompFilter::new(rules, otherwise, matched, ARCH).map_err(SeccompError::Compile)?;
    filter.try_into().map_err(SeccompError::Compile)
}

fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, SeccompError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).map_err(SeccompError::Compile)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, SeccompError> {
    SeccompRule::new(conditions).map_err(SeccompError::Compile)
}

/// What each capability adds to what may be called.
const BY_CAPABILITY: &[(u8, &[&str])] = &[
    (2, &["open_by_handle_at"]),
    (16, &["delete_module", "init_module", "finit_module"]),
    (17, &["iopl", "ioperm"]),
    (18, &["chroot"]),
    (19, &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"]),
    (20, &["acct"]),
    (
        21,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount2",
            "unshare",
        ],
    ),
    (22, &["reboot"]),
    (23, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (25, &["settimeofday", "clock_settime"]),
    (26, &["vhangup"]),
    (34, &["syslog"]),
    (38, &["perf_event_open"]),
    (39, &["bpf"]),
];
const CAP_SYS_ADMIN: u8 = 21;
/// Sockets to the hypervisor.
const AF_VSOCK: u64 = 40;
/// The flags of `clone` that make namespaces.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Personalities that change nothing dangerous: Linux, uname 2.6, no randomization, and asking for the present one.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The default: for these capabilities, as bits by number.
///
/// # Errors
/// Never in practice: the rules are fixed.
pub fn runtime_default(capabilities: u64) -> Result<Filters, SeccompError> {
    let mut rules = Rules::new();
    let has = |capability: u8| capabilities & (1 << capability) != 0;
    let mut any = |name: &str| {
        if let Some(number) = calls::number(name) {
            rules.insert(number, Vec::new());
        }
    };
    calls::ALLOWED.iter().for_each(|name| any(name));
    if cfg!(target_arch = "x86_64") {
        ["arch_prctl", "modify_ldt"].iter().for_each(|name| any(name));
    }
    for (_, names) in BY_CAPABILITY.iter().filter(|(capability, _)| has(*capability)) {
        names.iter().for_each(|name| any(name));
    }
    let mut when = |name: &str, conditions: Vec<SeccompCondition>| {
        if let Some(number) = calls::number(name) {
            rules.entry(number).or_default().push(rule(conditions)?);
        }
        Ok(())
    };
    when("socket", vec![condition(0, SeccompCmpOp::Ne, AF_VSOCK)?])?;
    for personality in PERSONALITIES {
        when("personality", vec![condition(0, SeccompCmpOp::Eq, personality)?])?;
    }
    if !has(CAP_SYS_ADMIN) {
        when("clone", vec![condition(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)?])?;
    }
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let base = compile(rules, SeccompAction::Allow, denied)?;
    Ok(Filters(vec![base, absent(!has(CAP_SYS_ADMIN))]))
}

/// Answers what is newer than the list, and `clone3` whose flags no filter can see, as an older kernel would: libraries
/// then fall back to what they did before.
fn absent(clone3: bool) -> BpfProgram {
    const LOAD_NUMBER: sock_filter = sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let answer = |k| sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let (allow, no_such) = (0x7fff_0000, 0x0005_0000 | libc::ENOSYS as u32);
    // Without the capability this number stands for itself, with it for one that is never called.
    let clone3 = if clone3 { libc::SYS_clone3 as u32 } else { u32::MAX };
    vec![
        LOAD_NUMBER,
        sock_filter { code: 0x25, jt: 1, jf: 0, k: calls::NEWEST },
        sock_filter { code: 0x15, jt: 0, jf: 1, k: clone3 },
        answer(no_such),
        answer(allow),
    ]
}

/// A profile, in the form that container runtimes share.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<ProfileRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileRule {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<ProfileArgument>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileArgument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno.unwrap_or(libc::EPERM as u32)),
        other => return Err(SeccompError::Unsupported(format!("the action {other}"))),
    })
}

fn operator(argument: &ProfileArgument) -> Result<(SeccompCmpOp, u64), SeccompError> {
    Ok(match argument.op.as_str() {
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, argument.value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, argument.value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, argument.value),
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, argument.value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, argument.value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, argument.value),
        "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
        other => return Err(SeccompError::Unsupported(format!("the comparison {other}"))),
    })
}

/// A profile of the node.
///
/// # Errors
/// When it is malformed or asks for what is not there.
pub fn profile(text: &str) -> Result<Filters, SeccompError> {
    let profile: Profile = serde_json::from_str(text).map_err(SeccompError::Profile)?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    // One filter lets pass what any rule names; one more for each action that is not to let pass.
    let mut named = Rules::new();
    let mut groups: Vec<(SeccompAction, Rules)> = Vec::new();
    for entry in &profile.syscalls {
        let action = action(&entry.action, entry.errno_ret)?;
        for number in entry.names.iter().filter_map(|name| calls::number(name)) {
            insert(&mut named, number, entry)?;
            if action == SeccompAction::Allow {
                continue;
            }
            match groups.iter_mut().find(|(known, _)| *known == action) {
                Some((_, rules)) => insert(rules, number, entry)?,
                None => {
                    let mut rules = Rules::new();
                    insert(&mut rules, number, entry)?;
                    groups.push((action.clone(), rules));
                }
            }
        }
    }
    let mut filters = Vec::new();
    if default != SeccompAction::Allow {
        filters.push(compile(named, SeccompAction::Allow, default)?);
    }
    for (action, rules) in groups {
        filters.push(compile(rules, action, SeccompAction::Allow)?);
    }
    Ok(Filters(filters))
}

fn insert(rules: &mut Rules, number: i64, entry: &ProfileRule) -> Result<(), SeccompError> {
    let arguments = entry.args.as_deref().unwrap_or_default();
    if arguments.is_empty() {
        rules.insert(number, Vec::new());
        return Ok(());
    }
    // A call that is named without arguments already matches whatever they are.
    if rules.get(&number).is_some_and(Vec::is_empty) {
        return Ok(());
    }
    let conditions = arguments.iter().map(|argument| {
        let (operator, value) = operator(argument)?;
        condition(argument.index, operator, value)
    });
    let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
    rules.entry(number).or_default().push(rule(conditions)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Fork;

    /// What `call` gives (0 or an errno) in a child under the filters.
    fn under(filters: &Filters, call: fn() -> i64) -> i32 {
        match sys::fork(0, None).unwrap() {
            Fork::Child => {
                let set = sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map_err(SeccompError::Install);
                if set.and_then(|_| filters.install()).is_err() {
                    sys::exit(250);
                }
                let failed = call() == -1;
                sys::exit(if failed {
                    std::io::Error::last_os_error().raw_os_error().unwrap_or(251)
                } else {
                    0
                })
            }
            Fork::Parent(pid) => {
                let pid = rustix::process::Pid::from_raw(pid);
                let (_, status) =
                    rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap().unwrap();
                status.exit_status().unwrap_or_else(|| 1000 + status.terminating_signal().unwrap_or(0))
            }
        }
    }

    // SAFETY (all three): calls with numbers only, in a child that ends right after.
    fn unshare() -> i64 {
        unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) }
    }
    fn clone3() -> i64 {
        unsafe { libc::syscall(libc::SYS_clone3, 0, 0) }
    }
    fn getpid() -> i64 {
        unsafe { libc::syscall(libc::SYS_getpid) }
    }

    #[test]
    fn the_default_denies_what_capabilities_do_not_give() {
        let plain = runtime_default(0).unwrap();
        assert_eq!(under(&plain, getpid), 0);
        assert_eq!(under(&plain, unshare), libc::EPERM);
        assert_eq!(under(&plain, clone3), libc::ENOSYS);
        let admin = runtime_default(1 << CAP_SYS_ADMIN).unwrap();
        assert_eq!(under(&admin, unshare), 0);
        assert_eq!(under(&admin, clone3), libc::EINVAL);
    }

    #[test]
    fn profiles_say_what_happens() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["unshare"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
            {"names":["getpid"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
        let filters = profile(text).unwrap();
        assert_eq!(under(&filters, unshare), libc::ENOSYS);
        assert_eq!(under(&filters, getpid), 1000 + libc::SIGSYS);
        assert_eq!(under(&filters, clone3), libc::EINVAL);
        assert!(matches!(profile("{"), Err(SeccompError::Profile(_))));
        let odd = profile(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap_err();
        assert_eq!(odd.to_string(), "seccomp profile: the action SCMP_ACT_NOTIFY is not supported");
    }
}
