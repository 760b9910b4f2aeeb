//! What can go wrong with a cluster on this machine.

use std::path::{Path, PathBuf};

/// What was attempted, on what, and why it failed. All are final until a person changes something, but for
/// [`Error::Late`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file of ours holds what this version does not understand.
    #[error("{} cannot be understood", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        source: serde_json::Error,
    },
    /// A system call that concerns no file.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A certificate.
    #[error("cannot make the certificate {name:?}")]
    Certificate {
        /// Which.
        name: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// The kernel's network.
    #[error(transparent)]
    Net(#[from] minik_net::Error),
    /// A kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] minik_client::KubeconfigError),
    /// The API.
    #[error(transparent)]
    Client(#[from] minik_client::ClientError),
    /// The name cannot be a cluster's.
    #[error("{name:?} cannot be a cluster's name, or a node's: {problem}")]
    Name {
        /// As given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is no cluster of this name.
    #[error("there is no cluster {name:?}: start it with `minikctl cluster up --name {name}`")]
    Unknown {
        /// As given.
        name: String,
    },
    /// It exists with another shape.
    #[error("the cluster {name:?} exists with {what}: delete it first, or choose another --name")]
    Shape {
        /// The cluster.
        name: String,
        /// What differs.
        what: String,
    },
    /// A node of this name is there already.
    #[error("the cluster has a node {name:?} already: choose another name, or remove it first")]
    NodeExists {
        /// The name.
        name: String,
    },
    /// There is no such node.
    #[error("the cluster has no node {name:?} on this machine")]
    NodeUnknown {
        /// The name.
        name: String,
    },
    /// Several servers need a store that they can share.
    #[error(
        "several control planes need an etcd cluster: the embedded store serves one; name it by --etcd-servers"
    )]
    Embedded,
    /// No other machine can reach the API.
    #[error(
        "the API of the cluster {name:?} listens for this machine alone: stop it, and start it with `minikctl cluster up --name {name} --api-address IP`"
    )]
    Unreachable {
        /// The cluster.
        name: String,
    },
    /// A token's life.
    #[error("a token cannot live that long: {problem}")]
    Ttl {
        /// What is wrong.
        problem: String,
    },
    /// A server on another machine.
    #[error("cannot reach the cluster at {server}")]
    Server {
        /// Its address.
        server: std::net::SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// It is not the server that was meant.
    #[error(
        "the server at {server} shows no CA with the hash {hash}: it is another cluster, or the hash is wrong"
    )]
    Hash {
        /// Its address.
        server: std::net::SocketAddr,
        /// What was expected.
        hash: String,
    },
    /// The token is not known.
    #[error(
        "the cluster does not take the token: it is wrong, or its time is over; make another with `minikctl node token create`"
    )]
    Token,
    /// The cluster does not say what is needed.
    #[error("the cluster does not say which addresses it uses (ConfigMap kube-system/minik-join): {problem}")]
    Ranges {
        /// What is wrong.
        problem: String,
    },
    /// The cluster signs no certificate.
    #[error(transparent)]
    Signing(#[from] minik_client::CertificateError),
    /// This machine is a node already.
    #[error(
        "this machine is a node already ({name}): `minik node up` starts it, `minik node leave` removes it"
    )]
    JoinedAlready {
        /// What is kept here.
        name: String,
    },
    /// It is a whole cluster, not a node of another one.
    #[error("{name:?} is a cluster of this machine, no node of another one")]
    NotJoined {
        /// What is kept here.
        name: String,
    },
    /// It runs, and what is wished for needs a new start.
    #[error(
        "the cluster {name:?} runs without a network for nodes: stop it first with `minikctl cluster down`"
    )]
    Unnetworked {
        /// The cluster.
        name: String,
    },
    /// An object that every cluster has.
    #[error("cannot apply {what}")]
    Bootstrap {
        /// Its kind and name.
        what: String,
        /// The cause.
        source: minik_client::ClientError,
    },
    /// Nodes need root.
    #[error("a cluster with nodes needs root: run it with sudo, or say --nodes 0 for a control plane only")]
    Root,
    /// A program of ours is not there.
    #[error("{} is not there: it belongs beside minikctl", path.display())]
    Program {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// No free range or port.
    #[error("no {what} is free on this machine")]
    Full {
        /// Of what.
        what: &'static str,
    },
    /// A process of the cluster does not start.
    #[error("{unit} does not start: {last}; its log is {}", log.display())]
    Crash {
        /// The process.
        unit: String,
        /// The last line of its log.
        last: String,
        /// The log.
        log: PathBuf,
    },
    /// The supervisor answered what it should not, or ended.
    #[error("the cluster's supervisor {problem}; its log is {}", log.display())]
    Supervisor {
        /// What it did.
        problem: String,
        /// Its log.
        log: PathBuf,
    },
    /// Something did not happen in time. Retryable.
    #[error("{what} within {seconds} s: {state}")]
    Late {
        /// What did not happen.
        what: &'static str,
        /// The limit.
        seconds: u64,
        /// The last state that was seen.
        state: String,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// For `map_err`: a failed action on a file.
pub(crate) fn file<E: Into<std::io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source: source.into() }
}

/// For `map_err`: a failed system call.
pub(crate) fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::System { what, source: source.into() }
}
