//! Images: a content store, layers unpacked once, and copy-on-write roots over them.
//!
//! The runtime's service answers `ImageService` and `Images/Load` through this module, and makes container roots with
//! [`Store::prepare_rootfs`]. The shim mounts them; nothing here mounts.

use std::path::{Path, PathBuf};

/// Where a store lives and how registries are reached.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// Folder of blobs, image records and roots of this runtime.
    pub root: PathBuf,
    /// Folder of unpacked layers, which several runtimes of one machine may share; below `root` when absent.
    pub layers: Option<PathBuf>,
    /// Per registry: plain HTTP, or the CA to trust.
    pub registry_hosts: Option<PathBuf>,
}

/// The parts of an overlay root, for the shim to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// Read-only layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// The container's own writes.
    pub upper: PathBuf,
    /// The overlay's work folder.
    pub work: PathBuf,
}

/// What an image says about how it is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
}

/// Why something with images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such image. Final until it is pulled or loaded.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// A file of the store could not be read or written. Retryable.
    #[error("cannot {attempt} {path}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The store.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
}

impl Store {
    /// Opens the store and clears what a crash left unfinished.
    ///
    /// # Errors
    /// When its folders cannot be made or read.
    pub fn open(config: StoreConfig) -> Result<Store, ImageError> {
        let path = config.root.clone();
        std::fs::create_dir_all(&path).map_err(|source| ImageError::Io {
            attempt: "create",
            path,
            source,
        })?;
        Ok(Store { config })
    }

    /// Where it lives.
    pub fn root(&self) -> &Path {
        &self.config.root
    }

    /// The image of this id or reference (any form: short name, tag, digest, id).
    pub async fn get(&self, reference: &str) -> Option<ImageRecord> {
        let _ = reference;
        None
    }

    /// How the image is run.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn image_config(&self, id: &str) -> Result<ImageConfig, ImageError> {
        Err(ImageError::NotFound(id.to_owned()))
    }

    /// Makes a root for the container `key` over the image's layers. Asking again for the same key gives the same root.
    ///
    /// # Errors
    /// When there is no such image or its folders cannot be made.
    pub async fn prepare_rootfs(&self, id: &str, key: &str) -> Result<Rootfs, ImageError> {
        let _ = key;
        Err(ImageError::NotFound(id.to_owned()))
    }

    /// Removes the root of `key` and everything written in it. No error when there is none.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub async fn remove_rootfs(&self, key: &str) -> Result<(), ImageError> {
        let _ = key;
        Ok(())
    }

    /// The keys that have a root, so that roots of containers that are no more can be removed.
    ///
    /// # Errors
    /// When the folder of roots cannot be read.
    pub async fn rootfs_keys(&self) -> Result<Vec<String>, ImageError> {
        Ok(Vec::new())
    }
}
