//! wait4(2), waitid(2): a child's end, stop or continuation.

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::libc;

use super::pidfd::behind;
use super::{Context, Served, Stop};
use crate::task::{Asked, Kinds, Taking, Told, Wanted, Which};

/// wait4(2).
pub(super) fn wait4(c: &mut Context<'_>) -> Served {
    const KNOWN: i32 = libc::WNOHANG
        | libc::WUNTRACED
        | libc::WCONTINUED
        | libc::__WNOTHREAD
        | libc::__WCLONE
        | libc::__WALL;
    let (pid, status_at, options, usage_at) = (c.int(0), c.address(1), c.int(2), c.address(3));
    if options & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let which = match pid {
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => Which::Any,
        0 => Which::Group(c.process.family.group(c.process.pid)),
        group if group < 0 => Which::Group(-group),
        child => Which::Child(child),
    };
    let wanted = Wanted {
        which,
        kinds: kinds(options),
        ends: Asked::For,
        stops: asked(options, libc::WUNTRACED),
        continuations: asked(options, libc::WCONTINUED),
        taking: Taking::Reap,
    };
    let Some(ended) = wait(c, &wanted, options)? else { return Ok(0) };
    // The child is reaped, whether this can be written or not.
    if status_at != VirtAddr::ZERO {
        c.write_bytes(status_at, &ended.status.word().to_le_bytes())?;
    }
    if usage_at != VirtAddr::ZERO {
        c.write_words(usage_at, &ended.usage.words())?;
    }
    Ok(u64::from(ended.pid.unsigned_abs()))
}

/// waitid(2).
pub(super) fn waitid(c: &mut Context<'_>) -> Served {
    let (info_at, usage_at) = (c.address(2), c.address(4));
    let result = find(c);
    if let Ok(Some(ended)) = &result
        && usage_at != VirtAddr::ZERO
    {
        c.write_words(usage_at, &ended.usage.words())?;
    }
    // Also after an error, all zeros: so Linux has it.
    if info_at != VirtAddr::ZERO && !matches!(result, Err(Stop::Broken(_))) {
        write_info(c, info_at, result.as_ref().ok().copied().flatten())?;
    }
    result.map(|_| 0)
}

/// The fields of a `siginfo_t` that waitid(2) writes.
fn write_info(c: &Context<'_>, at: VirtAddr, ended: Option<Told>) -> Result<(), Stop> {
    let none = [0; 6];
    let fields = ended.map_or(none, |ended| {
        let (status, pid) = (ended.status, ended.pid);
        // si_signo, si_errno, si_code; si_pid, si_uid, si_status.
        [libc::SIGCHLD, 0, status.cause(), pid, ended.uid.cast_signed(), status.number()]
    });
    // Four bytes of padding lie between the two halves.
    for (offset, three) in [(0, &fields[..3]), (16, &fields[3..])] {
        let bytes: Vec<u8> = three.iter().flat_map(|field| field.to_le_bytes()).collect();
        c.write_bytes(at.checked_add(offset).ok_or(Errno::EFAULT)?, &bytes)?;
    }
    Ok(())
}

fn find(c: &Context<'_>) -> Result<Option<Told>, Stop> {
    const KNOWN: i32 = libc::WNOHANG
        | libc::WNOWAIT
        | libc::WEXITED
        | libc::WSTOPPED
        | libc::WCONTINUED
        | libc::__WNOTHREAD
        | libc::__WCLONE
        | libc::__WALL;
    let (id, options) = (c.int(1), c.int(3));
    let changes = options & (libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED);
    if options & !KNOWN != 0 || changes == 0 {
        return Err(Errno::EINVAL.into());
    }
    // A descriptor may say that nothing is waited for.
    let mut fails = false;
    let which = match c.int(0).cast_unsigned() {
        libc::P_ALL => Which::Any,
        libc::P_PID if id > 0 => Which::Child(id),
        libc::P_PGID if id > 0 => Which::Group(id),
        libc::P_PGID if id == 0 => Which::Group(c.process.family.group(c.process.pid)),
        libc::P_PIDFD if id >= 0 => match behind(c.process, id) {
            Ok((pid, nonblocking)) => {
                fails = nonblocking != 0 && options & libc::WNOHANG == 0;
                Which::Child(pid)
            }
            Err(Errno::ESRCH) => return Err(Errno::ECHILD.into()),
            Err(errno) => return Err(errno.into()),
        },
        _ => return Err(Errno::EINVAL.into()),
    };
    let wanted = Wanted {
        which,
        kinds: kinds(options),
        ends: asked(options, libc::WEXITED),
        stops: asked(options, libc::WSTOPPED),
        continuations: asked(options, libc::WCONTINUED),
        taking: if options & libc::WNOWAIT == 0 { Taking::Reap } else { Taking::Leave },
    };
    if fails {
        let told = wait(c, &wanted, options | libc::WNOHANG)?;
        return told.map_or(Err(Errno::EAGAIN.into()), |told| Ok(Some(told)));
    }
    wait(c, &wanted, options)
}

fn asked(options: i32, option: i32) -> Asked {
    if options & option == 0 { Asked::NotFor } else { Asked::For }
}

fn kinds(options: i32) -> Kinds {
    if options & libc::__WALL != 0 {
        Kinds::All
    } else if options & libc::__WCLONE != 0 {
        Kinds::Clones
    } else {
        Kinds::Ordinary
    }
}

/// Waits as the options say; `None` if there is a child, but nothing to tell of it (`WNOHANG`).
fn wait(c: &Context<'_>, wanted: &Wanted, options: i32) -> Result<Option<Told>, Stop> {
    let (family, pid) = (&c.process.family, c.process.pid);
    if options & libc::WNOHANG != 0 {
        return family.poll(pid, wanted).ok_or_else(|| Errno::ECHILD.into());
    }
    match family.wait(pid, wanted)? {
        Some(told) => Ok(Some(told)),
        None => Err(Errno::ECHILD.into()),
    }
}
