//! The tree of a layer being unpacked, seen merged with the layers below it.
//!
//! A layer becomes one folder in the kernel's overlay form: a deleted name is a character device 0:0, a folder that hides
//! what lies below it bears `trusted.overlay.opaque`. Names in a layer are resolved here, component by component, against
//! the merged view: a symbolic link never leads out of the root, and whatever is created is created below the layer's own
//! folder handle (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), so that no archive can reach outside.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use super::LayerLimits;
use super::members::invalid;
use super::unpack::Usage;

/// A path has at most this many symbolic links, as in the kernel.
const LINK_LIMIT: usize = 40;
/// The largest value of an extended attribute that Linux takes.
const XATTR_BYTES: usize = 64 * 1024;
const OPAQUE: &str = "trusted.overlay.opaque";

/// A path below the root without symbolic links, `.` or `..` in it.
type Canonical = PathBuf;

/// What lies at a name.
enum Found {
    Folder,
    Link(OsString),
    Other,
    /// Deleted by this layer.
    Whiteout,
}

/// The tree.
pub(super) struct Tree {
    top: OwnedFd,
    lower: Vec<OwnedFd>,
    /// Folders that exist in the top layer.
    known: BTreeMap<Canonical, ()>,
    /// Which lower layers take part in a folder, topmost first.
    below: BTreeMap<Canonical, Rc<[usize]>>,
    /// The folder used last, since archives go folder by folder.
    last: Option<(Canonical, Rc<OwnedFd>)>,
    /// Times of folders, set when nothing is created in them any more.
    times: BTreeMap<Canonical, Timespec>,
    limits: LayerLimits,
    /// What was made so far, also of what was removed again.
    usage: Usage,
    path_bytes: u64,
}

/// Who owns a file and what may be done with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub modified_seconds: i64,
    pub modified_nanos: u32,
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

/// A name in an existing folder of the top layer.
pub(super) struct Place {
    folder: Rc<OwnedFd>,
    path: Canonical,
}

impl Place {
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// A path of the kernel's own that leads exactly here, for calls that take no folder handle.
    fn by_handle(&self) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.folder.as_raw_fd())).join(self.name())
    }
}

impl Tree {
    /// A tree in the empty folder `top` over the layers `lower`, topmost first. The root takes the attributes of the
    /// root below it.
    pub(super) fn open(top: &Path, lower: &[PathBuf], limits: LayerLimits) -> io::Result<Tree> {
        let lower: Vec<OwnedFd> = lower.iter().map(|path| open_root(path)).collect::<io::Result<_>>()?;
        let all: Rc<[usize]> = (0..lower.len()).collect();
        let top = open_root(top)?;
        if let Some(below) = lower.first() {
            copy_folder_attributes(below, &top)?;
        }
        Ok(Tree {
            top,
            lower,
            known: BTreeMap::from([(PathBuf::new(), ())]),
            below: BTreeMap::from([(PathBuf::new(), all)]),
            last: None,
            times: BTreeMap::new(),
            limits,
            usage: Usage::default(),
            path_bytes: 0,
        })
    }

    /// Counts a name before it is made.
    fn count(&mut self) -> io::Result<()> {
        self.usage.inodes += 1;
        if self.usage.inodes > self.limits.entries {
            return Err(invalid(format!(
                "the layer has more than {} files and folders",
                self.limits.entries
            )));
        }
        Ok(())
    }

    /// Counts a folder, whose path is kept, before it is made.
    fn count_folder(&mut self, place: &Place) -> io::Result<()> {
        self.path_bytes += place.path.as_os_str().len() as u64;
        if self.path_bytes > self.limits.path_bytes {
            return Err(invalid("the paths of the layer's folders are too long"));
        }
        self.count()
    }

    /// The place that a path of the archive means. Folders on the way are made, like those below where they exist there.
    /// `None` is the root itself.
    pub(super) fn place(&mut self, path: &[u8]) -> io::Result<Option<Place>> {
        let (parent, name) = split_name(path);
        if name.is_empty() {
            return Ok(None);
        }
        if name == b".." {
            return Err(invalid("a path that ends in .."));
        }
        let parent = self.resolve_folder(parent)?;
        let folder = self.folder(&parent)?;
        Ok(Some(Place { folder, path: parent.join(OsStr::from_bytes(name)) }))
    }

    /// Makes room for something new at a place: what this layer put there before is removed. Returns whether the layer
    /// had deleted the name, so that a folder made there must hide what lies below.
    fn clear(&mut self, place: &Place) -> io::Result<bool> {
        match self.in_top(place)? {
            None => Ok(false),
            Some(Found::Folder) => {
                // Nothing in the tree is a symbolic link on the way, and the standard library follows none further down.
                std::fs::remove_dir_all(place.by_handle())?;
                self.forget(&place.path);
                Ok(true)
            }
            Some(found) => {
                rustix::fs::unlinkat(&*place.folder, place.name(), AtFlags::empty())?;
                Ok(matches!(found, Found::Whiteout))
            }
        }
    }

    /// Deletes a name of the layers below. What this layer itself has there stays, but a folder then hides what is below.
    pub(super) fn whiteout(&mut self, place: &Place) -> io::Result<()> {
        match self.in_top(place)? {
            Some(Found::Folder) => self.hide_below(place),
            Some(_) => Ok(()),
            None => {
                self.count()?;
                let kind = FileType::CharacterDevice;
                Ok(rustix::fs::mknodat(&*place.folder, place.name(), kind, Mode::empty(), 0)?)
            }
        }
    }

    /// Makes the folder at a path hide whatever the layers below have in it.
    pub(super) fn opaque(&mut self, path: &[u8]) -> io::Result<()> {
        let path = self.resolve_folder(path)?;
        if path.as_os_str().is_empty() {
            // A root cannot be opaque in the kernel's eyes; its names are deleted one by one.
            return self.hide_root();
        }
        let parent = self.folder(path.parent().unwrap_or(Path::new("")))?;
        self.hide_below(&Place { folder: parent, path })
    }

    fn hide_root(&mut self) -> io::Result<()> {
        let mut names = HashSet::new();
        for layer in &self.lower {
            let listing = rustix::fs::openat(
                layer,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            for entry in rustix::fs::Dir::read_from(&listing)? {
                let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
                if name != "." && name != ".." {
                    names.insert(name);
                }
            }
        }
        let folder = self.folder(Path::new(""))?;
        for name in names {
            self.whiteout(&Place { folder: folder.clone(), path: PathBuf::from(name) })?;
        }
        Ok(())
    }

    fn hide_below(&mut self, place: &Place) -> io::Result<()> {
        rustix::fs::lsetxattr(place.by_handle(), OPAQUE, b"y", XattrFlags::empty())?;
        forget_below(&mut self.below, &place.path);
        self.below.insert(place.path.clone(), Rc::from([]));
        Ok(())
    }

    /// Makes a folder, or changes the one that is there. Without a place it is the root.
    pub(super) fn add_folder(&mut self, place: Option<&Place>, attributes: &Attributes) -> io::Result<()> {
        let Some(place) = place else {
            let root = self.folder(Path::new(""))?;
            return apply(&Place { folder: root, path: PathBuf::from(".") }, attributes);
        };
        if !matches!(self.in_top(place)?, Some(Found::Folder)) {
            let hides = self.clear(place)?;
            self.count_folder(place)?;
            rustix::fs::mkdirat(&*place.folder, place.name(), Mode::RWXU)?;
            self.known.insert(place.path.clone(), ());
            if hides {
                self.hide_below(place)?;
            }
        }
        apply(place, attributes)?;
        self.times.insert(place.path.clone(), attributes.modified());
        Ok(())
    }

    /// Makes a regular file with the bytes of `content`.
    pub(super) fn add_file(
        &mut self,
        place: &Place,
        attributes: &Attributes,
        content: &mut dyn io::Read,
    ) -> io::Result<()> {
        self.clear(place)?;
        self.count()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*place.folder, place.name(), flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = std::fs::File::from(file);
        let left = self.limits.bytes - self.usage.bytes;
        self.usage.bytes += io::copy(&mut io::Read::take(&mut *content, left), &mut file)?;
        if self.usage.bytes == self.limits.bytes && content.read(&mut [0])? > 0 {
            return Err(invalid(format!("the layer's files have more than {} bytes", self.limits.bytes)));
        }
        apply(place, attributes)
    }

    /// Makes a symbolic link.
    pub(super) fn add_symlink(
        &mut self,
        place: &Place,
        target: &[u8],
        attributes: &Attributes,
    ) -> io::Result<()> {
        self.clear(place)?;
        self.count()?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &*place.folder, place.name())?;
        apply_to_link(place, attributes)
    }

    /// Makes a second name for a file of this layer, or of one below, which is copied up then.
    pub(super) fn add_hard_link(&mut self, place: &Place, target: &[u8]) -> io::Result<()> {
        let target = self.place(target)?.ok_or_else(|| invalid("a hard link to the root"))?;
        if target.path == place.path {
            return Ok(());
        }
        match self.in_top(&target)? {
            Some(Found::Folder | Found::Whiteout) => return Err(invalid("a hard link to what is no file")),
            Some(_) => {}
            None => self.copy_up(&target)?,
        }
        self.clear(place)?;
        self.count()?;
        rustix::fs::linkat(&*target.folder, target.name(), &*place.folder, place.name(), AtFlags::empty())?;
        Ok(())
    }

    /// Makes a device or a pipe.
    pub(super) fn add_node(
        &mut self,
        place: &Place,
        kind: FileType,
        device: u64,
        attributes: &Attributes,
    ) -> io::Result<()> {
        if kind == FileType::CharacterDevice && device == 0 {
            return Err(invalid("a character device 0:0, which would delete a file"));
        }
        self.clear(place)?;
        self.count()?;
        rustix::fs::mknodat(&*place.folder, place.name(), kind, Mode::empty(), device)?;
        apply(place, attributes)
    }

    /// Sets the folders' times. Nothing is added afterwards. Gives what was made.
    pub(super) fn finish(mut self) -> io::Result<Usage> {
        for (path, modified) in std::mem::take(&mut self.times) {
            let Some(name) = path.file_name() else { continue };
            let folder = match self.folder(path.parent().unwrap_or(Path::new(""))) {
                Ok(folder) => folder,
                // Removed again by a later entry.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            match rustix::fs::utimensat(&*folder, name, &times(modified), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.usage)
    }

    fn forget(&mut self, path: &Path) {
        forget_below(&mut self.known, path);
        forget_below(&mut self.below, path);
        self.last = None;
    }

    /// Follows a path to a folder in the merged view and makes it, and all above it, exist in the top layer.
    fn resolve_folder(&mut self, path: &[u8]) -> io::Result<Canonical> {
        let mut todo: VecDeque<OsString> = components(path);
        let mut current = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                current.pop();
                continue;
            }
            let next = current.join(&name);
            if self.known.contains_key(&next) {
                current = next;
                continue;
            }
            let place = Place { folder: self.folder(&current)?, path: next };
            let found = match self.in_top(&place)? {
                Some(found) => Some(found),
                None => self.in_lower(&place.path)?.map(|(_, found)| found),
            };
            match found {
                Some(Found::Link(target)) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(Errno::LOOP.into());
                    }
                    if target.as_bytes().first() == Some(&b'/') {
                        current = PathBuf::new();
                    }
                    for component in components(target.as_bytes()).into_iter().rev() {
                        todo.push_front(component);
                    }
                }
                Some(Found::Other) => return Err(Errno::NOTDIR.into()),
                Some(Found::Folder | Found::Whiteout) | None => {
                    self.make_folder(&place)?;
                    current = place.path;
                }
            }
        }
        Ok(current)
    }

    /// Makes a folder that the archive did not name itself: like the one below, or an ordinary one.
    fn make_folder(&mut self, place: &Place) -> io::Result<()> {
        match self.in_top(place)? {
            Some(Found::Folder) => {}
            Some(_) => {
                let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                self.add_folder(Some(place), &attributes)?;
            }
            None => {
                self.count_folder(place)?;
                rustix::fs::mkdirat(&*place.folder, place.name(), Mode::from_raw_mode(0o755))?;
                rustix::fs::chmodat(
                    &*place.folder,
                    place.name(),
                    Mode::from_raw_mode(0o755),
                    AtFlags::empty(),
                )?;
                if let Some((layer, Found::Folder)) = self.in_lower(&place.path)? {
                    let from = beneath(&self.lower[layer], &place.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    let to = rustix::fs::openat(
                        &*place.folder,
                        place.name(),
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::empty(),
                    )?;
                    let stat = copy_folder_attributes(&from, &to)?;
                    let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
                    self.times.insert(place.path.clone(), modified);
                }
            }
        }
        self.known.insert(place.path.clone(), ());
        Ok(())
    }

    fn copy_up(&mut self, place: &Place) -> io::Result<()> {
        let Some((layer, Found::Other)) = self.in_lower(&place.path)? else {
            return Err(Errno::NOENT.into());
        };
        let from =
            beneath(&self.lower[layer], &place.path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(invalid("a hard link to what is no file"));
        }
        let attributes = Attributes::of(&from, &stat)?;
        self.add_file(place, &attributes, &mut std::fs::File::from(from))
    }

    /// A handle on a folder of the top layer.
    fn folder(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(folder.clone());
        }
        let folder = Rc::new(beneath(&self.top, path, OFlags::PATH | OFlags::DIRECTORY)?);
        self.last = Some((path.to_owned(), folder.clone()));
        Ok(folder)
    }

    fn in_top(&self, place: &Place) -> io::Result<Option<Found>> {
        look(&place.folder, place.name())
    }

    /// What the merged lower layers have at a path, and which of them.
    fn in_lower(&mut self, path: &Path) -> io::Result<Option<(usize, Found)>> {
        let Some(name) = path.file_name() else { return Ok(None) };
        let parent = path.parent().unwrap_or(Path::new(""));
        for layer in self.layers_below(parent)?.iter() {
            let folder = beneath(&self.lower[*layer], parent, OFlags::PATH | OFlags::DIRECTORY)?;
            match look(&folder, name)? {
                None => {}
                Some(Found::Whiteout) => return Ok(None),
                Some(found) => return Ok(Some((*layer, found))),
            }
        }
        Ok(None)
    }

    /// Which lower layers take part in a folder, topmost first.
    fn layers_below(&mut self, path: &Path) -> io::Result<Rc<[usize]>> {
        if let Some(layers) = self.below.get(path) {
            return Ok(layers.clone());
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Rc::from([])) };
        let mut layers = Vec::new();
        for layer in self.layers_below(parent)?.iter() {
            let folder = beneath(&self.lower[*layer], parent, OFlags::PATH | OFlags::DIRECTORY)?;
            match look(&folder, name)? {
                None => {}
                Some(Found::Folder) => {
                    layers.push(*layer);
                    if is_opaque(&folder, name)? {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        let layers: Rc<[usize]> = layers.into();
        self.below.insert(path.to_owned(), layers.clone());
        Ok(layers)
    }
}

impl Attributes {
    fn modified(&self) -> Timespec {
        Timespec { tv_sec: self.modified_seconds, tv_nsec: self.modified_nanos.into() }
    }

    fn of(file: &OwnedFd, stat: &Stat) -> io::Result<Attributes> {
        Ok(Attributes {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            modified_seconds: stat.st_mtime,
            modified_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            xattrs: xattrs(file)?,
        })
    }
}

/// Removes a path and all below it. Paths are in order by their components, so these stand together.
fn forget_below<T>(map: &mut BTreeMap<Canonical, T>, path: &Path) {
    let gone: Vec<_> = map
        .range(path.to_owned()..)
        .map(|(known, _)| known)
        .take_while(|known| known.starts_with(path))
        .cloned()
        .collect();
    for path in &gone {
        map.remove(path);
    }
}

/// The parent of a path of the archive, and its last name.
fn split_name(path: &[u8]) -> (&[u8], &[u8]) {
    let mut path = path;
    loop {
        if let Some(rest) = path.strip_suffix(b"/") {
            path = rest;
        } else if path == b"." {
            path = b"";
        } else if let Some(rest) = path.strip_suffix(b"/.") {
            path = rest;
        } else {
            break;
        }
    }
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn components(path: &[u8]) -> VecDeque<OsString> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsStr::from_bytes(part).to_owned())
        .collect()
}

fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a canonical path below a folder.
fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere on the machine raced with the kernel's check.
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

fn look(folder: &OwnedFd, name: &OsStr) -> io::Result<Option<Found>> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Folder,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            Found::Link(OsString::from_vec(target.into_bytes()))
        }
        FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
        _ => Found::Other,
    }))
}

fn is_opaque(folder: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let path = Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    let mut value = [0u8; 2];
    match rustix::fs::lgetxattr(path, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value.get(..length) == Some(&b"y"[..])),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn xattrs(file: &OwnedFd) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = vec![0u8; XATTR_BYTES];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        if is_overlays_own(name) {
            continue;
        }
        let mut value = vec![0u8; XATTR_BYTES];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// Attributes that mean something to the overlay itself; no image may bring them.
fn is_overlays_own(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"trusted.overlay.") || name.as_bytes().starts_with(b"user.overlay.")
}

fn copy_folder_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<Stat> {
    let stat = rustix::fs::fstat(from)?;
    let attributes = Attributes::of(from, &stat)?;
    rustix::fs::fchown(to, Some(uid(attributes.uid)), Some(gid(attributes.gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(attributes.mode))?;
    for (name, value) in &attributes.xattrs {
        rustix::fs::fsetxattr(to, name.as_os_str(), value, XattrFlags::empty())?;
    }
    Ok(stat)
}

fn uid(raw: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(raw)
}

fn gid(raw: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(raw)
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ }, last_modification: modified }
}

/// Owner before mode, because a change of owner takes the set-user-id bit away; attributes after both, because it takes
/// capabilities away too.
fn apply(place: &Place, attributes: &Attributes) -> io::Result<()> {
    apply_owner(place, attributes)?;
    rustix::fs::chmodat(
        &*place.folder,
        place.name_or_dot(),
        Mode::from_raw_mode(attributes.mode),
        AtFlags::empty(),
    )?;
    apply_xattrs(place, attributes)?;
    Ok(rustix::fs::utimensat(
        &*place.folder,
        place.name_or_dot(),
        &times(attributes.modified()),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn apply_to_link(place: &Place, attributes: &Attributes) -> io::Result<()> {
    apply_owner(place, attributes)?;
    apply_xattrs(place, attributes)?;
    let modified = times(attributes.modified());
    Ok(rustix::fs::utimensat(&*place.folder, place.name(), &modified, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn apply_owner(place: &Place, attributes: &Attributes) -> io::Result<()> {
    Ok(rustix::fs::chownat(
        &*place.folder,
        place.name_or_dot(),
        Some(uid(attributes.uid)),
        Some(gid(attributes.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn apply_xattrs(place: &Place, attributes: &Attributes) -> io::Result<()> {
    for (name, value) in &attributes.xattrs {
        if is_overlays_own(name) {
            continue;
        }
        match rustix::fs::lsetxattr(place.by_handle(), name.as_os_str(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // The file system, or the file's kind, has no such attributes; capabilities must not be lost silently.
            Err(Errno::NOTSUP | Errno::PERM) if name != "security.capability" => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

impl Place {
    fn name_or_dot(&self) -> &OsStr {
        if self.path.as_os_str() == "." { OsStr::new(".") } else { self.name() }
    }
}
