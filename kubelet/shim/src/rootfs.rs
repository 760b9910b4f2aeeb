//! A container's root: the overlay, the kernel's file systems, devices, binds, hidden and read-only paths.
//!
//! Everything happens in the container's own mount namespace, so it goes away with the container's last process and
//! the host never sees a mount of it.

use crate::cgroup::Cgroup;
use crate::mounts::{MountError, Root, attach, copy_of, file_system, is_folder, tmpfs};
use crate::protocol::{ContainerSpec, MountSpec, Propagation, RootfsSpec};
use crate::sys;
use rustix::fs::{CWD, Dev, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, move_mount, unmount,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// The root's own file system.
enum Layers {
    /// The overlay, not attached yet.
    Mount(OwnedFd),
    /// Its folders (layers, writes, work), for kernels that must be told them all at once.
    Folders(Vec<OwnedFd>, OwnedFd, OwnedFd),
}

/// What the container gets from outside, taken before its mount namespace is cut off from the host's.
pub struct Sources {
    layers: Layers,
    mountpoint: OwnedFd,
    binds: Vec<OwnedFd>,
    shm: Option<OwnedFd>,
    cgroups: Vec<(String, OwnedFd)>,
    devices: Vec<(PathBuf, OwnedFd)>,
}

/// Takes what `spec` mounts from the host, and the Pod's shared memory from the mount namespace in which it is.
///
/// # Errors
/// When something is not there.
pub fn take_sources(
    spec: &ContainerSpec,
    shm: Option<(&OwnedFd, &str)>,
    cgroup: &Cgroup,
) -> Result<Sources, MountError> {
    let layers = layers(&spec.rootfs)?;
    let mountpoint = folder(&spec.rootfs.mountpoint)?;
    let binds = spec.mounts.iter().map(|bind| copy_of(CWD, &bind.source, true)).collect::<Result<_, _>>()?;
    let mut devices = Vec::new();
    for device in &spec.devices {
        devices.push((device.target.clone(), copy_of(CWD, &device.source, true)?));
    }
    if spec.privileged {
        devices.extend(host_devices()?);
    }
    let mut cgroups = Vec::new();
    if !cgroup.is_unified() {
        for folder in cgroup.folders() {
            let name = match folder.controllers.as_slice() {
                [] => "unified".to_owned(),
                [name] if name == "name=systemd" => "systemd".to_owned(),
                names => names.join(","),
            };
            cgroups.push((name, copy_of(CWD, &folder.path, false)?));
        }
    }
    // Last: from here on paths begin at the namespace's own root.
    let shm = match shm {
        Some((namespace, path)) => Some(copy_from(namespace, Path::new(path))?),
        None => {
            let copy = copy_of(CWD, Path::new("/dev/shm"), false)?;
            leave_chroot()?;
            Some(copy)
        }
    };
    Ok(Sources { layers, mountpoint, binds, shm, cgroups, devices })
}

/// A privileged container sees every device of the host, as it is now.
fn host_devices() -> Result<Vec<(PathBuf, OwnedFd)>, MountError> {
    let failed = |error: std::io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        MountError::new("read", Path::new("/dev"), errno)
    };
    let mut devices = Vec::new();
    for entry in std::fs::read_dir("/dev").map_err(failed)?.flatten() {
        use std::os::unix::fs::FileTypeExt;
        let Ok(kind) = entry.file_type() else { continue };
        let own = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
        let known = entry.file_name().to_str().is_some_and(|name| own.contains(&name));
        let wanted = kind.is_char_device() || kind.is_block_device();
        let folders = ["dri", "net", "mapper", "vfio", "snd", "input", "bus", "cpu"];
        let folder = kind.is_dir() && entry.file_name().to_str().is_some_and(|name| folders.contains(&name));
        if (wanted && !known) || folder {
            // A device may vanish while this runs.
            if let Ok(copy) = copy_of(CWD, &entry.path(), true) {
                devices.push((entry.path(), copy));
            }
        }
    }
    Ok(devices)
}

/// A detached copy of a mount in another mount namespace. It comes back to the own namespace's root.
fn copy_from(namespace: &OwnedFd, path: &Path) -> Result<OwnedFd, MountError> {
    let back = own_namespace()?;
    enter_namespace(namespace)?;
    let copy = copy_of(CWD, path, false);
    enter_namespace(&back)?;
    copy
}

fn own_namespace() -> Result<OwnedFd, MountError> {
    let own = Path::new("/proc/self/ns/mnt");
    rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| MountError::new("open", own, error))
}

fn enter_namespace(namespace: &OwnedFd) -> Result<(), MountError> {
    let kind = rustix::thread::LinkNameSpaceType::Mount;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
        .map_err(|error| MountError::new("enter the mount namespace of", Path::new("/"), error))
}

/// Makes the mount namespace's own root this process's root: whoever started minik may have changed that.
///
/// # Errors
/// When the kernel refuses.
pub fn leave_chroot() -> Result<(), MountError> {
    enter_namespace(&own_namespace()?)
}

fn folder(path: &Path) -> Result<OwnedFd, MountError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| MountError::new("open", path, error))
}

/// Builds the root and enters it. The process must be in the container's namespaces.
///
/// # Errors
/// When the kernel refuses, or a path leads nowhere.
pub fn enter(spec: &ContainerSpec, sources: Sources) -> Result<(), MountError> {
    let top = Path::new("/");
    let failed = |attempt: &'static str| move |error| MountError::new(attempt, top, error);
    mount_change(top, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make mounts private below"))?;
    let root = mount_overlay(&spec.rootfs.mountpoint, &sources.layers, &sources.mountpoint)?;
    mount_kernel(&root, spec)?;
    let null = mount_dev(&root, &sources)?;
    mount_sys(&root, spec, sources.cgroups)?;
    for (bind, source) in spec.mounts.iter().zip(sources.binds) {
        mount_bind(&root, bind, source)?;
    }
    if !spec.process.cwd.is_empty() {
        root.folder(Path::new(&spec.process.cwd))?;
    }
    restrict(&root, spec, &null)?;
    minik_fault::point("init.root");
    if spec.rootfs.readonly {
        sys::mount_setattr(root.fd(), RDONLY, 0, 0, false).map_err(failed("make read-only"))?;
    }
    rustix::process::fchdir(root.fd()).map_err(failed("enter the new"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("change"))?;
    minik_fault::point("init.pivoted");
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old"))?;
    rustix::process::chdir("/").map_err(failed("enter"))
}

fn layers(spec: &RootfsSpec) -> Result<Layers, MountError> {
    match overlay(spec) {
        Ok(mount) => Ok(Layers::Mount(mount)),
        // Kernels before 6.5 take all layers in one string only.
        Err(Errno::INVAL) => {
            let lower = spec.lower.iter().map(|layer| folder(layer)).collect::<Result<_, _>>()?;
            Ok(Layers::Folders(lower, folder(&spec.upper)?, folder(&spec.work)?))
        }
        Err(error) => Err(MountError::new("mount the layers of", &spec.upper, error)),
    }
}

fn mount_overlay(path: &Path, layers: &Layers, point: &OwnedFd) -> Result<Root, MountError> {
    let failed = |error| MountError::new("mount the root over", path, error);
    let (lower, upper, work) = match layers {
        Layers::Mount(mount) => {
            attach(mount, point, path)?;
            return mount.try_clone().map(Root::new).map_err(|_| failed(Errno::MFILE));
        }
        Layers::Folders(lower, upper, work) => (lower, upper, work),
    };
    let by_number = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower: Vec<_> = lower.iter().map(by_number).collect();
    let data =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), by_number(upper), by_number(work));
    let data = std::ffi::CString::new(data).map_err(|_| failed(Errno::INVAL))?;
    let target = by_number(point);
    mount("overlay", target.as_str(), "overlay", MountFlags::empty(), Some(data.as_c_str()))
        .map_err(failed)?;
    // What was opened before lies under the new mount; only the path leads to what is on top.
    folder(path).map(Root::new)
}

fn overlay(spec: &RootfsSpec) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |name: &str, path: &Path| rustix::mount::fsconfig_set_string(&context, name, path);
    set("source", Path::new("overlay"))?;
    for layer in &spec.lower {
        set("lowerdir+", layer)?;
    }
    set("upperdir", &spec.upper)?;
    set("workdir", &spec.work)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn mount_kernel(root: &Root, spec: &ContainerSpec) -> Result<(), MountError> {
    let proc = file_system("proc", &[], NOSUID | NODEV | NOEXEC)?;
    attach(proc, root.folder(Path::new("/proc"))?, Path::new("/proc"))?;
    let dev = tmpfs(&[("mode", "755"), ("size", "65536k")], NOSUID | libc::MOUNT_ATTR_STRICTATIME)?;
    attach(dev, root.folder(Path::new("/dev"))?, Path::new("/dev"))?;
    let terminals = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts = file_system("devpts", &terminals, NOSUID | NOEXEC)?;
    attach(pts, root.folder(Path::new("/dev/pts"))?, Path::new("/dev/pts"))?;
    match file_system("mqueue", &[], NOSUID | NODEV | NOEXEC) {
        Ok(queues) => attach(queues, root.folder(Path::new("/dev/mqueue"))?, Path::new("/dev/mqueue")),
        // With the host's IPC namespace and without its privileges there is none to be had.
        Err(_) if spec.pid == crate::protocol::PidNamespace::Host => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives the null device, opened before anything of the container's own can lie over it.
fn mount_dev(root: &Root, sources: &Sources) -> Result<OwnedFd, MountError> {
    let path = Path::new("/dev");
    let dev = root.find(path)?.ok_or_else(|| MountError::new("find", path, Errno::NOENT))?;
    let failed = |error| MountError::new("make a device in", path, error);
    let nodes: [(&str, u32, u32); 6] =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in nodes {
        let device: Dev = makedev(major, minor);
        let everybody = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, everybody, device).map_err(failed)?;
        // Whatever mask this process was started with.
        rustix::fs::chmodat(&dev, name, everybody, rustix::fs::AtFlags::empty()).map_err(failed)?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::openat(&dev, "null", flags, Mode::empty()).map_err(failed)?;
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in links {
        rustix::fs::symlinkat(target, &dev, name).map_err(failed)?;
    }
    let shm = root.folder(Path::new("/dev/shm"))?;
    match &sources.shm {
        Some(shared) => attach(shared, shm, Path::new("/dev/shm"))?,
        None => {
            let own = tmpfs(&[("mode", "1777"), ("size", "65536k")], NOSUID | NODEV | NOEXEC)?;
            attach(own, shm, Path::new("/dev/shm"))?;
        }
    }
    for (target, device) in &sources.devices {
        attach(device, root.point(device, target)?, target)?;
    }
    Ok(null)
}

fn mount_sys(root: &Root, spec: &ContainerSpec, cgroups: Vec<(String, OwnedFd)>) -> Result<(), MountError> {
    let readonly = if spec.privileged { 0 } else { RDONLY };
    let path = Path::new("/sys");
    let sys = file_system("sysfs", &[], NOSUID | NODEV | NOEXEC | readonly)?;
    attach(sys, root.folder(path)?, path)?;
    let path = Path::new("/sys/fs/cgroup");
    // A kernel without cgroups in sysfs has no place for them either.
    let Some(point) = root.find(path)? else { return Ok(()) };
    if cgroups.is_empty() {
        let tree = file_system("cgroup2", &[], NOSUID | NODEV | NOEXEC | readonly)?;
        return attach(tree, point, path);
    }
    let folder = tmpfs(&[("mode", "755")], NOSUID | NODEV | NOEXEC)?;
    attach(&folder, point, path)?;
    for (name, tree) in cgroups {
        let failed = |error| MountError::new("make a folder in", path, error);
        rustix::fs::mkdirat(&folder, &name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        if name.contains(',') {
            for part in name.split(',') {
                rustix::fs::symlinkat(&name, &folder, part).map_err(failed)?;
            }
        }
        sys::mount_setattr(&tree, NOSUID | NODEV | NOEXEC | readonly, 0, libc::MS_PRIVATE, false)
            .map_err(|error| MountError::new("close", &path.join(&name), error))?;
        move_mount(&tree, "", &folder, &name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| MountError::new("mount over", &path.join(&name), error))?;
    }
    sys::mount_setattr(&folder, readonly, 0, 0, false).map_err(|error| MountError::new("close", path, error))
}

fn mount_bind(root: &Root, bind: &MountSpec, source: OwnedFd) -> Result<(), MountError> {
    let target = &bind.target;
    let failed = |attempt: &'static str| move |error| MountError::new(attempt, target, error);
    let propagation = match bind.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => 0,
    };
    if propagation != 0 {
        sys::mount_setattr(&source, 0, 0, propagation, true).map_err(failed("set the propagation of"))?;
    }
    if bind.readonly {
        sys::mount_setattr(&source, RDONLY, 0, 0, bind.recursive_readonly)
            .map_err(failed("make read-only"))?;
    }
    attach(&source, root.point(&source, target)?, target)
}

/// Hides and closes what the container must not read or write.
fn restrict(root: &Root, spec: &ContainerSpec, null: &OwnedFd) -> Result<(), MountError> {
    for path in spec.readonly_paths.iter().map(Path::new) {
        let Some(point) = root.find(path)? else { continue };
        let copy = copy_of(&point, Path::new(""), true)?;
        let closed = sys::mount_setattr(&copy, RDONLY, 0, 0, true);
        closed.map_err(|error| MountError::new("make read-only", path, error))?;
        attach(copy, point, path)?;
    }
    let mut empty: Option<OwnedFd> = None;
    for path in spec.masked_paths.iter().map(Path::new) {
        let Some(point) = root.find(path)? else { continue };
        let folder = is_folder(&point).map_err(|error| MountError::new("look at", path, error))?;
        let cover = match (folder, &empty) {
            (true, Some(first)) => copy_of(first, Path::new(""), false)?,
            (true, None) => tmpfs(&[("mode", "755"), ("size", "4k")], RDONLY | NOSUID | NODEV | NOEXEC)?,
            (false, _) => copy_of(null, Path::new(""), false)?,
        };
        attach(&cover, point, path)?;
        if folder && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}
