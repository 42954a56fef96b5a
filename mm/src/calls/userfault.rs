//! userfaultfd(2) and the ioctls of its descriptor (Linux's `fs/userfaultfd.c`). Reading of it, and waiting, is the caller's.

use std::sync::Arc;

use nix::libc;

use super::{Call, Caller};
use crate::addr::{PAGE_BYTES, PAGE_SIZE, PageRange, VirtAddr, low_half};
use crate::error::{CallError, CallResult, Errno};
use crate::space::{Filling, Holes, Protection, Registered, SharedSpace, checked_range};
use crate::userfault::{Features, Served, Userfault};
use crate::vma::limits::Capabilities;

/// `UFFD_USER_MODE_ONLY`.
const USER_MODE_ONLY: u64 = 1;
/// The flags of userfaultfd(2).
const FLAGS: u64 = USER_MODE_ONLY | (libc::O_NONBLOCK | libc::O_CLOEXEC) as u64;

/// A new userfaultfd, of `/dev/userfaultfd`.
pub const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
/// Agrees on the interface (include/uapi/linux/userfaultfd.h, as all below).
pub const UFFDIO_API: u64 = 0xc018_aa3f;
/// Registers a range.
pub const UFFDIO_REGISTER: u64 = 0xc020_aa00;
/// Unregisters a range.
pub const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
/// Has those that wait in a range try again.
pub const UFFDIO_WAKE: u64 = 0x8010_aa02;
/// Pages with these bytes come.
pub const UFFDIO_COPY: u64 = 0xc028_aa03;
/// Pages of zeros come.
pub const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
/// The pages of another range come.
pub const UFFDIO_MOVE: u64 = 0xc028_aa05;
/// The first write of each page is told, or not.
pub const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
/// The object's pages come.
pub const UFFDIO_CONTINUE: u64 = 0xc020_aa07;
/// Each touch is an error from then on.
pub const UFFDIO_POISON: u64 = 0xc020_aa08;

/// The only version of the interface (`UFFD_API`).
const VERSION: u64 = 0xaa;
/// What is served of `UFFD_API_FEATURES`: all but pages of the pool that are missing or not mapped.
const FEATURES: Features =
    Features::all().difference(Features::MISSING_HUGETLBFS).difference(Features::MINOR_HUGETLBFS);
/// What the descriptor can be asked (`UFFD_API_IOCTLS`): register, unregister, API.
const API_IOCTLS: u64 = 1 << 0x3f | 1 << 1 | 1;
/// What a range can be asked: wake, copy, poison; ordinary memory also zeropage and move (`UFFD_API_RANGE_IOCTLS` without the
/// two below).
const POOLED_IOCTLS: u64 = 1 << 2 | 1 << 3 | 1 << 8;
const RANGE_IOCTLS: u64 = POOLED_IOCTLS | 1 << 4 | 1 << 5;
/// With `UFFDIO_REGISTER_MODE_WP`, write-protect.
const WRITEPROTECT: u64 = 1 << 6;
/// With `UFFDIO_REGISTER_MODE_MINOR`, continue.
const CONTINUE: u64 = 1 << 7;
/// `UFFDIO_REGISTER_MODE_WP`, `_MINOR`.
const MODE_WP: u64 = 2;
const MODE_MINOR: u64 = 4;

/// `UFFDIO_COPY_MODE_DONTWAKE`, and of all others that bring pages.
const DONTWAKE: u64 = 1;
/// `UFFDIO_COPY_MODE_WP`, `UFFDIO_CONTINUE_MODE_WP`.
const WITH_WP: u64 = 2;
/// `UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`.
const ALLOW_HOLES: u64 = 2;
/// `UFFDIO_WRITEPROTECT_MODE_WP`, `_DONTWAKE`.
const PROTECT: u64 = 1;
const PROTECT_DONTWAKE: u64 = 2;

/// userfaultfd(2).
///
/// # Errors
/// In this order: `EPERM` also for faults of calls, without `CAP_SYS_PTRACE` (`vm.unprivileged_userfaultfd` is 0); as of
/// [`new_userfault`].
pub(super) fn userfaultfd(c: &Call<'_>) -> CallResult<u64> {
    let may = || c.caller.space().look().limits().may(Capabilities::SYS_PTRACE);
    if c.word(0) & USER_MODE_ONLY == 0 && !may() {
        return Err(Errno::EPERM.into());
    }
    Ok(new_userfault(c.caller, c.word(0))?)
}

/// The descriptor of a new userfaultfd of the caller's memory; `flags` are userfaultfd(2)'s, or `USERFAULTFD_IOC_NEW`'s.
///
/// # Errors
/// In this order: `EINVAL` unknown flags; `EMFILE`, `ENFILE`: there are too many.
pub fn new_userfault(caller: &dyn Caller, flags: u64) -> Result<u64, Errno> {
    let flags = low_half(flags);
    if u64::from(flags) & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let user = u64::from(flags) & USER_MODE_ONLY != 0;
    let served = if user { Served::Program } else { Served::All };
    let fd = caller.install(served, flags.cast_signed())?;
    Ok(u64::from(fd.unsigned_abs()))
}

/// A userfaultfd that a program has open.
#[derive(Clone, Copy, Debug)]
pub struct OpenUserfault<'a> {
    /// It.
    pub uffd: &'a Arc<Userfault>,
    /// The memory of the process that made it; nothing once that has ended.
    pub space: Option<&'a SharedSpace>,
}

/// ioctl(2) on a userfaultfd; `argument` is the pointer that the program passed.
///
/// # Errors
/// `EINVAL` a request that is not known, `UFFDIO_API` a second time, or any other before it; `EFAULT` the
/// pointer; what [`userfault_register`](crate::space::AddressSpace::userfault_register),
/// [`userfault_protect`](crate::space::AddressSpace::userfault_protect),
/// [`userfault_move`](crate::space::AddressSpace::userfault_move) and [`fill`](crate::space::AddressSpace::fill) say;
/// `ENOMEM` or `ESRCH` the process has ended; `EAGAIN` a change is being told (`mmap_changing`), or not all pages have come.
pub fn ioctl(
    caller: &dyn Caller,
    open: OpenUserfault<'_>,
    request: u64,
    argument: VirtAddr,
) -> CallResult<u64> {
    let c = Call { caller, args: [0; 6] };
    match request {
        UFFDIO_API => agree(&c, open.uffd, argument),
        _ if !open.uffd.is_initialized() => Err(Errno::EINVAL.into()),
        UFFDIO_REGISTER => register(&c, open, argument),
        UFFDIO_UNREGISTER => {
            let [start, len] = c.read_words(argument)?;
            let space = open.space.ok_or(Errno::ENOMEM)?;
            space.change().userfault_unregister(open.uffd, VirtAddr::new(start), len)?;
            Ok(0)
        }
        UFFDIO_WAKE => {
            let [start, len] = c.read_words(argument)?;
            open.uffd.wake(checked_range(VirtAddr::new(start), len)?);
            Ok(0)
        }
        UFFDIO_COPY => copy(&c, open, argument),
        UFFDIO_ZEROPAGE => fill(&c, open, argument, Filling::Zeros, DONTWAKE),
        UFFDIO_CONTINUE => fill(&c, open, argument, Filling::Present, DONTWAKE | WITH_WP),
        UFFDIO_POISON => fill(&c, open, argument, Filling::Poison, DONTWAKE),
        UFFDIO_MOVE => move_pages(&c, open, argument),
        UFFDIO_WRITEPROTECT => write_protect(&c, open, argument),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `UFFDIO_API`: version and features. A refusal answers with zeros: `EINVAL`, or `EPERM` to be told of forks without
/// `CAP_SYS_PTRACE`.
fn agree(c: &Call<'_>, uffd: &Userfault, at: VirtAddr) -> CallResult<u64> {
    let [version, features, _] = c.read_words(at)?;
    let features = Features::from_bits(features).filter(|&features| FEATURES.contains(features));
    let agreed = features.filter(|_| version == VERSION).ok_or(Errno::EINVAL);
    let may = || c.caller.space().look().limits().may(Capabilities::SYS_PTRACE);
    let initialized = agreed.and_then(|features| {
        if features.contains(Features::EVENT_FORK) && !may() {
            return Err(Errno::EPERM);
        }
        uffd.initialize(features).map_err(|_| Errno::EINVAL)
    });
    if let Err(errno) = initialized {
        c.write_words(at, &[0; 3])?;
        return Err(errno.into());
    }
    c.write_words(at, &[VERSION, FEATURES.bits(), API_IOCTLS])?;
    Ok(0)
}

/// `UFFDIO_REGISTER`: tells what the range can be asked from then on.
fn register(c: &Call<'_>, open: OpenUserfault<'_>, at: VirtAddr) -> CallResult<u64> {
    let [start, len, mode] = c.read_words(at)?;
    let space = open.space.ok_or(Errno::ENOMEM)?;
    let start = VirtAddr::new(start);
    let registered = space.change().userfault_register(open.uffd, start, len, mode)?;
    let mut ioctls = match registered {
        Registered::Small => RANGE_IOCTLS,
        Registered::Pooled => POOLED_IOCTLS,
    };
    ioctls |= if mode & MODE_WP != 0 { WRITEPROTECT } else { 0 };
    ioctls |= if mode & MODE_MINOR != 0 { CONTINUE } else { 0 };
    c.write_words(at.checked_add(24).ok_or(Errno::EFAULT)?, &[ioctls])?;
    Ok(0)
}

/// `UFFDIO_COPY`. The bytes are read with no lock held: they may be a fault of their own.
fn copy(c: &Call<'_>, open: OpenUserfault<'_>, at: VirtAddr) -> CallResult<u64> {
    let result_at = at.checked_add(32).ok_or(Errno::EFAULT)?;
    refuse_while_changing(c, open, result_at)?;
    let [to, from, len, mode] = c.read_words(at)?;
    let from = VirtAddr::new(from);
    if !len.is_multiple_of(PAGE_SIZE) || from.checked_add(len).is_none() {
        return Err(Errno::EINVAL.into());
    }
    let range = checked_range(VirtAddr::new(to), len)?;
    let protection = protection_of(mode, DONTWAKE | WITH_WP)?;
    let space = open.space.ok_or(Errno::ESRCH)?;
    let mut bytes = [0; PAGE_BYTES];
    let checked = space.look().check_fill(range, &Filling::Bytes(&bytes), protection);
    let filled = checked.and_then(|()| {
        each_page(range, |page| {
            space.look().make_room_to_fill(page)?;
            c.read(from.offset(page.bytes_from(range.start())), &mut bytes)?;
            space.change().fill(page, &Filling::Bytes(&bytes), protection)
        })
    });
    answer(c, open, (range, mode), filled, result_at)
}

/// `UFFDIO_ZEROPAGE`, `UFFDIO_CONTINUE`, `UFFDIO_POISON`.
fn fill(
    c: &Call<'_>,
    open: OpenUserfault<'_>,
    at: VirtAddr,
    filling: Filling<'_>,
    modes: u64,
) -> CallResult<u64> {
    let result_at = at.checked_add(24).ok_or(Errno::EFAULT)?;
    refuse_while_changing(c, open, result_at)?;
    let [start, len, mode] = c.read_words(at)?;
    let range = checked_range(VirtAddr::new(start), len)?;
    let protection = protection_of(mode, modes)?;
    let space = open.space.ok_or(Errno::ESRCH)?;
    let checked = space.look().check_fill(range, &filling, protection);
    let filled = checked
        .and_then(|()| each_page(range, |page| space.change().fill(page, &filling, protection)));
    answer(c, open, (range, mode), filled, result_at)
}

/// Whether the pages that come are protected.
fn protection_of(mode: u64, modes: u64) -> Result<Protection, Errno> {
    match mode {
        _ if mode & !modes != 0 => Err(Errno::EINVAL),
        _ if mode & WITH_WP != 0 => Ok(Protection::On),
        _ => Ok(Protection::Off),
    }
}

/// Who serves faults has to read first of what happens to the memory.
fn refuse_while_changing(
    c: &Call<'_>,
    open: OpenUserfault<'_>,
    result_at: VirtAddr,
) -> CallResult<()> {
    if open.uffd.is_changing() {
        c.write_words(result_at, &[negated(Errno::EAGAIN)])?;
        return Err(Errno::EAGAIN.into());
    }
    Ok(())
}

/// As many bytes as could be filled; the error only if there are none.
fn each_page(
    range: PageRange,
    mut fill: impl FnMut(VirtAddr) -> CallResult<()>,
) -> CallResult<u64> {
    let mut page = range.start();
    while page < range.end() {
        match fill(page) {
            Ok(()) => page = page.offset(PAGE_SIZE),
            Err(CallError::Errno(_)) if page > range.start() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(page.bytes_from(range.start()))
}

/// Says how many bytes there are, or the error, and then wakes who has waited for them.
fn answer(
    c: &Call<'_>,
    open: OpenUserfault<'_>,
    (range, mode): (PageRange, u64),
    filled: CallResult<u64>,
    result_at: VirtAddr,
) -> CallResult<u64> {
    let filled = match filled {
        Ok(bytes) => bytes,
        Err(CallError::Errno(errno)) => {
            c.write_words(result_at, &[negated(errno)])?;
            return Err(errno.into());
        }
        Err(broken) => return Err(broken),
    };
    c.write_words(result_at, &[filled])?;
    let done = PageRange::from_len(range.start(), filled).filter(|_| mode & DONTWAKE == 0);
    done.into_iter().for_each(|done| open.uffd.wake(done));
    if filled < range.len() { Err(Errno::EAGAIN.into()) } else { Ok(0) }
}

/// `UFFDIO_MOVE`, by who has the memory itself alone.
fn move_pages(c: &Call<'_>, open: OpenUserfault<'_>, at: VirtAddr) -> CallResult<u64> {
    let result_at = at.checked_add(32).ok_or(Errno::EFAULT)?;
    refuse_while_changing(c, open, result_at)?;
    let [to, from, len, mode] = c.read_words(at)?;
    let own = |space: &&SharedSpace| std::ptr::eq(&raw const **space, c.caller.space());
    let space = open.space.filter(own).ok_or(Errno::EINVAL)?;
    let to = checked_range(VirtAddr::new(to), len)?;
    let from = checked_range(VirtAddr::new(from), len)?;
    let holes = match mode {
        _ if mode & !(DONTWAKE | ALLOW_HOLES) != 0 => return Err(Errno::EINVAL.into()),
        _ if mode & ALLOW_HOLES != 0 => Holes::Allowed,
        _ => Holes::Refused,
    };
    let moved = space.change().userfault_move(open.uffd, to, from, holes);
    answer(c, open, (to, mode), moved, result_at)
}

/// `UFFDIO_WRITEPROTECT`.
fn write_protect(c: &Call<'_>, open: OpenUserfault<'_>, at: VirtAddr) -> CallResult<u64> {
    if open.uffd.is_changing() {
        return Err(Errno::EAGAIN.into());
    }
    let [start, len, mode] = c.read_words(at)?;
    let range = checked_range(VirtAddr::new(start), len)?;
    let protection = match mode {
        PROTECT => Protection::On,
        0 | PROTECT_DONTWAKE => Protection::Off,
        _ => return Err(Errno::EINVAL.into()),
    };
    let space = open.space.ok_or(Errno::ESRCH)?;
    space.change().userfault_protect(range, protection)?;
    if mode == 0 {
        open.uffd.wake(range);
    }
    Ok(0)
}

/// An errno as a result's field has it.
fn negated(errno: Errno) -> u64 {
    i64::from(-(errno as i32)).cast_unsigned()
}
