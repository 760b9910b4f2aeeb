//! TLS 1.3 with aws-lc-rs, from PEM files; changed files are read again.

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often a served certificate's file is looked at, at most, and only when a connection needs it.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is wrong with a certificate, a key or their file. Final: the file must change.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds no PEM of that sort.
    #[error("cannot read a {what} from {path}")]
    Pem {
        /// Certificate or private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The parser's words.
        source: rustls::pki_types::pem::Error,
    },
    /// PEM text that was given holds none of that sort.
    #[error("cannot read a {what} from the given data")]
    Data {
        /// Certificate or private key.
        what: &'static str,
        /// The parser's words.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate and key are no pair, or the library refuses them.
    #[error("the certificate or key cannot be used")]
    Rustls(#[from] rustls::Error),
    /// A client CA cannot be used.
    #[error("the client CA cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The one provider of cryptography, installed for libraries that ask for the process's default.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // Installed before is installed.
    let _ = rustls::crypto::CryptoProvider::install_default((*provider).clone());
    provider
}

/// The certificates of a PEM file.
pub fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |source| TlsError::Pem { what: "certificate", path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)
}

/// The private key of a PEM file.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Pem {
        what: "private key",
        path: path.to_owned(),
        source,
    })
}

/// The certificates of a PEM text.
pub fn parse_certs(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Data { what: "certificate", source })
}

/// The private key of a PEM text.
pub fn parse_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| TlsError::Data { what: "private key", source })
}

/// A store that trusts these certificates.
pub fn roots(certs: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for cert in certs {
        store.add(cert)?;
    }
    Ok(Arc::new(store))
}

fn certified(
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    Ok(Arc::new(CertifiedKey::from_der(certs, key, &provider())?))
}

/// A certificate and key that are read again when their files change.
#[derive(Debug)]
pub struct KeyPairFiles {
    cert: PathBuf,
    key: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    pair: Arc<CertifiedKey>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl KeyPairFiles {
    /// Reads the pair.
    ///
    /// # Errors
    /// When a file cannot be read or the two are no pair.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<KeyPairFiles>, TlsError> {
        let pair = certified(read_certs(cert)?, read_key(key)?)?;
        let held = Mutex::new(Held { pair, changed: modified(cert), looked: Instant::now() });
        Ok(Arc::new(KeyPairFiles { cert: cert.to_owned(), key: key.to_owned(), held }))
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.looked.elapsed() > LOOK_EVERY {
            held.looked = Instant::now();
            let changed = modified(&self.cert);
            if changed != held.changed {
                match read_certs(&self.cert).and_then(|certs| certified(certs, read_key(&self.key)?)) {
                    Ok(pair) => (held.pair, held.changed) = (pair, changed),
                    // The old pair serves until its end; the next look tries again.
                    Err(error) => {
                        tracing::error!(error = crate::chain(&error), "cannot renew the served certificate")
                    }
                }
            }
        }
        held.pair.clone()
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

impl ResolvesServerCert for KeyPairFiles {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for KeyPairFiles {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server's side: serves the pair and, with `client_ca`, takes client certificates (without demanding one).
///
/// # Errors
/// When the CA cannot be used.
pub fn server(
    pair: Arc<KeyPairFiles>,
    client_ca: Option<Arc<RootCertStore>>,
) -> Result<ServerConfig, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match client_ca {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .allow_unauthenticated()
                .build()?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(pair);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// How a client shows who it is.
#[derive(Debug, Clone)]
pub enum ClientIdentity {
    /// By nothing in TLS (a token, or not at all).
    None,
    /// By files, which are read again when they change.
    Files(Arc<KeyPairFiles>),
    /// By PEM texts.
    Data {
        /// The certificate chain.
        cert: Vec<u8>,
        /// The private key.
        key: Vec<u8>,
    },
}

/// A client's side: trusts `roots`, offers `alpn` in order.
///
/// # Errors
/// When the identity cannot be used.
pub fn client(
    roots: Arc<RootCertStore>,
    identity: ClientIdentity,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    // Other servers (upstream's, registries') may know TLS 1.2 only.
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        ClientIdentity::None => builder.with_no_client_auth(),
        ClientIdentity::Files(pair) => builder.with_client_cert_resolver(pair),
        ClientIdentity::Data { cert, key } => {
            builder.with_client_auth_cert(parse_certs(&cert)?, parse_key(&key)?)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}
