//! fork(2), vfork(2), clone(2), clone3(2): another process. Threads and namespaces are not served yet.

use mm::addr::{PAGE_BYTES, VirtAddr};
use mm::error::Errno;
use nix::libc;

use super::{Context, Served};
use crate::task::{ChildOf, Handlers, Parent, Request, Sharing, spawn};

/// What the low byte of the flags is: the signal at the child's end (`CSIGNAL`).
const EXIT_SIGNAL: u64 = 0xff;
/// The highest signal's number.
const LAST_SIGNAL: u64 = 64;
/// All namespaces; that of time clone3(2) alone can name.
const NAMESPACES: u64 = bits(libc::CLONE_NEWNS)
    | bits(libc::CLONE_NEWUSER)
    | bits(libc::CLONE_NEWPID)
    | bits(libc::CLONE_NEWIPC)
    | bits(libc::CLONE_NEWNET)
    | bits(libc::CLONE_NEWUTS)
    | bits(libc::CLONE_NEWCGROUP)
    | NEWTIME;
/// `CLONE_NEWTIME`, a bit of clone(2)'s signal.
const NEWTIME: u64 = 0x80;
const DETACHED: u64 = bits(libc::CLONE_DETACHED);
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
    let exit_signal = flags & EXIT_SIGNAL;
    let flags = flags & u64::from(u32::MAX) & !EXIT_SIGNAL;
    make(c, &Asked { flags, exit_signal, stack, parent_tid, child_tid, tls })
}

/// What is asked for.
struct Asked {
    /// `CLONE_*`.
    flags: u64,
    exit_signal: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
}

/// Bytes of clone3(2)'s `struct clone_args`, as it first was, and is now.
const FIRST_ARGS: u64 = 64;
const ARGS: usize = 88;
/// `CLONE_INTO_CGROUP`; there are none here.
const INTO_CGROUP: u64 = 1 << 33;
/// `CLONE_CLEAR_SIGHAND`.
const CLEAR_SIGHAND: u64 = 1 << 32;
/// The deepest that namespaces of processes lie in each other (`MAX_PID_NS_LEVEL`).
const DEEPEST: u64 = 32;

/// clone3(2). In this order: `EINVAL` too short, `E2BIG` longer than a page; `EFAULT`; `E2BIG` something where Linux
/// knows nothing; `EINVAL` what contradicts itself; then as of clone(2). Source: `copy_clone_args_from_user`,
/// `clone3_args_valid`.
pub(super) fn clone3(c: &mut Context<'_>) -> Served {
    let size = c.args[1];
    if size < FIRST_ARGS {
        return Err(Errno::EINVAL.into());
    }
    let len = usize::try_from(size).ok().filter(|&len| len <= PAGE_BYTES).ok_or(Errno::E2BIG)?;
    let mut bytes = c.read_bytes(c.address(0), len)?;
    if bytes.iter().skip(ARGS).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    bytes.resize(ARGS, 0);
    let mut words = [0; ARGS / 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let [flags, _, child_tid, parent_tid, exit_signal, stack, stack_size, tls, tids, tid_count, _] =
        words;
    let numbered = tids != 0 && tid_count != 0;
    let is_signal = exit_signal & !EXIT_SIGNAL == 0 && exit_signal <= LAST_SIGNAL;
    let known =
        u64::from(u32::MAX) & !(DETACHED | EXIT_SIGNAL) | NEWTIME | CLEAR_SIGHAND | INTO_CGROUP;
    let kept_and_cleared = SIGHAND | CLEAR_SIGHAND;
    let valid = tid_count <= DEEPEST
        && (tids != 0) == (tid_count != 0)
        && is_signal
        && flags & !known == 0
        && flags & kept_and_cleared != kept_and_cleared
        && (flags & (THREAD | PARENT) == 0 || exit_signal == 0)
        && (stack != 0) == (stack_size != 0)
        && c.check_user(VirtAddr::new(stack), stack_size).is_ok();
    if !valid {
        return Err(Errno::EINVAL.into());
    }
    if numbered || flags & INTO_CGROUP != 0 {
        log::debug!("clone3 with flags {flags:#x} and {tid_count} numbers is not served");
        return Err(Errno::ENOSYS.into());
    }
    let stack = stack + stack_size;
    make(c, &Asked { flags, exit_signal, stack, parent_tid, child_tid, tls })
}

fn make(c: &mut Context<'_>, asked: &Asked) -> Served {
    let Asked { flags, exit_signal, stack, parent_tid, child_tid, tls } = *asked;
    check(c, flags, tls)?;
    let if_set = |flag, value| (flags & flag != 0).then_some(value);
    let address_if = |flag, at| if_set(flag, at).map(VirtAddr::new);
    let sharing = |flag| if flags & flag == 0 { Sharing::Copied } else { Sharing::Shared };
    let exit_signal = i32::try_from(exit_signal).unwrap_or(0);
    let request = Request {
        space: sharing(VM),
        files: sharing(FILES),
        paths: sharing(FS),
        actions: sharing(SIGHAND),
        handlers: if flags & CLEAR_SIGHAND == 0 { Handlers::Kept } else { Handlers::Gone },
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
fn check(c: &Context<'_>, flags: u64, tls: u64) -> Result<(), Errno> {
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
    if has(SETTLS) && tls > mm::addr::TASK_SIZE {
        return Err(Errno::EPERM);
    }
    Ok(())
}
