//! `minikctl version`: this program's and the server's.

use crate::{Failure, Globals};

/// Arguments of `minikctl version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print this program's version only
    #[arg(long)]
    client: bool,
}

/// Prints both; a server that does not answer is said so.
pub async fn run(globals: &Globals, args: Args) -> Result<(), Failure> {
    println!("Client Version: {}", env!("CARGO_PKG_VERSION"));
    if args.client {
        return Ok(());
    }
    let client = globals.client()?;
    let version: serde_json::Value = minik_client::call::get(&client, "/version").await?;
    println!("Server Version: {}", version.get("gitVersion").and_then(|v| v.as_str()).unwrap_or("unknown"));
    Ok(())
}
