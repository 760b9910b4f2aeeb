//! `minikctl node`: the nodes of a cluster on this machine.

use crate::cluster::{DEFAULT_NAME, NodeSize, open, print_rows, wait};
use crate::progress::Progress;
use crate::{Failure, Globals};
use clap::Subcommand;
use jiff::SignedDuration;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use minik_client::{call, connect};
use minik_cluster::{Cluster, Error, Roots};

/// Arguments of `minikctl node`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a node on this machine, and wait until a Pod can start there
    Add(Add),
    /// Remove a node with everything that runs on it
    #[command(visible_alias = "delete")]
    Remove(Remove),
    /// List a cluster's nodes, and where they are
    List(OfCluster),
    /// Tokens by which other machines join a cluster
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token, and print the command that joins another machine with it
    Create {
        #[command(flatten)]
        of: OfCluster,
        /// How long it is good, such as 24h; 0 for ever
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        ttl: SignedDuration,
    },
    /// List the tokens, without their secrets
    List(OfCluster),
    /// Delete a token
    Delete {
        #[command(flatten)]
        of: OfCluster,
        /// The token, or its part before the dot
        #[arg(value_name = "TOKEN")]
        token: String,
    },
}

#[derive(Debug, clap::Args)]
struct OfCluster {
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME, env = "MINIK_CLUSTER")]
    cluster: String,
}

#[derive(Debug, clap::Args)]
struct Add {
    #[command(flatten)]
    of: OfCluster,
    /// The node's name; CLUSTER-N by default
    #[arg(value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    size: NodeSize,
}

#[derive(Debug, clap::Args)]
struct Remove {
    #[command(flatten)]
    of: OfCluster,
    /// The node's name
    #[arg(value_name = "NODE")]
    node: String,
}

/// Does it.
pub async fn run(_: &Globals, args: Args) -> Result<(), Failure> {
    let roots = Roots::of_caller();
    match args.command {
        Command::Add(args) => add(open(&roots, &args.of.cluster)?, args).await,
        Command::Remove(args) => remove(open(&roots, &args.of.cluster)?, &args.node).await,
        Command::List(args) => list(&open(&roots, &args.cluster)?).await,
        Command::Token(command) => token(&roots, command).await,
    }
}

async fn token(roots: &Roots, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { of, ttl } => {
            let (_, join) = open(roots, &of.cluster)?.create_token(ttl).await?;
            eprintln!("Run this as root on the machine that shall join:");
            println!("{join}");
        }
        TokenCommand::List(of) => {
            let mut rows = vec![["TOKEN", "EXPIRES", "DESCRIPTION"].map(str::to_owned)];
            for token in open(roots, &of.cluster)?.tokens().await? {
                let expires = token.expiration.unwrap_or_else(|| "never".to_owned());
                rows.push([token.id, expires, token.description]);
            }
            print_rows(&rows);
        }
        TokenCommand::Delete { of, token } => {
            open(roots, &of.cluster)?.delete_token(&token).await?;
            println!("the token is deleted");
        }
    }
    Ok(())
}

async fn add(mut cluster: Cluster, args: Add) -> Result<(), Failure> {
    let progress = Progress::start();
    let size = args.size.read()?;
    if let Some(name) = args.node.as_ref()
        && runs(&cluster).await?
        && nodes(&cluster).await?.iter().any(|node| node.metadata.name.as_ref() == Some(name))
    {
        return Err(Error::NodeExists { name: name.clone() }.into());
    }
    progress.step("Adding a node");
    let node = cluster.add_node(args.node.as_deref(), &size).await?;
    if !runs(&cluster).await? {
        progress.done(&format!("The node {} comes with the next `minikctl cluster up`", node.name));
        return Ok(());
    }
    wait(&progress, &cluster).await?;
    progress.done(&format!("The node {} is ready", node.name));
    Ok(())
}

async fn remove(mut cluster: Cluster, name: &str) -> Result<(), Failure> {
    let progress = Progress::start();
    if !runs(&cluster).await? {
        let what = format!("the cluster {} does not run", cluster.layout().name);
        return Err(Failure::new(what).hint("start it with `minikctl cluster up`").no_cluster());
    }
    let is_known = nodes(&cluster).await?.iter().any(|node| node.metadata.name.as_deref() == Some(name));
    progress.step(&format!("Removing the node {name}"));
    let is_dead = match cluster.remove_node(name).await {
        // One on another machine, or one whose object only was left behind.
        Err(Error::NodeUnknown { .. }) if is_known => false,
        other => other.map(|()| true)?,
    };
    cluster.forget_node(name, is_dead).await?;
    progress.done(&format!("The node {name} is removed"));
    Ok(())
}

async fn list(cluster: &Cluster) -> Result<(), Failure> {
    let mut rows = vec![["NAME", "STATUS", "ADDRESS", "PODS", "CPU", "MEMORY", "WHERE"].map(str::to_owned)];
    let local = &cluster.config().nodes;
    for node in nodes(cluster).await? {
        let name = node.metadata.name.clone().unwrap_or_default();
        let is_local = local.iter().any(|local| local.name == name);
        let is_fake = node
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.get(FAKE.0).map(String::as_str) == Some(FAKE.1));
        let place = match (is_local, is_fake) {
            (true, _) => "this machine",
            (_, true) => "nowhere (fake)",
            _ => "elsewhere",
        };
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let is_address = |address: &&NodeAddress| address.type_ == "InternalIP";
        let address = status.addresses.iter().flatten().find(is_address).map(|found| found.address.clone());
        let allocatable = status.allocatable.clone().unwrap_or_default();
        let has = |resource| allocatable.get(resource).map(|quantity| quantity.0.clone());
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let (cpu, memory) = (shown(has("cpu")), shown(has("memory")));
        let state = state(&node);
        rows.push([name, state, shown(address), shown(spec.pod_cidr), cpu, memory, place.to_owned()]);
    }
    print_rows(&rows);
    Ok(())
}

/// The label of nodes without machines.
const FAKE: (&str, &str) = ("minik.dev/node", "fake");

fn state(node: &Node) -> String {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let ready = match ready.map(|condition| &*condition.status) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        _ => "Unknown",
    };
    let is_cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    format!("{ready}{}", if is_cordoned { ",SchedulingDisabled" } else { "" })
}

async fn runs(cluster: &Cluster) -> Result<bool, Failure> {
    Ok(cluster.status().await?.report.is_some())
}

async fn nodes(cluster: &Cluster) -> Result<Vec<Node>, Failure> {
    let client = connect(&cluster.admin()?, "default")?;
    let list: List<Node> = call::get(&client, "/api/v1/nodes").await?;
    Ok(list.items)
}
