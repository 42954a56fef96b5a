//! Calls about the process and its task.

use mm::addr::VirtAddr;
use mm::error::Errno;
use mm::vma::limits::{Limit, Limits, UNLIMITED};
use nix::libc;

use super::{Context, Served, Stop};

/// `arch_prctl` operations (arch/x86/include/uapi/asm/prctl.h).
const ARCH_SET_GS: i32 = 0x1001;
const ARCH_SET_FS: i32 = 0x1002;
const ARCH_GET_FS: i32 = 0x1003;
const ARCH_GET_GS: i32 = 0x1004;

/// How many limits there are (`RLIM_NLIMITS`).
const RESOURCES: u32 = 16;
/// Bytes of a `struct robust_list_head`.
const ROBUST_LIST_HEAD: u64 = 24;

/// exit(2), exit_group(2): there is one task, so they are the same.
pub(super) fn exit(c: &mut Context<'_>) -> Served {
    Err(Stop::Exit(c.args[0].to_le_bytes()[0]))
}

/// arch_prctl(2): FS and GS base.
pub(super) fn arch_prctl(c: &mut Context<'_>) -> Served {
    let base = c.args[1];
    match c.int(0) {
        ARCH_SET_FS | ARCH_SET_GS if base > mm::addr::TASK_SIZE => Err(Errno::EPERM.into()),
        ARCH_SET_FS => c.vcpu.set_fs_base(base).map_err(|_| Errno::EPERM.into()).map(|()| 0),
        ARCH_SET_GS => c.vcpu.set_gs_base(base).map_err(|_| Errno::EPERM.into()).map(|()| 0),
        ARCH_GET_FS => c.write_words(c.address(1), &[c.vcpu.fs_base()]).map(|()| 0),
        ARCH_GET_GS => c.write_words(c.address(1), &[c.vcpu.gs_base()]).map(|()| 0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// set_tid_address(2): nobody waits for a thread yet.
pub(super) fn set_tid_address(c: &mut Context<'_>) -> Served {
    Ok(u64::from(c.process.identity.pid.unsigned_abs()))
}

/// set_robust_list(2): the list matters only when a thread dies holding a futex.
pub(super) fn set_robust_list(c: &mut Context<'_>) -> Served {
    if c.args[1] == ROBUST_LIST_HEAD { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

/// prctl(2): the process's name.
pub(super) fn prctl(c: &mut Context<'_>) -> Served {
    let name = || c.process.identity.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match c.int(0) {
        libc::PR_SET_NAME => {
            let mut new = [0; 16];
            for (index, byte) in new.iter_mut().take(15).enumerate() {
                let at = c.address(1).checked_add(index as u64).ok_or(Errno::EFAULT)?;
                *byte = c.read_bytes(at, 1)?[0];
                if *byte == 0 {
                    break;
                }
            }
            *name() = new;
            Ok(0)
        }
        libc::PR_GET_NAME => {
            let now = *name();
            c.write_bytes(c.address(1), &now)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// prlimit64(2), for the process itself.
pub(super) fn prlimit64(c: &mut Context<'_>) -> Served {
    let pid = c.int(0);
    if pid != 0 && pid != c.process.identity.pid {
        return Err(Errno::ESRCH.into());
    }
    let resource = c.int(1).cast_unsigned();
    if resource >= RESOURCES {
        return Err(Errno::EINVAL.into());
    }
    let new = match c.address(2) {
        VirtAddr::ZERO => None,
        at => Some(c.read_words::<2>(at)?),
    };
    let old = limit(c.process.space.look().limits(), resource);
    if let Some(new) = new {
        set_limit(c, resource, new)?;
    }
    if c.address(3) != VirtAddr::ZERO {
        c.write_words(c.address(3), &old)?;
    }
    Ok(0)
}

/// getrlimit(2).
pub(super) fn getrlimit(c: &mut Context<'_>) -> Served {
    c.args = [0, c.args[0], 0, c.args[1], 0, 0];
    prlimit64(c)
}

/// setrlimit(2).
pub(super) fn setrlimit(c: &mut Context<'_>) -> Served {
    c.args = [0, c.args[0], c.args[1], 0, 0, 0];
    prlimit64(c)
}

/// The soft and hard value of a limit.
fn limit(limits: &Limits, resource: u32) -> [u64; 2] {
    let both = |limit: Limit| [limit.soft, limit.hard];
    match resource {
        libc::RLIMIT_STACK => both(limits.stack),
        libc::RLIMIT_DATA => both(limits.data),
        libc::RLIMIT_AS => both(limits.address_space),
        libc::RLIMIT_MEMLOCK => both(limits.memlock),
        libc::RLIMIT_CORE => [0, UNLIMITED],
        libc::RLIMIT_NOFILE => [1024, 4096],
        libc::RLIMIT_MSGQUEUE => [819_200, 819_200],
        libc::RLIMIT_NICE | libc::RLIMIT_RTPRIO => [0, 0],
        _ => [UNLIMITED, UNLIMITED],
    }
}

/// Raising a hard limit takes `CAP_SYS_RESOURCE`, which the program does not have.
fn set_limit(c: &Context<'_>, resource: u32, [soft, hard]: [u64; 2]) -> Result<(), Stop> {
    if soft > hard {
        return Err(Errno::EINVAL.into());
    }
    let mut space = c.process.space.change();
    let limits = space.limits_mut();
    if hard > limit(limits, resource)[1] {
        return Err(Errno::EPERM.into());
    }
    let new = Limit { soft, hard };
    match resource {
        libc::RLIMIT_STACK => limits.stack = new,
        libc::RLIMIT_DATA => limits.data = new,
        libc::RLIMIT_AS => limits.address_space = new,
        libc::RLIMIT_MEMLOCK => limits.memlock = new,
        _ => {}
    }
    Ok(())
}

/// sched_yield(2).
pub(super) fn sched_yield(_: &mut Context<'_>) -> Served {
    std::thread::yield_now();
    Ok(0)
}

/// getrusage(2): the host's times of this process, the guest's memory and faults.
pub(super) fn getrusage(c: &mut Context<'_>) -> Served {
    if !matches!(c.int(0), libc::RUSAGE_SELF | libc::RUSAGE_CHILDREN | libc::RUSAGE_THREAD) {
        return Err(Errno::EINVAL.into());
    }
    let mut words = [0; 18];
    if c.int(0) != libc::RUSAGE_CHILDREN {
        let micros = super::time::cpu_time().as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        [words[0], words[1]] = [micros / 1_000_000, micros % 1_000_000];
        let space = c.process.space.look();
        let counters = space.counters();
        // ru_maxrss in KiB, ru_minflt.
        words[4] = counters.resident.peak() * 4;
        words[8] = counters.faults.total();
    }
    c.write_words(c.address(1), &words)?;
    Ok(0)
}
