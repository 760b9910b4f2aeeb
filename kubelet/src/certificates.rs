//! The node's own certificates: the first one for a bootstrap token, and each next one in time.
//!
//! ```text
//!  --bootstrap-kubeconfig ──> CSR (nodeclient) ──> CERT-DIR/kubelet-client-current.pem, --kubeconfig
//!  registered             ──> CSR (serving)    ──> CERT-DIR/kubelet-server-current.pem ──> the node's API begins
//!  70 to 90 % of a life   ──> CSR              ──> the same files, which are read again when they change
//! ```
//! (<https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/>)

use crate::node::NodeUpdate;
use jiff::Timestamp;
use minik_client::{Backoff, CertificateError, CertificateWish, ClientError, Identity, Kubeconfig};
use minik_component::{Chance, Clock, Shutdown, chain, tls};
use rustls::pki_types::CertificateDer;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a request may wait for its signature.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);
/// The clock may be set: how far there is still to go is looked at again after this long.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Which certificates the kubelet gets for itself.
#[derive(Debug, Clone, Default)]
pub struct CertConfig {
    /// Where they are.
    pub dir: PathBuf,
    /// The client's is renewed.
    pub client: bool,
    /// The server's is asked for and renewed.
    pub server: bool,
}

/// The file of the client's certificate and key in a folder.
pub fn client_file(dir: &Path) -> PathBuf {
    dir.join("kubelet-client-current.pem")
}

/// The file of the server's certificate and key in a folder.
pub fn server_file(dir: &Path) -> PathBuf {
    dir.join("kubelet-server-current.pem")
}

/// Why there is no first certificate. Retryable when the server cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A kubeconfig.
    #[error("--bootstrap-kubeconfig cannot be used")]
    Kubeconfig(#[from] minik_client::KubeconfigError),
    /// The server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn client_wish(node: &str) -> CertificateWish {
    CertificateWish {
        signer: "kubernetes.io/kube-apiserver-client-kubelet",
        name: format!("system:node:{node}"),
        group: "system:nodes",
        hosts: Vec::new(),
    }
}

/// Gets the node's first certificate by a bootstrap token and writes the kubeconfig, unless there is a valid one.
///
/// # Errors
/// When the server refuses the token or the request, or a file cannot be written.
pub async fn bootstrap(
    node: &str,
    (bootstrap, kubeconfig): (&Path, &Path),
    dir: &Path,
    clock: &dyn Clock,
    chance: Arc<dyn Chance>,
) -> Result<(), BootstrapError> {
    let file = client_file(dir);
    if kubeconfig.is_file() && life(&file).is_none_or(|life| clock.now() < life.end) {
        return Ok(());
    }
    let (mut access, _) = Kubeconfig::load(bootstrap)?.access(None)?;
    let client = minik_client::connect(&access, "default")?;
    let pem = client_wish(node).obtain(&client, chance, SIGNED_WITHIN).await?;
    write(&file, &pem)?;
    access.identity = Identity::Files { cert: file.clone(), key: file };
    Ok(Kubeconfig::single("minik", &access).save(kubeconfig)?)
}

/// When a certificate begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    start: Timestamp,
    end: Timestamp,
}

fn life(file: &Path) -> Option<Life> {
    let certs: Vec<CertificateDer<'_>> = tls::read_certs(file).ok()?;
    let (_, cert) = x509_parser::parse_x509_certificate(certs.first()?).ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some(Life { start: at(cert.validity().not_before)?, end: at(cert.validity().not_after)? })
}

/// How long a certificate is still good enough, of which so much of its life may pass; zero for none.
fn left(life: Option<Life>, part: f64, now: Timestamp) -> Duration {
    let Some(Life { start, end }) = life else { return Duration::ZERO };
    let whole = Duration::try_from(end.duration_since(start)).unwrap_or_default();
    let gone = Duration::try_from(now.duration_since(start)).unwrap_or_default();
    whole.mul_f64(part).saturating_sub(gone)
}

fn write(path: &Path, pem: &str) -> Result<(), BootstrapError> {
    let failed = |source| BootstrapError::Write { path: path.to_owned(), source };
    let draft = path.with_extension("new");
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let written = opened.and_then(|mut file| file.write_all(pem.as_bytes()));
    written.and_then(|()| std::fs::rename(&draft, path)).map_err(failed)
}

/// Keeps the node's certificates.
pub struct Keeper {
    /// Which.
    pub config: CertConfig,
    /// The node's name.
    pub node: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// The client.
    pub client: kube::Client,
    /// Told when the node is registered.
    pub registered: watch::Receiver<NodeUpdate>,
    /// Told when there is a server's certificate.
    pub served: watch::Sender<bool>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
}

impl Keeper {
    /// Keeps them until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let server = async {
            if self.config.server {
                // Its signer looks at the Node's addresses.
                let mut registered = self.registered.clone();
                if registered.wait_for(|told| told.uid.is_some()).await.is_ok() {
                    let hosts = std::iter::once(&self.node).chain(&self.ips).cloned().collect();
                    let signer = "kubernetes.io/kubelet-serving";
                    let wish = CertificateWish { signer, hosts, ..client_wish(&self.node) };
                    self.keep(&server_file(&self.config.dir), &wish, || {
                        self.served.send_replace(true);
                    })
                    .await;
                }
            }
        };
        let client = async {
            if self.config.client {
                self.keep(&client_file(&self.config.dir), &client_wish(&self.node), || {}).await;
            }
        };
        // Cancel-safe: a request that nobody waits for is forgotten by the cluster.
        tokio::select! {
            () = shutdown.requested() => {}
            ((), ()) = async { tokio::join!(server, client) } => shutdown.requested().await,
        }
    }

    async fn keep(&self, file: &Path, wish: &CertificateWish, there: impl Fn()) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));
        loop {
            let part = 0.7 + 0.2 * self.chance.fraction();
            while let left = left(life(file), part, self.clock.now())
                && !left.is_zero()
            {
                there();
                tokio::time::sleep(left.min(LOOK_EVERY)).await;
            }
            let pem = wish.obtain(&self.client, self.chance.clone(), SIGNED_WITHIN).await;
            let written = pem.map_err(BootstrapError::from).and_then(|pem| write(file, &pem));
            match written {
                Ok(()) => {
                    tracing::info!(file = %file.display(), "got a certificate");
                    backoff.reset();
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), file = %file.display(), "cannot get a certificate yet");
                    tokio::time::sleep(backoff.next(&*self.chance)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_before_its_end() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let life = Life { start: at("2026-01-01T00:00:00Z"), end: at("2026-01-11T00:00:00Z") };
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        assert_eq!(left(Some(life), 0.8, at("2026-01-03T00:00:00Z")), days(6));
        assert_eq!(left(Some(life), 0.8, at("2026-01-09T00:00:00Z")), Duration::ZERO);
        assert_eq!(left(Some(life), 0.8, at("2026-02-09T00:00:00Z")), Duration::ZERO);
        assert_eq!(left(None, 0.8, at("2026-01-03T00:00:00Z")), Duration::ZERO);
    }

    #[test]
    fn the_life_of_a_written_pair_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = client_file(&dir.path().join("pki"));
        assert_eq!(life(&file), None);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let cert = params.self_signed(&key).unwrap();
        write(&file, &(cert.pem() + &key.serialize_pem())).unwrap();
        let read = life(&file).unwrap();
        assert_eq!(read.end.to_string(), "2027-01-01T00:00:00Z");
        minik_component::tls::KeyPairFiles::load(&file, &file).unwrap();
    }
}
