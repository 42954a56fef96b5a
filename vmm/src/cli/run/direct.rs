//! A program under the KVM of the host that this process is on.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use mm::inspect::{audit, maps_text, numa_maps};
use mm::space::ADDR_COMPAT_LAYOUT;
use mm::swap::SwapStore;
use mm::vma::Aslr;
use mm::vma::limits::{Limit, Resource};

use super::super::complain;
use super::super::report::Report;
use super::super::size::Size;
use super::files::descriptors;
use super::{Args, HugePages, Program, RunError};
use crate::files::{Paths, root};
use crate::hypercall::{TraceTarget, Tracer};
use crate::kvm::{FlushPolicy, KvmError};
use crate::machine::{Machine, MachineConfig};
use crate::proc;
use crate::task::{Background, CoreFiles, End, Family, Identity, Launch, Task, Timing, exec};

/// A machine of the size that was asked for, or else of half the host's memory, `has` bytes.
pub(super) fn machine(
    args: &Args,
    has: u64,
    swap: Option<Box<dyn SwapStore>>,
) -> Result<Arc<Machine>, KvmError> {
    let memory = args.mem.map_or(has / 2, Size::bytes);
    let flush = FlushPolicy::of_environment();
    let machine = Machine::with_swap(MachineConfig { memory, flush, nodes: args.nodes }, swap)?;
    machine.system().sysctl.set_thp(args.thp.into());
    log::info!("running under {} KVM", machine.kind());
    Ok(Arc::new(machine))
}

/// Runs the program and gives its status. When it has ended, so have the processes that it made. mmvisor's
/// own process is expected to end then.
pub(super) fn run(args: &Args, program: Program, machine: &Arc<Machine>) -> Result<u8, RunError> {
    raise_descriptor_limit();
    args.hugetlb.iter().try_for_each(|pages| pages.take(machine.system()))?;
    let tracer = tracer(args)?;
    let Program { image, file: _, name, path, argv, files, grants } = program;
    let timing = if args.stats.is_some() { Timing::On } else { Timing::Off };
    let core_files = core_files(args)?;
    let dumps = core_files.is_some();
    let family = Family::with_core_files(Arc::clone(machine), tracer, timing, core_files)
        .map_err(RunError::Kick)?;
    // Before there is a space: it notes each that begins.
    let background = background(args, &family).map_err(RunError::Background)?;
    let launch = launch(args, machine)?;
    let loaded = exec(machine.system(), &image, &path, &argv, &args.env, &launch)
        .map_err(|source| RunError::Exec { path: name.clone(), source })?;
    if dumps {
        loaded.space.change().limits_mut().set(Resource::Core, Limit::NONE);
    }
    // Not before: what is written to the stack then comes page by page (`vma_is_temporary_stack`).
    args.mthp.iter().for_each(|&of_size| machine.system().sysctl.set_thp_size(of_size));
    let descriptors = descriptors(machine.system(), files)?;
    let called = argv.first().map_or(c"", |name| name.as_c_str());
    let executable = path.display().to_string();
    let identity = Identity::new(called, executable, Arc::clone(&image.file), launch);
    let paths = Paths::new(
        root(grants, Some(proc::root(&family))),
        &std::env::current_dir().unwrap_or_default(),
    );
    let mut task = family.first(loaded, descriptors, paths, identity)?;
    let ended = task.run();
    drop(background);
    family.close()?;
    let end = ended?;

    let space = &task.process().space;
    if args.maps {
        eprint!("{}", maps_text(&space.look()));
    }
    if args.numa_maps {
        let policy = *task.process().policy.lock().unwrap_or_else(PoisonError::into_inner);
        let space = space.look();
        let lines = numa_maps(&space, policy).map(|line| format!("{line}\n"));
        eprint!("{}", lines.collect::<String>());
    }
    if let Some(format) = args.stats {
        let report = Report::new(machine, space, task.stats(), &family.totals());
        eprintln!("{}", report.print(format));
    }
    // The kernel takes everything from a process that ends anyway, so setting the vCPU back and freeing
    // page by page are not for a release to spend time on: they find bugs.
    if cfg!(debug_assertions) {
        take_apart(machine, task)?;
    }
    Ok(match end {
        End::Exited(status) => status,
        End::Killed(death) => {
            complain(&format_args!("{}: {death}", name.display()));
            death.status()
        }
    })
}

/// Each vCPU, pipe and file of the guest is a descriptor of mmvisor's.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it may not be, guests have fewer.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// The threads that go through all memory.
fn background(args: &Args, family: &Arc<Family>) -> io::Result<Vec<Background>> {
    let huge = args.thp != HugePages::Never || !args.mthp.is_empty();
    let khugepaged = args.khugepaged.duration().filter(|_| huge);
    let khugepaged = khugepaged.map(|every| Background::khugepaged(family, every));
    let ksmd = args.ksm.duration().map(|every| Background::ksmd(family, every));
    khugepaged.into_iter().chain(ksmd).collect()
}

/// Ends everything as in a machine that goes on to another program, and looks whether it was in order.
fn take_apart(machine: &Machine, task: Task) -> Result<(), RunError> {
    let process = Arc::clone(task.process());
    audit(&process.space.look()).map_err(RunError::Exit)?;
    machine.give_back(task.into_vcpu());
    if let Some(process) = Arc::into_inner(process) {
        process.space.put().map_err(|broken| RunError::Exit(broken.to_string()))?;
    }
    machine.system().segments().remove_all();
    for pool in machine.system().huge_pools() {
        let stats = pool.stats();
        if (stats.free, stats.reserved) != (stats.total, 0) {
            return Err(RunError::Exit(format!("huge pages are in use by nobody: {stats:?}")));
        }
        pool.resize(0).map_err(|broken| RunError::Exit(broken.to_string()))?;
    }
    let places = machine.system().swap().map_or(0, |swap| swap.stats().used);
    match (machine.system().frames().stats().pages, places) {
        (0, 0) => Ok(()),
        (0, left) => Err(RunError::Exit(format!("{left} swapped pages are nobody's"))),
        (left, _) => Err(RunError::Exit(format!("{left} pages are in use by nobody"))),
    }
}

/// How the program is started: as Linux does under `setarch -R`, but for what was asked for.
fn launch(args: &Args, machine: &Machine) -> Result<Launch, RunError> {
    let personality = if args.compat_layout { ADDR_COMPAT_LAYOUT } else { 0 };
    let aslr = match args.aslr {
        None => Aslr::OFF,
        Some(Some(seed)) => Aslr::from_seed(seed),
        Some(None) => {
            let mut seed = [0; 8];
            rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| RunError::Seed(errno.into()))?;
            let seed = u64::from_le_bytes(seed);
            log::info!("the layout is that of --aslr={seed}");
            Aslr::from_seed(seed)
        }
    };
    Ok(Launch { personality, aslr, ..Launch::on(machine) })
}

fn core_files(args: &Args) -> Result<Option<CoreFiles>, RunError> {
    let refused = |path: &Path, error: io::Error| RunError::Core {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let files =
        args.core.as_deref().map(|path| CoreFiles::new(path).map_err(|error| refused(path, error)));
    files.transpose()
}

fn tracer(args: &Args) -> Result<Tracer, RunError> {
    let target = match (&args.record, &args.trace) {
        (Some(path), _) => TraceTarget::Recording(path),
        (None, None) => TraceTarget::Off,
        (None, Some(None)) => TraceTarget::Stderr,
        (None, Some(Some(path))) => TraceTarget::File(path),
    };
    Tracer::new(&target, &args.trace_page).map_err(|source| RunError::Trace {
        path: args.trace_file().map(Path::to_owned).unwrap_or_default(),
        source,
    })
}
