//! Pulling: a name becomes a manifest, the manifest names the config and the layers, and each is fetched, checked and kept.

use super::manifest::{self, Manifest, Platform};
use super::reference::Reference;
use super::registry::{Credentials, Registry};
use super::store::{Arrival, Inner};
use super::{ImageError, Result, StoreConfig};

/// Indexes may hold indexes; none holds more than this many levels.
const INDEX_DEPTH: usize = 4;

/// Brings an image in from its registry and returns its id. Blocks; the layers that are here already are not fetched.
pub(super) fn pull(
    inner: &Inner,
    config: &StoreConfig,
    image: &Reference,
    credentials: Credentials,
) -> Result<String> {
    let failed = |source: ImageError| ImageError::Pull { image: image.to_string(), source: Box::new(source) };
    let unresolved = |source: ImageError| {
        failed(ImageError::Resolve { image: image.to_string(), source: Box::new(source) })
    };
    let registry = Registry::open(image, credentials, config.registry_hosts.as_deref()).map_err(failed)?;
    let (mut bytes, digest) = registry.manifest(image.version()).map_err(unresolved)?;
    let platform = Platform::host();
    for _ in 0..INDEX_DEPTH {
        match manifest::parse(&bytes).map_err(failed)? {
            Manifest::Index(index) => {
                let chosen = manifest::choose(&index, &platform).map_err(failed)?;
                bytes = registry.manifest(&super::Version::Digest(chosen.digest)).map_err(failed)?.0;
            }
            Manifest::Image(manifest) => {
                let sizes: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
                let arrival = Arrival {
                    config: registry.config(&manifest.config).map_err(failed)?,
                    size_bytes: sizes + manifest.config.size + bytes.len() as u64,
                    tags: image.tag().map(|_| image.clone()).into_iter().collect(),
                    digests: vec![image.with_digest(digest)],
                };
                let layers = manifest.layers.iter().map(|layer| || registry.layer(layer)).collect();
                return inner.admit(arrival, layers).map(|id| id.to_string()).map_err(failed);
            }
        }
    }
    Err(failed(ImageError::Manifest("an index of indexes without end".into())))
}
