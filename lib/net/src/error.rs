use std::io;
use std::path::PathBuf;

/// What went wrong in the kernel's network, and on what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request. Final, except when [`Error::errno`] is EBUSY or EAGAIN.
    #[error("{what}: {source}{detail}")]
    Refused {
        /// What was attempted, on what.
        what: String,
        /// The kernel's error number.
        source: io::Error,
        /// The kernel's own sentence (extended acknowledgement), with a leading separator, or empty.
        detail: String,
    },
    /// A netlink socket could not be opened, written or read. Retryable with a new socket.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel's answer could not be decoded. Final.
    #[error("netlink answer to \"{what}\": {reason}")]
    Answer {
        /// What was asked.
        what: String,
        /// What the decoder said.
        reason: String,
    },
    /// A network namespace could not be created, opened, entered or pinned.
    #[error("{what} network namespace {}: {source}", path.display())]
    Namespace {
        /// The step.
        what: &'static str,
        /// The namespace's file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A kernel setting could not be read or written.
    #[error("{what} sysctl {key}: {source}")]
    Sysctl {
        /// "read" or "write".
        what: &'static str,
        /// The key, with slashes.
        key: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// `nft` could not be started: usually it is not installed. Final.
    #[error("cannot run nft: {0} (install the package nftables)")]
    NftMissing(#[source] io::Error),
    /// `nft` refused the rules; nothing of them was applied. Final.
    #[error("nft: {0}")]
    Nft(String),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kernel's error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { source, .. }
            | Error::Socket(source)
            | Error::Namespace { source, .. }
            | Error::Sysctl { source, .. } => source.raw_os_error(),
            Error::Answer { .. } | Error::NftMissing(_) | Error::Nft(_) => None,
        }
    }

    /// The thing exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// The thing (link, route, address, file) does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL))
    }
}
