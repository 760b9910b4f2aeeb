//! `minik node`: this machine as a node of a cluster on another one.
//!
//! ```text
//!  SERVER, token, CA's hash ──> the CA (of the chain that the server shows, the one with this hash)
//!                           ──> ConfigMap minik-join: the cluster's ranges    (by the token, over verified TLS)
//!                           ──> CSR ──> the node's certificate and kubeconfig ──> a supervisor with one node's processes
//! ```
//! A wrong server is told nothing: before its CA is known, no request is made.
//! (<https://kubernetes.io/docs/reference/setup-tools/kubeadm/kubeadm-join/>)

use crate::cluster::Cluster;
use crate::config::{ClusterConfig, Joined, Node, Size, write_file};
use crate::error::{Error, Result};
use crate::layout::Roots;
use crate::token::{self, Token};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minik_client::{CertificateWish, Identity, Kubeconfig, ServerAccess, call};
use minik_component::{SystemChance, tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long the server may take to show its certificate.
const SHOW_WITHIN: Duration = Duration::from_secs(10);
/// How long the cluster may take to sign the node's certificate, and the node to get ready.
const SIGNED_WITHIN: Duration = Duration::from_secs(30);
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Flags of `minik node`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make this machine a node of the cluster at SERVER; `minikctl node token create` there prints the whole command
    Join(Box<Join>),
    /// Start this machine's node again, as after a reboot
    Up(Own),
    /// Stop this machine's node and remove all that it has here; `minikctl node remove` tells the cluster
    Leave(Own),
}

#[derive(Debug, clap::Args)]
struct Own {
    /// Name of what is kept on this machine
    #[arg(long, default_value = "joined", value_name = "NAME")]
    name: String,
}

#[derive(Debug, clap::Args)]
struct Join {
    /// The cluster's API
    #[arg(value_name = "HOST:PORT")]
    server: SocketAddr,
    /// The bootstrap token
    #[arg(long, value_name = "ID.SECRET")]
    token: Token,
    /// The hash of the public key of the cluster's CA
    #[arg(long, value_name = "sha256:HEX")]
    discovery_token_ca_cert_hash: String,
    /// The node's name, if not the host's
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The node's address, if not the one that this machine reaches the server from
    #[arg(long, value_name = "IP")]
    node_ip: Option<Ipv4Addr>,
    /// CPU of the node, if not all of the machine's (a quantity)
    #[arg(long, value_name = "QUANTITY")]
    node_cpu: Option<String>,
    /// Memory of the node, if not all of the machine's (a quantity)
    #[arg(long, value_name = "QUANTITY")]
    node_memory: Option<String>,
    #[command(flatten)]
    own: Own,
}

/// Does it.
///
/// # Errors
/// In a sentence that says what to do, where something can be done.
pub async fn run(flags: Flags) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Root);
    }
    let roots = Roots::of_caller();
    match flags.command {
        Command::Join(flags) => join(&roots, *flags).await,
        Command::Up(own) => up(&Cluster::open(&roots, &own.name)?).await,
        Command::Leave(own) => {
            let cluster = Cluster::open(&roots, &own.name)?;
            if cluster.config().joined.is_none() {
                return Err(Error::NotJoined { name: own.name });
            }
            let nodes = cluster.config().nodes.clone();
            cluster.delete().await?;
            for node in nodes {
                println!("{} has left; tell the cluster: minikctl node remove {}", node.name, node.name);
            }
            Ok(())
        }
    }
}

async fn up(cluster: &Cluster) -> Result<()> {
    let Some(joined) = &cluster.config().joined else {
        return Err(Error::NotJoined { name: cluster.layout().name.clone() });
    };
    cluster.start().await?;
    cluster.ready(READY_WITHIN).await?;
    let names: Vec<&str> = cluster.config().nodes.iter().map(|node| &*node.name).collect();
    println!("{} is a ready node of the cluster at {}", names.join(", "), joined.server);
    Ok(())
}

async fn join(roots: &Roots, flags: Join) -> Result<()> {
    let layout = roots.cluster(&flags.own.name)?;
    if ClusterConfig::load(&layout)?.is_some() {
        return Err(Error::JoinedAlready { name: flags.own.name });
    }
    let host = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name = flags.node_name.unwrap_or_else(host);
    crate::layout::check_name(&name)?;
    let failed = |source| Error::Server { server: flags.server, source };
    let address = flags.node_ip.map_or_else(|| own_address(flags.server).map_err(failed), Ok)?;
    let ca_pem = discover(flags.server, &flags.discovery_token_ca_cert_hash).await?;
    let identity = Identity::Token(flags.token.to_string());
    let server = format!("https://{}", flags.server);
    let mut access = ServerAccess { server: server.clone(), server_name: None, ca_pem, identity };
    let client = minik_client::connect(&access, "default")?;
    let ranges = learn(&client, &name).await?;
    let wish = CertificateWish {
        signer: "kubernetes.io/kube-apiserver-client-kubelet",
        name: format!("system:node:{name}"),
        group: "system:nodes",
        hosts: Vec::new(),
    };
    let pem = wish.obtain(&client, Arc::new(SystemChance), SIGNED_WITHIN).await?;
    let cert = layout.pki("kubelet-client-current.pem");
    write_file(&cert, pem.as_bytes(), 0o600)?;
    write_file(&layout.pki("ca.crt"), &access.ca_pem, 0o644)?;
    access.identity = Identity::Files { cert: cert.clone(), key: cert };
    Kubeconfig::single("minik", &access).save(&layout.kubeconfig("node"))?;
    let ranges = ranges.try_into().map_err(|problem: String| Error::Ranges { problem })?;
    let size = Size { cpu: flags.node_cpu, memory: flags.node_memory };
    let node = Node { name, address, pod_cidr: None, size };
    Cluster::joined(roots, &flags.own.name, Joined { server }, node, ranges)?;
    up(&Cluster::open(roots, &flags.own.name)?).await
}

/// The address that this machine reaches the server from.
fn own_address(server: SocketAddr) -> std::io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // Nothing is sent: the kernel chooses the address.
    socket.connect(server)?;
    match socket.local_addr()? {
        SocketAddr::V4(own) => Ok(*own.ip()),
        SocketAddr::V6(_) => Err(std::io::Error::other("nodes have IPv4 addresses")),
    }
}

/// What a ConfigMap says.
#[derive(Debug, Deserialize)]
struct Told {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// Asks, by the token, for the cluster's ranges and whether the name is free.
async fn learn(client: &kube::Client, name: &str) -> Result<String> {
    let told = call::get::<Told>(client, "/api/v1/namespaces/kube-system/configmaps/minik-join").await;
    let mut told = told.map_err(|error| match call::refusal(&error) {
        Some(401) => Error::Token,
        _ => error.into(),
    })?;
    match call::get::<serde_json::Value>(client, &format!("/api/v1/nodes/{name}")).await {
        Ok(_) => return Err(Error::NodeExists { name: name.to_owned() }),
        Err(error) if call::refusal(&error) != Some(404) => return Err(error.into()),
        Err(_) => {}
    }
    Ok(told.data.remove("ranges").unwrap_or_default())
}

/// The CA with this hash among the certificates that the server shows, as PEM. It is not yet known whether the server
/// has the keys to them, and nothing is said to it; the next connection verifies.
async fn discover(server: SocketAddr, hash: &str) -> Result<Vec<u8>> {
    let seen = Arc::new(Recorder { chain: Mutex::default(), provider: tls::provider() });
    let failed = |source| Error::Server { server, source };
    let config = ClientConfig::builder_with_provider(seen.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(std::io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let shown = async {
        let tcp = TcpStream::connect(server).await?;
        TlsConnector::from(Arc::new(config)).connect(server.ip().into(), tcp).await.map(drop)
    };
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    tokio::time::timeout(SHOW_WITHIN, shown).await.map_err(late).and_then(|done| done).map_err(failed)?;
    let chain = seen.chain.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let found = chain.iter().find(|cert| token::public_key_hash(cert).is_some_and(|own| own == hash));
    let der = found.ok_or_else(|| Error::Hash { server, hash: hash.to_owned() })?;
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Ok(format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")).into_bytes())
}

/// Writes down what a server shows.
#[derive(Debug)]
struct Recorder {
    chain: Mutex<Vec<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates).map(|cert| cert.clone().into_owned());
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.supported())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.supported())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.supported().supported_schemes()
    }
}

impl Recorder {
    fn supported(&self) -> rustls::crypto::WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}
