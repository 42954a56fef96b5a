//! Calls about the process and its task.

use mm::error::Errno;
use nix::libc;

use super::{Context, Served, Stop};

/// `arch_prctl` operations (arch/x86/include/uapi/asm/prctl.h).
pub(super) const ARCH_SET_GS: u64 = 0x1001;
pub(super) const ARCH_SET_FS: u64 = 0x1002;
pub(super) const ARCH_GET_FS: u64 = 0x1003;
pub(super) const ARCH_GET_GS: u64 = 0x1004;

/// Bytes of a `struct robust_list_head`.
const ROBUST_LIST_HEAD: u64 = 24;

/// exit(2), exit_group(2): there is one task, so they are the same.
pub(super) fn exit(c: &mut Context<'_>) -> Served {
    Err(Stop::Exit(c.args[0].to_le_bytes()[0]))
}

/// arch_prctl(2): FS and GS base.
pub(super) fn arch_prctl(c: &mut Context<'_>) -> Served {
    let base = c.args[1];
    match u64::from(c.int(0).cast_unsigned()) {
        ARCH_SET_FS | ARCH_SET_GS if base > mm::addr::TASK_SIZE => Err(Errno::EPERM.into()),
        ARCH_SET_FS => c.vcpu.set_fs_base(base).map_err(|_| Errno::EPERM.into()).map(|()| 0),
        ARCH_SET_GS => c.vcpu.set_gs_base(base).map_err(|_| Errno::EPERM.into()).map(|()| 0),
        ARCH_GET_FS => c.write_words(c.address(1), &[c.vcpu.fs_base()]).map(|()| 0),
        ARCH_GET_GS => c.write_words(c.address(1), &[c.vcpu.gs_base()]).map(|()| 0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// set_tid_address(2).
pub(super) fn set_tid_address(c: &mut Context<'_>) -> Served {
    c.process.set_clear_at_exit(c.args[0]);
    Ok(u64::from(c.process.pid.unsigned_abs()))
}

/// set_robust_list(2): the list matters only when a thread dies holding a futex.
pub(super) fn set_robust_list(c: &mut Context<'_>) -> Served {
    if c.args[1] == ROBUST_LIST_HEAD { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

/// prctl(2): the process's name; the other options are about memory.
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
        _ => super::credentials::prctl(c).unwrap_or_else(|| super::memory::serve(c)),
    }
}

/// getrusage(2): the host's time of the process's thread, the guest's memory and faults.
pub(super) fn getrusage(c: &mut Context<'_>) -> Served {
    let used = match c.int(0) {
        libc::RUSAGE_SELF | libc::RUSAGE_THREAD => c.process.family.usage(c.process),
        libc::RUSAGE_CHILDREN => c.process.family.children_usage(c.process.pid),
        _ => return Err(Errno::EINVAL.into()),
    };
    c.write_words(c.address(1), &used.words())?;
    Ok(0)
}
