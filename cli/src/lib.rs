//! `minikctl`: makes and unmakes clusters on this machine, and speaks to the API of any cluster.
//!
//! ```text
//!  arguments ──> Cli (clap) ──> one file a command: Args + run(&Globals, Args) ──> stdout
//!                                                       └─ Failure: one sentence, what to do, an exit code ──> stderr
//! ```
//!
//! Invariants:
//! - A command's file holds its `Args` and its `run`; this file knows their names only.
//! - What a command prints on stdout is its result; progress and failures go to stderr.
//! - Exit codes: 0 done, 1 failed, 2 wrong usage, 3 there is no such cluster or it does not run.

mod api_resources;
mod apply;
mod chosen;
mod cluster;
mod completion;
mod create;
mod delete;
mod describe;
mod doctor;
mod drain;
mod exec;
mod expose;
mod failure;
mod get;
mod globals;
mod image;
#[doc(hidden)] // for the fuzz targets
pub mod jsonpath;
mod label;
mod logs;
#[doc(hidden)] // for the fuzz targets
pub mod manifest;
mod node;
mod output;
mod patch;
mod place;
mod progress;
mod query;
mod resources;
mod rollout;
mod scale;
mod session;
mod set;
mod table;
mod taint;
mod terminal;
#[cfg(test)]
mod testing;
mod version;
mod wait;
mod why;
#[doc(hidden)] // for the fuzz targets
pub mod yaml;

pub use failure::Failure;
pub use globals::Globals;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Kubernetes made small: clusters on this machine, and what runs in them.
#[derive(Debug, Parser)]
#[command(name = "minikctl", version, max_term_width = 110, propagate_version = false)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs)] // the text would become a flag's help
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start, stop, delete and list clusters on this machine
    Cluster(cluster::Args),
    /// Add nodes to a cluster and remove them
    Node(node::Args),
    /// Load images into a cluster's nodes
    Image(image::Args),
    /// Check whether this machine can run clusters; each finding says how to mend it
    Doctor(doctor::Args),
    /// Make objects be as files say
    Apply(apply::Args),
    /// Make objects that are not there yet
    Create(create::Args),
    /// Show objects
    Get(get::Args),
    /// Tell all about an object
    Describe(describe::Args),
    /// Tell why an object is not as it should be, and what would mend it
    Why(why::Args),
    /// Delete objects
    Delete(delete::Args),
    /// Follow, undo, pause, resume or repeat a rollout
    Rollout(rollout::Args),
    /// Say how many Pods something is to have
    Scale(scale::Args),
    /// Give containers other images
    Set(set::Args),
    /// Make a Service for what something selects
    Expose(expose::Args),
    /// Change fields of objects
    Patch(patch::Args),
    /// Set and take away labels
    Label(label::Args),
    /// Set and take away annotations
    Annotate(label::Args),
    /// Set and take away taints of nodes
    Taint(taint::Args),
    /// Let no further Pods be placed on nodes
    Cordon(drain::CordonArgs),
    /// Let Pods be placed on nodes again
    Uncordon(drain::CordonArgs),
    /// Move the Pods of nodes elsewhere
    Drain(drain::Args),
    /// Print what a container has written
    Logs(logs::Args),
    /// Run a command in a container
    Exec(exec::Args),
    /// Join what runs in a container
    Attach(exec::AttachArgs),
    /// Wait until objects are as wanted
    Wait(wait::Args),
    /// List what the server serves
    ApiResources(api_resources::Args),
    /// Print the completion script of a shell
    Completion(completion::Args),
    /// Print the versions of minikctl and of the server
    Version(version::Args),
}

/// Runs the command line; gives the exit code.
pub fn main(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new(format!("cannot start: {error}")).report(),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let globals = cli.globals;
    match cli.command {
        Command::Cluster(args) => cluster::run(&globals, args).await,
        Command::Node(args) => node::run(&globals, args).await,
        Command::Image(args) => image::run(args).await,
        Command::Doctor(args) => doctor::run(args),
        Command::Apply(args) => apply::run(&globals, args).await,
        Command::Create(args) => create::run(&globals, args).await,
        Command::Get(args) => get::run(&globals, args).await,
        Command::Describe(args) => describe::run(&globals, args).await,
        Command::Why(args) => why::run(&globals, args).await,
        Command::Delete(args) => delete::run(&globals, args).await,
        Command::Rollout(args) => rollout::run(&globals, args).await,
        Command::Scale(args) => scale::run(&globals, args).await,
        Command::Set(args) => set::run(&globals, args).await,
        Command::Expose(args) => expose::run(&globals, args).await,
        Command::Patch(args) => patch::run(&globals, args).await,
        Command::Label(args) => label::run(&globals, args, label::Which::Labels).await,
        Command::Annotate(args) => label::run(&globals, args, label::Which::Annotations).await,
        Command::Taint(args) => taint::run(&globals, args).await,
        Command::Cordon(args) => drain::cordon(&globals, args, true).await,
        Command::Uncordon(args) => drain::cordon(&globals, args, false).await,
        Command::Drain(args) => drain::run(&globals, args).await,
        Command::Logs(args) => logs::run(&globals, args).await,
        Command::Exec(args) => exec::run(&globals, args).await,
        Command::Attach(args) => exec::attach(&globals, args).await,
        Command::Wait(args) => wait::run(&globals, args).await,
        Command::ApiResources(args) => api_resources::run(&globals, args).await,
        Command::Completion(args) => completion::run(args),
        Command::Version(args) => version::run(&globals, args).await,
    }
}
