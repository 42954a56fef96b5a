//! `mmvisor replay`: the calls of a trace once more, against the memory manager alone, or in a guest.
//!
//! ```text
//!   FILE ──> trace::Reader ──> engine ──> executor ─┬─ in software (mm, no KVM)
//!                                │                  └─ in a guest: the host's KVM, or nested
//!                                └──> a line a mismatch, the counts, the exit status
//! ```

mod nested;
mod programs;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use mm::addr::PAGE_SIZE;
use mm::phys::NODES_MOST;
use mm::replay::engine::{AddressMode, Mismatch, replay};
use mm::replay::linux::Linux;
use mm::replay::trace::Reader;
use mm::swap::SwapStore;

use self::programs::Programs;
use super::hugetlb::{PoolError, PoolPages};
use super::machine::Where;
use super::size::Size;
use super::swap::{self, SwapError};
use super::{FAILED, complain};
use crate::kvm::{FlushPolicy, KvmError};
use crate::machine::{Machine, MachineConfig, VcpuError};
use crate::nested::NestedError;
use crate::replay::in_guest;

/// Frames of 4 KiB that the replayed processes have together: 4 GiB, which cost something only once they
/// are used.
const FRAMES: u64 = 1 << 20;
/// The trace could not be read, or not to its end.
const UNREADABLE: u8 = 2;

/// Arguments of `mmvisor replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "A trace is what strace prints, of any program, or what `mmvisor run --record` \
                       writes:\n\n  strace -f -y -o t.trace -e trace=%memory,%process,prlimit64,setrlimit,\
                       prctl,personality,openat,close,dup,dup2,dup3,fcntl,ftruncate,memfd_create,shmat,\
                       shmdt,shmget PROGRAM\n  mmvisor replay --relocate t.trace\n\n\
                       Exits with 0 if every result is Linux's, with 1 if one is not, with 2 if the trace \
                       could not be read."
)]
pub(super) struct Args {
    /// Maps the trace's addresses to our own: for a run with randomized addresses, the default of Linux.
    #[arg(long)]
    relocate: bool,
    /// Executes the trace in a guest: a processor makes the accesses, and what it faults on is resolved.
    #[arg(long)]
    in_guest: bool,
    /// Where the guest is: under the host's KVM, or in a machine emulated with one.
    #[arg(long, value_enum, default_value_t = Where::Auto, requires = "in_guest")]
    machine: Where,
    /// Divides memory among so many NUMA nodes; all processes run on the first.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MOST)))]
    nodes: u8,
    /// Takes so many huge pages out of the guest's memory, as vm.nr_hugepages does: for MAP_HUGETLB, MFD_HUGETLB. May
    /// be repeated for the other size.
    #[arg(long, value_name = "2M:N|1G:N")]
    hugetlb: Vec<PoolPages>,
    /// Gives the machine a swap area of this size, in the replaying host's temporary directory: MADV_PAGEOUT then swaps
    /// out, and so does `@sysctl mmvisor.reclaim 1` in the trace, all that can be.
    #[arg(long, value_name = "SIZE")]
    swap: Option<Size>,
    /// What the trace is called in messages: how the nested machine is told.
    #[arg(long, value_name = "NAME", hide = true)]
    called: Option<String>,
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
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error(transparent)]
    Nested(#[from] NestedError),
    #[error(transparent)]
    Swap(#[from] SwapError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("the trace was not replayed in the nested machine: {0}")]
    NotStarted(String),
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
    let name = args.called.clone().unwrap_or(name);
    if !args.in_guest {
        let linux = Linux::with_swap(FRAMES, args.nodes, swap::store(args.swap)?);
        return print(args, &name, &text, linux);
    }
    if args.machine == Where::Nested {
        return nested::run(args, name, text, "as asked");
    }
    match machine(args.nodes, swap::store(args.swap)?) {
        Err(error) if args.machine == Where::Auto && error.means_unusable() => {
            nested::run(args, name, text, &error.cause())
        }
        machine => print(args, &name, &text, in_guest(&Arc::new(machine?))?),
    }
}

/// The machine for a guest under the KVM of this host.
fn machine(nodes: u8, swap: Option<Box<dyn SwapStore>>) -> Result<Machine, KvmError> {
    let flush = FlushPolicy::of_environment();
    let config = MachineConfig { memory: FRAMES * PAGE_SIZE, flush, nodes };
    let machine = Machine::for_replay(config, swap)?;
    log::info!("replaying in a guest under {} KVM", machine.kind());
    Ok(machine)
}

/// Replays the trace, prints what comes of it, and gives the exit status.
fn print(args: &Args, name: &str, text: &[u8], linux: Linux) -> Result<u8, ReplayFailed> {
    let addresses = if args.relocate { AddressMode::Relocated } else { AddressMode::Exact };
    let mut stdout = io::stdout().lock();
    let mut printed = Ok(());
    let mut print = |mismatch: Mismatch| {
        if printed.is_ok() {
            printed = writeln!(stdout, "{name}:{mismatch}");
        }
    };
    args.hugetlb.iter().try_for_each(|pages| pages.take(linux.system()))?;
    let mut linux = linux.with_loader(Box::new(Programs));
    let report = replay(Reader::new(text), &mut linux, addresses, &mut print);
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
