//! Container images built in memory, the same bytes each time: as a Docker archive, an OCI archive, or the blobs that a
//! registry takes.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The media type of an OCI image manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// One layer: an archive being written.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Layer::new()
    }
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Layer {
        Layer { tar: tar::Builder::new(Vec::new()) }
    }

    /// A folder.
    pub fn folder(self, path: &str, mode: u32) -> Layer {
        self.entry(tar::EntryType::Directory, path, mode, &[])
    }

    /// A file.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Layer {
        self.entry(tar::EntryType::Regular, path, mode, content.as_ref())
    }

    /// A symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.link(tar::EntryType::Symlink, path, target)
    }

    /// A second name for a file.
    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.link(tar::EntryType::Link, path, target)
    }

    /// A deletion of what the layers below have there.
    pub fn whiteout(self, path: &str) -> Layer {
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        let separator = if folder.is_empty() { "" } else { "/" };
        self.file(&format!("{folder}{separator}.wh.{name}"), b"", 0o644)
    }

    /// A folder that hides what the layers below have in it.
    pub fn opaque(self, folder: &str) -> Layer {
        self.file(&format!("{folder}/.wh..wh..opq"), b"", 0o644)
    }

    /// An extended attribute of the entry that follows.
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Layer {
        let key = format!("SCHILY.xattr.{name}");
        self.tar.append_pax_extensions([(key.as_str(), value)]).expect("writing to memory");
        self
    }

    /// A header as the caller made it, for what is unusual or forbidden; the path goes in as it is.
    pub fn raw(mut self, path: &str, edit: impl FnOnce(&mut tar::Header), content: &[u8]) -> Layer {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len());
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        edit(&mut header);
        header.set_cksum();
        self.tar.append(&header, content).expect("writing to memory");
        self
    }

    /// The plain archive.
    pub fn bytes(self) -> Vec<u8> {
        self.tar.into_inner().expect("writing to memory")
    }

    fn entry(mut self, kind: tar::EntryType, path: &str, mode: u32, content: &[u8]) -> Layer {
        let mut header = header(kind, mode, content.len());
        self.tar.append_data(&mut header, path, content).expect("writing to memory");
        self
    }

    fn link(mut self, kind: tar::EntryType, path: &str, target: &str) -> Layer {
        let mut header = header(kind, 0o777, 0);
        self.tar.append_link(&mut header, path, target).expect("writing to memory");
        self
    }
}

fn header(kind: tar::EntryType, mode: u32, length: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(length as u64);
    header
}

/// How layers are packed.
#[derive(Clone, Copy, Default)]
pub enum Packing {
    /// As they are.
    #[default]
    Plain,
    /// With gzip.
    Gzip,
    /// By another program's rules.
    Other {
        /// The end of the media type, such as `+zstd`.
        suffix: &'static str,
        /// Packs.
        pack: fn(&[u8]) -> Vec<u8>,
    },
}

/// An image being described.
#[derive(Clone, Default)]
pub struct Image {
    /// Its names.
    pub tags: Vec<String>,
    /// Plain archives, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// The `config` part of its config: `Entrypoint`, `Env` and so on.
    pub config: serde_json::Map<String, Value>,
    /// How its layers are packed in OCI archives and registries.
    pub packing: Packing,
    /// The machine that it is for; this one when empty.
    pub architecture: String,
}

/// Bytes with their digest.
#[derive(Clone)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Names bytes.
    pub fn new(bytes: Vec<u8>) -> Blob {
        Blob { digest: digest(&bytes), bytes }
    }
}

/// What a registry needs of an image.
pub struct Pushable {
    /// Config and layers.
    pub blobs: Vec<Blob>,
    /// The manifest.
    pub manifest: Blob,
}

impl Image {
    /// An image with one name.
    pub fn new(tag: &str) -> Image {
        Image { tags: vec![tag.to_owned()], ..Image::default() }
    }

    /// Adds a layer on top.
    pub fn layer(mut self, layer: Layer) -> Image {
        self.layers.push(layer.bytes());
        self
    }

    /// Sets a part of the config, such as `Entrypoint`, `Cmd`, `Env`, `User`, `WorkingDir`, `StopSignal`.
    pub fn set(mut self, key: &str, value: Value) -> Image {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Packs the layers otherwise.
    pub fn packed(mut self, packing: Packing) -> Image {
        self.packing = packing;
        self
    }

    /// The bytes of its config.
    pub fn config_document(&self) -> Vec<u8> {
        let diffs: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let architecture = if self.architecture.is_empty() { architecture() } else { &self.architecture };
        let document = json!({
            "architecture": architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diffs},
        });
        document.to_string().into_bytes()
    }

    /// The digest of its config, which is its id.
    pub fn id(&self) -> String {
        digest(&self.config_document())
    }

    /// As `docker save` writes it.
    pub fn docker_archive(&self) -> Vec<u8> {
        let config = self.config_document();
        let config_name = format!("{}.json", &digest(&config)["sha256:".len()..]);
        let mut archive = Layer::new();
        let mut names = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let name = format!("layer{number}/layer.tar");
            archive = archive.file(&name, layer, 0o644);
            names.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": self.tags, "Layers": names}]);
        archive.file(&config_name, config, 0o644).file("manifest.json", manifest.to_string(), 0o644).bytes()
    }

    /// As an OCI image layout in one file, with its names in the index.
    pub fn oci_archive(&self) -> Vec<u8> {
        let pushable = self.pushable();
        let entries: Vec<Value> = self
            .tags
            .iter()
            .map(|tag| {
                let mut entry = descriptor(MANIFEST_TYPE, &pushable.manifest);
                entry["annotations"] = json!({"io.containerd.image.name": tag});
                entry
            })
            .collect();
        oci_archive(&entries, pushable.blobs.iter().chain([&pushable.manifest]))
    }

    /// What a registry needs of it.
    pub fn pushable(&self) -> Pushable {
        let config = Blob::new(self.config_document());
        let mut layers = Vec::new();
        let mut blobs = vec![config.clone()];
        for layer in &self.layers {
            let (suffix, bytes) = self.pack(layer);
            let blob = Blob::new(bytes);
            layers.push(descriptor(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &blob));
            blobs.push(blob);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers,
        });
        Pushable { blobs, manifest: Blob::new(manifest.to_string().into_bytes()) }
    }

    fn pack(&self, layer: &[u8]) -> (&'static str, Vec<u8>) {
        match self.packing {
            Packing::Plain => ("", layer.to_vec()),
            Packing::Gzip => ("+gzip", gzip(layer)),
            Packing::Other { suffix, pack } => (suffix, pack(layer)),
        }
    }
}

/// An index over images for several machines: `(architecture, manifest)`.
pub fn index(manifests: &[(&str, &Blob)]) -> Blob {
    let entries: Vec<Value> = manifests
        .iter()
        .map(|(architecture, manifest)| {
            let mut entry = descriptor(MANIFEST_TYPE, manifest);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries});
    Blob::new(index.to_string().into_bytes())
}

/// An OCI image layout in one file, from the entries of its index and all blobs.
pub fn oci_archive<'a>(entries: &[Value], blobs: impl IntoIterator<Item = &'a Blob>) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries});
    let mut archive = Layer::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#, 0o644).file(
        "index.json",
        index.to_string(),
        0o644,
    );
    for blob in blobs {
        archive = archive.file(&format!("blobs/{}", blob.digest.replace(':', "/")), &blob.bytes, 0o644);
    }
    archive.bytes()
}

/// A descriptor of a blob.
pub fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()})
}

/// The image of the recorded Pods: static busybox with all applets in `/bin`, entry point `sleep 1000000`.
///
/// # Errors
/// When `/bin/busybox` is missing or not static.
pub fn busybox(tag: &str) -> Result<Image> {
    let path = Path::new("/bin/busybox");
    let busybox =
        std::fs::read(path).context("/bin/busybox is missing: install the package busybox-static")?;
    let list = std::process::Command::new(path).arg("--list").output().context("/bin/busybox --list")?;
    let mut layer = Layer::new()
        .folder("bin/", 0o755)
        .folder("etc/", 0o755)
        .folder("root/", 0o700)
        .folder("tmp/", 0o1777)
        .file("bin/busybox", busybox, 0o755)
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n", 0o644)
        .file("etc/group", "root:x:0:\nweb:x:33:\nmail:x:8:web\n", 0o644);
    for applet in String::from_utf8(list.stdout)?.lines().filter(|applet| *applet != "busybox") {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(Image::new(tag).layer(layer).set("Entrypoint", json!(["sleep", "1000000"])))
}

/// This machine, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `sha256:` and the digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Packs with gzip, without a time in it.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory")
}
