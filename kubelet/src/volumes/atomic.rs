//! Files that change all at once: a folder of real files, `..data` pointing to it, and one link per name.
//!
//! ```text
//!  volume/NAME ─> ..data/NAME     volume/..data ─> ..2026_01_02_…     volume/..2026_01_02_…/NAME
//! ```
//! A reader sees either all old files or all new ones: the one step that changes anything is the renaming of `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, Entry>;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its content.
    pub data: Vec<u8>,
    /// Its mode.
    pub mode: u32,
    /// Its owner, if not root.
    pub owner: Option<u32>,
}

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Makes the folder's files these. Gives whether anything changed.
///
/// # Errors
/// When a path leads out of the folder or a file cannot be written.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    for path in payload.keys() {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.starts_with("..") || path.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is no path inside")));
        }
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && is_same(&dir.join(old), payload, group)
    {
        // Whoever made it so may have been killed before it had done the rest.
        finish(dir, payload, old)?;
        return Ok(false);
    }
    let new = fresh_dir(dir)?;
    minik_fault::point("kubelet.payload.folder");
    write_files(&dir.join(&new), payload, group)?;
    minik_fault::point("kubelet.payload.files");
    let next = dir.join(DATA_NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&new, &next)?;
    minik_fault::point("kubelet.payload.next");
    fs::rename(&next, dir.join(DATA))?;
    minik_fault::point("kubelet.payload.changed");
    finish(dir, payload, &new)?;
    Ok(true)
}

/// The links to the files in `current`, and nothing of what was before it.
fn finish(dir: &Path, payload: &Payload, current: &Path) -> io::Result<()> {
    links(dir, payload)?;
    minik_fault::point("kubelet.payload.links");
    for found in fs::read_dir(dir)? {
        let found = found?;
        let name = found.file_name();
        let is_generation = name.to_string_lossy().starts_with("..") && found.file_type()?.is_dir();
        if is_generation && Path::new(&name) != current {
            fs::remove_dir_all(found.path())?;
        }
    }
    Ok(())
}

fn fresh_dir(dir: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now();
    for n in 0..1000u32 {
        let name = format!("..{}.{n}", now.strftime("%Y_%m_%d_%H_%M_%S.%f"));
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => {
                fs::set_permissions(dir.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no name is free"))
}

fn write_files(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    for (path, entry) in payload {
        let file = dir.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, &entry.data)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(entry.mode))?;
        if entry.owner.is_some() || group.is_some() {
            chown(&file, entry.owner, group)?;
            // A change of owner may clear bits.
            fs::set_permissions(&file, fs::Permissions::from_mode(mode_for(entry.mode, group)))?;
        }
    }
    Ok(())
}

/// The group of a Pod's files may read them.
fn mode_for(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

/// One link for each first part of a path; links that lead nowhere any more go.
fn links(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for found in fs::read_dir(dir)? {
        let found = found?;
        let name = found.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) && found.file_type()?.is_symlink() {
            fs::remove_file(found.path())?;
        }
    }
    Ok(())
}

fn is_same(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let same = |(path, entry): (&String, &Entry)| {
        let file = dir.join(path);
        fs::read(&file).is_ok_and(|data| data == entry.data)
            && fs::metadata(&file)
                .is_ok_and(|meta| meta.permissions().mode() & 0o7777 == mode_for(entry.mode, group))
    };
    payload.iter().all(same) && count(dir).is_ok_and(|count| count == payload.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut files = 0;
    for found in fs::read_dir(dir)? {
        let found = found?;
        files += if found.file_type()?.is_dir() { count(&found.path())? } else { 1 };
    }
    Ok(files)
}
