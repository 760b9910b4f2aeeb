//! minikctl: the command line.

use clap::Parser;
use minik_cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    minik_cli::main(Cli::parse())
}
