//! Doors for the fuzz targets, see [`crate::fuzz`].

use super::archive::Archive;
use super::layers::decompress;
use super::manifest::{self, Manifest, Platform};
use super::unpack::unpack;
use super::{LayerLimits, members::Limited};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// As much of a layer's plain archive as is unpacked.
const MOST_PLAIN_BYTES: u64 = 64 << 20;

/// Unpacks a layer over others.
///
/// # Errors
/// When it is malformed.
pub fn layer(packed: &[u8], target: &Path, lower: &[PathBuf]) -> io::Result<()> {
    let limits = LayerLimits { bytes: MOST_PLAIN_BYTES, ..LayerLimits::default() };
    unpack(&mut Limited::new(decompress(packed)?, limits.bytes), target, lower, limits).map(drop)
}

/// Reads a document as each of an image's, and an archive with all that it names.
pub fn image(document: &[u8], archive: &[u8], folder: &Path) {
    if let Ok(Manifest::Index(index)) = manifest::parse(document) {
        drop(manifest::choose(&index, &Platform::host()));
    }
    drop(manifest::parse_config(document, 1).map(|config| config.config.map(super::ImageConfig::from)));
    let Ok(archive) = Archive::spool(archive, folder) else { return };
    for image in archive.images(&Platform::host()).unwrap_or_default() {
        for layer in &image.layers {
            drop(
                archive
                    .blob(layer)
                    .map(|blob| io::copy(&mut blob.reader.take(MOST_PLAIN_BYTES), &mut io::sink())),
            );
        }
    }
}
