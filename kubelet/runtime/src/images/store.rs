//! The store: what images there are, and the ways in and out.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minik_net::NetNs;
use serde::{Deserialize, Serialize};

use super::archive::{Archive, Found};
use super::digest::Digest;
use super::layers::{Blob, LayerId, Layers, make_private};
use super::manifest::{self, Platform};
use super::pull;
use super::reference::{Reference, Version};
use super::registry::Credentials;
use super::roots::{RootRecord, Roots};
use super::unpack::Usage;
use super::{ImageConfig, ImageError, ImageRecord, Result, Rootfs, StoreConfig, io_error};

const INDEX: &str = "images.json";

/// The images and container roots of one runtime.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    root: PathBuf,
    layers: Layers,
    roots: Roots,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    images: Vec<StoredImage>,
    roots: HashMap<String, RootRecord>,
    /// Layers of images on their way in, which no record names yet.
    arriving: HashMap<Digest, usize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredImage {
    id: Digest,
    tags: BTreeSet<String>,
    digests: BTreeSet<String>,
    size_bytes: u64,
    #[serde(default)]
    pinned: bool,
    /// Lowest first.
    layers: Vec<LayerId>,
    config: ImageConfig,
}

#[derive(Default, Serialize, Deserialize)]
struct Index {
    version: u32,
    images: Vec<StoredImage>,
}

/// A whole image whose layers are to be brought in.
pub(super) struct Arrival {
    /// The bytes of its config, checked against the manifest's digest.
    pub config: Vec<u8>,
    /// Bytes in transfer.
    pub size_bytes: u64,
    /// Names to give it.
    pub tags: Vec<Reference>,
    /// Digests to give it.
    pub digests: Vec<Reference>,
}

impl Store {
    /// Opens the store and clears what a crash left unfinished.
    ///
    /// # Errors
    /// When its folders cannot be made or read.
    pub fn open(config: StoreConfig) -> Result<Store> {
        let root = config.root.clone();
        make_private(&root)?;
        make_private(&root.join("configs"))?;
        make_private(&root.join("empty"))?;
        let layers_folder = config.layers.clone().unwrap_or_else(|| root.join("layers"));
        let layers = Layers::open(&layers_folder, &store_id(&root)?, config.limits)?;
        let (roots, root_records) = Roots::open(root.join("roots"))?;
        let mut images = read_index(&root)?;
        let known = images.len();
        images.retain(|image| {
            // What cannot be looked at is not missing.
            let complete = image.layers.iter().all(|layer| layers.acquire(layer).unwrap_or(true));
            if !complete {
                tracing::warn!(image = %image.id, tags = ?image.tags, "forgetting an image with missing layers");
            }
            complete
        });
        let state = State { images, roots: root_records, arriving: HashMap::new() };
        let inner = Arc::new(Inner { root, layers, roots, state: Mutex::new(state) });
        // A disk that is full or closed keeps nobody from running: all of this is done at the next start as well.
        let changed = inner.state().images.len() != known;
        let tidied = if changed { inner.write_index(&inner.state()) } else { Ok(()) };
        if let Err(error) = tidied.and_then(|()| inner.collect()) {
            tracing::warn!(%error, "cannot clear what no image needs");
        }
        Ok(Store { config, inner })
    }

    /// Where it lives.
    pub fn root(&self) -> &Path {
        &self.config.root
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<ImageRecord> {
        let mut images: Vec<ImageRecord> =
            self.inner.state().images.iter().map(StoredImage::record).collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        images
    }

    /// The image of this id or reference (any form: short name, tag, digest, id).
    pub async fn get(&self, reference: &str) -> Option<ImageRecord> {
        let state = self.inner.state();
        state.find(reference).map(|at| state.images[at].record())
    }

    /// How the image is run.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn image_config(&self, id: &str) -> Result<ImageConfig> {
        let state = self.inner.state();
        let at = state.find(id).ok_or_else(|| ImageError::NotFound(id.to_owned()))?;
        Ok(state.images[at].config.clone())
    }

    /// The bytes of an image's config document.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn config_document(&self, id: &str) -> Result<Vec<u8>> {
        let image = self.get(id).await.ok_or_else(|| ImageError::NotFound(id.to_owned()))?;
        let path = self.inner.config_path(&image.id);
        tokio::fs::read(&path).await.map_err(io_error("read", &path))
    }

    /// Takes the images of a Docker or OCI archive, plain or compressed. Returns the names under which they are known now;
    /// an image without a name goes by its id.
    ///
    /// # Errors
    /// When it is no such archive, or damaged; images of it that were complete stay.
    pub async fn load(&self, stream: impl Read + Send + 'static) -> Result<Vec<String>> {
        let inner = self.inner.clone();
        let names = blocking(move || {
            let archive = Archive::spool(stream, &inner.root)?;
            let mut names = Vec::new();
            for found in archive.images(&Platform::host())? {
                names.extend(inner.load_image(&archive, found)?);
            }
            if names.is_empty() {
                return Err(ImageError::Archive("it has no image for this machine".into()));
            }
            Ok(names)
        })
        .await?;
        self.sync_in_background();
        Ok(names)
    }

    /// Pulls an image from its registry, unless all of it is here already, and returns its id.
    ///
    /// # Errors
    /// In the words that container tools use: see [`ImageError::Pull`].
    pub async fn pull(&self, name: &str, credentials: Credentials) -> Result<String> {
        let image: Reference =
            name.parse().map_err(|source| ImageError::Reference { name: name.to_owned(), source })?;
        let (inner, config) = (self.inner.clone(), self.config.clone());
        let id = blocking(move || match &config.registry_netns {
            Some(path) => NetNs::open(path)?.run(|| pull::pull(&inner, &config, &image, credentials))?,
            None => pull::pull(&inner, &config, &image, credentials),
        })
        .await?;
        self.sync_in_background();
        Ok(id)
    }

    /// Removes an image with all its names. No error when there is none. Roots over it stay usable.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let (inner, reference) = (self.inner.clone(), reference.to_owned());
        blocking(move || {
            {
                let mut state = inner.state();
                let Some(at) = state.find(&reference) else { return Ok(()) };
                let image = state.images.remove(at);
                inner.write_index(&state)?;
                super::layers::remove_file(&inner.config_path(image.id.as_str()))?;
            }
            inner.collect()
        })
        .await
    }

    /// Makes a root for the container `key` over the image's layers. Asking again for the same key gives the same root.
    ///
    /// # Errors
    /// When there is no such image or its folders cannot be made.
    pub async fn prepare_rootfs(&self, id: &str, key: &str) -> Result<Rootfs> {
        // A few folders: shorter than the way to another thread and back.
        self.inner.prepare_rootfs(id, key)
    }

    /// Removes the root of `key` and everything written in it. No error when there is none.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub async fn remove_rootfs(&self, key: &str) -> Result<()> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        blocking(move || {
            inner.roots.remove(&key)?;
            let record = inner.state().roots.remove(&key);
            let orphaned = record.is_some_and(|record| {
                let state = inner.state();
                !record.layers.iter().all(|layer| state.needs(layer))
            });
            if orphaned { inner.collect() } else { Ok(()) }
        })
        .await
    }

    /// The keys that have a root, so that roots of containers that are no more can be removed.
    ///
    /// # Errors
    /// Never now; the folder was read when the store was opened.
    pub async fn rootfs_keys(&self) -> Result<Vec<String>> {
        Ok(self.inner.state().roots.keys().cloned().collect())
    }

    /// What the unpacked layers take on disk.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub async fn usage(&self) -> Result<(u64, u64)> {
        let inner = self.inner.clone();
        let Usage { bytes, inodes } = blocking(move || inner.layers.usage()).await?;
        Ok((bytes, inodes))
    }

    /// New layers reach the disk soon, and nobody waits for it: until then a power cut only costs them.
    fn sync_in_background(&self) {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(e) = inner.layers.sync() {
                tracing::warn!(error = %e, "cannot put new layers onto the disk");
            }
        });
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config_path(&self, id: &str) -> PathBuf {
        self.root.join("configs").join(id.split_once(':').map_or(id, |(_, hex)| hex))
    }

    fn load_image(&self, archive: &Archive, found: Found) -> Result<Vec<String>> {
        let mut tags = Vec::new();
        for name in &found.names {
            let reference: Reference =
                name.parse().map_err(|source| ImageError::Reference { name: name.clone(), source })?;
            tags.push(reference);
        }
        let digests = match &found.manifest {
            Some(manifest) => tags.iter().map(|tag| tag.with_digest(manifest.digest.clone())).collect(),
            None => Vec::new(),
        };
        let sizes: u64 = found.layers.iter().map(|layer| layer.length).sum();
        let arrival = Arrival {
            size_bytes: sizes + found.config.len() as u64 + found.manifest.as_ref().map_or(0, |m| m.size),
            config: found.config,
            digests,
            tags,
        };
        let mut names: Vec<String> = arrival.tags.iter().map(ToString::to_string).collect();
        let layers: Vec<_> = found.layers.iter().map(|layer| || archive.blob(layer)).collect();
        let id = self.admit(arrival, layers)?;
        if names.is_empty() {
            names.push(id.to_string());
        }
        Ok(names)
    }

    /// Brings an image in: its layers, lowest first, then its record.
    pub(super) fn admit<F: FnOnce() -> Result<Blob>>(
        &self,
        arrival: Arrival,
        layers: Vec<F>,
    ) -> Result<Digest> {
        let config = manifest::parse_config(&arrival.config, layers.len())?;
        let id = Digest::of(&arrival.config);
        let ids = LayerId::chain(&config.rootfs.diff_ids);
        let arriving = Arriving::new(self, &ids);
        let mut below: Vec<PathBuf> = Vec::new();
        for (layer, blob) in ids.iter().zip(layers) {
            self.layers.ensure(layer, &below, blob)?;
            below.insert(0, self.layers.tree(&layer.chain));
        }
        let path = self.config_path(id.as_str());
        fs::write(&path, &arrival.config).map_err(io_error("write", &path))?;
        let mut state = self.state();
        let texts =
            |references: &[Reference]| references.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let (tags, digests) = (texts(&arrival.tags), texts(&arrival.digests));
        for image in &mut state.images {
            // A name means one image, the last that was given it.
            image.tags.retain(|tag| !tags.contains(tag));
            image.digests.retain(|digest| !digests.contains(digest));
        }
        match state.images.iter_mut().find(|image| image.id == id) {
            Some(image) => {
                image.tags.extend(tags);
                image.digests.extend(digests);
            }
            None => state.images.push(StoredImage {
                id: id.clone(),
                tags,
                digests,
                size_bytes: arrival.size_bytes,
                pinned: false,
                layers: ids.clone(),
                config: config.config.unwrap_or_default().into(),
            }),
        }
        self.write_index(&state)?;
        drop(state);
        drop(arriving);
        Ok(id)
    }

    fn prepare_rootfs(&self, id: &str, key: &str) -> Result<Rootfs> {
        let home = self.roots.home(key)?;
        let record = {
            let mut state = self.state();
            let existing = state.roots.get(key).cloned();
            match existing {
                Some(record) => record,
                None => {
                    let at = state.find(id).ok_or_else(|| ImageError::NotFound(id.to_owned()))?;
                    let image = &state.images[at];
                    let layers = image.layers.iter().map(|layer| layer.chain.clone()).collect();
                    let record = RootRecord { image: image.id.to_string(), layers };
                    // From here on the layers stay, whatever happens to the image.
                    state.roots.insert(key.to_owned(), record.clone());
                    record
                }
            }
        };
        let mut lower: Vec<PathBuf> =
            record.layers.iter().rev().map(|chain| self.layers.tree(chain)).collect();
        if lower.is_empty() {
            // The kernel wants a folder to lie below.
            lower.push(self.root.join("empty"));
        }
        if let Err(e) = self.roots.make(key, &record, &lower[0]) {
            self.state().roots.remove(key);
            return Err(e);
        }
        Ok(Rootfs { lower, upper: home.join("upper"), work: home.join("work") })
    }

    /// Gives back the layers that nothing here needs.
    fn collect(&self) -> Result<()> {
        let removed = self.layers.release_all_but(&|chain| self.state().needs(chain))?;
        if removed > 0 {
            tracing::info!(layers = removed, "removed layers that nothing needs");
        }
        Ok(())
    }

    fn write_index(&self, state: &State) -> Result<()> {
        let path = self.root.join(INDEX);
        let temporary = path.with_extension("new");
        let index = Index { version: 1, images: state.images.clone() };
        let bytes = serde_json::to_vec(&index).map_err(|e| io_error("write", &path)(e.into()))?;
        fs::write(&temporary, bytes).map_err(io_error("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(io_error("write", &path))
    }
}

impl State {
    /// The image of an id, a name in any form, or the beginning of an id that only one image has.
    fn find(&self, reference: &str) -> Option<usize> {
        let by = |test: &dyn Fn(&StoredImage) -> bool| self.images.iter().position(test);
        if let Some(at) = by(&|image| image.id.as_str() == reference || image.id.hex() == reference) {
            return Some(at);
        }
        if let Ok(name) = reference.parse::<Reference>() {
            let full = name.to_string();
            let found = match name.version() {
                Version::Tag(_) => by(&|image| image.tags.contains(&full)),
                Version::Digest(_) => by(&|image| image.digests.contains(&full)),
            };
            if found.is_some() {
                return found;
            }
        }
        let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut beginning =
            self.images.iter().enumerate().filter(|(_, image)| image.id.hex().starts_with(digits));
        match (beginning.next(), beginning.next()) {
            (Some((at, _)), None) => Some(at),
            _ => None,
        }
    }

    fn needs(&self, chain: &Digest) -> bool {
        self.arriving.contains_key(chain)
            || self.images.iter().any(|image| image.layers.iter().any(|layer| layer.chain == *chain))
            || self.roots.values().any(|root| root.layers.contains(chain))
    }
}

impl StoredImage {
    fn record(&self) -> ImageRecord {
        ImageRecord {
            id: self.id.to_string(),
            repo_tags: self.tags.iter().cloned().collect(),
            repo_digests: self.digests.iter().cloned().collect(),
            size_bytes: self.size_bytes,
            pinned: self.pinned,
        }
    }
}

/// Keeps the layers of an image on its way in from being collected.
struct Arriving<'a> {
    inner: &'a Inner,
    chains: Vec<Digest>,
}

impl Arriving<'_> {
    fn new<'a>(inner: &'a Inner, layers: &[LayerId]) -> Arriving<'a> {
        let chains: Vec<Digest> = layers.iter().map(|layer| layer.chain.clone()).collect();
        let mut state = inner.state();
        for chain in &chains {
            *state.arriving.entry(chain.clone()).or_default() += 1;
        }
        drop(state);
        Arriving { inner, chains }
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for chain in &self.chains {
            if let Some(count) = state.arriving.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    state.arriving.remove(chain);
                }
            }
        }
    }
}

fn read_index(root: &Path) -> Result<Vec<StoredImage>> {
    let path = root.join(INDEX);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("read", &path)(e)),
    };
    match serde_json::from_slice::<Index>(&bytes) {
        Ok(index) => Ok(index.images),
        Err(e) => {
            // Images can be pulled again; a runtime that does not start cannot.
            tracing::warn!(path = %path.display(), error = %e, "the record of images is damaged; starting without images");
            Ok(Vec::new())
        }
    }
}

/// This store's name among those that share layers: made once, from the kernel's randomness.
fn store_id(root: &Path) -> Result<String> {
    let path = root.join("store-id");
    if let Ok(id) = fs::read_to_string(&path)
        && !id.is_empty()
        && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    {
        return Ok(id);
    }
    let source = Path::new("/proc/sys/kernel/random/uuid");
    let id = fs::read_to_string(source).map_err(io_error("read", source))?.trim().to_owned();
    fs::write(&path, &id).map_err(io_error("write", &path))?;
    Ok(id)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(ImageError::ShuttingDown),
    }
}
