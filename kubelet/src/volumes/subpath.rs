//! A part of a volume, mounted safely though the Pod can change links in it at any time: each step is opened below
//! the last one, and what was opened is bound, not what its name may mean later.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

/// The most of a file of variables.
const MOST_TEXT_BYTES: u64 = 1 << 20;

/// Binds `volume/sub` to `target`, making folders of `sub` that are not there.
///
/// # Errors
/// When a part of it leads out of the volume.
pub fn bind(volume: &Path, sub: &Path, target: &Path) -> io::Result<()> {
    if super::files::is_mount_point(target) {
        return Ok(());
    }
    let opened = open(volume, sub)?;
    let is_dir =
        rustix::fs::fstat(&opened).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())?;
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(target)?;
    }
    minik_fault::point("kubelet.subpath.made");
    let source = format!("/proc/self/fd/{}", opened.as_raw_fd());
    mount(&source, target, "", MountFlags::BIND | MountFlags::REC, None)?;
    minik_fault::point("kubelet.subpath.bound");
    Ok(())
}

/// Reads a file of a volume, following no link out of it.
///
/// # Errors
/// When it is not there, is no text, or is too long.
pub fn read(volume: &Path, sub: &Path) -> io::Result<String> {
    use std::io::Read;
    let root = openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = fs::File::from(openat2(&root, sub, flags, Mode::empty(), resolve)?);
    let mut text = String::new();
    file.take(MOST_TEXT_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn open(volume: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let root = openat(CWD, volume, flags | OFlags::DIRECTORY, Mode::empty())?;
    match openat2(&root, sub, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    // Made step by step; each must be a folder below the last.
    let mut at = root;
    for part in sub.components() {
        let Component::Normal(name) = part else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path leads out of the volume"));
        };
        match mkdirat(&at, name, Mode::from_raw_mode(0o750)) {
            Ok(()) => {
                // As upstream makes them, whatever the mask.
                rustix::fs::chmodat(&at, name, Mode::from_raw_mode(0o750), rustix::fs::AtFlags::empty())?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = openat2(&at, name, flags, Mode::empty(), resolve)?;
    }
    Ok(at)
}
