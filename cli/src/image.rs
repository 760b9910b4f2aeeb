//! `minikctl image`: images for a cluster's nodes, without a registry.

use crate::cluster::DEFAULT_NAME;
use crate::progress::Progress;
use crate::{Failure, cluster};
use clap::Subcommand;
use futures::{Stream, stream};
use minik_cluster::{Cluster, Roots};
use minik_cri::images::LoadRequest;
use minik_cri::images::images_client::ImagesClient;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt;

/// Bytes of one message to the runtime.
const PIECE_BYTES: usize = 256 << 10;

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
    for node in nodes {
        progress.step(&format!("Loading {} into {}", args.file.display(), node.name));
        for reference in load(&cluster, &node.name, &args.file).await? {
            println!("{reference}");
        }
    }
    progress.done("Loaded");
    Ok(())
}

async fn load(cluster: &Cluster, node: &str, file: &Path) -> Result<Vec<String>, Failure> {
    let socket = cluster.layout().node(node).runtime_socket();
    if !socket.exists() {
        let name = &cluster.layout().name;
        return Err(Failure::new(format!("the node {node} does not run"))
            .hint(format!("start it with `minikctl cluster up --name {name}`"))
            .no_cluster());
    }
    let channel = minik_cri::connect(&format!("unix://{}", socket.display())).await?;
    // Where reading fails, the stream ends early; why is kept here.
    let broken = Arc::new(Mutex::new(None));
    let opened =
        open(file).map_err(|error| Failure::new(format!("cannot open {}: {error}", file.display())))?;
    let pieces = pieces(tokio::fs::File::from_std(opened), broken.clone());
    let answer = ImagesClient::new(channel).load(pieces).await;
    if let Some(error) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(Failure::new(format!("cannot read {}: {error}", file.display())));
    }
    match answer {
        Ok(answer) => Ok(answer.into_inner().references),
        Err(status) => {
            Err(Failure::new(format!("{} cannot be loaded: {}", file.display(), status.message())))
        }
    }
}

fn open(file: &Path) -> std::io::Result<std::fs::File> {
    match file == Path::new("-") {
        true => Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into()),
        false => std::fs::File::open(file),
    }
}

fn pieces(
    from: tokio::fs::File,
    broken: Arc<Mutex<Option<std::io::Error>>>,
) -> impl Stream<Item = LoadRequest> + Send + 'static {
    stream::unfold((from, broken), async |(mut from, broken)| {
        let mut data = vec![0; PIECE_BYTES];
        match from.read(&mut data).await {
            Ok(0) => None,
            Ok(length) => {
                data.truncate(length);
                Some((LoadRequest { data: data.into() }, (from, broken)))
            }
            Err(error) => {
                *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        }
    })
}
