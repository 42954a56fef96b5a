//! Calls about signals. Signals are not delivered to handlers yet: what a program asks for is kept and
//! answered, and a signal that it sends to itself does what it would without a handler.

use std::sync::PoisonError;

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use super::{Context, Served, Stop};
use crate::task::{Code, SignalAction, Signalled};

/// What ignores a signal; what is above is a handler.
const SIG_IGN: u64 = libc::SIG_IGN as u64;
/// Bytes of the kernel's `sigset_t`.
const SIGSET: u64 = 8;

/// kill(2), of the process itself.
pub(super) fn kill(c: &mut Context<'_>) -> Served {
    let pid = c.int(0);
    if pid != c.process.identity.pid && pid != 0 {
        return Err(Errno::ESRCH.into());
    }
    send(c, c.int(1), Code::User)
}

/// tkill(2), of the task itself.
pub(super) fn tkill(c: &mut Context<'_>) -> Served {
    if c.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if c.int(0) != c.process.identity.pid {
        return Err(Errno::ESRCH.into());
    }
    send(c, c.int(1), Code::Tkill)
}

/// tgkill(2), of the task itself.
pub(super) fn tgkill(c: &mut Context<'_>) -> Served {
    let pid = c.process.identity.pid;
    if c.int(0) <= 0 || c.int(1) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if c.int(0) != pid || c.int(1) != pid {
        return Err(Errno::ESRCH.into());
    }
    send(c, c.int(2), Code::Tkill)
}

/// A signal to the process itself: ignored, or its end.
fn send(c: &Context<'_>, number: i32, code: Code) -> Served {
    if !(0..=64).contains(&number) {
        return Err(Errno::EINVAL.into());
    }
    // Real-time signals and 0, which only asks whether the process is there, have no name.
    let Ok(signal) = Signal::try_from(number) else { return Ok(0) };
    let ignored_by_default =
        matches!(signal, Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH | Signal::SIGCONT);
    let action = action(c, number).handler;
    let stops =
        matches!(signal, Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU);
    if ignored_by_default || stops || (action == SIG_IGN && signal != Signal::SIGKILL) {
        return Ok(0);
    }
    if action > SIG_IGN {
        log::warn!("{signal} has a handler, but handlers are not called yet");
    }
    Err(Stop::Signal(Signalled::plain(signal, code)))
}

/// What a write to a closed pipe comes to: `SIGPIPE` kills, unless it is ignored.
pub(super) fn broken_pipe(c: &Context<'_>) -> Stop {
    match send(c, Signal::SIGPIPE as i32, Code::User) {
        Ok(_) => Stop::Errno(Errno::EPIPE),
        Err(stop) => stop,
    }
}

fn action(c: &Context<'_>, number: i32) -> SignalAction {
    let actions = c.process.actions.lock().unwrap_or_else(PoisonError::into_inner);
    let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
    actions.get(index).copied().unwrap_or_default()
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
    if !(1..=64).contains(&number) || (new.is_some() && fixed) {
        return Err(Errno::EINVAL.into());
    }
    let old = action(c, number);
    if let Some([handler, flags, restorer, mask]) = new {
        let mut actions = c.process.actions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = usize::try_from(number - 1).ok().and_then(|i| actions.get_mut(i)) {
            *slot = SignalAction { handler, flags, restorer, mask };
        }
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
    let old = c.process.signal_mask();
    if c.address(1) != VirtAddr::ZERO {
        let [set] = c.read_words(c.address(1))?;
        let set = set & !(bit(Signal::SIGKILL) | bit(Signal::SIGSTOP));
        let new = match c.int(0) {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        c.process.set_signal_mask(new);
    }
    if c.address(2) != VirtAddr::ZERO {
        c.write_words(c.address(2), &[old])?;
    }
    Ok(0)
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
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
