//! Mounts as descriptors: made detached, then attached inside a root that paths cannot leave.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Something that could not be done with a mount. Final for the container.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} {path:?}: {source}")]
pub struct MountError {
    attempt: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl MountError {
    /// One.
    pub fn new(attempt: &'static str, path: &Path, source: Errno) -> MountError {
        MountError { attempt, path: path.to_owned(), source: source.into() }
    }
}

/// A new file system that is attached nowhere yet. An option without a value is a flag.
///
/// # Errors
/// When the kernel refuses it.
pub fn file_system(
    kind: &'static str,
    options: &[(&str, &str)],
    attributes: u64,
) -> Result<OwnedFd, MountError> {
    let make = || {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", kind)?;
        for (name, value) in options {
            match value.is_empty() {
                true => fsconfig_set_flag(&context, *name)?,
                false => fsconfig_set_string(&context, *name, *value)?,
            }
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(|error| MountError::new("make the file system", Path::new(kind), error))
}

/// A new tmpfs that is attached nowhere yet.
///
/// # Errors
/// When the kernel refuses it.
pub fn tmpfs(options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd, MountError> {
    file_system("tmpfs", options, attributes)
}

/// A detached copy of what is at `path` seen from `folder`, with the mounts below it when `recursive`.
///
/// # Errors
/// When there is nothing.
pub fn copy_of(folder: impl AsFd, path: &Path, recursive: bool) -> Result<OwnedFd, MountError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    open_tree(folder, path, flags).map_err(|error| MountError::new("bind", path, error))
}

/// Attaches a detached mount over what `point` is open on; `path` names it in errors.
///
/// # Errors
/// When the kernel refuses, a folder over a file among others.
pub fn attach(mount: impl AsFd, point: impl AsFd, path: &Path) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let moved = move_mount(mount, "", point, "", flags);
    minik_fault::point("init.mounted");
    moved.map_err(|error| MountError::new("mount over", path, error))
}

/// A root folder inside which paths are looked up: neither `..` nor symbolic links leave it.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// The folder that a descriptor is open on.
    pub fn new(fd: OwnedFd) -> Root {
        Root(fd)
    }

    /// Its descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// What is at `path`, or nothing.
    ///
    /// # Errors
    /// When it cannot be looked up.
    pub fn find(&self, path: &Path) -> Result<Option<OwnedFd>, MountError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..16 {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
                Ok(found) => return Ok(Some(found)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                // A rename somewhere on the machine got in between; the kernel says to try again.
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(MountError::new("look up", path, error)),
            }
        }
        Err(MountError::new("look up", path, Errno::AGAIN))
    }

    /// The folder at `path`, made when it is absent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, path: &Path) -> Result<OwnedFd, MountError> {
        let path = &clean(path);
        match self.find(path)? {
            Some(found) => Ok(found),
            None => self.make_folder(path),
        }
    }

    fn make_folder(&self, path: &Path) -> Result<OwnedFd, MountError> {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let made = pathrs::RootRef::from_fd(self.0.as_fd()).mkdir_all(path, &permissions);
        made.map(OwnedFd::from).map_err(|error| failed_pathrs("make the folder", path, &error))
    }

    /// The file at `path`, made empty when it is absent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn file(&self, path: &Path) -> Result<OwnedFd, MountError> {
        let path = &clean(path);
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        let kind = pathrs::InodeType::File(permissions);
        pathrs::RootRef::from_fd(self.0.as_fd())
            .create(path, &kind)
            .map_err(|error| failed_pathrs("make the file", path, &error))?;
        self.find(path)?.ok_or_else(|| MountError::new("find", path, Errno::NOENT))
    }

    /// Something to mount `what` over at `path`: a folder for a folder, a file for anything else.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn point(&self, what: impl AsFd, path: &Path) -> Result<OwnedFd, MountError> {
        match is_folder(what).map_err(|error| MountError::new("look at what to mount over", path, error))? {
            true => self.folder(path),
            false => self.file(path),
        }
    }
}

/// The path without `.` and `..`, which a path inside a container has no use for.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn failed_pathrs(attempt: &'static str, path: &Path, error: &pathrs::error::Error) -> MountError {
    MountError { attempt, path: path.to_owned(), source: std::io::Error::other(error.to_string()) }
}

/// Whether a descriptor is open on a folder.
///
/// # Errors
/// What the kernel says.
pub fn is_folder(fd: impl AsFd) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        let inside = folder.path().join("root");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", inside.join("up")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = Root::new(rustix::fs::open(&inside, flags, Mode::empty()).unwrap());
        root.file(Path::new("/up/../../x/y")).unwrap();
        root.folder(Path::new("../../../deep/er")).unwrap();
        assert!(inside.join("x/y").is_file() && inside.join("deep/er").is_dir());
        assert!(root.find(Path::new("/absolute")).unwrap().is_none(), "it leads nowhere inside");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
