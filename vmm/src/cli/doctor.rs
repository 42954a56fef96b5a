//! `mmvisor doctor`: can mmvisor work here?

use std::io::{self, Write};
use std::process::ExitCode;

use super::{FAILED, complain};
use crate::doctor;
use crate::kvm::FlushPolicy;

/// The arguments of `mmvisor doctor`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Says which KVM this is, and tries each thing that mmvisor relies on with a guest of \
                  a few instructions. Exits with 0 only if all of it works, else with 1."
)]
pub(super) struct Args {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Prints the report on standard output.
pub(super) fn run(args: &Args) -> ExitCode {
    let report = doctor::run(FlushPolicy::of_environment());
    let text = if args.json {
        match report.to_json() {
            Ok(json) => json + "\n",
            Err(error) => {
                complain(&format!("cannot write the report as JSON: {error}"));
                return ExitCode::from(FAILED);
            }
        }
    } else {
        report.to_string()
    };
    if let Err(error) = io::stdout().write_all(text.as_bytes()) {
        complain(&format!("cannot print the report: {error}"));
        return ExitCode::from(FAILED);
    }
    if report.is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
