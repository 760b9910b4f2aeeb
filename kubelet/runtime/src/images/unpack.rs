//! A layer's archive into a folder: see [`super::tree`] for where things may land.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use tar::{Entry, EntryType};

use super::tree::{Attributes, Tree};
use super::{LayerLimits, members};

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
    /// Files, folders, links and nodes, those too that a later entry took away.
    pub inodes: u64,
}

/// Unpacks the archive into the empty folder `target`, over the layers `lower` (topmost first).
///
/// # Errors
/// When the archive is malformed, larger than allowed, or the disk refuses; the message names the entry.
pub(super) fn unpack(
    archive: &mut dyn Read,
    target: &Path,
    lower: &[PathBuf],
    limits: LayerLimits,
) -> io::Result<Usage> {
    let mut tree = Tree::open(target, lower, limits)?;
    members::each(archive, |entry| {
        let path = entry.path_bytes().into_owned();
        add(&mut tree, entry, &path).map_err(|e| {
            io::Error::new(e.kind(), format!("{}: {e}", Path::new(OsStr::from_bytes(&path)).display()))
        })
    })?;
    tree.finish()
}

/// Adds one entry.
fn add<R: Read>(tree: &mut Tree, entry: &mut Entry<'_, R>, path: &[u8]) -> io::Result<()> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let base = path.rsplit(|b| *b == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    if base.starts_with(WHITEOUT) && !kind.is_dir() {
        return add_marker(tree, path, base);
    }
    let attributes = attributes(entry)?;
    let place = tree.place(path)?;
    let Some(place) = place else {
        // The root itself: only a folder makes sense there.
        if kind.is_dir() {
            tree.add_folder(None, &attributes)?;
        }
        return Ok(());
    };
    match kind {
        EntryType::Directory => tree.add_folder(Some(&place), &attributes),
        EntryType::Symlink => tree.add_symlink(&place, &link_target(entry)?, &attributes),
        EntryType::Link => tree.add_hard_link(&place, &link_target(entry)?),
        EntryType::Char => tree.add_node(&place, FileType::CharacterDevice, device(entry)?, &attributes),
        EntryType::Block => tree.add_node(&place, FileType::BlockDevice, device(entry)?, &attributes),
        EntryType::Fifo => tree.add_node(&place, FileType::Fifo, 0, &attributes),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            tree.add_file(&place, &attributes, entry)
        }
        other => Err(members::invalid(format!("unsupported entry type {:?}", char::from(other.as_byte())))),
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
        return Err(members::invalid("a deletion of no name"));
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
    let id = |id: u64| u32::try_from(id).map_err(|_| members::invalid("an id above 32 bits"));
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
        return Err(members::invalid("a link without a target"));
    }
    Ok(target)
}

fn device<R: Read>(entry: &Entry<'_, R>) -> io::Result<u64> {
    let header = entry.header();
    let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    Ok(rustix::fs::makedev(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an entry is; the string is a link's target.
    #[derive(Clone, Debug)]
    enum Kind {
        Folder,
        File,
        Symlink(String),
        Link(String),
        Whiteout,
        Opaque,
    }

    /// Few names, so that entries meet: most of those that could do harm, and some of any form.
    fn path() -> impl Strategy<Value = String> {
        let likely = vec![
            "link",
            "a",
            "link/a",
            "link/link/a",
            "a/b",
            "b/link",
            "b/link/a",
            "../a",
            "a/../../a",
            "link/b/a",
        ];
        let part = prop::sample::select(vec!["a", "b", "link", "..", ".", "", "outside"]);
        let any = (any::<bool>(), prop::collection::vec(part, 1..5))
            .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")));
        prop_oneof![4 => prop::sample::select(likely).prop_map(str::to_owned), 1 => any]
    }

    fn target() -> impl Strategy<Value = String> {
        let likely =
            vec!["..", "../..", "../../outside", "../a", "/", "a", "b/link", "../lower", "../lower/a"];
        prop_oneof![4 => prop::sample::select(likely).prop_map(str::to_owned), 1 => path()]
    }

    fn entry() -> impl Strategy<Value = (String, Kind)> {
        let kind = prop_oneof![
            Just(Kind::Folder),
            Just(Kind::File),
            target().prop_map(Kind::Symlink),
            prop_oneof![path(), target()].prop_map(Kind::Link),
            Just(Kind::Whiteout),
            Just(Kind::Opaque),
        ];
        (path(), kind)
    }

    fn archive(entries: &[(String, Kind)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind) in entries {
            let mut header = tar::Header::new_gnu();
            let (name, entry_type, target) = match kind {
                Kind::Folder => (path.clone(), EntryType::Directory, ""),
                Kind::File => (path.clone(), EntryType::Regular, ""),
                Kind::Symlink(target) => (path.clone(), EntryType::Symlink, target.as_str()),
                Kind::Link(target) => (path.clone(), EntryType::Link, target.as_str()),
                Kind::Whiteout => (format!("{path}/.wh.a"), EntryType::Regular, ""),
                Kind::Opaque => (format!("{path}/.wh..wh..opq"), EntryType::Regular, ""),
            };
            header.set_entry_type(entry_type);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            let fields = header.as_old_mut();
            fields.name[..name.len()].copy_from_slice(name.as_bytes());
            fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// Everything below a folder but `inside`, with the time of the last change.
    fn listing(folder: &Path, inside: &Path, found: &mut Vec<(PathBuf, std::time::SystemTime, u64)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if path != inside {
                found.push((
                    path.clone(),
                    metadata.modified().unwrap(),
                    std::os::unix::fs::MetadataExt::nlink(&metadata),
                ));
                if metadata.is_dir() {
                    listing(&path, inside, found);
                }
            }
        }
        found.sort();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Whatever an archive holds, over whatever lies below: it may be refused, but nothing outside its folder, and
        /// nothing of the layers below, is made, changed or given another name.
        #[test]
        fn nothing_outside_is_touched(
            below in prop::collection::vec(entry(), 0..12),
            above in prop::collection::vec(entry(), 0..12),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (lower, upper) = (folder.path().join("x/lower"), folder.path().join("x/upper"));
            std::fs::create_dir_all(folder.path().join("outside")).unwrap();
            std::fs::create_dir_all(&lower).unwrap();
            std::fs::write(folder.path().join("outside/a"), "secret").unwrap();
            std::fs::write(folder.path().join("x/a"), "secret").unwrap();
            let mut before = Vec::new();
            listing(folder.path(), &lower, &mut before);
            // Refusing is allowed, and leaves a part that is as good a lower layer for the second archive.
            unpack(&mut &archive(&below)[..], &lower, &[], LayerLimits::default()).ok();
            let mut after = Vec::new();
            listing(folder.path(), &lower, &mut after);
            prop_assert_eq!(&before, &after);

            std::fs::create_dir(&upper).unwrap();
            let mut before = Vec::new();
            listing(folder.path(), &upper, &mut before);
            let lowers = std::slice::from_ref(&lower);
            unpack(&mut &archive(&above)[..], &upper, lowers, LayerLimits::default()).ok();
            let mut after = Vec::new();
            listing(folder.path(), &upper, &mut after);
            prop_assert_eq!(&before, &after);
        }
    }

    #[test]
    fn fractions_of_seconds_are_read() {
        assert_eq!(
            (nanos_of("1700000000.25"), nanos_of("17"), nanos_of("1.000000001999")),
            (250_000_000, 0, 1)
        );
    }
}
