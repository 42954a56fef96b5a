//! Signals: what is asked and told about them, and from one process to another. Handlers are not called
//! yet: a signal that would have one called ends the program, as its default action would.

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use super::{Context, Served, Stop};
use crate::task::{Code, Sent, SignalAction, Signalled, Target};

/// Bytes of the kernel's `sigset_t`.
const SIGSET: u64 = 8;
/// The highest signal.
const HIGHEST: i32 = 64;

/// kill(2).
pub(super) fn kill(c: &mut Context<'_>) -> Served {
    let group = c.process.family.group(c.process.pid);
    let target = match c.int(0) {
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => Target::Others,
        0 => Target::Group(group),
        group if group < 0 => Target::Group(-group),
        pid => Target::Process(pid),
    };
    let targets = c.process.family.targets(target, c.process.pid);
    send_all(c, &targets, c.int(1), Code::User)
}

/// tkill(2): a process has one task, of its number.
pub(super) fn tkill(c: &mut Context<'_>) -> Served {
    if c.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let targets = c.process.family.targets(Target::Process(c.int(0)), c.process.pid);
    send_all(c, &targets, c.int(1), Code::Tkill)
}

/// tgkill(2).
pub(super) fn tgkill(c: &mut Context<'_>) -> Served {
    if c.int(0) <= 0 || c.int(1) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if c.int(0) != c.int(1) {
        return Err(Errno::ESRCH.into());
    }
    let targets = c.process.family.targets(Target::Process(c.int(1)), c.process.pid);
    send_all(c, &targets, c.int(2), Code::Tkill)
}

/// A signal to processes; to the caller itself last, so that the others get it even if it dies.
fn send_all(c: &Context<'_>, targets: &[i32], number: i32, code: Code) -> Served {
    if targets.is_empty() {
        return Err(Errno::ESRCH.into());
    }
    if !(0..=HIGHEST).contains(&number) {
        return Err(Errno::EINVAL.into());
    }
    // Real-time signals and 0, which only asks whether the process is there, have no name.
    let Ok(signal) = Signal::try_from(number) else { return Ok(0) };
    for &pid in targets.iter().filter(|&&pid| pid != c.process.pid) {
        c.process.family.send(pid, signal, code);
    }
    if targets.contains(&c.process.pid) {
        return deliver(c.process.signals.send(signal, code));
    }
    Ok(0)
}

/// Goes on or dies.
fn deliver(sent: Sent) -> Served {
    match sent {
        Sent::GoesOn => Ok(0),
        Sent::Dies(by) => Err(Stop::Signal(by)),
    }
}

/// What a write to a closed pipe comes to: `SIGPIPE` kills, unless it is ignored or blocked.
pub(super) fn broken_pipe(c: &Context<'_>) -> Stop {
    match c.process.signals.send(Signal::SIGPIPE, Code::User) {
        Sent::GoesOn => Stop::Errno(Errno::EPIPE),
        Sent::Dies(by) => Stop::Signal(by),
    }
}

/// What a call of the host that was interrupted comes to: `None` if it is to be made again.
pub(super) fn interrupted(c: &Context<'_>) -> Option<Signalled> {
    c.process.signals.fatal()
}

/// rt_sigaction(2).
pub(super) fn rt_sigaction(c: &mut Context<'_>) -> Served {
    let number = c.int(0);
    if c.args[3] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let new = match c.address(1) {
        VirtAddr::ZERO => None,
        at => Some(c.read_words::<4>(at)?),
    };
    let fixed = number == Signal::SIGKILL as i32 || number == Signal::SIGSTOP as i32;
    if !(1..=HIGHEST).contains(&number) || (new.is_some() && fixed) {
        return Err(Errno::EINVAL.into());
    }
    let signals = &c.process.signals;
    let old = signals.action(number);
    if let Some([handler, flags, restorer, mask]) = new {
        signals.set_action(number, SignalAction { handler, flags, restorer, mask });
    }
    if c.address(2) != VirtAddr::ZERO {
        c.write_words(c.address(2), &[old.handler, old.flags, old.restorer, old.mask])?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub(super) fn rt_sigprocmask(c: &mut Context<'_>) -> Served {
    if c.args[3] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let old = c.process.signals.blocked();
    let mut sent = Sent::GoesOn;
    if c.address(1) != VirtAddr::ZERO {
        let [set] = c.read_words(c.address(1))?;
        let new = match c.int(0) {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        sent = c.process.signals.set_blocked(new);
    }
    if c.address(2) != VirtAddr::ZERO {
        c.write_words(c.address(2), &[old])?;
    }
    // What was blocked comes as the call returns.
    deliver(sent)
}

/// sigaltstack(2): none is in use, and one may be named.
pub(super) fn sigaltstack(c: &mut Context<'_>) -> Served {
    if c.address(0) != VirtAddr::ZERO {
        c.read_words::<3>(c.address(0))?;
    }
    if c.address(1) != VirtAddr::ZERO {
        c.write_words(c.address(1), &[0, u64::from(libc::SS_DISABLE.unsigned_abs()), 0])?;
    }
    Ok(0)
}
