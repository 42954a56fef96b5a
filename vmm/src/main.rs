//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmm::cli::nested::{self, NestedArgs};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The machine with a KVM of its own
    Nested(NestedArgs),
}

fn main() -> ExitCode {
    if vmm::nested::is_init() {
        vmm::nested::init();
    }
    env_logger::init();
    match Arguments::parse().command {
        Command::Nested(arguments) => nested::run(arguments),
    }
}
