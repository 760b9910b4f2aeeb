//! Archives of whole images: what `docker save` writes and OCI image layouts, plain or compressed.
//!
//! The stream goes once into a file without a name; its members are then found by their places in it, so that nothing of
//! the archive ever becomes a path on disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use serde::Deserialize;

use super::digest::Digest;
use super::layers::{Blob, decompress};
use super::manifest::{self, Descriptor, Manifest, Platform};
use super::members;
use super::{ImageError, Result};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";
/// Manifests, indexes and configs are small; anything larger is no image's.
const DOCUMENT_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
/// Indexes may hold indexes; none holds more than this many levels.
const INDEX_DEPTH: usize = 4;

/// An archive, spooled.
pub(super) struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

#[derive(Clone)]
enum Member {
    File { offset: u64, length: u64 },
    Link(String),
}

/// An image found in an archive.
pub(super) struct Found {
    /// The names that the archive gives it, as they stand there.
    pub names: Vec<String>,
    /// The digest by which a registry would know it, and its media type; Docker's archives have none.
    pub manifest: Option<Descriptor>,
    /// The bytes of its config.
    pub config: Vec<u8>,
    /// Its layers' members, lowest first.
    pub layers: Vec<FoundLayer>,
}

/// A layer in an archive.
pub(super) struct FoundLayer {
    member: String,
    /// The digest promised for the bytes as they stand.
    digest: Option<Digest>,
    /// How many they are.
    pub length: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl Archive {
    /// Reads the whole stream into a file of `folder` that vanishes with this value.
    pub(super) fn spool(stream: impl Read, folder: &Path) -> Result<Archive> {
        Archive::spool_inner(stream, folder).map_err(|source| ImageError::Archive(source.to_string()))
    }

    fn spool_inner(stream: impl Read, folder: &Path) -> io::Result<Archive> {
        let file = rustix::fs::openat(
            CWD,
            folder,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?;
        let mut file = File::from(file);
        io::copy(&mut decompress(stream)?, &mut file)?;
        let mut found = HashMap::new();
        let length = file.metadata()?.len();
        let file = Arc::new(file);
        members::each(Window { file: file.clone(), offset: 0, left: length }, |entry| {
            let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let member = Member::File { offset: entry.raw_file_position(), length: entry.size() };
                found.insert(name, member);
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                // A symbolic link is relative to its folder, a hard link to the archive.
                let target = match (kind.is_symlink(), name.rsplit_once('/')) {
                    (true, Some((folder, _))) => format!("{folder}/{target}"),
                    _ => target,
                };
                found.insert(name, Member::Link(normal(&target)));
            }
            Ok(())
        })?;
        Ok(Archive { file, members: found })
    }

    /// The images in the archive, for this platform.
    ///
    /// # Errors
    /// When it is neither an OCI layout nor a Docker archive, or is incomplete.
    pub(super) fn images(&self, platform: &Platform) -> Result<Vec<Found>> {
        // An archive may be both; the layout has the digests that registries use.
        if self.members.contains_key("index.json") {
            return self.oci_images(platform);
        }
        if self.members.contains_key("manifest.json") {
            return self.docker_images();
        }
        Err(ImageError::Archive(
            "neither an OCI image layout (index.json) nor a Docker archive (manifest.json)".into(),
        ))
    }

    /// The bytes of a layer.
    pub(super) fn blob(&self, layer: &FoundLayer) -> Result<Blob> {
        let (offset, length) = self.locate(&layer.member)?;
        let reader = Box::new(Window { file: self.file.clone(), offset, left: length });
        Ok(Blob { reader, digest: layer.digest.clone() })
    }

    fn docker_images(&self) -> Result<Vec<Found>> {
        let images: Vec<DockerImage> = parse("manifest.json", &self.document("manifest.json")?)?;
        images
            .into_iter()
            .map(|image| {
                let layers = image.layers.iter().map(|member| {
                    let (_, length) = self.locate(member)?;
                    Ok(FoundLayer { member: member.clone(), digest: None, length })
                });
                Ok(Found {
                    names: image.repo_tags.unwrap_or_default(),
                    manifest: None,
                    config: self.document(&image.config)?,
                    layers: layers.collect::<Result<_>>()?,
                })
            })
            .collect()
    }

    fn oci_images(&self, platform: &Platform) -> Result<Vec<Found>> {
        let Manifest::Index(index) = manifest::parse(&self.document("index.json")?)? else {
            return Err(ImageError::Archive("index.json is no image index".into()));
        };
        // Several entries with one digest are one image with several names.
        let mut named: BTreeMap<Digest, (Descriptor, Vec<String>)> = BTreeMap::new();
        let several = index.manifests.len() > 1;
        for descriptor in index.manifests {
            let name = [FULL_NAME, REF_NAME].iter().find_map(|key| descriptor.annotations.get(*key).cloned());
            let fits = descriptor.platform.as_ref().is_none_or(|p| p.fits(platform));
            // An unnamed entry for another machine is one of the platforms of an unnamed index.
            if (name.is_none() && several && !fits) || manifest::is_attestation(&descriptor) {
                continue;
            }
            let entry = named.entry(descriptor.digest.clone()).or_insert((descriptor, Vec::new()));
            entry.1.extend(name);
        }
        named.into_values().map(|(descriptor, names)| self.oci_image(descriptor, names, platform)).collect()
    }

    fn oci_image(&self, top: Descriptor, names: Vec<String>, platform: &Platform) -> Result<Found> {
        let mut descriptor = top.clone();
        for _ in 0..INDEX_DEPTH {
            match manifest::parse(&self.oci_document(&descriptor.digest)?)? {
                Manifest::Index(index) => descriptor = manifest::choose(&index, platform)?,
                Manifest::Image(image) => {
                    let layers = image.layers.into_iter().map(|layer| {
                        let member = blob_name(&layer.digest);
                        let (_, length) = self.locate(&member)?;
                        Ok(FoundLayer { member, digest: Some(layer.digest), length })
                    });
                    return Ok(Found {
                        names,
                        manifest: Some(top),
                        config: self.oci_document(&image.config.digest)?,
                        layers: layers.collect::<Result<_>>()?,
                    });
                }
            }
        }
        Err(ImageError::Archive(format!("{} is an index of indexes without end", top.digest)))
    }

    fn oci_document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = self.document(&blob_name(digest))?;
        if digest.names(&bytes) {
            Ok(bytes)
        } else {
            Err(ImageError::Archive(format!("the bytes of {digest} have another digest")))
        }
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (offset, length) = self.locate(name)?;
        if length > DOCUMENT_LIMIT_BYTES {
            return Err(ImageError::Archive(format!(
                "{name} has {length} bytes, more than a manifest or config may"
            )));
        }
        let mut bytes = Vec::new();
        Window { file: self.file.clone(), offset, left: length }
            .read_to_end(&mut bytes)
            .map_err(|e| ImageError::Archive(format!("{name}: {e}")))?;
        Ok(bytes)
    }

    fn locate(&self, name: &str) -> Result<(u64, u64)> {
        let mut name = normal(name);
        for _ in 0..8 {
            match self.members.get(&name) {
                Some(Member::File { offset, length }) => return Ok((*offset, *length)),
                Some(Member::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(ImageError::Archive(format!("{name} is missing")))
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}", digest.as_str().replace(':', "/"))
}

fn parse<T: for<'de> Deserialize<'de>>(name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Archive(format!("{name}: {e}")))
}

/// A member's name without `.`, `..` and doubled slashes.
fn normal(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of the spooled file.
struct Window {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
