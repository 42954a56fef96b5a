//! fork(2), vfork(2), clone(2): another process. Threads and namespaces are not served yet.

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;

use super::{Context, Served};
use crate::task::{ChildOf, Parent, Request, Sharing, spawn};

/// What the low byte of the flags is: the signal at the child's end (`CSIGNAL`).
const EXIT_SIGNAL: u64 = 0xff;
/// All namespaces but that of time, which clone3(2) alone can name.
const NAMESPACES: u64 = bits(libc::CLONE_NEWNS)
    | bits(libc::CLONE_NEWUSER)
    | bits(libc::CLONE_NEWPID)
    | bits(libc::CLONE_NEWIPC)
    | bits(libc::CLONE_NEWNET)
    | bits(libc::CLONE_NEWUTS)
    | bits(libc::CLONE_NEWCGROUP);
const VM: u64 = bits(libc::CLONE_VM);
const FS: u64 = bits(libc::CLONE_FS);
const FILES: u64 = bits(libc::CLONE_FILES);
const SIGHAND: u64 = bits(libc::CLONE_SIGHAND);
const PIDFD: u64 = bits(libc::CLONE_PIDFD);
const VFORK: u64 = bits(libc::CLONE_VFORK);
const PARENT: u64 = bits(libc::CLONE_PARENT);
const THREAD: u64 = bits(libc::CLONE_THREAD);
const SETTLS: u64 = bits(libc::CLONE_SETTLS);
const PARENT_SETTID: u64 = bits(libc::CLONE_PARENT_SETTID);
const CHILD_CLEARTID: u64 = bits(libc::CLONE_CHILD_CLEARTID);
const CHILD_SETTID: u64 = bits(libc::CLONE_CHILD_SETTID);

const fn bits(flag: i32) -> u64 {
    flag.cast_unsigned() as u64
}

/// fork(2).
pub(super) fn fork(c: &mut Context<'_>) -> Served {
    clone_with(c, [libc::SIGCHLD.unsigned_abs().into(), 0, 0, 0, 0])
}

/// vfork(2).
pub(super) fn vfork(c: &mut Context<'_>) -> Served {
    clone_with(c, [VFORK | VM | u64::from(libc::SIGCHLD.unsigned_abs()), 0, 0, 0, 0])
}

/// clone(2): flags, stack, where the number goes in the parent and in the child, thread pointer.
pub(super) fn clone(c: &mut Context<'_>) -> Served {
    let [flags, stack, parent_tid, child_tid, tls, _] = c.args;
    clone_with(c, [flags, stack, parent_tid, child_tid, tls])
}

fn clone_with(c: &mut Context<'_>, [flags, stack, parent_tid, child_tid, tls]: [u64; 5]) -> Served {
    let flags = flags & u64::from(u32::MAX);
    check(c, flags)?;
    let if_set = |flag, value| (flags & flag != 0).then_some(value);
    let address_if = |flag, at| if_set(flag, at).map(VirtAddr::new);
    let sharing = |flag| if flags & flag == 0 { Sharing::Copied } else { Sharing::Shared };
    let exit_signal = i32::try_from(flags & EXIT_SIGNAL).unwrap_or(0);
    let request = Request {
        space: sharing(VM),
        files: sharing(FILES),
        paths: sharing(FS),
        actions: sharing(SIGHAND),
        parent: if flags & VFORK == 0 { Parent::GoesOn } else { Parent::Waits },
        child_of: if flags & PARENT == 0 { ChildOf::Caller } else { ChildOf::CallersParent },
        exit_signal,
        stack: (stack != 0).then(|| VirtAddr::new(stack)),
        thread_pointer: if_set(SETTLS, tls),
        tid_in_child: address_if(CHILD_SETTID, child_tid),
        tid_in_parent: address_if(PARENT_SETTID, parent_tid),
        clear_at_exit: address_if(CHILD_CLEARTID, child_tid),
    };
    let newborn = spawn(c.process, c.vcpu, c.delivery, &request)?;
    let pid = newborn.pid;
    *c.newborn = Some(newborn);
    Ok(u64::from(pid.unsigned_abs()))
}

/// The checks of Linux's `copy_process`, in its order, and what is not served here.
fn check(c: &Context<'_>, flags: u64) -> Result<(), Errno> {
    let has = |flag| flags & flag == flag;
    if has(FS) && flags & (bits(libc::CLONE_NEWNS) | bits(libc::CLONE_NEWUSER)) != 0 {
        return Err(Errno::EINVAL);
    }
    if (has(THREAD) && !has(SIGHAND)) || (has(SIGHAND) && !has(VM)) {
        return Err(Errno::EINVAL);
    }
    // Who has no parent can have no siblings.
    if has(PARENT) && c.process.family.parent(c.process.pid) == 0 {
        return Err(Errno::EINVAL);
    }
    if flags & NAMESPACES != 0 {
        return Err(Errno::EPERM);
    }
    if flags & (THREAD | PIDFD) != 0 {
        log::debug!("clone with flags {flags:#x} is not served");
        return Err(Errno::ENOSYS);
    }
    if has(SETTLS) && c.args[4] > mm::addr::TASK_SIZE {
        return Err(Errno::EPERM);
    }
    Ok(())
}
