//! CPUs and priorities. A process's CPU is its vCPU, which it never leaves; how nice it is, is only kept.

use mm::addr::VirtAddr;
use mm::error::Errno;
use mm::vma::limits::Resource;
use nix::libc;

use super::{Context, Served, Stop};
use crate::credentials::{Capability, current};
use crate::task::Target;

/// Bits of a word of a mask of CPUs.
const WORD: u32 = 64;
/// How nice processes are at the most and the least.
const NICE: std::ops::RangeInclusive<i32> = -20..=19;

/// sched_yield(2).
pub(super) fn sched_yield(_: &mut Context<'_>) -> Served {
    std::thread::yield_now();
    Ok(0)
}

/// getcpu(2): the vCPU's number and its NUMA node.
pub(super) fn getcpu(c: &mut Context<'_>) -> Served {
    let (cpu, node) = (c.vcpu.index(), u32::from(mm::numa::node()));
    for (at, number) in [(c.args[0], cpu), (c.args[1], node)] {
        if at != 0 {
            c.write_bytes(VirtAddr::new(at), &number.to_le_bytes())?;
        }
    }
    Ok(0)
}

/// The CPU of the process that argument 0 names.
fn cpu(c: &Context<'_>) -> Result<u32, Stop> {
    let pid = if c.int(0) == 0 { c.process.pid } else { c.int(0) };
    c.process.family.cpu(pid).ok_or_else(|| Errno::ESRCH.into())
}

/// `EPERM` unless the caller may say how a process is scheduled: its user's, that may do no more (`check_same_owner`,
/// `cap_safe_nice`).
pub(super) fn may_schedule(c: &Context<'_>, pid: i32) -> Result<(), Errno> {
    let other = c.process.family.credentials(pid).ok_or(Errno::ESRCH)?;
    let own = current();
    if own.may_schedule(&other) && own.is_safe_for(&other) { Ok(()) } else { Err(Errno::EPERM) }
}

/// sched_getaffinity(2): one CPU. In this order: `EINVAL` too small, or no whole words; `ESRCH`; `EFAULT`.
pub(super) fn sched_getaffinity(c: &mut Context<'_>) -> Served {
    let len = c.args[1] & u64::from(u32::MAX);
    let own = c.process.family.cpu(c.process.pid).unwrap_or(0);
    if len.saturating_mul(8) <= own.into() || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let cpu = cpu(c)?;
    let words = u64::from(cpu / WORD + 1);
    if words * 8 > len {
        return Err(Errno::EINVAL.into());
    }
    let mut mask = vec![0; usize::try_from(words).unwrap_or(0)];
    if let Some(last) = mask.last_mut() {
        *last = 1 << (cpu % WORD);
    }
    c.write_words(c.address(2), &mask)?;
    Ok(words * 8)
}

/// sched_setaffinity(2): to what it is. In this order: `EFAULT`; `ESRCH`; `EPERM` another's; `EINVAL` its CPU is not among
/// them.
pub(super) fn sched_setaffinity(c: &mut Context<'_>) -> Served {
    const MOST: u64 = 1024;
    let len = (c.args[1] & u64::from(u32::MAX)).min(MOST);
    let mask = c.read_bytes(c.address(2), usize::try_from(len).unwrap_or(0))?;
    let cpu = cpu(c)?;
    may_schedule(c, if c.int(0) == 0 { c.process.pid } else { c.int(0) })?;
    let byte = usize::try_from(cpu / 8).ok().and_then(|at| mask.get(at));
    let has = byte.is_some_and(|byte| byte >> (cpu % 8) & 1 != 0);
    if has { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

/// Whom getpriority(2) and setpriority(2) are about. `EINVAL` an unknown kind.
fn whom(c: &Context<'_>) -> Result<Target, Errno> {
    whom_by(c, c.int(0))
}

/// Whom argument 1 names, for a kind of getpriority(2). Likewise.
pub(super) fn whom_by(c: &Context<'_>, kind: i32) -> Result<Target, Errno> {
    let who = c.int(1);
    let own = |number: i32| if who == 0 { number } else { who };
    Ok(match u32::try_from(kind) {
        Ok(libc::PRIO_PROCESS) => Target::Process(own(c.process.pid)),
        Ok(libc::PRIO_PGRP) => Target::Group(own(c.process.family.group(c.process.pid))),
        Ok(libc::PRIO_USER) if who == 0 => Target::User(current().uids.real),
        Ok(libc::PRIO_USER) => Target::User(who.cast_unsigned()),
        _ => return Err(Errno::EINVAL),
    })
}

/// getpriority(2): 20 for one who is not nice, up to 40 for one who is the least so.
pub(super) fn getpriority(c: &mut Context<'_>) -> Served {
    let nice = c.process.family.nice(whom(c)?, c.process.pid);
    Ok(u64::from((20 - nice.ok_or(Errno::ESRCH)?).unsigned_abs()))
}

/// setpriority(2): of several processes those are changed that may be. `ESRCH` there is none; else what the last of those
/// says that may not (`set_one_prio`).
pub(super) fn setpriority(c: &mut Context<'_>) -> Served {
    let nice = c.int(2).clamp(*NICE.start(), *NICE.end());
    let family = &c.process.family;
    let mut answer = Err(Errno::ESRCH);
    for pid in family.targets(whom(c)?, c.process.pid) {
        match may_be_nice(c, pid, nice) {
            Ok(()) => {
                family.set_nice(pid, nice);
                if answer == Err(Errno::ESRCH) {
                    answer = Ok(());
                }
            }
            Err(errno) => answer = Err(errno),
        }
    }
    Ok(answer.map(|()| 0)?)
}

/// Whether the caller may have a process be so nice. In this order: `EPERM` it is another's; `EACCES` less nice, above its
/// `RLIMIT_NICE`; `EPERM` it may do more than the caller.
fn may_be_nice(c: &Context<'_>, pid: i32, nice: i32) -> Result<(), Errno> {
    let (family, own) = (&c.process.family, current());
    let other = family.credentials(pid).ok_or(Errno::ESRCH)?;
    if !own.may_schedule(&other) {
        return Err(Errno::EPERM);
    }
    let before = family.nice(Target::Process(pid), pid).unwrap_or(0);
    if nice < before && !own.may(Capability::SYS_NICE) {
        // It counts from 1 for the least to 40.
        let wanted = u64::from((20 - nice).unsigned_abs());
        if wanted > limit(c, pid, Resource::Nice) {
            return Err(Errno::EACCES);
        }
    }
    if own.is_safe_for(&other) { Ok(()) } else { Err(Errno::EPERM) }
}

/// A soft limit of a process; 0 of one that has ended.
pub(super) fn limit(c: &Context<'_>, pid: i32, resource: Resource) -> u64 {
    let process = c.process.family.process(pid).and_then(|process| process.upgrade());
    process.map_or(0, |process| process.space.look().limits().get(resource).soft)
}
