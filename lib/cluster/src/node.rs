//! A node's cgroup and mount namespaces, pinned below the run folder.
//!
//! ```text
//!  /var/lib/kubelet (shared)  /var/log/pods  /var/log/containers  /etc/cni   <- STATE/nodes/NODE/...
//!  /run  /etc/resolv.conf                                                     <- RUN/NODE/run, RUN/NODE/resolv.conf
//!  /run/minik/host-net                                                        <- the host's network namespace
//!  /sys  with /sys/fs/cgroup/HIERARCHY showing the node's cgroup as its root
//! ```
//! The mount namespace is a slave of the host's: what is mounted there later is seen here, and nothing goes back.

use crate::cgroup::Cgroups;
use crate::config::{make_dir, write_file};
use crate::error::{Error, Result, file, system};
use crate::host::COVERED;
use crate::layout::{HOST_NETWORK, NodeLayout};
use minik_net::NetNs;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{CpuSet, UnshareFlags, sched_getaffinity, sched_setaffinity, unshare_unsafe};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// Pins must stand on a private mount, or a namespace would be mounted inside itself.
pub(crate) fn make_private(dir: &Path) -> Result<()> {
    make_dir(dir)?;
    mount_bind(dir, dir).map_err(file("mount", dir))?;
    mount_change(dir, MountPropagationFlags::PRIVATE).map_err(file("make private", dir))
}

/// Takes away what is mounted on a path, with all that is mounted below: undoes [`make_private`], and pins.
pub(crate) fn unmount_all(dir: &Path) -> Result<()> {
    loop {
        match unmount(dir, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(file("unmount", dir)(error)),
        }
    }
}

/// Makes and pins a node's cgroup and mount namespaces. Its network namespace is there already.
pub(crate) fn build(layout: &NodeLayout, name: &str, cgroups: &Cgroups) -> Result<()> {
    pin_cgroup_namespace(&layout.pin("cgroup"), &cgroups.enter_node(name, "")?)?;
    let plan = Plan::new(layout, cgroups.node_dirs(name))?;
    let pin = layout.pin("mnt");
    File::create(&pin).map_err(file("create", &pin))?;
    let net = NetNs::open(layout.pin("net"))?;
    let (tell, told) = mpsc::channel::<String>();
    let (answer, answers) = mpsc::channel::<bool>();
    std::thread::scope(|scope| {
        // In the node's network, because /sys shows that of who mounts it.
        let maker = scope.spawn(|| {
            net.run(move || {
                for cpu in cpus()? {
                    sched_setaffinity(None, &cpu).map_err(system("choose a CPU"))?;
                    // SAFETY: the thread is new and ends here; its file descriptors stay shared.
                    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
                        .map_err(system("make a mount namespace"))?;
                    let own = format!("/proc/self/task/{}/ns/mnt", rustix::thread::gettid().as_raw_nonzero());
                    // Whoever pins it is there until this thread has ended.
                    let _ = tell.send(own);
                    if answers.recv() == Ok(true) {
                        return plan.mount_all();
                    }
                }
                Ok::<_, Error>(())
            })
        });
        // Pinned from outside: seen from inside, it would be mounted in itself.
        let mut pinned = Ok(());
        for own in told {
            pinned = mount_bind(own, &pin).map_err(file("pin", &pin));
            // A maker that has failed says why.
            let _ = answer.send(pinned.is_ok());
        }
        maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        pinned
    })
}

/// The CPUs that this thread may run on, one by one. A mount namespace can be pinned only in an older one, and Linux counts
/// ages for each CPU apart: one made on the CPU of the older is younger.
fn cpus() -> Result<Vec<CpuSet>> {
    let allowed = sched_getaffinity(None).map_err(system("ask for the CPUs"))?;
    let one = |cpu| {
        let mut set = CpuSet::new();
        set.set(cpu);
        set
    };
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(one).collect())
}

/// What is mounted where, decided before anything is covered.
struct Plan {
    folders: Vec<(PathBuf, PathBuf)>,
    own_run: PathBuf,
    /// The node's file and what it covers.
    resolv_conf: Option<(PathBuf, PathBuf)>,
    cgroups: Vec<(PathBuf, PathBuf)>,
    /// Links beside the hierarchies, such as `cpu` to `cpu,cpuacct`.
    links: Vec<(PathBuf, PathBuf)>,
}

const CGROUPS: &str = "/sys/fs/cgroup";
const SHARED: &str = "/var/lib/kubelet";

impl Plan {
    fn new(layout: &NodeLayout, cgroups: Vec<(PathBuf, PathBuf)>) -> Result<Plan> {
        let own_run = layout.own_run();
        make_dir(&own_run.join("minik"))?;
        let mut folders = Vec::new();
        for covered in COVERED {
            let path = Path::new(covered);
            let own = layout.state.join(path.file_name().unwrap_or_default());
            make_dir(&own)?;
            folders.push((own, path.to_owned()));
        }
        let resolv_conf = match std::fs::canonicalize("/etc/resolv.conf") {
            Err(_) => None,
            Ok(target) => match target.strip_prefix("/run") {
                // What is below the node's own /run is simply there.
                Ok(below) => {
                    write_file(&own_run.join(below), host_resolv_conf().as_bytes(), 0o644)?;
                    None
                }
                Err(_) => {
                    let own = layout.run.join("resolv.conf");
                    write_file(&own, host_resolv_conf().as_bytes(), 0o644)?;
                    Some((own, target))
                }
            },
        };
        let links = std::fs::read_dir(CGROUPS)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?)))
            .collect();
        Ok(Plan { folders, own_run, resolv_conf, cgroups, links })
    }

    fn mount_all(&self) -> Result<()> {
        become_slave()?;
        // Taken before /sys and /run are covered.
        let run = take(&self.own_run)?;
        let resolv_conf = self.resolv_conf.as_ref().map(|(own, over)| Ok::<_, Error>((take(own)?, over)));
        let resolv_conf = resolv_conf.transpose()?;
        let cgroups: Vec<(OwnedFd, &PathBuf)> =
            self.cgroups.iter().map(|(at, own)| Ok((take(own)?, at))).collect::<Result<_>>()?;
        for (own, over) in &self.folders {
            mount_bind(own, over).map_err(file("mount over", over))?;
        }
        mount_change(SHARED, MountPropagationFlags::SHARED).map_err(file("share", Path::new(SHARED)))?;
        self.mount_sys(cgroups)?;
        if let Some((own, over)) = resolv_conf {
            put(own, over)?;
        }
        put(run, Path::new("/run"))?;
        let host = Path::new(HOST_NETWORK);
        File::create(host).map_err(file("create", host))?;
        // This thread is in the node's network; the process is in the host's.
        mount_bind("/proc/self/ns/net", host).map_err(file("pin", host))
    }

    fn mount_sys(&self, cgroups: Vec<(OwnedFd, &PathBuf)>) -> Result<()> {
        let (sys, top) = (Path::new("/sys"), Path::new(CGROUPS));
        let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("sysfs", sys, "sysfs", quiet, None).map_err(file("mount", sys))?;
        if !self.cgroups.iter().any(|(at, _)| at == top) {
            mount("tmpfs", top, "tmpfs", quiet, c"mode=755").map_err(file("mount", top))?;
        }
        for (own, at) in cgroups {
            if at.starts_with(top) {
                make_dir(at)?;
                put(own, at)?;
            }
        }
        for (link, target) in &self.links {
            std::os::unix::fs::symlink(target, link).map_err(file("link", link))?;
        }
        Ok(())
    }
}

/// What the host mounts later is seen here, and nothing goes back.
fn become_slave() -> Result<()> {
    let slave = MountPropagationFlags::DOWNSTREAM;
    let root = Path::new("/");
    match mount_change(root, slave | MountPropagationFlags::REC) {
        // After a chroot, the root need not be a mount; those below it are.
        Err(rustix::io::Errno::INVAL) => {
            let path = Path::new("/proc/self/mountinfo");
            let mounts = std::fs::read_to_string(path).map_err(file("read", path))?;
            let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
            points.into_iter().try_for_each(|at| mount_change(at, slave).map_err(file("make a slave", at)))
        }
        other => other.map_err(file("make a slave", root)),
    }
}

/// A mount of its own of a file or folder, not yet anywhere.
fn take(path: &Path) -> Result<OwnedFd> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(file("take a mount of", path))
}

/// Puts it somewhere.
fn put(mount: OwnedFd, over: &Path) -> Result<()> {
    move_mount(mount, "", CWD, over, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(file("mount over", over))
}

/// Name servers that a namespace of its own can reach: a resolver on the host's loopback is of no use there.
fn host_resolv_conf() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (etc, behind) = (read("/etc/resolv.conf"), read("/run/systemd/resolve/resolv.conf"));
    let loopback = etc.lines().any(|line| line.trim_start().starts_with("nameserver 127."));
    if loopback && !behind.is_empty() { behind } else { etc }
}

/// A namespace's root is where its maker is, so a child enters the node's cgroups and makes it.
fn pin_cgroup_namespace(pin: &Path, cgroups: &[File]) -> Result<()> {
    File::create(pin).map_err(file("create", pin))?;
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    let (hold, release) = pipe_with(PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    // SAFETY: the child makes system calls only, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let raw = (tell.as_raw_fd(), hold.as_raw_fd(), release.as_raw_fd());
        // SAFETY: as above; the descriptors are open.
        unsafe {
            libc::close(raw.2);
            let entered =
                cgroups.iter().all(|one| libc::write(one.as_raw_fd(), b"0".as_ptr().cast(), 1) == 1);
            if entered && libc::unshare(libc::CLONE_NEWCGROUP) == 0 {
                let mut byte = [b'.'];
                libc::write(raw.0, byte.as_ptr().cast(), 1);
                libc::read(raw.1, byte.as_mut_ptr().cast(), 1);
            } else {
                let errno = *libc::__errno_location();
                libc::write(raw.0, (&raw const errno).cast(), size_of::<i32>());
            }
            libc::_exit(0);
        }
    }
    let Some(child) = Pid::from_raw(child) else {
        return Err(system("fork")(std::io::Error::last_os_error()));
    };
    drop((tell, hold));
    let mut report = [0; 4];
    let length = (&File::from(told)).read(&mut report).map_err(system("read from a child"))?;
    let pinned = match length {
        1 => {
            let own = format!("/proc/{}/ns/cgroup", child.as_raw_nonzero());
            mount_bind(own, pin).map_err(file("pin", pin))
        }
        4 => Err(system("make a cgroup namespace")(std::io::Error::from_raw_os_error(i32::from_ne_bytes(
            report,
        )))),
        _ => Err(system("make a cgroup namespace")(std::io::Error::other("its maker ended"))),
    };
    drop(release);
    waitpid(Some(child), WaitOptions::empty()).map_err(system("wait for a child"))?;
    pinned
}
