//! `minikctl image`: images for a cluster's nodes, without a registry.

use crate::cluster::DEFAULT_NAME;
use crate::progress::Progress;
use crate::{Failure, cluster};
use bytes::{Bytes, BytesMut};
use clap::Subcommand;
use futures::stream;
use minik_cluster::{Cluster, Node, Roots};
use minik_cri::images::LoadRequest;
use minik_cri::images::images_client::ImagesClient;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

/// Bytes of one message to the runtime.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces read ahead of the slowest node.
const PIECES_AHEAD: usize = 4;

/// Arguments of `minikctl image`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the images of a Docker or OCI archive into every node
    Load(Load),
}

#[derive(Debug, clap::Args)]
struct Load {
    /// The archive (tar, or tar with gzip or zstd), as `docker save` makes it; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME, env = "MINIK_CLUSTER")]
    name: String,
}

/// Does it.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Command::Load(args) = args.command;
    let cluster = cluster::open(&Roots::of_caller(), &args.name)?;
    let nodes = cluster.config().nodes.clone();
    if nodes.is_empty() {
        return Err(Failure::new(format!("the cluster {} has no nodes to load images into", args.name)));
    }
    let progress = Progress::start();
    progress.step(&format!("Loading {}", args.file.display()));
    for reference in load(&cluster, &nodes, &args.file).await? {
        println!("{reference}");
    }
    progress.done(&format!("Loaded into {}", nodes.iter().map(|n| &*n.name).collect::<Vec<_>>().join(", ")));
    Ok(())
}

/// Reads the archive once, for all nodes: each writes it down as it comes, and unpacks what no other has.
async fn load(cluster: &Cluster, nodes: &[Node], file: &Path) -> Result<Vec<String>, Failure> {
    let opened =
        open(file).map_err(|error| Failure::new(format!("cannot open {}: {error}", file.display())))?;
    let (mut feeds, mut loads) = (Vec::new(), Vec::new());
    for node in nodes {
        let (feed, pieces) = mpsc::channel::<Bytes>(PIECES_AHEAD);
        feeds.push(feed);
        let pieces = stream::unfold(pieces, async |mut pieces| {
            pieces.recv().await.map(|data| (LoadRequest { data }, pieces))
        });
        let mut client = ImagesClient::new(connect(cluster, &node.name).await?);
        loads.push(async move { (&node.name, client.load(pieces).await) });
    }
    let (read, answers) =
        futures::join!(feed(tokio::fs::File::from_std(opened), feeds), futures::future::join_all(loads));
    read.map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
    let mut names = Vec::new();
    for (node, answer) in answers {
        let refused = |status: tonic::Status| {
            let words = status.message();
            Failure::new(format!("{} cannot be loaded into {node}: {words}", file.display()))
        };
        names = answer.map_err(refused)?.into_inner().references;
    }
    Ok(names)
}

async fn connect(cluster: &Cluster, node: &str) -> Result<tonic::transport::Channel, Failure> {
    let socket = cluster.layout().node(node).runtime_socket();
    if !socket.exists() {
        let name = &cluster.layout().name;
        return Err(Failure::new(format!("the node {node} does not run"))
            .hint(format!("start it with `minikctl cluster up --name {name}`"))
            .no_cluster());
    }
    Ok(minik_cri::connect(&format!("unix://{}", socket.display())).await?)
}

/// Gives each piece to all. One who has given up takes none; where reading fails, all see the end early.
async fn feed(mut from: tokio::fs::File, feeds: Vec<mpsc::Sender<Bytes>>) -> std::io::Result<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if from.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
        let piece = piece.freeze();
        for feed in &feeds {
            let _ = feed.send(piece.clone()).await;
        }
    }
}

fn open(file: &Path) -> std::io::Result<std::fs::File> {
    match file == Path::new("-") {
        true => Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into()),
        false => std::fs::File::open(file),
    }
}
