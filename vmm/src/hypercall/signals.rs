//! What a program wants done about signals, and the return from a handler.

use mm::addr::VirtAddr;
use mm::error::{AccessError, Errno};
use nix::libc;

use super::{Context, Served, Stop};
use crate::kvm::Registers;
use crate::task::{
    AltStack, FRAME_FLAGS, FRAME_MASK, FRAME_REGISTERS, FRAME_STACK, Info, NoState, REGISTER_WORDS,
    Returned, SI_USER, Selectors, Signal, SignalAction, SignalSet, To, frame_bytes, from_frame,
};

/// Bytes of the kernel's `sigset_t`.
pub(super) const SIGSET: u64 = 8;

/// What a write to a closed pipe comes to: `EPIPE`, and a `SIGPIPE` to who wrote.
pub(super) fn broken_pipe(c: &Context<'_>) -> Stop {
    send_itself(c, Signal::PIPE);
    Stop::Errno(Errno::EPIPE)
}

/// What a file that would become longer than `RLIMIT_FSIZE` comes to: `EFBIG`, and a `SIGXFSZ`.
pub(super) fn too_long(c: &Context<'_>) -> Stop {
    send_itself(c, Signal::XFSZ);
    Stop::Errno(Errno::EFBIG)
}

/// As if the process had sent it to itself (`send_sig` without privilege).
fn send_itself(c: &Context<'_>, signal: Signal) {
    let info = Info::from_process(signal, SI_USER, c.process.pid);
    let info = info.of_user(c.process.credentials.get().uids.real);
    c.process.signals.post_from_kernel(info, To::Task);
}

/// A set of signals at argument `index`, whose bytes argument `size` counts.
pub(super) fn set_at(c: &Context<'_>, index: usize, size: usize) -> Result<SignalSet, Stop> {
    if c.args[size] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let [set] = c.read_words(c.address(index))?;
    Ok(SignalSet(set))
}

/// rt_sigaction(2).
pub(super) fn rt_sigaction(c: &mut Context<'_>) -> Served {
    if c.args[3] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let new = match c.address(1) {
        VirtAddr::ZERO => None,
        at => Some(c.read_words::<4>(at)?),
    };
    let signal = Signal::new(c.int(0)).ok_or(Errno::EINVAL)?;
    if new.is_some() && SignalSet::UNBLOCKABLE.contains(signal) {
        return Err(Errno::EINVAL.into());
    }
    let old = c.process.signals.action(signal);
    if let Some([handler, flags, restorer, mask]) = new {
        let mask = SignalSet(mask);
        c.process.signals.set_action(signal, SignalAction { handler, flags, restorer, mask });
    }
    if c.address(2) != VirtAddr::ZERO {
        c.write_words(c.address(2), &[old.handler, old.flags, old.restorer, old.mask.0])?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub(super) fn rt_sigprocmask(c: &mut Context<'_>) -> Served {
    if c.args[3] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let old = c.process.signals.blocked();
    if c.address(1) != VirtAddr::ZERO {
        let set = set_at(c, 1, 3)?;
        let new = match c.int(0) {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old - set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        c.process.signals.set_blocked(new);
    }
    if c.address(2) != VirtAddr::ZERO {
        c.write_words(c.address(2), &[old.0])?;
    }
    Ok(0)
}

/// rt_sigpending(2): of a set that is said to be shorter, so much is written.
pub(super) fn rt_sigpending(c: &mut Context<'_>) -> Served {
    if c.args[1] > SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let waiting = c.process.signals.waiting().0.to_le_bytes();
    let wanted = usize::try_from(c.args[1]).unwrap_or(0).min(waiting.len());
    c.write_bytes(c.address(0), &waiting[..wanted])?;
    Ok(0)
}

/// sigaltstack(2).
pub(super) fn sigaltstack(c: &mut Context<'_>) -> Served {
    let new = match c.address(0) {
        VirtAddr::ZERO => None,
        at => Some(AltStack::from_words(c.read_words(at)?)),
    };
    let rsp = c.vcpu.registers().rsp;
    let old = c.delivery.stack.told(rsp);
    if let Some(new) = new {
        c.delivery.stack.replace(new, rsp)?;
    }
    if c.address(1) != VirtAddr::ZERO {
        c.write_words(c.address(1), &old.words())?;
    }
    Ok(0)
}

/// rt_sigreturn(2). All of the frame is the program's to make up: it is read once and checked, and what is
/// wrong with it is a `SIGSEGV` of the program's.
pub(super) fn rt_sigreturn(c: &mut Context<'_>) -> Served {
    let now = *c.vcpu.registers();
    // The restorer's address has been taken off it.
    let frame = VirtAddr::new(now.rsp.wrapping_sub(8));
    c.delivery.returned = Some(Returned { registers: now, selectors: Selectors::USER, fpstate: 0 });
    match returned(c, frame, &now) {
        Ok(()) => Err(Stop::Returned),
        Err(Stop::Broken(broken)) => Err(Stop::Broken(broken)),
        Err(_) => Err(Stop::BadFrame),
    }
}

/// Takes a frame back, as far as that goes.
fn returned(c: &mut Context<'_>, frame: VirtAddr, now: &Registers) -> Result<(), Stop> {
    let at = |offset| VirtAddr::new(frame.get().wrapping_add(offset));
    c.check_user(frame, FRAME_MASK + SIGSET)?;
    let [mask] = c.read_words(at(FRAME_MASK))?;
    let [flags] = c.read_words(at(FRAME_FLAGS))?;
    c.process.signals.set_blocked(SignalSet(mask));
    let stack = AltStack::from_words(c.read_words(at(FRAME_STACK))?);
    // What is wrong with it is not said.
    let _ = c.delivery.stack.replace(stack, now.rsp);
    c.delivery.continuation = None;
    let words: [u64; REGISTER_WORDS] = c.read_words(at(FRAME_REGISTERS))?;
    let returned = Returned::from_words(flags, words, now);
    c.delivery.returned = Some(returned);
    restore_state(c, returned.fpstate)
}

/// Takes the floating-point and vector state back; where there is none, or none that can be, it is a fresh
/// program's.
fn restore_state(c: &Context<'_>, at: u64) -> Result<(), Stop> {
    let failed =
        |error: crate::kvm::KvmError| Stop::Broken(mm::error::Broken::Invariant(error.to_string()));
    if at == 0 {
        return c.vcpu.reset_xsave().map_err(failed);
    }
    let layout = c.vcpu.xsave_layout();
    let read = |offset: usize, into: &mut [u8]| {
        let from = VirtAddr::new(at.wrapping_add(offset as u64));
        c.process.space.read(from, into)
    };
    let image = match c.check_user(VirtAddr::new(at), frame_bytes(layout)) {
        Ok(()) => from_frame(layout, at, read),
        Err(_) => Err(NoState::Bad),
    };
    match image {
        Ok(image) => {
            // Which bits of MXCSR there are is the host's to know.
            if c.vcpu.set_xsave_bytes(&image).is_ok() {
                return Ok(());
            }
        }
        Err(NoState::Unreadable(AccessError::Broken(broken))) => return Err(broken.into()),
        Err(_) => {}
    }
    c.vcpu.reset_xsave().map_err(failed)?;
    Err(Errno::EFAULT.into())
}
