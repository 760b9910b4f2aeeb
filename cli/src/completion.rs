//! `minikctl completion`: what a shell completes by.

use crate::{Cli, Failure};
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

/// Arguments of `minikctl completion`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell, as in `source <(minikctl completion bash)`
    #[arg(value_enum)]
    shell: Supported,
}

/// The shells that are tested.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub fn run(args: Args) -> Result<(), Failure> {
    let shell = match args.shell {
        Supported::Bash => Shell::Bash,
        Supported::Zsh => Shell::Zsh,
        Supported::Fish => Shell::Fish,
    };
    clap_complete::generate(shell, &mut Cli::command(), "minikctl", &mut std::io::stdout());
    Ok(())
}
