//! Who and where a program is.

use mm::addr::{PAGE_BYTES, PAGE_SIZE};
use mm::error::Errno;
use nix::libc;

use super::{Context, Served};

/// Bytes of a field of `struct utsname`, of which there are six.
pub(super) const UTS_FIELD: usize = 65;

/// getpid(2), gettid(2).
pub(super) fn getpid(c: &mut Context<'_>) -> Served {
    Ok(u64::from(c.process.pid.unsigned_abs()))
}

/// getppid(2).
pub(super) fn getppid(c: &mut Context<'_>) -> Served {
    Ok(u64::from(c.process.family.parent(c.process.pid).unsigned_abs()))
}

/// getpgrp(2).
pub(super) fn getpgrp(c: &mut Context<'_>) -> Served {
    Ok(u64::from(c.process.family.group(c.process.pid).unsigned_abs()))
}

/// getpgid(2).
pub(super) fn getpgid(c: &mut Context<'_>) -> Served {
    let family = &c.process.family;
    number(family.group(asked(c)))
}

/// getsid(2).
pub(super) fn getsid(c: &mut Context<'_>) -> Served {
    let family = &c.process.family;
    number(family.session(asked(c)))
}

/// The process that argument 0 names, 0 for the caller.
fn asked(c: &Context<'_>) -> i32 {
    if c.int(0) == 0 { c.process.pid } else { c.int(0) }
}

/// A group or session; 0 is nobody's.
fn number(number: i32) -> Served {
    if number == 0 { Err(Errno::ESRCH.into()) } else { Ok(u64::from(number.unsigned_abs())) }
}

/// setpgid(2).
pub(super) fn setpgid(c: &mut Context<'_>) -> Served {
    c.process.family.set_group(c.process.pid, c.int(0), c.int(1))?;
    Ok(0)
}

/// setsid(2).
pub(super) fn setsid(c: &mut Context<'_>) -> Served {
    number(c.process.family.set_session(c.process.pid)?)
}

/// uname(2): Linux 6.18, which is whose semantics these are.
pub(super) fn uname(c: &mut Context<'_>) -> Served {
    let fields = ["Linux", "mmvisor", "6.18.0", "#1 SMP", "x86_64", "(none)"];
    let mut bytes = [0; 6 * UTS_FIELD];
    for (field, text) in bytes.chunks_mut(UTS_FIELD).zip(fields) {
        field[..text.len()].copy_from_slice(text.as_bytes());
    }
    c.write_bytes(c.address(0), &bytes)?;
    Ok(0)
}

/// sysinfo(2): the guest's memory and processes.
pub(super) fn sysinfo(c: &mut Context<'_>) -> Served {
    let space = c.process.space.look();
    let stats = space.system().frames().stats();
    drop(space);
    let total = stats.total * PAGE_SIZE;
    let free = total - (stats.pages + stats.tables) * PAGE_SIZE;
    let uptime = super::time::uptime().as_secs();
    // uptime, three loads, totalram, freeram, sharedram, bufferram, totalswap, freeswap, procs,
    // totalhigh, freehigh, mem_unit.
    // procs is 16 bits wide.
    let processes = c.process.family.count().min(u64::from(u16::MAX));
    let words = [uptime, 0, 0, 0, total, free, 0, 0, 0, 0, processes, 0, 0, 1];
    c.write_words(c.address(0), &words)?;
    Ok(0)
}

/// getrandom(2): the host's.
pub(super) fn getrandom(c: &mut Context<'_>) -> Served {
    const NONBLOCK: u64 = libc::GRND_NONBLOCK as u64;
    const RANDOM: u64 = libc::GRND_RANDOM as u64;
    const INSECURE: u64 = libc::GRND_INSECURE as u64;
    // These two exclude each other.
    if ![0, RANDOM, INSECURE].contains(&(c.args[2] & !NONBLOCK)) {
        return Err(Errno::EINVAL.into());
    }
    c.check_user(c.address(0), c.args[1])?;
    let mut done = 0;
    let wanted = usize::try_from(c.args[1]).unwrap_or(usize::MAX).min(i32::MAX as usize);
    let mut buffer = [0; PAGE_BYTES];
    while done < wanted {
        let to = c.address(0).checked_add(done as u64).ok_or(Errno::EFAULT)?;
        // Page by page: what lies before the first bad page is filled and counts.
        let part = to.left_in_page().min(wanted - done);
        let flags = rustix::rand::GetRandomFlags::empty();
        let got = rustix::rand::getrandom(&mut buffer[..part], flags)?;
        match c.write_bytes(to, &buffer[..got]) {
            Ok(()) => done += got,
            Err(stop) if done == 0 => return Err(stop),
            Err(_) => break,
        }
    }
    Ok(done as u64)
}
