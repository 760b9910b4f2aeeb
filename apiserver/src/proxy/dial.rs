//! Connections to kubelets, Pods and Services; one a request, none kept.

use crate::error::{ApiError, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use minik_component::tls::{self, ClientIdentity, KeyPairFiles, TlsError};
use rustls::pki_types::ServerName;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How kubelets are reached.
#[derive(Clone)]
pub struct Kubelets {
    tls: Option<TlsConnector>,
    /// Connections that outlive their request's answer, streams among them.
    pub(super) tasks: TaskTracker,
}

/// Files that say who we are for kubelets, and who they are for us.
#[derive(Debug, Clone)]
pub struct KubeletFiles {
    /// Our certificate and its key.
    pub identity: (PathBuf, PathBuf),
    /// The CA of the kubelets' certificates.
    pub ca: PathBuf,
}

impl Kubelets {
    /// Shows this certificate to kubelets, and believes those that the CA signed.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn new(files: &KubeletFiles) -> std::result::Result<Kubelets, TlsError> {
        let (cert, key): (&Path, &Path) = (&files.identity.0, &files.identity.1);
        let identity = ClientIdentity::Files(KeyPairFiles::load(cert, key)?);
        let config = tls::client(tls::roots(tls::read_certs(&files.ca)?)?, identity, &[b"http/1.1"])?;
        Ok(Kubelets { tls: Some(TlsConnector::from(Arc::new(config))), tasks: TaskTracker::new() })
    }

    /// Without credentials no kubelet is asked; Pods and Services still are.
    pub fn none() -> Kubelets {
        Kubelets { tls: None, tasks: TaskTracker::new() }
    }

    /// Waits until all streams have ended.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) async fn open(&self, to: &Backend) -> Result<SendRequest<Full<Bytes>>> {
        let failed =
            |problem: String| ApiError::Unavailable(format!("error trying to reach service: {problem}"));
        let late = || failed(format!("dial tcp {}:{}: i/o timeout", to.address, to.port));
        let connecting = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect((to.address, to.port)));
        let stream = connecting.await.map_err(|_| late())?;
        let stream = stream
            .map_err(|error| failed(format!("dial tcp {}:{}: connect: {error}", to.address, to.port)))?;
        // Keystrokes are small.
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        match to.trust {
            Trust::Plain => self.speak(stream).await,
            Trust::Kubelet => {
                let tls = self.tls.as_ref().ok_or_else(|| {
                    ApiError::Unavailable(
                        "this server has no credentials for kubelets: give --kubelet-client-certificate, --kubelet-client-key and --kubelet-certificate-authority"
                            .into(),
                    )
                })?;
                let name = ServerName::from(to.address);
                let hello = tokio::time::timeout(CONNECT_WITHIN, tls.connect(name, stream));
                let stream = hello.await.map_err(|_| late())?;
                self.speak(stream.map_err(|error| failed(format!("tls: {error}")))?).await
            }
        }
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed =
            |error: hyper::Error| ApiError::Unavailable(format!("error trying to reach service: {error}"));
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        self.tasks.spawn(async move {
            // Whoever reads the answer sees that it broke off.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a proxied connection ended");
            }
        });
        Ok(sender)
    }
}

/// Who is believed to be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Anybody, in plain text: what runs in Pods.
    Plain,
    /// A kubelet, by the cluster's CA.
    Kubelet,
}

/// Where a request goes on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Who is there.
    pub trust: Trust,
}
