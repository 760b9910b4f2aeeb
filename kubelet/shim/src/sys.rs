//! The system calls that no library here wraps. All `unsafe` of this crate is in this file.

use rustix::io::Errno;
use std::ffi::{CString, c_char, c_int, c_long};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What a fork gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// This is the parent; the child's pid.
    Parent(i32),
    /// This is the child.
    Child,
}

fn check(result: c_long) -> Result<c_long, Errno> {
    match result {
        -1 => Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))),
        value => Ok(value),
    }
}

/// Forks, with new namespaces (`CLONE_NEW…`), into the cgroup (version 2) of that folder when there is one.
///
/// Only for processes of a single thread: the child goes on with everything that the parent had.
///
/// # Errors
/// What the kernel says.
pub fn fork(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Fork, Errno> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut arguments = libc::clone_args {
        flags: flags as u64,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the arguments are valid for the call; without CLONE_VM the child has a copy of this thread, which is the
    // only one, so no lock of the process is held by a thread that the child lacks.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of::<libc::clone_args>())
    })?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent(pid as i32) })
}

/// Sets and clears attributes of a mount, or changes its propagation (`MS_PRIVATE` and the like).
///
/// # Errors
/// What the kernel says.
pub fn mount_setattr(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the attributes are valid for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Gets a cgroup namespace whose root is where this process is.
///
/// # Errors
/// What the kernel says.
pub fn unshare_cgroup() -> Result<(), Errno> {
    // SAFETY: no memory or descriptor is shared differently by this flag.
    check(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) })).map(drop)
}

/// Restricts this thread's system calls from here on.
///
/// # Errors
/// What the kernel says: without privileges, no_new_privs must be set.
pub fn seccomp(program: &[seccompiler::sock_filter]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    // The two structs have the same layout by the kernel's definition.
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the program is valid for the call and the kernel copies it.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as c_long, &raw const filter)
    })
    .map(drop)
}

/// Sets this thread's capabilities, as bits by number.
///
/// # Errors
/// What the kernel says.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let (low, high) = (|bits: u64| bits as u32, |bits: u64| (bits >> 32) as u32);
    let data = [
        [low(effective), low(permitted), low(inheritable)],
        [high(effective), high(permitted), high(inheritable)],
    ];
    // SAFETY: header and data have the layout of version 3 and are valid for the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Calls `prctl` with numbers.
///
/// # Errors
/// What the kernel says.
pub fn prctl(option: c_int, arguments: [u64; 4]) -> Result<c_int, Errno> {
    let [two, three, four, five] = arguments;
    // SAFETY: only options whose arguments are numbers are used in this crate.
    check(c_long::from(unsafe { libc::prctl(option, two, three, four, five) })).map(|value| value as c_int)
}

/// Names this process, as `ps` shows it.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the name is a C string that is valid for the call; the kernel copies sixteen bytes at most.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Blocks these signals, so that a signalfd gives them.
///
/// # Errors
/// What the kernel says.
pub fn signalfd(signals: &[c_int]) -> Result<OwnedFd, Errno> {
    let mut set = signal_set(signals);
    // SAFETY: the set is initialized and valid for the calls; the descriptor is new and owned by nobody.
    unsafe {
        check(c_long::from(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())))?;
        let fd = libc::signalfd(-1, &raw mut set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(c_long::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: a zeroed set is valid for sigemptyset, which initializes it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Waits for one of these (blocked) signals.
pub fn wait_for_signal(signals: &[c_int]) -> c_int {
    let set = signal_set(signals);
    let mut signal = 0;
    // SAFETY: both are valid for the call.
    unsafe { libc::sigwait(&raw const set, &raw mut signal) };
    signal
}

/// Blocks these signals.
pub fn block_signals(signals: &[c_int]) {
    let set = signal_set(signals);
    // SAFETY: the set is valid for the call, which cannot fail for known signals.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Gives every signal its default meaning and lets all through, as a new program expects it.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: setting the default handler has no preconditions; the kernel refuses it for KILL and STOP.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let set = signal_set(&[]);
    // SAFETY: the set is valid for the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Lets the kernel reap children.
pub fn ignore_children() {
    // SAFETY: ignoring a signal has no preconditions.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Attaches a program that decides on devices (`BPF_PROG_TYPE_CGROUP_DEVICE`) to a cgroup of version 2.
///
/// # Errors
/// What the kernel says.
pub fn attach_device_program(cgroup: impl AsFd, program: &[u64]) -> Result<(), Errno> {
    const LOAD: c_int = 5;
    const ATTACH: c_int = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    /// The part of `union bpf_attr` that both calls use; the kernel takes what is missing as zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version: u32,
        flags: u32,
    }
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        version: 0,
        flags: 0,
    };
    // SAFETY: the program and the licence live through the call, which copies them; the descriptor is new and owned by
    // nobody.
    let loaded = unsafe {
        let fd = check(libc::syscall(libc::SYS_bpf, LOAD, &raw const load, std::mem::size_of::<Load>()))?;
        OwnedFd::from_raw_fd(fd as RawFd)
    };
    let attach = [cgroup.as_fd().as_raw_fd() as u32, loaded.as_raw_fd() as u32, CGROUP_DEVICE, ALLOW_MULTI];
    // SAFETY: the arguments are valid for the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, ATTACH, attach.as_ptr(), std::mem::size_of_val(&attach)) })
        .map(drop)
}

/// Becomes another program.
///
/// # Errors
/// What the kernel says; it does not return otherwise.
pub fn exec(program: &CString, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: all pointers lead to C strings that live until the call returns, and both lists end with null.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Ends this process at once, without anything that the parent registered.
pub fn exit(code: i32) -> ! {
    // SAFETY: ending has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Puts `from` in the place of descriptor `to`; it survives an exec.
///
/// # Errors
/// What the kernel says.
pub fn dup_onto(from: impl AsFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: `to` is one of 0, 1 and 2, which belong to nobody in this crate.
    check(c_long::from(unsafe { libc::dup2(from.as_fd().as_raw_fd(), to) })).map(drop)
}

/// Closes all descriptors from `first` on, or lets an exec close them.
pub fn close_from(first: RawFd, on_exec: bool) {
    let flags = if on_exec { libc::CLOSE_RANGE_CLOEXEC as c_int } else { 0 };
    // SAFETY: called where nothing that owns a descriptor is used any more (a child that never returns).
    unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, flags) };
}

/// Closes all descriptors but stdio and one.
pub fn close_others(keep: RawFd) {
    let close = |first: RawFd, last: libc::c_uint| {
        // SAFETY: called where nothing that owns another descriptor is used any more (a child that never returns).
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last, 0) };
    };
    if keep > 3 {
        close(3, keep as libc::c_uint - 1);
    }
    close(keep.max(2) + 1, libc::c_uint::MAX);
}

/// The other end of a terminal, opened through its master: no path is looked up.
///
/// # Errors
/// What the kernel says.
pub fn terminal_peer(master: impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the ioctl takes flags by value; the descriptor is new and owned by nobody.
    unsafe {
        let fd = libc::ioctl(
            master.as_fd().as_raw_fd(),
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        );
        check(c_long::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets a resource limit of this process.
///
/// # Errors
/// What the kernel says.
pub fn set_rlimit(kind: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the limit is valid for the call.
    check(c_long::from(unsafe { libc::setrlimit(kind as _, &raw const limit) })).map(drop)
}

/// Sets all ids of this thread, which is the process's only one.
///
/// # Errors
/// What the kernel says.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the list is valid for the call; the raw calls act on this thread, the only one.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).map(drop)
    }
}

/// Takes the descriptor that a parent process put in the place of stdin.
pub fn take_stdin() -> OwnedFd {
    // SAFETY: called once, at the start of a program that never uses its stdin otherwise.
    unsafe { OwnedFd::from_raw_fd(0) }
}
