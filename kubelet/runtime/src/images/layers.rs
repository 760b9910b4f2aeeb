//! The layers of a machine, each unpacked once: several stores (one a node) may share the folder.
//!
//! ```text
//!   layers/CHAIN/tree/        the layer in overlay form
//!   layers/CHAIN/layer.json   what it is and takes
//!   layers/CHAIN/refs/STORE   an empty file for each store that needs it
//!   layers/locks/             held while a layer is unpacked (by its first digits), and `gc` while layers appear or go
//!   layers/tmp.*              being unpacked or removed
//! ```
//!
//! A layer's name is its chain id: the digest of it and of everything below it, because names in a layer are resolved
//! against what lies below. It appears by one rename, complete. What was unpacked in an earlier boot and not yet on disk
//! by its end is thrown away, so that a power cut costs a pull and never leaves a damaged layer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hashing};
use super::members::Limited;
use super::unpack::{self, Usage};
use super::{ImageError, LayerLimits, Result, io_error};

/// A layer's folder name has this many digits of its chain id; the whole id stands inside and is compared. Short names let
/// more layers fit into the one page of options that older kernels take.
const NAME_DIGITS: usize = 32;
/// Layers whose names begin alike wait for each other's unpacking; 256 files are never cleaned up.
const LOCK_DIGITS: usize = 2;

/// The layers.
#[derive(Debug)]
pub(super) struct Layers {
    folder: PathBuf,
    /// This store's name among those that share the folder.
    store: String,
    boot: String,
    limits: LayerLimits,
    counter: AtomicU64,
}

/// One layer of an image: how it is named on disk, and what its archive must hash to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerId {
    /// Digest of this layer and of all below.
    pub chain: Digest,
    /// Digest of its plain archive.
    pub diff: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerRecord {
    chain: Digest,
    diff: Digest,
    bytes: u64,
    inodes: u64,
    /// The boot in which it was unpacked, until all its bytes are on disk.
    unsynced_boot: Option<String>,
}

/// An archive as it comes: compressed or not.
pub(super) struct Blob {
    /// The bytes.
    pub reader: Box<dyn Read + Send>,
    /// The digest that they must bear, if one was promised.
    pub digest: Option<Digest>,
}

impl LayerId {
    /// Names the layers of an image, from the digests of their archives, lowest first.
    pub(super) fn chain(diffs: &[Digest]) -> Vec<LayerId> {
        let mut ids: Vec<LayerId> = Vec::with_capacity(diffs.len());
        for diff in diffs {
            let chain = match ids.last() {
                None => diff.clone(),
                Some(below) => Digest::of(format!("{} {diff}", below.chain).as_bytes()),
            };
            ids.push(LayerId { chain, diff: diff.clone() });
        }
        ids
    }
}

impl Layers {
    /// Opens the folder and removes what was left half done.
    pub(super) fn open(folder: &Path, store: &str, limits: LayerLimits) -> Result<Layers> {
        make_private(folder)?;
        make_private(&folder.join("locks"))?;
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let (folder, store, counter) = (folder.to_owned(), store.to_owned(), AtomicU64::new(0));
        let layers = Layers { folder, store, boot, limits, counter };
        layers.clean()?;
        Ok(layers)
    }

    /// The folder to mount.
    pub(super) fn tree(&self, chain: &Digest) -> PathBuf {
        self.home(chain).join("tree")
    }

    /// Takes a reference to the layer if it is there.
    pub(super) fn acquire(&self, id: &LayerId) -> Result<bool> {
        let _appearing = self.lock("gc", FlockOperation::LockShared)?;
        let Some(record) = self.record(&id.chain)? else { return Ok(false) };
        if record.chain != id.chain {
            return Err(ImageError::LayerNames(id.chain.to_string(), record.chain.to_string()));
        }
        let reference = self.home(&id.chain).join("refs").join(&self.store);
        // One that is there already needs no disk that takes writes.
        if !reference.exists() {
            File::create(&reference).map_err(io_error("create", &reference))?;
        }
        Ok(true)
    }

    /// Takes a reference to the layer, unpacking it if no store has it. `below` are the image's lower layers, topmost first.
    /// The archive is only asked for when it is needed.
    pub(super) fn ensure(
        &self,
        id: &LayerId,
        below: &[PathBuf],
        blob: impl FnOnce() -> Result<Blob>,
    ) -> Result<()> {
        if self.acquire(id)? {
            return Ok(());
        }
        let _unpacking = self.lock(&id.chain.hex()[..LOCK_DIGITS], FlockOperation::LockExclusive)?;
        if self.acquire(id)? {
            return Ok(());
        }
        let temporary = self.temporary("unpack");
        let done = self.unpack(id, below, blob, &temporary);
        if done.is_err()
            && let Err(e) = remove_tree(&temporary)
        {
            tracing::warn!(error = %e, "half a layer stays behind until the next start");
        }
        done
    }

    fn unpack(
        &self,
        id: &LayerId,
        below: &[PathBuf],
        blob: impl FnOnce() -> Result<Blob>,
        temporary: &Path,
    ) -> Result<()> {
        let tree = temporary.join("tree");
        let refs = temporary.join("refs");
        make_private(&refs)?;
        // The root that the container sees, unless the archive or a layer below says otherwise.
        fs::DirBuilder::new().mode(0o755).create(&tree).map_err(io_error("create", &tree))?;
        let usage = unpack_blob(blob()?, &id.diff, &tree, below, self.limits)
            .map_err(|source| ImageError::Unpack { layer: id.diff.to_string(), source })?;
        let record = LayerRecord {
            chain: id.chain.clone(),
            diff: id.diff.clone(),
            bytes: usage.bytes,
            inodes: usage.inodes,
            unsynced_boot: Some(self.boot.clone()),
        };
        write_record(&temporary.join("layer.json"), &record)?;
        let reference = refs.join(&self.store);
        File::create(&reference).map_err(io_error("create", &reference))?;
        let home = self.home(&id.chain);
        let _appearing = self.lock("gc", FlockOperation::LockShared)?;
        fs::rename(temporary, &home).map_err(io_error("create", &home))
    }

    /// Gives this store's references back, except to `needed`; a layer that no store needs is removed. Returns how many
    /// were.
    pub(super) fn release_all_but(&self, needed: &dyn Fn(&Digest) -> bool) -> Result<usize> {
        let mut doomed = Vec::new();
        {
            let _going = self.lock("gc", FlockOperation::LockExclusive)?;
            for record in self.records()? {
                let home = self.home(&record.chain);
                if !needed(&record.chain) {
                    remove_file(&home.join("refs").join(&self.store))?;
                }
                if is_empty(&home.join("refs"))? {
                    let temporary = self.temporary("remove");
                    fs::rename(&home, &temporary).map_err(io_error("remove", &home))?;
                    doomed.push(temporary);
                }
            }
        }
        for temporary in &doomed {
            remove_tree(temporary)?;
        }
        Ok(doomed.len())
    }

    /// Puts layers onto the disk and notes it. Slow: it waits for everything that the file system has not written.
    pub(super) fn sync(&self) -> Result<()> {
        let unsynced: Vec<LayerRecord> =
            self.records()?.into_iter().filter(|record| record.unsynced_boot.is_some()).collect();
        if unsynced.is_empty() {
            return Ok(());
        }
        let folder = File::open(&self.folder).map_err(io_error("open", &self.folder))?;
        rustix::fs::syncfs(&folder).map_err(|e| io_error("sync", &self.folder)(e.into()))?;
        for mut record in unsynced {
            record.unsynced_boot = None;
            match write_record(&self.home(&record.chain).join("layer.json"), &record) {
                Ok(()) => {}
                // Removed meanwhile.
                Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What all layers take.
    pub(super) fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for record in self.records()? {
            usage.bytes += record.bytes;
            usage.inodes += record.inodes;
        }
        Ok(usage)
    }

    fn clean(&self) -> Result<()> {
        // Nobody unpacks while all their locks are free; whoever holds one of them still uses its temporary folder.
        let _going = self.lock("gc", FlockOperation::LockExclusive)?;
        for entry in read_dir(&self.folder)? {
            let path = entry.map_err(io_error("read", &self.folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(rest) = name.strip_prefix("tmp.")
                && !rest.split('.').next().is_some_and(|pid| self.is_alive(pid))
            {
                remove_tree(&path)?;
            }
        }
        for record in self.records()? {
            if record.unsynced_boot.as_ref().is_some_and(|boot| *boot != self.boot) {
                tracing::warn!(layer = %record.chain, "removing a layer that a power cut may have damaged");
                remove_tree(&self.home(&record.chain))?;
            }
        }
        Ok(())
    }

    /// Whether the process behind a temporary folder (`PID-START`) still runs.
    fn is_alive(&self, owner: &str) -> bool {
        owner.split_once('-').is_some_and(|(pid, start)| process_start(pid).as_deref() == Some(start))
    }

    fn home(&self, chain: &Digest) -> PathBuf {
        self.folder.join(&chain.hex()[..NAME_DIGITS])
    }

    fn temporary(&self, what: &str) -> PathBuf {
        let pid = std::process::id().to_string();
        let start = process_start(&pid).unwrap_or_default();
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("tmp.{pid}-{start}.{what}.{}.{number}", self.store))
    }

    fn record(&self, chain: &Digest) -> Result<Option<LayerRecord>> {
        read_record(&self.home(chain).join("layer.json"))
    }

    fn records(&self) -> Result<Vec<LayerRecord>> {
        let mut records = Vec::new();
        for entry in read_dir(&self.folder)? {
            let path = entry.map_err(io_error("read", &self.folder))?.path();
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            if name.len() == NAME_DIGITS && name.iter().all(u8::is_ascii_hexdigit) {
                records.extend(read_record(&path.join("layer.json"))?);
            }
        }
        Ok(records)
    }

    fn lock(&self, name: &str, operation: FlockOperation) -> Result<File> {
        let path = self.folder.join("locks").join(name);
        let new = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        // A lock asks for no more than an open file: a disk that takes no writes has its locks still.
        let file = File::open(&path).or_else(|_| new()).map_err(io_error("open", &path))?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(io_error("lock", &path)(e.into())),
            }
        }
    }
}

/// The kernel's start time of a process: with the pid it names the process.
fn process_start(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything; the 22nd is the start.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19).map(str::to_owned)
}

/// Unpacks one blob, checking the digest of its bytes and that of the plain archive.
fn unpack_blob(
    blob: Blob,
    diff: &Digest,
    tree: &Path,
    below: &[PathBuf],
    limits: LayerLimits,
) -> io::Result<Usage> {
    match blob.digest {
        Some(digest) => {
            let mut outer = Hashing::new(blob.reader, digest);
            let usage = unpack_plain(&mut outer, diff, tree, below, limits)?;
            outer.verify()?;
            Ok(usage)
        }
        None => {
            let mut reader = blob.reader;
            unpack_plain(&mut reader, diff, tree, below, limits)
        }
    }
}

fn unpack_plain(
    reader: &mut dyn Read,
    diff: &Digest,
    tree: &Path,
    below: &[PathBuf],
    limits: LayerLimits,
) -> io::Result<Usage> {
    let mut plain = Hashing::new(Limited::new(decompress(reader)?, limits.bytes), diff.clone());
    let usage = unpack::unpack(&mut plain, tree, below, limits)?;
    plain.verify()?;
    Ok(usage)
}

/// Undoes gzip or zstd, told by the first bytes; anything else passes as it is.
pub(super) fn decompress<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    const BUFFER_BYTES: usize = 128 * 1024;
    /// The window of `zstd --ultra -20`; larger ones would let a small layer take hundreds of MiB.
    const WINDOW_LOG: u32 = 25;
    let mut head = [0u8; 4];
    let mut length = 0;
    while length < head.len() {
        match reader.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let head = io::Cursor::new(head[..length].to_vec());
    let (gzip, zstd) = (head.get_ref().starts_with(GZIP), head.get_ref().starts_with(ZSTD));
    let whole = io::BufReader::with_capacity(BUFFER_BYTES, head.chain(reader));
    if gzip {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole)));
    }
    if zstd {
        let mut decoder = zstd::Decoder::with_buffer(whole)?;
        decoder.window_log_max(WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}

pub(super) fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

pub(super) fn read_dir(path: &Path) -> Result<fs::ReadDir> {
    fs::read_dir(path).map_err(io_error("read", path))
}

pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

fn is_empty(path: &Path) -> Result<bool> {
    Ok(read_dir(path)?.next().is_none())
}

fn read_record(path: &Path) -> Result<Option<LayerRecord>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| io_error("read", path)(e.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

fn write_record(path: &Path, record: &LayerRecord) -> Result<()> {
    let bytes = serde_json::to_vec(record).map_err(|e| io_error("write", path)(e.into()))?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes).map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("write", path))
}
