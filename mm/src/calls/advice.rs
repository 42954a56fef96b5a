//! madvise(2), process_madvise(2), and the calls that ask after pages or write them back.

use super::{Call, Reach, done};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::paging::AccessKind;
use crate::space::{Advice, Populate, SharedSpace, not_populated};
use crate::vma::limits::Capabilities;

/// `PIDFD_SELF_THREAD`, `PIDFD_SELF_THREAD_GROUP`: descriptors that always stand for the caller.
const PIDFD_SELF: [i32; 2] = [-10000, -10001];
/// Advice that another process takes (`process_madvise_remote_valid`).
const REMOTE: [Advice; 4] = [Advice::Cold, Advice::PageOut, Advice::WillNeed, Advice::Collapse];
/// The most ranges of one call (`UIO_MAXIOV`).
const RANGES: u64 = 1024;
/// The most bytes of one call (`MAX_RW_COUNT`).
const MOST: u64 = 0x7fff_f000;
/// How many pages mincore looks at before it writes what it saw.
const CHUNK: u64 = 4096;

/// madvise(2).
pub(super) fn madvise(c: &Call<'_>) -> CallResult<u64> {
    let advised = advise(c.caller.space(), c.address(0), c.args[1], c.int(2));
    c.served(done(advised))
}

/// Advice on one range. No lock is held.
fn advise(space: &SharedSpace, addr: VirtAddr, len: u64, advice: i32) -> CallResult<()> {
    space.tell_removed(addr, len, advice);
    space.change().madvise(addr, len, advice)?;
    let kind = match advice {
        _ if advice == Advice::PopulateRead as i32 => AccessKind::Read,
        _ if advice == Advice::PopulateWrite as i32 => AccessKind::Write,
        _ => return Ok(()),
    };
    match space.populate_paged(addr, len, Populate::For(kind))? {
        None => Ok(()),
        Some(fault) => Err(not_populated(fault).into()),
    }
}

/// process_madvise(2). Linux's `vector_madvise` stops at the first range that fails, and answers with the bytes before it
/// if there are any.
///
/// # Errors
/// In this order: `EINVAL` flags; `EINVAL`, `EFAULT` the ranges; `EBADF` no process's descriptor; `ESRCH` it has ended; to
/// another process `EACCES` it may not be looked into, `EINVAL` advice that only one's own takes, `EPERM` without `CAP_SYS_NICE`; as of madvise(2).
pub(super) fn process_madvise(c: &Call<'_>) -> CallResult<u64> {
    if c.word(4) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let ranges = ranges(c, 1, Checked::Yes)?;
    let pid = if PIDFD_SELF.contains(&c.int(0)) { 0 } else { c.caller.process_behind(c.int(0))? };
    let advised = c.with_space(pid, Reach::Advise, |space| {
        let is_other = pid != 0 && pid != c.caller.pid();
        if is_other && !REMOTE.iter().any(|&advice| advice as i32 == c.int(3)) {
            return Err(Errno::EINVAL.into());
        }
        if is_other && !c.caller.space().look().limits().may(Capabilities::SYS_NICE) {
            return Err(Errno::EPERM.into());
        }
        advise_all(space, &ranges, c.int(3))
    });
    c.served(advised)
}

fn advise_all(space: &SharedSpace, ranges: &[(VirtAddr, u64)], advice: i32) -> CallResult<u64> {
    let total: u64 = ranges.iter().map(|&(_, len)| len).sum();
    let mut done = 0;
    for &(addr, len) in ranges {
        if done == total {
            break;
        }
        match advise(space, addr, len, advice) {
            Ok(()) => done += len,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether ranges must lie in the user half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// They must, and what is over is left out.
    Yes,
    /// They are another process's, and looked at later.
    No,
}

/// The `struct iovec[]` at an argument, the next one being how many (Linux's `import_iovec`). A range alone is cut short at
/// what one call can transfer before it is looked at; in a list, what is over is left out at its end.
pub(super) fn ranges(
    c: &Call<'_>,
    index: usize,
    checked: Checked,
) -> CallResult<Vec<(VirtAddr, u64)>> {
    let (vector, count) = (c.address(index), c.args[index + 1]);
    if count > RANGES {
        return Err(Errno::EINVAL.into());
    }
    let mut ranges = Vec::new();
    for index in 0..count {
        let at = vector.checked_add(index * 16).ok_or(Errno::EFAULT)?;
        let [base, len] = c.read_words(at)?;
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL.into());
        }
        ranges.push((VirtAddr::new(base), len));
    }
    if checked == Checked::No {
        return Ok(ranges);
    }
    let mut left = MOST;
    for (base, len) in &mut ranges {
        let checked = if count == 1 { (*len).min(left) } else { *len };
        Call::check_user(*base, checked)?;
        *len = (*len).min(left);
        left -= *len;
    }
    Ok(ranges)
}

/// mincore(2). The vector is written VMA by VMA: what lies before a hole has been written when the call
/// answers `ENOMEM`.
pub(super) fn mincore(c: &Call<'_>) -> CallResult<u64> {
    let (mut at, len, mut vector) = (c.address(0), c.args[1], c.address(2));
    if !at.is_page_aligned() {
        return Err(Errno::EINVAL.into());
    }
    Call::check_user(at, len).map_err(|_| Errno::ENOMEM)?;
    let mut left = len.div_ceil(PAGE_SIZE);
    Call::check_user(vector, left)?;
    while left > 0 {
        // The lock is not held while the vector is written: that may fault.
        let seen = {
            let space = c.caller.space().look();
            let vma = space.vmas().find_exact(at).ok_or(Errno::ENOMEM)?;
            let pages = vma.range().end().bytes_from(at) >> PAGE_SHIFT;
            space.mincore(at, pages.min(left).min(CHUNK) * PAGE_SIZE)?
        };
        c.write(vector, &seen)?;
        let pages = seen.len() as u64;
        left -= pages;
        vector = vector.offset(pages);
        at = at.offset(pages * PAGE_SIZE);
    }
    Ok(0)
}

/// msync(2).
pub(super) fn msync(c: &Call<'_>) -> CallResult<u64> {
    done(c.caller.space().msync(c.address(0), c.args[1], c.word(2)))
}
