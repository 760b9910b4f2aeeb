//! Folders, memory file systems and their end; blocking.

use super::VolumeError;
use super::atomic::{self, Payload};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

/// Files of a Pod's own are small; this is room enough for the largest objects that the API takes.
const PAYLOAD_BYTES: u64 = 64 << 20;

/// Makes a Pod's folders.
pub async fn make_dirs(dir: PathBuf) -> io::Result<()> {
    let made = tokio::task::spawn_blocking(move || {
        for part in ["volumes", "containers", "volume-subpaths"] {
            fs::create_dir_all(dir.join(part))?;
            minik_fault::point("kubelet.folder.made");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))
    });
    made.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Makes an empty folder that the Pod's containers share, on disk or in memory.
pub fn empty_dir(
    path: &Path,
    medium: &str,
    size_bytes: Option<i64>,
    group: Option<i64>,
) -> Result<(), VolumeError> {
    let what = || format!("cannot make {}", path.display());
    // Whoever runs in the Pod may write here, as with upstream.
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    let made = match medium {
        "" if path.is_dir() => Ok(()),
        "" => whole_dir(path, mode, group),
        "Memory" if is_mount_point(path) => Ok(()),
        "Memory" => {
            let size = size_bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            let owner = group.map(|group| format!(",gid={group}")).unwrap_or_default();
            fs::create_dir_all(path).and_then(|()| {
                minik_fault::point("kubelet.volume.folder");
                memory(path, &format!("mode={mode:o}{owner}{size}"))
            })
        }
        _ => return Err(VolumeError::Kind("huge page")),
    };
    minik_fault::point("kubelet.volume.made");
    made.map_err(|error| VolumeError::io(what(), error))
}

/// Makes a folder that is there with its owner and mode, or not at all: beside its place, and moved.
fn whole_dir(path: &Path, mode: u32, group: Option<i64>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    fs::create_dir_all(&fresh)?;
    minik_fault::point("kubelet.volume.folder");
    if let Some(group) = group {
        chown(&fresh, None, Some(group as u32))?;
    }
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
    fs::rename(&fresh, path)
}

fn memory(path: &Path, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(&*options)).map_err(io::Error::from)
}

/// Writes a volume that is made of API objects.
pub fn write_payload(
    path: &Path,
    payload: &Payload,
    in_memory: bool,
    group: Option<i64>,
) -> Result<(), VolumeError> {
    let what = || format!("cannot write {}", path.display());
    if !path.is_dir() {
        fs::create_dir_all(path).map_err(|error| VolumeError::io(what(), error))?;
    }
    if in_memory && !is_mount_point(path) {
        let options = format!("mode=0777,size={PAYLOAD_BYTES}");
        memory(path, &options).map_err(|error| VolumeError::io(what(), error))?;
        minik_fault::point("kubelet.payload.mounted");
    }
    let group = group.map(|group| group as u32);
    atomic::write(path, payload, group).map_err(|error| VolumeError::io(what(), error))?;
    if let Some(group) = group {
        lchown(path, None, Some(group)).map_err(|error| VolumeError::io(what(), error))?;
    }
    Ok(())
}

/// Whether something is mounted at a folder.
pub fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Unmounts and removes all that a Pod had.
pub fn remove_pod(dir: &Path) -> Result<(), VolumeError> {
    if fs::symlink_metadata(dir).is_err() {
        return Ok(());
    }
    let what = || format!("cannot take down {}", dir.display());
    let mounts = mounts_below(dir).map_err(|error| VolumeError::io(what(), error))?;
    for mount in mounts {
        unmount(&mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| VolumeError::io(format!("cannot unmount {}", mount.display()), error))?;
        minik_fault::point("kubelet.unmounted");
    }
    let removed = fs::remove_dir_all(dir);
    minik_fault::point("kubelet.folder.removed");
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VolumeError::io(what(), error)),
        _ => Ok(()),
    }
}

/// Mount points below a folder, the innermost first.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescaped(path)))
        .filter(|path| path.starts_with(dir))
        .collect();
    mounts.reverse();
    Ok(mounts)
}

/// The kernel writes blanks in paths as octal numbers.
fn unescaped(path: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
