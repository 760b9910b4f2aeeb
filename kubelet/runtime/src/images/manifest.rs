//! The documents of an image: manifests, indexes and configs, of the OCI and of Docker's older media types.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;
use super::{ImageConfig, ImageError, Result};

/// The media types that are asked of a registry, the usual first.
pub(super) const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A pointer to bytes.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Descriptor {
    pub digest: Digest,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// What machine an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub variant: String,
}

/// The manifest of one image.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ImageManifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// A list of manifests, usually one a platform.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Index {
    pub manifests: Vec<Descriptor>,
}

/// What a digest may name.
#[derive(Clone, Debug)]
pub(super) enum Manifest {
    Image(ImageManifest),
    Index(Index),
}

/// The parts of an image's config that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default)]
    pub config: Option<RunConfig>,
    pub rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RunConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

impl Platform {
    /// This machine.
    pub(super) fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: variant.into() }
    }

    /// Whether an image for this platform runs on `machine`.
    pub(super) fn fits(&self, machine: &Platform) -> bool {
        self.os == machine.os
            && self.architecture == machine.architecture
            && (self.variant.is_empty() || machine.variant.is_empty() || self.variant == machine.variant)
    }
}

/// Reads a manifest or an index, told apart by what is in it.
pub(super) fn parse(bytes: &[u8]) -> Result<Manifest> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        schema_version: Option<u32>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let bad = |e: serde_json::Error| ImageError::Manifest(e.to_string());
    let head: Head = serde_json::from_slice(bytes).map_err(bad)?;
    if head.schema_version != Some(2) {
        return Err(ImageError::Manifest(format!(
            "unsupported schema version {}",
            head.schema_version.map_or("(none)".to_owned(), |v| v.to_string())
        )));
    }
    if head.manifests.is_some() {
        serde_json::from_slice(bytes).map(Manifest::Index).map_err(bad)
    } else {
        serde_json::from_slice(bytes).map(Manifest::Image).map_err(bad)
    }
}

/// The manifest of an index for a platform: the first that fits and the one that names the variant before others.
pub(super) fn choose(index: &Index, machine: &Platform) -> Result<Descriptor> {
    let fitting: Vec<&Descriptor> = index
        .manifests
        .iter()
        .filter(|d| !is_attestation(d) && d.platform.as_ref().is_none_or(|p| p.fits(machine)))
        .collect();
    let exact = fitting.iter().find(|d| d.platform.as_ref().is_some_and(|p| p.variant == machine.variant));
    exact.or(fitting.first()).map(|d| (*d).clone()).ok_or_else(|| ImageError::NoPlatform {
        os: machine.os.clone(),
        architecture: machine.architecture.clone(),
    })
}

/// Entries that only describe how an image was built.
pub(super) fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key("vnd.docker.reference.type")
        || descriptor.platform.as_ref().is_some_and(|p| p.os == "unknown")
}

/// Reads a config and checks that it has as many layers as the image brings.
pub(super) fn parse_config(bytes: &[u8], layers: usize) -> Result<ConfigFile> {
    let config: ConfigFile =
        serde_json::from_slice(bytes).map_err(|e| ImageError::Manifest(format!("config: {e}")))?;
    if config.rootfs.diff_ids.len() != layers {
        return Err(ImageError::Manifest(format!(
            "mismatched image rootfs and manifest layers: {} and {layers}",
            config.rootfs.diff_ids.len()
        )));
    }
    Ok(config)
}

impl From<RunConfig> for ImageConfig {
    fn from(config: RunConfig) -> ImageConfig {
        ImageConfig {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        }
    }
}
