//! Registries: which protocol and trust each has, and fetching documents and layers from them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::stream::BoxStream;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciEnvelope, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use tokio::runtime::Runtime;

use super::digest::Digest;
use super::layers::Blob;
use super::manifest::{ACCEPTED, Descriptor};
use super::reference::{Reference, Version};
use super::{Result, io_error};

/// A registry that cannot be reached by then is taken to be down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A transfer without a single byte for so long has ended.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Configs are small; a larger one is no image's.
const CONFIG_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// Who asks.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A user with a password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// The bearer of a token of this registry.
    Token(String),
}

// Secrets never reach a log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credentials::Anonymous => f.write_str("Anonymous"),
            Credentials::Password { user, .. } => write!(f, "Password({user:?})"),
            Credentials::Token(_) => f.write_str("Token"),
        }
    }
}

/// What the hosts file says about one registry: `{"registry.example:5000": {"plainHttp": true}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Host {
    /// It speaks HTTP without TLS.
    plain_http: Option<bool>,
    /// A PEM file with the CA to trust beside the machine's own.
    ca_file: Option<PathBuf>,
}

/// A registry's refusal, in the words that container tools use.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The repository, tag or blob does not exist. Final until somebody pushes it.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry wants other credentials. Final.
    #[error("pull access denied, repository does not exist or may require authorization: {0}")]
    Denied(String),
    /// The registry answered with another error, or not as registries do.
    #[error("unexpected status from GET request to {url}: {status}{message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP code.
        status: String,
        /// The registry's own words, with a leading separator, or nothing.
        message: String,
    },
    /// It could not be reached, or the transfer broke off. Retryable.
    #[error("failed to do request: {0}")]
    Request(String),
    /// The bytes are not those that were asked for, or cannot be understood.
    #[error("{0}")]
    Content(String),
    /// The file about registries is not as it must be. Final.
    #[error("registry hosts file {}: {reason}", path.display())]
    Hosts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A connection to the registry of one image, with a small runtime of its own: its sockets belong to the network namespace
/// of the thread that opened it.
pub(super) struct Registry {
    runtime: Arc<Runtime>,
    client: oci_client::Client,
    image: Reference,
    credentials: RegistryAuth,
}

impl Registry {
    /// Prepares to talk to the registry of an image. Nothing is sent yet.
    pub(super) fn open(
        image: &Reference,
        credentials: Credentials,
        hosts: Option<&Path>,
    ) -> Result<Registry> {
        let host = read_host(hosts, image.domain())?;
        let plain = host.plain_http.unwrap_or_else(|| is_loopback(image.domain()));
        let mut config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            platform_resolver: None,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("minik/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if is_loopback(image.domain()) {
            // No proxy of the environment stands between this machine and itself: naming one that is never used is how
            // the library is told so.
            (config.http_proxy, config.https_proxy) =
                (Some("http://127.0.0.1:9".into()), Some("http://127.0.0.1:9".into()));
            config.no_proxy = Some("localhost,127.0.0.0/8,::1".into());
        }
        if let Some(path) = &host.ca_file {
            let data = fs::read(path).map_err(io_error("read", path))?;
            config.extra_root_certificates = vec![Certificate { encoding: CertificateEncoding::Pem, data }];
        }
        minik_component::tls::provider();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("pull")
            .enable_all()
            .build()
            .map_err(|e| RegistryError::Request(e.to_string()))?;
        let client = {
            let _inside = runtime.enter();
            oci_client::Client::try_from(config).map_err(|e| refusal(e, image))?
        };
        let credentials = match credentials {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Password { user, password } => RegistryAuth::Basic(user, password),
            Credentials::Token(token) => RegistryAuth::Bearer(token),
        };
        Ok(Registry { runtime: Arc::new(runtime), client, image: image.clone(), credentials })
    }

    /// The bytes of a manifest or index, and their digest.
    pub(super) fn manifest(&self, version: &Version) -> Result<(Vec<u8>, Digest)> {
        let image = self.native(version);
        let fetch = self.client.pull_manifest_raw(&image, &self.credentials, ACCEPTED);
        let (bytes, digest) = self.runtime.block_on(fetch).map_err(|e| refusal(e, &self.image))?;
        let digest: Digest = digest.parse().map_err(|e| RegistryError::Content(format!("manifest: {e}")))?;
        Ok((bytes.to_vec(), digest))
    }

    /// The bytes of a config.
    pub(super) fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let too_long = || RegistryError::Content(format!("config {} is too long", descriptor.digest));
        if descriptor.size > CONFIG_LIMIT_BYTES {
            return Err(too_long().into());
        }
        let mut bytes = Vec::new();
        self.stream(&descriptor.digest)?
            .take(CONFIG_LIMIT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| RegistryError::Request(e.to_string()))?;
        if bytes.len() as u64 > CONFIG_LIMIT_BYTES {
            return Err(too_long().into());
        }
        if !descriptor.digest.names(&bytes) {
            return Err(
                RegistryError::Content(format!("config {} has another digest", descriptor.digest)).into()
            );
        }
        Ok(bytes)
    }

    /// The bytes of a layer as they come.
    pub(super) fn layer(&self, descriptor: &Descriptor) -> Result<Blob> {
        let reader = Box::new(self.stream(&descriptor.digest)?);
        Ok(Blob { reader, digest: Some(descriptor.digest.clone()) })
    }

    fn stream(&self, digest: &Digest) -> Result<Download> {
        let image = self.native(&Version::Digest(digest.clone()));
        let fetch = self.client.pull_blob_stream(&image, digest.as_str());
        let stream = self.runtime.block_on(fetch).map_err(|e| refusal(e, &self.image))?.stream;
        // The library's stream must not be asked again after its end.
        Ok(Download { runtime: self.runtime.clone(), stream: stream.fuse().boxed(), current: Bytes::new() })
    }

    fn native(&self, version: &Version) -> oci_client::Reference {
        let (domain, repository) = (self.image.domain().to_owned(), self.image.repository().to_owned());
        match version {
            Version::Tag(tag) => oci_client::Reference::with_tag(domain, repository, tag.clone()),
            Version::Digest(digest) => {
                oci_client::Reference::with_digest(domain, repository, digest.to_string())
            }
        }
    }
}

/// A transfer as a reader for the thread that unpacks.
struct Download {
    runtime: Arc<Runtime>,
    stream: BoxStream<'static, Result<Bytes, io::Error>>,
    current: Bytes,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

fn read_host(path: Option<&Path>, domain: &str) -> Result<Host> {
    let Some(path) = path else { return Ok(Host::default()) };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Host::default()),
        Err(e) => return Err(io_error("read", path)(e)),
    };
    let mut hosts: BTreeMap<String, Host> = serde_json::from_str(&text)
        .map_err(|e| RegistryError::Hosts { path: path.to_owned(), reason: e.to_string() })?;
    Ok(hosts.remove(domain).unwrap_or_default())
}

/// Registries of this machine need no TLS.
fn is_loopback(domain: &str) -> bool {
    let host = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => domain.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The library's error in the words that people know.
fn refusal(error: OciDistributionError, image: &Reference) -> RegistryError {
    match error {
        OciDistributionError::RegistryError { envelope, url } => refused(&envelope, &url, image),
        OciDistributionError::ServerError { code: 404, .. } => RegistryError::NotFound(image.to_string()),
        OciDistributionError::ServerError { code, url, .. } => {
            let status =
                http::StatusCode::from_u16(code).map_or(code.to_string(), |status| status.to_string());
            RegistryError::Status { url, status, message: String::new() }
        }
        OciDistributionError::UnauthorizedError { .. } => {
            RegistryError::Denied("authorization failed: no basic auth credentials".into())
        }
        OciDistributionError::AuthenticationFailure(words) => {
            let words =
                serde_json::from_str::<OciEnvelope>(&words).map_or(words, |envelope| words_of(&envelope));
            RegistryError::Denied(format!("authorization failed: {words}"))
        }
        OciDistributionError::RequestError(error) => RegistryError::Request(request_words(&error)),
        OciDistributionError::IoError(error) => RegistryError::Request(error.to_string()),
        other => RegistryError::Content(other.to_string()),
    }
}

fn refused(envelope: &OciEnvelope, url: &str, image: &Reference) -> RegistryError {
    let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
    if has(&[
        OciErrorCode::ManifestUnknown,
        OciErrorCode::NameUnknown,
        OciErrorCode::NotFound,
        OciErrorCode::BlobUnknown,
    ]) {
        return RegistryError::NotFound(image.to_string());
    }
    if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
        return RegistryError::Denied(format!("server message: {}", words_of(envelope)));
    }
    let status =
        if has(&[OciErrorCode::Toomanyrequests]) { "429 Too Many Requests" } else { "400 Bad Request" };
    RegistryError::Status {
        url: url.to_owned(),
        status: status.into(),
        message: format!(": {}", words_of(envelope)),
    }
}

fn words_of(envelope: &OciEnvelope) -> String {
    let words: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
    words.join(", ")
}

/// `Get "URL": why`, with the innermost reason, which is the one that helps.
fn request_words(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut reasons = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        reasons.push(error.to_string());
        source = error.source();
    }
    let url = reasons[0].split_once("url (").and_then(|(_, rest)| rest.split_once(')')).map(|(url, _)| url);
    let reason = reasons.last().map_or("", String::as_str);
    match url {
        Some(url) => format!("Get \"{url}\": {}", dial_words(url, reason)),
        None => reasons.join(": "),
    }
}

/// A connection's failure as it is known from other tools: `dial tcp 10.0.0.1:5000: connect: connection refused`.
fn dial_words(url: &str, reason: &str) -> String {
    const CONNECTING: &[&str] =
        &["Connection refused", "Network is unreachable", "No route to host", "Connection timed out"];
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    if reason.starts_with("failed to lookup address information") {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        return format!("dial tcp: lookup {name}: no such host");
    }
    let reason = reason.split(" (os error").next().unwrap_or(reason);
    if CONNECTING.contains(&reason) {
        let port = if url.starts_with("http:") { 80 } else { 443 };
        let target = if host.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
        return format!("dial tcp {target}: connect: {}", lower_first(reason));
    }
    lower_first(reason)
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_registries_need_no_tls() {
        for domain in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(domain), "{domain}");
        }
        for domain in ["docker.io", "10.0.0.1:5000", "localhost.example", "[fd00::1]:5000"] {
            assert!(!is_loopback(domain), "{domain}");
        }
    }

    #[test]
    fn failures_to_connect_are_worded_as_elsewhere() {
        let refused = "Connection refused (os error 111)";
        for (url, reason, words) in [
            ("http://127.0.0.1:5000/v2/", refused, "dial tcp 127.0.0.1:5000: connect: connection refused"),
            ("https://r.example/v2/", refused, "dial tcp r.example:443: connect: connection refused"),
            (
                "https://r.example:5000/v2/",
                "failed to lookup address information: Name or service not known",
                "dial tcp: lookup r.example: no such host",
            ),
            ("https://r.example/v2/", "Unexpected end of file", "unexpected end of file"),
        ] {
            assert_eq!(dial_words(url, reason), words);
        }
    }

    #[test]
    fn the_hosts_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.json");
        assert!(read_host(Some(&path), "a").unwrap().plain_http.is_none());
        fs::write(&path, r#"{"a:5000": {"plainHttp": true}, "b": {"caFile": "/ca.pem"}}"#).unwrap();
        assert_eq!(read_host(Some(&path), "a:5000").unwrap().plain_http, Some(true));
        assert_eq!(read_host(Some(&path), "b").unwrap().ca_file, Some("/ca.pem".into()));
        fs::write(&path, r#"{"a": {"plainHtp": true}}"#).unwrap();
        let error = read_host(Some(&path), "a").unwrap_err().to_string();
        assert!(error.contains("hosts.json: unknown field `plainHtp`"), "{error}");
    }
}
