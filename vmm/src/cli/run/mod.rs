//! `mmvisor run`: a program, from its file to its exit status.
//!
//! ```text
//!   Args ──> Program::open ──> memory ──┬─ host's KVM usable ──> direct ──────────────┐
//!            (bad input ends here)      └─ else, or as asked ──> nested: boots, and   ├──> status
//!                                               `run --machine=kvm` there, to direct ─┘
//! ```

mod direct;
mod dirs;
mod files;
mod nested;
mod pause;

use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mm::addr::VirtAddr;
use mm::khugepaged;
use mm::phys::NODES_MOST;
use mm::sysctl::{OfSize, Thp};

use dirs::DirArg;
use files::{FileArg, Given};
use pause::Pause;

use super::hugetlb::{PoolError, PoolPages};
use super::machine::Where;
use super::report;
use super::size::Size;
use super::swap::{self, SwapError};
use super::{FAILED, complain};
use crate::files::Grant;
use crate::kvm::KvmError;
use crate::load::{Image, LoadError};
use crate::nested::NestedError;
use crate::task::{ExecError, StartError, TaskError};

/// Arguments of `mmvisor run`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "mmvisor run [OPTIONS] PROGRAM [ARGS]...")]
pub(super) struct Args {
    /// The most memory the guest may use; by default half of what the host has, and in the nested
    /// machine 1 GiB at most.
    #[arg(long, value_name = "SIZE")]
    mem: Option<Size>,
    /// Sets a variable of the program's environment, which is otherwise empty. May be repeated.
    #[arg(long, value_name = "K=V", value_parser = parse_variable)]
    env: Vec<CString>,
    /// Gives the program a file of the host, open for reading and writing, or with `:ro` for reading. The
    /// first one is descriptor 3. May be repeated.
    #[arg(long, value_name = "HOST[:ro]")]
    file: Vec<FileArg>,
    /// Lets the program see a directory of the host, at the same path or at GUEST, and change what is in it unless `:ro`
    /// follows. Nothing outside of it can be reached by it. May be repeated.
    #[arg(long, value_name = "HOST[:GUEST][:ro]")]
    dir: Vec<DirArg>,
    /// Has a process that a signal like SIGSEGV kills leave a core file by this name (core(5)), `%p` in it being the
    /// process's number; RLIMIT_CORE is unlimited then, until a program sets it.
    #[arg(long, value_name = "FILE")]
    core: Option<PathBuf>,
    /// Prints each hypercall and fault, to standard error or to a file.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, group = "traced")]
    trace: Option<Option<PathBuf>>,
    /// Has the trace tell what becomes of the page of this address: its entry, its frame, how many entries
    /// name that. May be repeated.
    #[arg(long, value_name = "ADDR", value_parser = parse_address, requires = "traced")]
    trace_page: Vec<VirtAddr>,
    /// Writes a trace that `mmvisor replay` reads: the starting state, then each hypercall and fault.
    #[arg(long, value_name = "FILE", conflicts_with = "trace", group = "traced")]
    record: Option<PathBuf>,
    /// Prints at the end what /proc/PID/maps would have said, to standard error.
    #[arg(long)]
    maps: bool,
    /// Prints at the end what /proc/PID/numa_maps would have said, to standard error: policies, and how many pages are on
    /// each node.
    #[arg(long)]
    numa_maps: bool,
    /// Prints counts at the end, to standard error.
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "text")]
    stats: Option<report::Format>,
    /// Moves the program's parts by random amounts, as Linux does; with a seed, always by the same. Without
    /// this option all runs are alike.
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true)]
    aslr: Option<Option<u64>>,
    /// Places the program's maps from the bottom up (ADDR_COMPAT_LAYOUT of personality(2)).
    #[arg(long)]
    compat_layout: bool,
    /// When anonymous memory is given in huge pages, as /sys/kernel/mm/transparent_hugepage/enabled says on
    /// Linux.
    #[arg(long, value_enum, default_value_t = HugePages::Madvise)]
    thp: HugePages,
    /// When anonymous memory is given in runs of other sizes, 16k to 1m, where it is written, as
    /// /sys/kernel/mm/transparent_hugepage/hugepages-<size>kB/enabled says on Linux: `always`, `madvise`, `inherit` (as
    /// --thp says) or `never`, which all of them are by default but 2m, which inherits.
    #[arg(long, value_name = "SIZE:WHEN,...", value_delimiter = ',')]
    mthp: Vec<OfSize>,
    /// How often small pages are looked at, in milliseconds, and made huge ones where --thp has faults bring in
    /// such; `off` for never.
    #[arg(long, value_name = "MS|off", default_value_t = Pause::of_millis(khugepaged::SCAN_SLEEP_MILLISECS))]
    khugepaged: Pause,
    /// How often 100 pages of memory with MADV_MERGEABLE are looked at, in milliseconds, and made one with equal ones
    /// (Linux's ksmd, which has 20); `off` for never.
    #[arg(long, value_name = "MS|off", default_value_t = Pause::OFF)]
    ksm: Pause,
    /// Takes so many huge pages out of the guest's memory, as vm.nr_hugepages does: for MAP_HUGETLB, MFD_HUGETLB. May
    /// be repeated for the other size.
    #[arg(long, value_name = "2M:N|1G:N")]
    hugetlb: Vec<PoolPages>,
    /// Memory that is not in use goes to an unlinked file of at most this size in the host's temporary directory when
    /// there is none left.
    #[arg(long, value_name = "SIZE")]
    swap: Option<Size>,
    /// Divides the guest's memory among so many NUMA nodes, to which its vCPUs belong in turn. Where the host has
    /// several nodes, each of them has its memory on one of those, in turn.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MOST)))]
    nodes: u8,
    /// Where to run: under the host's KVM, or in a machine emulated with one.
    #[arg(long, value_enum, default_value_t = Where::Auto)]
    machine: Where,
    /// What the program was called by, if that is not its path: how the nested machine is told.
    #[arg(long, value_name = "NAME", hide = true)]
    invoked_as: Option<PathBuf>,
    /// The program's file, and its arguments as they are: what looks like an option is theirs.
    // One list, because clap would swallow a `--` between two.
    #[arg(value_name = "PROGRAM [ARGS]", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// When memory is given in huge pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum HugePages {
    /// Wherever one fits.
    Always,
    /// Where the program asks for them (MADV_HUGEPAGE).
    Madvise,
    /// Nowhere.
    Never,
}

impl From<HugePages> for Thp {
    fn from(asked: HugePages) -> Self {
        match asked {
            HugePages::Always => Thp::Always,
            HugePages::Madvise => Thp::Madvise,
            HugePages::Never => Thp::Never,
        }
    }
}

impl Args {
    /// The file that a trace goes to, of either kind.
    fn trace_file(&self) -> Option<&Path> {
        let trace = self.trace.as_ref().and_then(Option::as_deref);
        self.record.as_deref().or(trace)
    }
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("no program was given")]
    NoProgram,
    #[error("{}: {source}", .path.display())]
    Load { path: PathBuf, source: LoadError },
    #[error("{}: {source}", .path.display())]
    Exec { path: PathBuf, source: ExecError },
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("{}: cannot write the trace: {source}", .path.display())]
    Trace { path: PathBuf, source: std::io::Error },
    #[error("--mem is {asked}, but this host has {} MiB", .has >> 20)]
    Memory { asked: Size, has: u64 },
    #[error("the argument {0:?} has a zero byte in it")]
    ZeroByte(OsString),
    #[error("--file {}: {why}", .path.display())]
    File { path: PathBuf, why: String },
    #[error("--core {}: {why}", .path.display())]
    Core { path: PathBuf, why: String },
    #[error("--dir {}: {why}", .path.display())]
    Dir { path: PathBuf, why: String },
    #[error(transparent)]
    Swap(#[from] SwapError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("cannot get a random seed from the host: {0}")]
    Seed(std::io::Error),
    #[error("cannot read the host's memory size: {0}")]
    HostMemory(String),
    #[error("cannot handle the signal that stops a vCPU: {0}")]
    Kick(std::io::Error),
    #[error("cannot have a thread for --khugepaged or --ksm: {0}")]
    Background(std::io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the machine stopped: {0}")]
    Task(#[from] TaskError),
    #[error("the machine did not end cleanly: {0}")]
    Exit(String),
    #[error(transparent)]
    Nested(#[from] NestedError),
    #[error("{0}")]
    NotStarted(String),
    #[error(
        "mmvisor was killed by signal {0} in the nested machine; if the machine's memory was used up, \
         a larger --mem helps"
    )]
    KilledInside(u8),
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
    let program = Program::open(args)?;
    let has = host_memory()?;
    if let Some(asked) = args.mem.filter(|asked| asked.bytes() > has) {
        return Err(RunError::Memory { asked, has });
    }
    match args.machine {
        Where::Nested => nested::run(args, &program, has, "as asked"),
        Where::Kvm => {
            direct::run(args, program, &direct::machine(args, has, swap::store(args.swap)?)?)
        }
        Where::Auto => match direct::machine(args, has, swap::store(args.swap)?) {
            Ok(machine) => direct::run(args, program, &machine),
            Err(error) if error.means_unusable() => {
                nested::run(args, &program, has, &error.cause())
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// What is to be run, found to be a program.
#[derive(Debug)]
struct Program {
    image: Image,
    /// The path it was opened by.
    file: PathBuf,
    /// Its path as the user wrote it: `argv[0]`, and what messages call it.
    name: PathBuf,
    /// Where it is, without links: `/proc/self/exe`, and in maps.
    path: PathBuf,
    /// All arguments, the name included.
    argv: Vec<CString>,
    /// What it is given.
    files: Vec<Given>,
    /// What it is granted.
    grants: Vec<Grant>,
}

impl Program {
    /// Opens and checks it.
    fn open(args: &Args) -> Result<Self, RunError> {
        // clap gives no empty list.
        let (file, arguments) = args.command.split_first().ok_or(RunError::NoProgram)?;
        let file = Path::new(file);
        let name = args.invoked_as.clone().unwrap_or_else(|| file.to_owned());
        let image =
            Image::open(file).map_err(|source| RunError::Load { path: name.clone(), source })?;
        // A file that was opened by a path that names it no more has no better name.
        let path = fs::canonicalize(file)
            .or_else(|_| std::path::absolute(file))
            .unwrap_or_else(|_| file.to_owned());
        let argv = std::iter::once(name.clone().into_os_string())
            .chain(arguments.iter().cloned())
            .map(c_string)
            .collect::<Result<Vec<_>, _>>()?;
        let files = args.file.iter().map(FileArg::open).collect::<Result<_, _>>()?;
        let grants = args.dir.iter().map(DirArg::open).collect::<Result<_, _>>()?;
        Ok(Program { image, file: file.to_owned(), name, path, argv, files, grants })
    }
}

/// The host's memory, in bytes.
fn host_memory() -> Result<u64, RunError> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    let bytes = info.totalram.checked_mul(unit);
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| RunError::HostMemory("it is zero".to_owned()))
}

fn c_string(text: OsString) -> Result<CString, RunError> {
    CString::new(text.clone().into_vec()).map_err(|_| RunError::ZeroByte(text))
}

/// A hexadecimal address of the user half, with 0x or without.
fn parse_address(text: &str) -> Result<VirtAddr, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let addr = u64::from_str_radix(digits, 16).map(VirtAddr::new);
    addr.ok()
        .filter(|addr| *addr < VirtAddr::TASK_END)
        .ok_or_else(|| format!("an address is hexadecimal and below {}", VirtAddr::TASK_END))
}

fn parse_variable(text: &str) -> Result<CString, String> {
    if !text.contains('=') || text.starts_with('=') {
        return Err("a variable is given as NAME=VALUE".to_owned());
    }
    CString::new(text).map_err(|_| "it has a zero byte in it".to_owned())
}
