//! Copy-on-write roots of containers: a folder for what is written, one that the overlay works in, and a note of the layers
//! below, which keeps them from being removed while the root exists.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::layers::{make_private, read_dir, remove_tree};
use super::{ImageError, Result, io_error};

/// The roots of one store.
#[derive(Debug)]
pub(super) struct Roots {
    folder: PathBuf,
}

/// What a root stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootRecord {
    pub image: String,
    /// Lowest first.
    pub layers: Vec<Digest>,
}

impl Roots {
    /// Opens the folder; a root whose note is missing was never handed out and is removed.
    pub(super) fn open(folder: PathBuf) -> Result<(Roots, HashMap<String, RootRecord>)> {
        make_private(&folder)?;
        let mut records = HashMap::new();
        for entry in read_dir(&folder)? {
            let path = entry.map_err(io_error("read", &folder))?.path();
            let note =
                fs::read(path.join("root.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match (note, path.file_name().and_then(|name| name.to_str())) {
                (Some(record), Some(key)) => drop(records.insert(key.to_owned(), record)),
                _ => remove_tree(&path)?,
            }
        }
        Ok((Roots { folder }, records))
    }

    /// Makes the folders of a root; what is there already stays.
    pub(super) fn make(&self, key: &str, record: &RootRecord, topmost: &Path) -> Result<()> {
        let home = self.home(key)?;
        make_private(&home)?;
        minik_fault::point("root.made");
        let upper = home.join("upper");
        match fs::DirBuilder::new().mode(0o755).create(&upper) {
            Ok(()) => copy_root(topmost, &upper)?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("create", &upper)(e)),
        }
        let work = home.join("work");
        make_private(&work)?;
        minik_fault::point("root.folders");
        let note = home.join("root.json");
        let bytes = serde_json::to_vec(record).map_err(|e| io_error("write", &note)(e.into()))?;
        crate::record::write_whole(&home, "root.json", &bytes).map_err(io_error("write", &note))
    }

    /// The folder of a root.
    pub(super) fn home(&self, key: &str) -> Result<PathBuf> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if key.is_empty() || key.starts_with('.') || !key.bytes().all(plain) {
            return Err(ImageError::Key(key.to_owned()));
        }
        Ok(self.folder.join(key))
    }

    /// Removes a root with everything in it.
    pub(super) fn remove(&self, key: &str) -> Result<()> {
        let removed = remove_tree(&self.home(key)?);
        minik_fault::point("root.removed");
        removed
    }
}

/// The container's `/` is the upper folder's: it gets the owner and mode that the image's has.
fn copy_root(from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::metadata(from).map_err(io_error("read", from))?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(io_error("change", to))?;
    let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
    fs::set_permissions(to, mode).map_err(io_error("change", to))
}
