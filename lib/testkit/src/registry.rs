//! A real registry (Debian's `docker-registry`) on a free port of the loopback, with storage that vanishes with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::image::{Blob, INDEX_TYPE, Image, MANIFEST_TYPE};

const PROGRAM: &str = "/usr/bin/docker-registry";
const PATIENCE: Duration = Duration::from_secs(20);

/// The user that [`Options::password`] makes the registry ask for.
pub const USER: &str = "tester";
/// The user's password.
pub const PASSWORD: &str = "secret";
/// The same, as the registry wants it.
const PASSWORD_HASH: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// How a registry is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Certificate and key files: it speaks HTTPS then.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// It asks for [`USER`] and [`PASSWORD`].
    pub password: bool,
    /// Storage of another registry, to serve what was pushed there.
    pub storage: Option<PathBuf>,
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
    password: bool,
}

impl Registry {
    /// Starts one that speaks plain HTTP and asks nobody who they are.
    ///
    /// # Errors
    /// When the program is missing or does not start.
    pub fn start() -> Result<Registry> {
        Registry::start_with(&Options::default())
    }

    /// Starts one.
    ///
    /// # Errors
    /// When the program is missing or does not start.
    pub fn start_with(options: &Options) -> Result<Registry> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: install the package docker-registry");
        let folder = tempfile::Builder::new().prefix("minik-registry-").tempdir()?;
        let config = folder.path().join("config.yml");
        std::fs::write(&config, configuration(options, folder.path())?)?;
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&config)
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(PROGRAM)?;
        let mut lines = BufReader::new(child.stderr.take().context("no standard error")?);
        let address = match listening(&mut lines) {
            Ok(address) => address,
            Err(e) => {
                child.kill()?;
                child.wait()?;
                return Err(e);
            }
        };
        // The registry must never wait for somebody to read what it says.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok(Registry { child, address, folder, password: options.password })
    }

    /// Its name as a part of image names: `127.0.0.1:PORT`.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where it keeps what is pushed.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }

    /// Pushes an image; returns its manifest's digest.
    ///
    /// # Errors
    /// When the registry refuses.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<String> {
        let pushable = image.pushable();
        for blob in &pushable.blobs {
            self.push_blob(repository, blob)?;
        }
        self.push_manifest(repository, tag, MANIFEST_TYPE, &pushable.manifest)?;
        Ok(pushable.manifest.digest)
    }

    /// Pushes images for several machines under one name; returns the index's digest.
    ///
    /// # Errors
    /// When the registry refuses.
    pub fn push_index(&self, repository: &str, tag: &str, images: &[Image]) -> Result<String> {
        let mut manifests = Vec::new();
        for image in images {
            let digest = self.push(repository, &format!("{tag}-{}", image.architecture), image)?;
            let manifest = image.pushable().manifest;
            ensure!(manifest.digest == digest, "the manifest changed");
            manifests.push((image.architecture.as_str(), manifest));
        }
        let entries: Vec<(&str, &Blob)> =
            manifests.iter().map(|(name, manifest)| (*name, manifest)).collect();
        let index = crate::image::index(&entries);
        self.push_manifest(repository, tag, INDEX_TYPE, &index)?;
        Ok(index.digest)
    }

    fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let (status, headers) =
            self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), None, &[])?;
        ensure!(status == 202, "starting an upload: {status}");
        let location = headers
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .context("an upload without a location")?;
        let path =
            location.split_once("://").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        let separator = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{separator}digest={}", blob.digest);
        let (status, _) = self.request("PUT", &target, Some("application/octet-stream"), &blob.bytes)?;
        ensure!(status == 201, "uploading {}: {status}", blob.digest);
        Ok(())
    }

    fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: &Blob) -> Result<()> {
        let target = format!("/v2/{repository}/manifests/{tag}");
        let (status, head) = self.request("PUT", &target, Some(media_type), &manifest.bytes)?;
        ensure!(status == 201, "pushing {repository}:{tag}: {status} {head}");
        Ok(())
    }

    /// One request on a connection of its own; returns the code and the headers.
    fn request(
        &self,
        method: &str,
        target: &str,
        media_type: Option<&str>,
        body: &[u8],
    ) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        if self.password {
            head += "Authorization: Basic dGVzdGVyOnNlY3JldA==\r\n";
        }
        if let Some(media_type) = media_type {
            head += &format!("Content-Type: {media_type}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).replace("\r\n", "\n");
        let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        Ok((status.context("no answer")?, answer))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn configuration(options: &Options, folder: &Path) -> Result<String> {
    let storage = options.storage.clone().unwrap_or_else(|| folder.join("storage"));
    let mut text = format!(
        "version: 0.1\nlog: {{level: info, formatter: text}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n",
        storage.display()
    );
    if options.password {
        let path = folder.join("passwords");
        std::fs::write(&path, format!("{USER}:{PASSWORD_HASH}\n"))?;
        text += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", path.display());
    }
    text += "http:\n  addr: 127.0.0.1:0\n  secret: for-tests\n";
    if let Some((certificate, key)) = &options.tls {
        text += &format!("  tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display());
    }
    Ok(text)
}

/// The address that the registry says it listens on.
fn listening(lines: &mut impl BufRead) -> Result<SocketAddr> {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            bail!("the registry did not start: {said}");
        }
        if let Some((_, rest)) = line.split_once("listening on ") {
            let address = rest.split(['"', ',', ' ', '\n']).next().unwrap_or_default();
            return address.parse().with_context(|| format!("the registry listens on {address:?}"));
        }
        said += &line;
    }
}
