//! Policies of scheduling (sched(7)) and of I/O (ioprio_get(2)). Those for real time are refused, as Linux does in a container
//! whose share of real time is none.

use mm::error::Errno;
use mm::vma::limits::Resource;
use nix::libc;

use super::schedule::{limit, may_schedule, whom_by};
use super::{Context, Served, Stop};
use crate::credentials::{Capability, current};
use crate::task::{Children, Policy, Scheduling, Target};

/// The highest priority of real time.
const HIGHEST: i32 = 99;
/// `IOPRIO_CLASS_BE`, `IOPRIO_CLASS_IDLE`, where a class is in a priority, and the middle of `IOPRIO_CLASS_BE`.
const BEST_EFFORT: u64 = 2;
const IDLE: u64 = 3;
const CLASS_SHIFT: u32 = 13;

/// Which policy a number is.
enum Asked {
    Fair(Policy),
    RealTime,
}

impl Asked {
    /// `EINVAL` there is no such policy.
    fn from_number(number: i32) -> Result<Self, Errno> {
        Ok(match number {
            libc::SCHED_OTHER => Asked::Fair(Policy::Other),
            libc::SCHED_BATCH => Asked::Fair(Policy::Batch),
            libc::SCHED_IDLE => Asked::Fair(Policy::Idle),
            libc::SCHED_FIFO | libc::SCHED_RR => Asked::RealTime,
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// sched_get_priority_max(2). `EINVAL` there is no such policy.
pub(super) fn sched_get_priority_max(c: &mut Context<'_>) -> Served {
    priorities(c.int(0)).map(|[_, most]| most)
}

/// sched_get_priority_min(2). Likewise.
pub(super) fn sched_get_priority_min(c: &mut Context<'_>) -> Served {
    priorities(c.int(0)).map(|[least, _]| least)
}

fn priorities(policy: i32) -> Result<[u64; 2], Stop> {
    /// `SCHED_DEADLINE`, `SCHED_EXT`.
    const WITHOUT: [i32; 2] = [6, 7];
    if WITHOUT.contains(&policy) {
        return Ok([0, 0]);
    }
    Ok(match Asked::from_number(policy)? {
        Asked::Fair(_) => [0, 0],
        Asked::RealTime => [1, HIGHEST.unsigned_abs().into()],
    })
}

/// The process that argument 0 names, and how it is scheduled. In this order: `EINVAL` a negative number; `ESRCH`.
fn named(c: &Context<'_>) -> Result<(i32, Scheduling), Errno> {
    let pid = match c.int(0) {
        0 => c.process.pid,
        pid if pid < 0 => return Err(Errno::EINVAL),
        pid => pid,
    };
    c.process.family.scheduling(pid).map(|own| (pid, own)).ok_or(Errno::ESRCH)
}

/// sched_getscheduler(2). In this order: `EINVAL` a negative number; `ESRCH`.
pub(super) fn sched_getscheduler(c: &mut Context<'_>) -> Served {
    let (_, scheduling) = named(c)?;
    let resets = match scheduling.children {
        Children::Same => 0,
        Children::NotLessNice => libc::SCHED_RESET_ON_FORK,
    };
    Ok((scheduling.policy as i32 | resets).unsigned_abs().into())
}

/// sched_getparam(2): a priority of 0. In this order: `EINVAL` nowhere, or a negative number; `ESRCH`; `EFAULT`.
pub(super) fn sched_getparam(c: &mut Context<'_>) -> Served {
    if c.args[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    named(c)?;
    c.write_bytes(c.address(1), &0_i32.to_le_bytes())?;
    Ok(0)
}

/// sched_rr_get_interval(2): what is less than a tick of the clock. In this order: `EINVAL` a negative number; `ESRCH`;
/// `EFAULT`.
pub(super) fn sched_rr_get_interval(c: &mut Context<'_>) -> Served {
    named(c)?;
    c.write_words(c.address(1), &[0, 0])?;
    Ok(0)
}

/// sched_setscheduler(2). In this order: `EINVAL` a negative policy; as of [`set`].
pub(super) fn sched_setscheduler(c: &mut Context<'_>) -> Served {
    if c.int(1) < 0 {
        return Err(Errno::EINVAL.into());
    }
    set(c, 2, Some(c.int(1)))
}

/// sched_setparam(2).
pub(super) fn sched_setparam(c: &mut Context<'_>) -> Served {
    set(c, 1, None)
}

/// Sets a policy, or leaves it. In this order: `EINVAL` no priority, or a negative number; `EFAULT` the priority; `ESRCH`;
/// `EINVAL` no such policy, or a priority that it has not; `EPERM` without `CAP_SYS_NICE` another's, out of `SCHED_IDLE`
/// above `RLIMIT_NICE`, or no longer reset; for real time; or it may do more than the caller. Source:
/// `__sched_setscheduler`.
fn set(c: &mut Context<'_>, at: usize, policy: Option<i32>) -> Served {
    if c.args[at] == 0 || c.int(0) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut priority = [0; 4];
    c.process.space.read(c.address(at), &mut priority)?;
    let priority = i32::from_le_bytes(priority);
    let (pid, old) = named(c)?;
    let resets = libc::SCHED_RESET_ON_FORK;
    let (asked, children) = match policy {
        None => (Asked::Fair(old.policy), old.children),
        Some(policy) if policy & resets == 0 => (Asked::from_number(policy)?, Children::Same),
        Some(policy) => (Asked::from_number(policy & !resets)?, Children::NotLessNice),
    };
    let policy = match asked {
        Asked::Fair(policy) if priority == 0 => policy,
        Asked::RealTime if (1..=HIGHEST).contains(&priority) => return Err(Errno::EPERM.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    let leaves_idle = old.policy == Policy::Idle && policy != Policy::Idle;
    let wanted = || u64::from((20 - old.nice).unsigned_abs());
    if leaves_idle && wanted() > limit(c, pid, Resource::Nice)
        || old.children == Children::NotLessNice && children == Children::Same
    {
        current().require(Capability::SYS_NICE)?;
    }
    may_schedule(c, pid)?;
    c.process.family.set_scheduling(pid, Scheduling { policy, children, ..old });
    Ok(0)
}

/// ioprio_get(2): nobody has one of his own, so it goes by how nice he is, and of one process there is none. In this
/// order: `EINVAL` an unknown kind; `ESRCH`.
pub(super) fn ioprio_get(c: &mut Context<'_>) -> Served {
    /// `IOPRIO_WHO_PROCESS`, which is one more than `PRIO_PROCESS`, as the others are.
    const PROCESS: i32 = 1;
    let target = whom_by(c, c.int(0).wrapping_sub(PROCESS))?;
    let family = &c.process.family;
    let targets = family.targets(target, c.process.pid);
    let each = targets.iter().filter_map(|&pid| family.scheduling(pid));
    let best = each.map(|own| match own.policy {
        Policy::Idle => IDLE << CLASS_SHIFT | level(own.nice),
        Policy::Other | Policy::Batch => BEST_EFFORT << CLASS_SHIFT | level(own.nice),
    });
    let best = best.min().ok_or(Errno::ESRCH)?;
    Ok(if matches!(target, Target::Process(_)) { 0 } else { best })
}

/// From 0 to 7 (`task_nice_ioprio`).
fn level(nice: i32) -> u64 {
    u64::from((nice + 20).unsigned_abs() / 5)
}
