use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::{Error, Result};

const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open: it lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

impl NetNs {
    /// The namespace of the calling thread.
    pub fn current() -> Result<NetNs> {
        NetNs::open(THREAD_NETNS)
    }

    /// The namespace behind a file: a pin, or `/proc/PID/ns/net`.
    pub fn open(path: impl Into<PathBuf>) -> Result<NetNs> {
        let path = path.into();
        match File::open(&path) {
            Ok(file) => Ok(NetNs { file, path }),
            Err(source) => Err(Error::Namespace { what: "open", path, source }),
        }
    }

    /// The namespace that a process is in.
    pub fn of_pid(pid: u32) -> Result<NetNs> {
        NetNs::open(format!("/proc/{pid}/ns/net"))
    }

    /// A new namespace that nothing but this value holds; its loopback is down.
    pub fn create() -> Result<NetNs> {
        on_new_namespace(|| NetNs::open(THREAD_NETNS))
    }

    /// A new namespace, pinned by a bind mount on `path` (made here, with its folders) until [`NetNs::unpin`].
    ///
    /// # Errors
    /// EEXIST when the file exists: what is pinned already is never replaced.
    pub fn create_pinned(path: &Path) -> Result<NetNs> {
        let fail = |what| move |source| Error::Namespace { what, path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(fail("make the folder of"))?;
        }
        OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map_err(fail("create"))?;
        let pinned = on_new_namespace(|| {
            mount_bind(THREAD_NETNS, path).map_err(|e| fail("pin")(e.into()))?;
            NetNs::open(path)
        });
        if pinned.is_err() {
            // The file is ours and empty; leaving it behind would make the next attempt fail.
            drop(fs::remove_file(path));
        }
        pinned
    }

    /// Removes a pin; the namespace ends with its last process, socket and open file. A missing pin is no error.
    pub fn unpin(path: &Path) -> Result<()> {
        let fail = |what| move |source| Error::Namespace { what, path: path.to_owned(), source };
        loop {
            match unmount(path, UnmountFlags::DETACH) {
                Ok(()) => {}
                // Not (or no longer) a mount point.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
                Err(e) => return Err(fail("unpin")(e.into())),
            }
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail("remove the pin of")(e)),
            _ => Ok(()),
        }
    }

    /// Whether a namespace is pinned on this file (and not merely an empty file left by a reboot).
    pub fn is_pinned(path: &Path) -> bool {
        let proc = fs::metadata(THREAD_NETNS).map(|m| m.dev());
        matches!((fs::metadata(path).map(|m| m.dev()), proc), (Ok(a), Ok(b)) if a == b)
    }

    /// The file that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's number of the namespace: equal numbers are the same namespace.
    pub fn id(&self) -> Result<u64> {
        match self.file.metadata() {
            Ok(metadata) => Ok(metadata.ino()),
            Err(source) => Err(Error::Namespace { what: "stat", path: self.path.clone(), source }),
        }
    }

    /// Runs `f` inside the namespace, on a thread of its own. Sockets that it opens and processes that it starts belong to
    /// the namespace; files under `/proc/sys/net` are the namespace's.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| Error::Namespace { what: "enter", path: self.path.clone(), source: e.into() })?;
            Ok(f())
        })
    }

    /// A second handle on the same namespace.
    pub fn try_clone(&self) -> Result<NetNs> {
        match self.file.try_clone() {
            Ok(file) => Ok(NetNs { file, path: self.path.clone() }),
            Err(source) => Err(Error::Namespace { what: "duplicate", path: self.path.clone(), source }),
        }
    }

    pub(crate) fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn on_new_namespace<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        // SAFETY: only the network namespace of this short-lived thread is unshared; file descriptors stay shared, which is
        // what the function's contract is about.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|e| Error::Namespace {
            what: "create",
            path: THREAD_NETNS.into(),
            source: e.into(),
        })?;
        f()
    })
}

/// Runs `f` on a new thread and hands on its result; a panic inside goes on outside.
fn on_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().name("netns".into()).spawn_scoped(scope, f).map_err(Error::Socket)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
