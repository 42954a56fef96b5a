//! `mmvisor replay`: the calls of a trace once more, against the memory manager alone.
//!
//! ```text
//!   FILE ──> trace::Reader ──> engine ──> software executor (mm, no KVM)
//!                                 └──> a line a mismatch, the counts, the exit status
//! ```

mod programs;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mm::replay::engine::{AddressMode, Mismatch, replay};
use mm::replay::linux::Linux;
use mm::replay::trace::Reader;

use self::programs::Programs;
use super::{FAILED, complain};

/// Frames of 4 KiB that the replayed processes have together: 4 GiB, which cost something only once they
/// are used.
const FRAMES: u64 = 1 << 20;
/// The trace could not be read, or not to its end.
const UNREADABLE: u8 = 2;

/// Arguments of `mmvisor replay`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Replays the memory calls of a trace, which is what strace prints or `mmvisor run \
                  --record` writes, and compares every result with Linux's. Exits with 0 if all are \
                  equal, with 1 if one is not, with 2 if the trace could not be read.",
    after_long_help = "A trace of any program:\n  strace -f -y -o t.trace -e trace=%memory,%process,\
                       prlimit64,setrlimit,prctl,personality,openat,close,dup,dup2,dup3,fcntl,ftruncate,\
                       memfd_create,shmat,shmdt,shmget PROGRAM\n  mmvisor replay --relocate t.trace"
)]
pub(super) struct Args {
    /// Maps the trace's addresses to our own: for a run with randomized addresses, the default of Linux.
    #[arg(long)]
    relocate: bool,
    /// The trace; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Why a trace was not replayed to its end.
#[derive(Debug, thiserror::Error)]
enum ReplayFailed {
    #[error("{name}: cannot read the trace: {source}")]
    Read { name: String, source: io::Error },
    #[error("cannot print the result: {0}")]
    Print(#[from] io::Error),
}

/// Replays the trace and says how mmvisor shall exit.
pub(super) fn run(args: &Args) -> ExitCode {
    match try_run(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error);
            let unreadable = matches!(error, ReplayFailed::Read { .. });
            ExitCode::from(if unreadable { UNREADABLE } else { FAILED })
        }
    }
}

fn try_run(args: &Args) -> Result<u8, ReplayFailed> {
    let (name, text) = read(&args.file)?;
    let addresses = if args.relocate { AddressMode::Relocated } else { AddressMode::Exact };
    let mut stdout = io::stdout().lock();
    let mut printed = Ok(());
    let mut print = |mismatch: Mismatch| {
        if printed.is_ok() {
            printed = writeln!(stdout, "{name}:{mismatch}");
        }
    };
    let mut linux = Linux::new(FRAMES).with_loader(Box::new(Programs));
    let report = replay(Reader::new(&text), &mut linux, addresses, &mut print);
    printed?;
    writeln!(stdout, "{}", report.summary)?;
    if let Some(ended) = &report.ended {
        complain(&format_args!("{name}: {ended}"));
    }
    Ok(report.exit_status())
}

/// The trace's name for messages, and its bytes.
fn read(file: &Path) -> Result<(String, Vec<u8>), ReplayFailed> {
    let (name, text) = if file.as_os_str() == "-" {
        let mut text = Vec::new();
        ("stdin".to_owned(), io::stdin().read_to_end(&mut text).map(|_| text))
    } else {
        (file.display().to_string(), fs::read(file))
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(source) => Err(ReplayFailed::Read { name, source }),
    }
}
