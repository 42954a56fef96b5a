//! `mmvisor run`: a program, from its file to its exit status.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use mm::inspect::maps_text;

use super::report::{self, Report};
use super::size::Size;
use super::{FAILED, complain};
use crate::hypercall::{Streams, TraceTarget, Tracer};
use crate::kvm::{FlushPolicy, KvmError};
use crate::load::{Image, LoadError};
use crate::machine::{Machine, MachineConfig};
use crate::task::{End, ExecError, Identity, Process, Task, TaskError, Timing, exec};

/// The first process's number, as in a container.
const FIRST_PID: i32 = 1;
/// What a flush sink that does nothing is asked for with. It exists to prove that the tests of flushing
/// can fail; a program must never run with it.
const NO_FLUSH: &str = crate::kvm::FlushPolicy::WITHOUT_FLUSH;

/// Arguments of `mmvisor run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The most memory the guest may use; by default half of what the host has.
    #[arg(long, value_name = "SIZE")]
    mem: Option<Size>,
    /// Sets a variable of the program's environment, which is otherwise empty. May be repeated.
    #[arg(long, value_name = "K=V", value_parser = parse_variable)]
    env: Vec<CString>,
    /// Prints each hypercall and fault, to standard error or to a file.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    trace: Option<Option<PathBuf>>,
    /// Prints at the end what /proc/PID/maps would have said, to standard error.
    #[arg(long)]
    maps: bool,
    /// Prints counts at the end, to standard error.
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "text")]
    stats: Option<report::Format>,
    /// Where to run: under the host's KVM, or in a machine emulated with one.
    #[arg(long, value_enum, default_value_t = Where::Auto)]
    machine: Where,
    /// The program's file.
    program: PathBuf,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Where to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Where {
    /// Under the host's KVM if it can be used, else nested.
    Auto,
    /// Under the host's KVM.
    Kvm,
    /// In an emulated machine that has a KVM of its own.
    Nested,
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{}: {source}", .path.display())]
    Load { path: PathBuf, source: LoadError },
    #[error("{}: {source}", .path.display())]
    Exec { path: PathBuf, source: ExecError },
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("{}: cannot write the trace: {source}", .path.display())]
    Trace { path: PathBuf, source: std::io::Error },
    #[error("--mem is {asked}, but this host has {has}")]
    Memory { asked: Size, has: u64 },
    #[error("the argument {0:?} has a zero byte in it")]
    ZeroByte(OsString),
    #[error("cannot read the host's memory size: {0}")]
    HostMemory(String),
    #[error("the machine stopped: {0}")]
    Task(#[from] TaskError),
    #[error("the machine did not end cleanly: {0}")]
    Exit(#[source] mm::error::Broken),
}

/// Runs the program and says how mmvisor shall exit.
pub(super) fn run(args: &Args) -> ExitCode {
    match try_run(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

fn try_run(args: &Args) -> Result<u8, RunError> {
    let path = || args.program.clone();
    let image =
        Image::open(&args.program).map_err(|source| RunError::Load { path: path(), source })?;
    let argv = std::iter::once(args.program.clone().into_os_string())
        .chain(args.args.iter().cloned())
        .map(c_string)
        .collect::<Result<Vec<_>, _>>()?;
    let tracer = tracer(args)?;
    let memory = memory(args.mem)?;
    let flush =
        if std::env::var_os(NO_FLUSH).is_some() { FlushPolicy::None } else { FlushPolicy::Chosen };
    let machine = Machine::new(MachineConfig { memory, flush })?;
    log::info!("running under {} KVM", machine.kind());

    let absolute = std::path::absolute(&args.program).unwrap_or_else(|_| path());
    let loaded = exec(&machine, &image, &absolute, &argv, &args.env)
        .map_err(|source| RunError::Exec { path: path(), source })?;
    let process = Process::new(loaded.space, Streams::default(), identity(&absolute));
    let process = Arc::new(process);
    let timing = if args.stats.is_some() { Timing::On } else { Timing::Off };
    let vcpu = machine.take_vcpu()?;
    let mut task =
        Task::new(vcpu, Arc::clone(&process), loaded.entry, loaded.stack, tracer, timing)?;
    let end = task.run()?;

    if args.maps {
        eprint!("{}", maps_text(&process.space.look()));
    }
    if let Some(format) = args.stats {
        let report = Report::new(&machine, &process.space.look(), task.stats());
        eprintln!("{}", report.print(format));
    }
    machine.give_back(task.into_vcpu());
    if let Some(process) = Arc::into_inner(process) {
        process.space.exit().map_err(RunError::Exit)?;
    }
    Ok(match end {
        End::Exited(status) => status,
        End::Killed(death) => {
            complain(&format_args!("{}: {death}", args.program.display()));
            death.status()
        }
    })
}

fn tracer(args: &Args) -> Result<Tracer, RunError> {
    let target = match &args.trace {
        None => TraceTarget::Off,
        Some(None) => TraceTarget::Stderr,
        Some(Some(path)) => TraceTarget::File(path),
    };
    Tracer::new(&target).map_err(|source| RunError::Trace {
        path: args.trace.clone().flatten().unwrap_or_default(),
        source,
    })
}

/// What the guest may use, in bytes.
fn memory(asked: Option<Size>) -> Result<u64, RunError> {
    let has = host_memory()?;
    match asked {
        None => Ok(has / 2),
        Some(asked) if asked.bytes() > has => Err(RunError::Memory { asked, has }),
        Some(asked) => Ok(asked.bytes()),
    }
}

fn host_memory() -> Result<u64, RunError> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    let bytes = info.totalram.checked_mul(unit);
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| RunError::HostMemory("it is zero".to_owned()))
}

fn identity(path: &Path) -> Identity {
    let mut name = [0; 16];
    let file = path.file_name().unwrap_or_default().as_encoded_bytes();
    let len = file.len().min(15);
    name[..len].copy_from_slice(&file[..len]);
    Identity {
        pid: FIRST_PID,
        parent: 0,
        executable: path.display().to_string(),
        name: Mutex::new(name),
    }
}

fn c_string(text: OsString) -> Result<CString, RunError> {
    CString::new(text.clone().into_vec()).map_err(|_| RunError::ZeroByte(text))
}

fn parse_variable(text: &str) -> Result<CString, String> {
    if !text.contains('=') || text.starts_with('=') {
        return Err("a variable is given as NAME=VALUE".to_owned());
    }
    CString::new(text).map_err(|_| "it has a zero byte in it".to_owned())
}
