//! Images: layers unpacked once, records of what is there, and copy-on-write roots over them.
//!
//! ```text
//!   registry ──> pull ──┐                               ┌─> layers/ (shared by the stores of a machine)
//!   archive  ──> load ──┴─> digests checked ─> unpack ──┤
//!                                                       └─> images.json (names, digests, configs)
//!   prepare_rootfs(id, container) ──> lower folders, upper, work ──> the shim mounts them
//! ```
//!
//! The runtime's service answers `ImageService` and `Images/Load` through [`Service`]. Nothing here mounts.
//!
//! Invariants:
//! - Bytes are used only after their digest was compared with the one promised, or are thrown away when it differs.
//! - An image is known only when all its layers are there; a layer is removed only when no image, no root and nothing on
//!   its way needs it.
//! - No name in an archive or image is ever followed outside the folder that it belongs to.
//!
//! Concept: <https://kubernetes.io/docs/concepts/containers/images/>

mod archive;
mod digest;
pub(crate) mod fuzz;
mod layers;
mod manifest;
mod members;
mod pull;
mod reference;
mod registry;
mod roots;
mod service;
mod store;
mod tree;
mod unpack;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use digest::{Digest, DigestError};
pub use reference::{Reference, ReferenceError, Version};
pub use registry::{Credentials, RegistryError};
pub use service::Service;
pub use store::Store;

/// Where a store lives and how registries are reached.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// Folder of image records and roots of this runtime.
    pub root: PathBuf,
    /// Folder of unpacked layers, which several runtimes of one machine may share; below `root` when absent.
    pub layers: Option<PathBuf>,
    /// Per registry: plain HTTP, or the CA to trust.
    pub registry_hosts: Option<PathBuf>,
    /// The network namespace that sockets to registries are opened in; this process's own when absent.
    pub registry_netns: Option<PathBuf>,
    /// What one layer may take.
    pub limits: LayerLimits,
}

/// What a layer may be once it is unpacked; one that is larger is refused, and nothing of it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerLimits {
    /// Bytes of its archive, and of its files.
    pub bytes: u64,
    /// Files, folders, links and nodes.
    pub entries: u64,
    /// Bytes of the paths of its folders, which are held in memory meanwhile.
    pub path_bytes: u64,
}

impl Default for LayerLimits {
    /// Far above what images are made of, and far below what a few kilobytes can be unpacked to.
    fn default() -> LayerLimits {
        LayerLimits { bytes: 64 << 30, entries: 2 << 20, path_bytes: 64 << 20 }
    }
}

/// The parts of an overlay root, for the shim to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// Read-only layers, the topmost first; there is at least one.
    pub lower: Vec<PathBuf>,
    /// The container's own writes.
    pub upper: PathBuf,
    /// The overlay's work folder.
    pub work: PathBuf,
}

/// What an image says about how it is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Entry point, which a container's command replaces.
    pub entrypoint: Vec<String>,
    /// Arguments, which a container's args replace.
    pub cmd: Vec<String>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// Working folder; empty when not said.
    pub working_dir: String,
    /// `user[:group]` by name or number; empty when not said.
    pub user: String,
    /// The signal that ends a container politely; empty when not said.
    pub stop_signal: String,
    /// Paths that the image wants as volumes.
    pub volumes: Vec<String>,
}

/// An image that the store has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its id (`sha256:…`, the digest of its config).
    pub id: String,
    /// Its tags, fully qualified.
    pub repo_tags: Vec<String>,
    /// Its digests, fully qualified.
    pub repo_digests: Vec<String>,
    /// Bytes of its layers and documents as they are transferred.
    pub size_bytes: u64,
    /// Never collected as garbage.
    pub pinned: bool,
}

/// Why something with images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such image. Final until it is pulled or loaded.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// The name is no image name. Final.
    #[error("failed to parse image reference {name:?}: {source}")]
    Reference {
        /// As it was given.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// A file of the store could not be read or written. Retryable.
    #[error("cannot {attempt} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A layer's archive is damaged, is another one than was promised, or did not fit on the disk.
    #[error("failed to extract layer {layer}: {source}")]
    Unpack {
        /// The digest of its plain archive.
        layer: String,
        /// Why.
        source: io::Error,
    },
    /// The archive is no image archive, or incomplete. Final.
    #[error("invalid image archive: {0}")]
    Archive(String),
    /// A manifest, index or config does not say what it must. Final.
    #[error("invalid image manifest: {0}")]
    Manifest(String),
    /// The image has nothing for this machine. Final.
    #[error("no match for platform in manifest: {os}/{architecture}: not found")]
    NoPlatform {
        /// Operating system.
        os: String,
        /// Processor architecture.
        architecture: String,
    },
    /// A pull failed; the source says how far it came. Retryable if its source is.
    #[error("failed to pull and unpack image \"{image}\": {source}")]
    Pull {
        /// The image's full name.
        image: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// A name could not be turned into a digest.
    #[error("failed to resolve reference \"{image}\": {source}")]
    Resolve {
        /// The image's full name.
        image: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// What a registry said.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The namespace for sockets to registries cannot be entered.
    #[error(transparent)]
    Namespace(#[from] minik_net::Error),
    /// Two layers have the same short name. Final, and next to impossible.
    #[error("layers {0} and {1} have one name")]
    LayerNames(String, String),
    /// A root's key is no plain file name. Final.
    #[error("invalid key {0:?} of a container root")]
    Key(String),
    /// A blocking task ended early: the runtime shuts down.
    #[error("the image store shuts down")]
    ShuttingDown,
}

/// The module's result.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

fn io_error<'a>(attempt: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ImageError + use<'a> {
    move |source| ImageError::Io { attempt, path: path.to_owned(), source }
}
