//! What the calls answer: numbers, errors, ends.

use guest::abi;
use guest::call::{number, syscall};
use guest::errno::Errno;
use guest::family::{self, End, Forked, SIGCHLD, SIGKILL, SIGTERM, WNOHANG};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::{check, check_eq, fault, must, process};

use crate::{child, expect, signed};

pub(crate) fn all() {
    numbers();
    ends();
    wait_errors();
    waitid();
    orphans();
    signals();
    state();
    clone_errors();
}

#[allow(unsafe_code)]
fn call<const N: usize>(number: u64, args: [u64; N]) -> Result<u64, Errno> {
    // SAFETY: these calls write, if at all, into the page that `page` maps.
    unsafe { syscall(number, args) }
}

/// A page of zeros.
fn page() -> u64 {
    must!(memory::map(Place::Anywhere, PAGE, Prot::RW, Flags::OWN))
}

fn numbers() {
    let parent = process::id();
    let pid = child(|| u8::from(family::parent() == parent && process::id() != parent));
    check!(pid != parent && pid != 0, "the child's number is {pid}");
    expect(pid, End::Exited(1), "a child that knows its parent");
}

fn ends() {
    expect(child(|| 255), End::Exited(255), "an exit status");
    let pid = child(|| {
        memory::store(0, 1);
        0
    });
    expect(pid, End::Killed(fault::SIGSEGV), "a write to nothing");
    expect(child(|| process::trap()), End::Killed(fault::SIGILL), "an invalid instruction");
}

fn wait_errors() {
    let wait = |pid: i64, status, options, usage| {
        call(number::WAIT4, [pid.cast_unsigned(), status, options, usage])
    };
    check_eq!(wait(-1, 0, 0, 0), Err(Errno::ECHILD), "wait4 without children");
    check_eq!(wait(-1, 0, 0x10, 0), Err(Errno::EINVAL), "wait4's options");
    check_eq!(wait(i64::from(i32::MIN), 0, 0, 0), Err(Errno::ESRCH), "wait4 of no group");
    check_eq!(wait(99_999, 0, WNOHANG, 0), Err(Errno::ECHILD), "wait4 of nobody");
    let pid = child(|| {
        loop {
            core::hint::spin_loop();
        }
    });
    check_eq!(family::wait(-1, WNOHANG), Ok((0, End::Exited(0))), "a child that runs");
    check_eq!(wait(signed(process::id()), 0, 0, 0), Err(Errno::ECHILD), "waiting for oneself");
    must!(family::kill(signed(pid), SIGKILL));
    // It is reaped although nothing can be written.
    check_eq!(wait(signed(pid), 1, 0, 0), Err(Errno::EFAULT), "wait4's status");
    check_eq!(wait(signed(pid), 0, 0, 0), Err(Errno::ECHILD), "the same child again");
    let pid = child(|| 0);
    let usage = page();
    check_eq!(wait(signed(pid), 0, 0, usage), Ok(pid), "wait4 with usage");
    check!(memory::load(usage + 64) > 0, "ru_minflt is 0");
    let group = call(number::WAIT4, [0, 0, WNOHANG, 0]);
    check_eq!(group, Err(Errno::ECHILD), "wait4 of the own group");
}

fn waitid() {
    const P_ALL: u64 = 0;
    const P_PID: u64 = 1;
    const WSTOPPED: u64 = 2;
    const WEXITED: u64 = 4;
    const WNOWAIT: u64 = 0x0100_0000;
    let at = page();
    let wait = |kind, id, options| call(number::WAITID, [kind, id, at, options, 0]);
    memory::store(at, u64::MAX);
    check_eq!(wait(P_ALL, 0, WEXITED), Err(Errno::ECHILD), "waitid without children");
    check_eq!(memory::load(at), 0, "siginfo after ECHILD");
    check_eq!(wait(P_ALL, 0, 0), Err(Errno::EINVAL), "waitid for nothing");
    check_eq!(wait(P_PID, 0, WEXITED), Err(Errno::EINVAL), "waitid of process 0");
    check_eq!(wait(9, 0, WEXITED), Err(Errno::EINVAL), "waitid of something else");
    let pid = child(|| 7);
    check_eq!(wait(P_PID, pid, WEXITED | WNOWAIT), Ok(0), "waitid");
    // si_signo and si_errno, si_code, si_pid and si_uid, si_status.
    let told = [0, 8, 16, 24].map(|offset| memory::load(at + offset) & 0xffff_ffff);
    check_eq!(told, [SIGCHLD, 1, pid, 7], "siginfo");
    check_eq!(wait(P_PID, pid, WSTOPPED), Err(Errno::ECHILD), "a stop of a zombie");
    check_eq!(call(number::WAITID, [P_PID, pid, 1, WEXITED, 0]), Err(Errno::EFAULT), "its info");
    check_eq!(wait(P_PID, pid, WEXITED), Err(Errno::ECHILD), "the same child again");
}

/// A child's child, whose parent ends first, is the first process's. Natively somebody else's.
fn orphans() {
    if !fault::in_mmvisor() {
        return;
    }
    let first = process::id();
    let middle = child(|| {
        let _orphan = child(move || {
            while family::parent() != first {
                core::hint::spin_loop();
            }
            77
        });
        5
    });
    expect(middle, End::Exited(5), "the child between");
    let (orphan, end) = must!(family::wait(-1, 0));
    check!(orphan != middle, "the orphan's number is its parent's");
    check_eq!(end, End::Exited(77), "the orphan");
}

fn signals() {
    const BLOCK: u64 = 0;
    const UNBLOCK: u64 = 1;
    check_eq!(family::kill(99_999, 0), Err(Errno::ESRCH), "kill of nobody");
    let pid = child(|| {
        loop {
            core::hint::spin_loop();
        }
    });
    check_eq!(family::kill(signed(pid), 0), Ok(()), "asking for a child");
    check_eq!(family::kill(signed(pid), 65), Err(Errno::EINVAL), "a signal's number");
    check_eq!(family::kill(signed(pid), SIGCHLD), Ok(()), "a signal that is ignored");
    must!(family::kill(signed(pid), SIGTERM));
    expect(pid, End::Killed(SIGTERM), "a child that runs");
    // Waits in a call.
    let pid = child(|| {
        let grandchild = child(|| {
            loop {
                core::hint::spin_loop();
            }
        });
        let _ = family::wait(signed(grandchild), 0);
        1
    });
    must!(family::kill(signed(pid), SIGKILL));
    expect(pid, End::Killed(SIGKILL), "a child that waits");
    if fault::in_mmvisor() {
        // The grandchild is ours now.
        while family::wait(-1, WNOHANG) == Ok((0, End::Exited(0))) {
            let _ = family::kill(-1, SIGKILL);
        }
    }
    // Blocked, it comes when it is blocked no more.
    let set = page();
    memory::store(set, 1 << (SIGTERM - 1));
    let pid = child(|| {
        let _ = call(number::RT_SIGPROCMASK, [BLOCK, set, 0, 8]);
        let _ = family::kill(signed(process::id()), SIGTERM);
        if family::parent() != 0 {
            let _ = call(number::RT_SIGPROCMASK, [UNBLOCK, set, 0, 8]);
        }
        1
    });
    expect(pid, End::Killed(SIGTERM), "a signal that was blocked");
}

/// What a child has of its parent's.
fn state() {
    let (forked, same) = must!(family::fork_with_marks());
    match forked {
        Forked::Child => process::exit(u8::from(!same)),
        Forked::Parent(pid) => expect(pid, End::Exited(0), "a child's registers"),
    }
    check!(same, "the parent's registers are not what they were");
    const SET_NAME: u64 = 15;
    const GET_NAME: u64 = 16;
    let name = page();
    memory::store(name, u64::from_le_bytes(*b"a name\0\0"));
    must!(call(number::PRCTL, [SET_NAME, name]));
    let pid = child(|| {
        let _ = call(number::PRCTL, [GET_NAME, name + 16]);
        u8::from(memory::load(name + 16) == memory::load(name))
    });
    expect(pid, End::Exited(1), "a child's name");
    let maps = |at| if fault::in_mmvisor() { call(abi::CALL_MAPS, [at, 0]) } else { Ok(0) };
    let before = maps(0);
    let pid = child(|| u8::from(maps(0) == before));
    expect(pid, End::Exited(1), "a child's VMAs");
}

fn clone_errors() {
    const SIGHAND: u64 = 0x800;
    const THREAD: u64 = 0x1_0000;
    let clone = |flags| call(number::CLONE, [flags, 0, 0, 0, 0]);
    check_eq!(clone(THREAD), Err(Errno::EINVAL), "a thread with signals of its own");
    check_eq!(clone(SIGHAND | SIGCHLD), Err(Errno::EINVAL), "shared signals alone");
}
