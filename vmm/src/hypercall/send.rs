//! Signals from one process to another, or to itself.

use mm::error::Errno;
use mm::vma::limits::Resource;

use super::{Context, Served, Stop};
use crate::task::{Info, KEPT, SI_TKILL, SI_USER, Signal, Target, To};

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
    let pid = c.process.pid;
    send(c, target, c.int(1), To::Process, |signal| Info::from_process(signal, SI_USER, pid))
}

/// tkill(2): a process has one task, of its number.
pub(super) fn tkill(c: &mut Context<'_>) -> Served {
    if c.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let pid = c.process.pid;
    let info = |signal| Info::from_process(signal, SI_TKILL, pid);
    send(c, Target::Process(c.int(0)), c.int(1), To::Task, info)
}

/// tgkill(2).
pub(super) fn tgkill(c: &mut Context<'_>) -> Served {
    let pid = c.process.pid;
    let target = task(c.int(0), c.int(1))?;
    send(c, target, c.int(2), To::Task, |signal| Info::from_process(signal, SI_TKILL, pid))
}

/// A task of a process, which has one, of its number.
fn task(process: i32, task: i32) -> Result<Target, Errno> {
    if process <= 0 || task <= 0 {
        return Err(Errno::EINVAL);
    }
    if process == task { Ok(Target::Process(task)) } else { Err(Errno::ESRCH) }
}

/// rt_sigqueueinfo(2).
pub(super) fn rt_sigqueueinfo(c: &mut Context<'_>) -> Served {
    let given = given(c, 2, c.int(0))?;
    send(c, Target::Process(c.int(0)), c.int(1), To::Process, |signal| Info::given(signal, given))
}

/// rt_tgsigqueueinfo(2).
pub(super) fn rt_tgsigqueueinfo(c: &mut Context<'_>) -> Served {
    let target = task(c.int(0), c.int(1));
    if target == Err(Errno::EINVAL) {
        return Err(Errno::EINVAL.into());
    }
    let given = given(c, 3, c.int(1))?;
    send(c, target?, c.int(2), To::Task, |signal| Info::given(signal, given))
}

/// A `siginfo_t` of the program's. `EPERM` if it pretends to another process that it comes from the kernel or by
/// kill(2) (`do_rt_sigqueueinfo`).
pub(super) fn given(c: &Context<'_>, index: usize, target: i32) -> Result<[u8; KEPT], Stop> {
    let mut bytes = [0; KEPT];
    c.process.space.read(c.address(index), &mut bytes)?;
    let code = Info::given(Signal::KILL, bytes).code();
    if (code >= SI_USER || code == SI_TKILL) && target != c.process.pid {
        return Err(Errno::EPERM.into());
    }
    Ok(bytes)
}

/// To all of a target. `ESRCH` where there is nobody, `EINVAL` for no signal, `EAGAIN` where one of them has no
/// room.
pub(super) fn send(
    c: &Context<'_>,
    target: Target,
    number: i32,
    to: To,
    info: impl Fn(Signal) -> Info,
) -> Served {
    let family = &c.process.family;
    let targets = family.targets(target, c.process.pid);
    if targets.is_empty() {
        return Err(Errno::ESRCH.into());
    }
    // 0 only asks whether somebody is there.
    if number == 0 {
        return Ok(0);
    }
    let signal = Signal::new(number).ok_or(Errno::EINVAL)?;
    let limit = c.process.space.look().limits().get(Resource::PendingSignals).soft;
    let mut full = 0;
    for &pid in &targets {
        let sent = if pid == c.process.pid {
            // It looks at its signals next, and need not be woken.
            c.process.signals.post(info(signal), to, limit).map(drop)
        } else {
            family.send(pid, info(signal), to, limit)
        };
        full += usize::from(sent.is_err());
    }
    if full == targets.len() { Err(Errno::EAGAIN.into()) } else { Ok(0) }
}
