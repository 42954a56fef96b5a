//! The command line.
//!
//! Exit status: the program's own; 128+N when signal N killed it; 125 when mmvisor itself could not do
//! what was asked, as env(1), timeout(1) and the like have it.

mod doctor;
mod hugetlb;
mod machine;
mod nested;
mod replay;
mod report;
mod run;
mod size;
mod swap;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// mmvisor itself could not do what was asked.
pub const FAILED: u8 = 125;

/// Runs programs in a KVM guest without a kernel, their memory managed by the host.
#[derive(Debug, Parser)]
#[command(name = "mmvisor", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a static Linux program or a payload in a guest.
    Run(Box<run::Args>),
    /// Replays a trace of memory calls, in software or in a guest, and compares every result.
    Replay(replay::Args),
    /// Says whether mmvisor can work here, and what it costs.
    Doctor(doctor::Args),
    /// Prints which system calls are served, and how much of each.
    Calls,
    /// The machine emulated with a KVM of its own.
    Nested(nested::NestedArgs),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    if crate::nested::is_init() {
        crate::nested::init();
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_target(false)
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nobody is left to tell when even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { FAILED });
        }
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Calls => calls(),
        Command::Nested(args) => nested::run(args),
    }
}

/// Prints the table of calls.
fn calls() -> ExitCode {
    match std::io::stdout().write_all(crate::hypercall::calls_table().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// Says on standard error what went wrong.
fn complain(error: &dyn std::fmt::Display) {
    eprintln!("mmvisor: {error}");
}
