//! The texts of `/proc/PID` (Linux's `fs/proc/array.c`, `base.c`, `task_mmu.c`).

use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use mm::error::Errno;
use mm::inspect;
use mm::vma::limits::{Limit, Resource, UNLIMITED};

use super::process::{bounded, bytes};
use crate::credentials::Ids;
use crate::task::Process;

/// Which of a program's strings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Strings {
    Arguments,
    Environment,
}

/// `cmdline`, `environ`: as they lie in its memory.
pub(super) fn strings(process: &Process, which: Strings) -> Result<Vec<u8>, Errno> {
    let (from, to) = {
        let space = process.space.look();
        let layout = space.layout();
        match which {
            Strings::Arguments => (layout.arg_start, layout.arg_end),
            Strings::Environment => (layout.env_start, layout.env_end),
        }
    };
    Ok(bytes(process, from, to))
}

/// `auxv`, its end included.
pub(super) fn auxv(process: &Process) -> Result<Vec<u8>, Errno> {
    let space = process.space.look();
    let mut words: Vec<u64> = space.layout().auxv.clone();
    if words.chunks_exact(2).last().is_none_or(|last| last[0] != 0) {
        words.extend([0, 0]);
    }
    Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// The name without its zeros.
fn name(process: &Process) -> String {
    let name = *process.identity.name.lock().unwrap_or_else(PoisonError::into_inner);
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// `comm`.
pub(super) fn comm(process: &Process) -> Result<Vec<u8>, Errno> {
    Ok(format!("{}\n", name(process)).into_bytes())
}

/// `comm`, written: the first 15 bytes.
pub(super) fn set_comm(process: &Process, text: &[u8]) -> Result<(), Errno> {
    let mut name = [0; 16];
    let len = text.len().min(15);
    name[..len].copy_from_slice(&text[..len]);
    *process.identity.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
    Ok(())
}

/// `coredump_filter`.
pub(super) fn core_filter(process: &Process) -> Result<Vec<u8>, Errno> {
    Ok(format!("{:08x}\n", process.space.look().modes().core_filter).into_bytes())
}

/// `coredump_filter`, written: unknown bits are ignored.
pub(super) fn set_core_filter(process: &Process, text: &[u8]) -> Result<(), Errno> {
    const KNOWN: i64 = 0x1ff;
    let bits = bounded(text, 0, u32::MAX.into())? & KNOWN;
    process.space.change().modes_mut().core_filter = u32::try_from(bits).unwrap_or(0);
    Ok(())
}

/// `personality`.
pub(super) fn personality(process: &Process) -> Result<Vec<u8>, Errno> {
    Ok(format!("{:08x}\n", process.space.look().modes().personality).into_bytes())
}

/// `oom_score_adj`.
pub(super) fn oom_score_adj(process: &Process) -> Result<Vec<u8>, Errno> {
    Ok(format!("{}\n", process.oom_adjustment.load(Ordering::Relaxed)).into_bytes())
}

/// `oom_score_adj`, written: from -1,000 to 1,000.
pub(super) fn set_oom_score_adj(process: &Process, text: &[u8]) -> Result<(), Errno> {
    let value = bounded(text, -1000, 1000)?;
    process.oom_adjustment.store(i32::try_from(value).unwrap_or(0), Ordering::Relaxed);
    Ok(())
}

/// `oom_adj`: the same by an older measure, from -17 to 15.
pub(super) fn oom_adj(process: &Process) -> Result<Vec<u8>, Errno> {
    let now = process.oom_adjustment.load(Ordering::Relaxed);
    let old = if now == 1000 { 15 } else { now * 17 / 1000 };
    Ok(format!("{old}\n").into_bytes())
}

/// `oom_adj`, written.
pub(super) fn set_oom_adj(process: &Process, text: &[u8]) -> Result<(), Errno> {
    let old = bounded(text, -17, 15)?;
    let value = if old == 15 { 1000 } else { old * 1000 / 17 };
    process.oom_adjustment.store(i32::try_from(value).unwrap_or(0), Ordering::Relaxed);
    Ok(())
}

/// `oom_score`: how much of memory it has, in thousandths, adjusted (`oom_badness`).
pub(super) fn oom_score(process: &Process) -> Result<Vec<u8>, Errno> {
    let space = process.space.look();
    let swap = space.system().swap().map_or(0, |swap| swap.stats().total);
    let all = (space.system().frames().stats().total + swap).max(1);
    let counters = space.counters();
    let own = counters.resident.total()
        + counters.swapped.load(Ordering::Relaxed)
        + space.table().table_frames();
    let adjustment = i64::from(process.oom_adjustment.load(Ordering::Relaxed));
    let points = i64::try_from(own * 1000 / all).unwrap_or(i64::MAX).saturating_add(adjustment);
    let score = if adjustment == -1000 { 0 } else { (1000 + points).max(0) * 2 / 3 };
    Ok(format!("{score}\n").into_bytes())
}

/// `statm`: size, resident, shared, code, 0, data, 0; in pages.
pub(super) fn statm(process: &Process) -> Result<Vec<u8>, Errno> {
    let space = process.space.look();
    let status = inspect::status(&space);
    let account = space.account();
    let layout = space.layout();
    let pages = |bytes: u64| bytes / 4096;
    let code_end = layout.end_code.page_ceil().unwrap_or(layout.end_code);
    let code = pages(code_end.get().saturating_sub(layout.start_code.page_floor().get()));
    Ok(format!(
        "{} {} {} {code} 0 {} 0\n",
        account.total,
        pages(status.vm_rss),
        pages(status.rss_file + status.rss_shmem),
        account.data + account.stack,
    )
    .into_bytes())
}

/// `stat`: 52 fields (proc_pid_stat(5)). A process has one task, and no terminal.
pub(super) fn stat(process: &Process) -> Result<Vec<u8>, Errno> {
    let family = &process.family;
    let (pid, parent, group) = (process.pid, family.parent(process.pid), family.group(process.pid));
    let session = family.session(pid);
    let ([user, system], children) = (family.ticks_of(pid), family.children_usage(pid));
    let [of_children, in_kernel] = children.ticks();
    let used = family.memory_usage(process);
    let scheduling = family.scheduling(pid).unwrap_or_default();
    let (nice, policy) = (scheduling.nice, scheduling.policy as i32);
    let priority = 20 + nice;
    let (faults, major) = (used.faults, used.major_faults);
    let (faults_of_children, major_of_children) = (children.faults, children.major_faults);
    let space = process.space.look();
    let (status, layout) = (inspect::status(&space), space.layout());
    let limit = space.limits().get(Resource::Resident).soft;
    let (ignored, caught) = process.signals.ignored_and_caught();
    let blocked = process.signals.blocked();
    let mut text = format!(
        "{pid} ({}) {} {parent} {group} {session} 0 -1 4194304 {faults} {faults_of_children} {major} {major_of_children} {user} {system} {of_children} {in_kernel} {priority} {nice} 1 0 0 {} {} {limit}",
        name(process),
        process.signals.doing().letter(),
        status.vm_size,
        status.vm_rss / 4096,
    );
    let _ = write!(
        text,
        " {} {} {} 0 0 0 {} {} {} 0 0 0 17 0 0 {policy} 0 0 0",
        layout.start_code.get(),
        layout.end_code.get(),
        layout.start_stack.get(),
        blocked.0 & 0x7fff_ffff,
        ignored.0 & 0x7fff_ffff,
        caught.0 & 0x7fff_ffff,
    );
    let last = [
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
    ];
    for address in last {
        let _ = write!(text, " {}", address.get());
    }
    text.push_str(" 0\n");
    Ok(text.into_bytes())
}

/// For how many descriptors Linux has room in a process whose last one is this: a power of two, 64 at least
/// (`alloc_fdtable`). It would have more where there were more before.
fn slots(last: Option<i32>) -> u32 {
    const LEAST: u32 = 64;
    let last = last.map_or(0, i32::unsigned_abs);
    if last < LEAST { LEAST } else { (last / 128 + 1).next_power_of_two() * 128 }
}

/// `status`.
pub(super) fn status(process: &Process) -> Result<Vec<u8>, Errno> {
    let family = &process.family;
    let (pid, parent, group) = (process.pid, family.parent(process.pid), family.group(process.pid));
    let session = family.session(pid);
    let space = process.space.look();
    let (ignored, caught) = process.signals.ignored_and_caught();
    let thp = i32::from(space.modes().thp_disabled == 0);
    let slots = slots(process.files.all().last().copied());
    let who = process.credentials.get();
    let four = |ids: &Ids| format!("{}\t{}\t{}\t{}", ids.real, ids.effective, ids.saved, ids.files);
    let groups: Vec<String> = who.groups().iter().map(u32::to_string).collect();
    let groups = groups.join(" ");
    let mut text = format!(
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{}\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{parent}\n\
         TracerPid:\t0\nUid:\t{}\nGid:\t{}\nFDSize:\t{slots}\nGroups:\t{groups} \n\
         NStgid:\t{pid}\nNSpid:\t{pid}\nNSpgid:\t{group}\nNSsid:\t{session}\nKthread:\t0\n",
        name(process),
        process.paths.umask(),
        process.signals.doing(),
        four(&who.uids),
        four(&who.gids),
    );
    let _ = write!(text, "{}", inspect::status(&space));
    let _ = write!(
        text,
        "CoreDumping:\t0\nTHP_enabled:\t{thp}\nuntag_mask:\t0xffffffffffffffff\nThreads:\t1\nSigQ:\t0/0\n\
         SigPnd:\t0000000000000000\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
        process.signals.waiting().0,
        process.signals.blocked().0,
        ignored.0,
        caught.0,
    );
    let sets = who.capabilities();
    let _ = write!(
        text,
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n\
         NoNewPrivs:\t{}\n",
        sets.inheritable,
        sets.permitted,
        sets.effective,
        sets.bounding,
        sets.ambient,
        i32::from(who.no_new_privileges),
    );
    text.push_str(
        "Seccomp:\t0\nSeccomp_filters:\t0\n\
         Cpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
    );
    Ok(text.into_bytes())
}

/// `limits`.
pub(super) fn limits(process: &Process) -> Result<Vec<u8>, Errno> {
    let limits = *process.space.look().limits();
    let mut text =
        format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let shown = |value: u64| match value {
        UNLIMITED => "unlimited".to_owned(),
        value => value.to_string(),
    };
    for (resource, name, unit) in LIMITS {
        let Limit { soft, hard } = limits.get(resource);
        let unit = if unit.is_empty() { String::new() } else { format!("{unit:<10}") };
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit}", shown(soft), shown(hard));
    }
    Ok(text.into_bytes())
}

/// In the file's order, with the names and the units that it has.
const LIMITS: [(Resource, &str, &str); 16] = [
    (Resource::CpuTime, "Max cpu time", "seconds"),
    (Resource::FileSize, "Max file size", "bytes"),
    (Resource::Data, "Max data size", "bytes"),
    (Resource::Stack, "Max stack size", "bytes"),
    (Resource::Core, "Max core file size", "bytes"),
    (Resource::Resident, "Max resident set", "bytes"),
    (Resource::Processes, "Max processes", "processes"),
    (Resource::OpenFiles, "Max open files", "files"),
    (Resource::LockedMemory, "Max locked memory", "bytes"),
    (Resource::AddressSpace, "Max address space", "bytes"),
    (Resource::FileLocks, "Max file locks", "locks"),
    (Resource::PendingSignals, "Max pending signals", "signals"),
    (Resource::MessageQueues, "Max msgqueue size", "bytes"),
    (Resource::Nice, "Max nice priority", ""),
    (Resource::RealtimePriority, "Max realtime priority", ""),
    (Resource::RealtimeTime, "Max realtime timeout", "us"),
];
