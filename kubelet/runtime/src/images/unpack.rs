//! A layer's archive into a folder: see [`super::tree`] for where things may land.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use tar::{Archive, Entry, EntryType};

use super::tree::{Attributes, Tree};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of an older union file system, in old images.
const OTHER_MARKER: &[u8] = b".wh..wh.";
const XATTR: &str = "SCHILY.xattr.";

/// What a layer takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, folders, links and nodes.
    pub inodes: u64,
}

/// Unpacks the archive into the empty folder `target`, over the layers `lower` (topmost first).
///
/// # Errors
/// When the archive is malformed or the disk refuses; the message names the entry.
pub(super) fn unpack(archive: &mut dyn Read, target: &Path, lower: &[PathBuf]) -> io::Result<Usage> {
    let mut tree = Tree::open(target, lower)?;
    let mut usage = Usage::default();
    let mut archive = Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        let bytes = add(&mut tree, &mut entry, &path).map_err(|e| {
            io::Error::new(e.kind(), format!("{}: {e}", Path::new(OsStr::from_bytes(&path)).display()))
        })?;
        usage.bytes += bytes;
        usage.inodes += 1;
    }
    tree.finish()?;
    Ok(usage)
}

/// Adds one entry; returns the bytes of its file.
fn add<R: Read>(tree: &mut Tree, entry: &mut Entry<'_, R>, path: &[u8]) -> io::Result<u64> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(0);
    }
    let base = path.rsplit(|b| *b == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    if base.starts_with(WHITEOUT) && !kind.is_dir() {
        return add_marker(tree, path, base).map(|()| 0);
    }
    let attributes = attributes(entry)?;
    let place = tree.place(path)?;
    let Some(place) = place else {
        // The root itself: only a folder makes sense there.
        if kind.is_dir() {
            tree.add_folder(None, &attributes)?;
        }
        return Ok(0);
    };
    match kind {
        EntryType::Directory => tree.add_folder(Some(&place), &attributes).map(|()| 0),
        EntryType::Symlink => tree.add_symlink(&place, &link_target(entry)?, &attributes).map(|()| 0),
        EntryType::Link => tree.add_hard_link(&place, &link_target(entry)?).map(|()| 0),
        EntryType::Char => {
            tree.add_node(&place, FileType::CharacterDevice, device(entry)?, &attributes).map(|()| 0)
        }
        EntryType::Block => {
            tree.add_node(&place, FileType::BlockDevice, device(entry)?, &attributes).map(|()| 0)
        }
        EntryType::Fifo => tree.add_node(&place, FileType::Fifo, 0, &attributes).map(|()| 0),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            tree.add_file(&place, &attributes, entry)
        }
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unsupported entry type {:?}", char::from(other.as_byte())),
        )),
    }
}

/// A deletion (`.wh.NAME`) or the mark that a folder starts anew (`.wh..wh..opq`).
fn add_marker(tree: &mut Tree, path: &[u8], base: &[u8]) -> io::Result<()> {
    let folder = &path[..path.len() - base.len()];
    if base == OPAQUE {
        return tree.opaque(folder);
    }
    if base.starts_with(OTHER_MARKER) {
        return Ok(());
    }
    let name = &base[WHITEOUT.len()..];
    if matches!(name, b"" | b"." | b"..") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a deletion of no name"));
    }
    match tree.place(&[folder, name].concat())? {
        Some(place) => tree.whiteout(&place),
        None => Ok(()),
    }
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Attributes> {
    let mut modified_nanos = 0;
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            if let Some(name) = key.strip_prefix(XATTR) {
                xattrs.push((OsString::from(name), extension.value_bytes().to_vec()));
            } else if key == "mtime" {
                modified_nanos = extension.value().map(nanos_of).unwrap_or(0);
            }
        }
    }
    let header = entry.header();
    let id = |id: u64| {
        u32::try_from(id).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "an id above 32 bits"))
    };
    Ok(Attributes {
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
        mode: header.mode()? & 0o7777,
        modified_seconds: i64::try_from(header.mtime()?).unwrap_or(0),
        modified_nanos,
        xattrs,
    })
}

/// The nanoseconds of a decimal time such as `1700000000.25`.
fn nanos_of(time: &str) -> u32 {
    let Some((_, fraction)) = time.split_once('.') else { return 0 };
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    digits.parse().unwrap_or(0)
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> io::Result<Vec<u8>> {
    let target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
    if target.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a link without a target"));
    }
    Ok(target)
}

fn device<R: Read>(entry: &Entry<'_, R>) -> io::Result<u64> {
    let header = entry.header();
    let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    Ok(rustix::fs::makedev(major, minor))
}
