//! Signals from one process to another, or to itself.

use mm::error::Errno;
use mm::vma::limits::Resource;

use super::{Context, Served, Stop};
use crate::credentials::current;
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
    let own = own(c, SI_USER);
    send(c, target, c.int(1), To::Process, own)
}

/// What is told of a signal that the calling process sends.
pub(super) fn own(c: &Context<'_>, code: i32) -> impl Fn(Signal) -> Info {
    let (pid, uid) = (c.process.pid, current().uids.real);
    move |signal| Info::from_process(signal, code, pid).of_user(uid)
}

/// tkill(2): a process has one task, of its number.
pub(super) fn tkill(c: &mut Context<'_>) -> Served {
    if c.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let own = own(c, SI_TKILL);
    send(c, Target::Process(c.int(0)), c.int(1), To::Task, own)
}

/// tgkill(2).
pub(super) fn tgkill(c: &mut Context<'_>) -> Served {
    let own = own(c, SI_TKILL);
    let target = task(c.int(0), c.int(1))?;
    send(c, target, c.int(2), To::Task, own)
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

/// To all of a target that it may send them to. `ESRCH` where there is nobody, `EINVAL` for no signal; where nobody was
/// sent any, `EPERM` or `EAGAIN`, as the last of them says. Source: Linux's `kill_something_info`.
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
    let signal = match number {
        0 => None,
        number => Some(Signal::new(number).ok_or(Errno::EINVAL)?),
    };
    let limit = c.process.space.look().limits().get(Resource::PendingSignals).soft;
    let mut refused = Ok(());
    let mut sent = false;
    for &pid in &targets {
        let done = if !may_send(c, pid, signal) {
            // Who is meant only as one of all does not count.
            if target == Target::Others { Ok(()) } else { Err(Errno::EPERM) }
        } else if let Some(signal) = signal {
            let posted = if pid == c.process.pid {
                // It looks at its signals next, and need not be woken.
                c.process.signals.post(info(signal), to, limit).map(drop)
            } else {
                family.send(pid, info(signal), to, limit)
            };
            posted.map_err(|_| Errno::EAGAIN)
        } else {
            Ok(())
        };
        sent |= done.is_ok();
        if done.is_err() {
            refused = done;
        }
    }
    if !sent {
        refused?;
    }
    Ok(0)
}

/// Whether the caller may send a signal to a process (`check_kill_permission`).
fn may_send(c: &Context<'_>, pid: i32, signal: Option<Signal>) -> bool {
    let family = &c.process.family;
    let Some(credentials) = family.credentials(pid) else { return true };
    let own = c.process.pid;
    let continues = || signal == Some(Signal::CONT) && family.session(pid) == family.session(own);
    pid == own || current().may_signal(&credentials) || continues()
}
