//! madvise(2), process_madvise(2), and the calls that ask after pages or write them back.

use super::{Call, done};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::paging::AccessKind;
use crate::space::{Advice, Populate, not_populated};

/// `PIDFD_SELF_THREAD`, `PIDFD_SELF_THREAD_GROUP`: descriptors that always stand for the caller.
const PIDFD_SELF: [i32; 2] = [-10000, -10001];
/// The most ranges of one call (`UIO_MAXIOV`).
const RANGES: u64 = 1024;
/// The most bytes of one call (`MAX_RW_COUNT`).
const MOST: u64 = 0x7fff_f000;
/// How many pages mincore looks at before it writes what it saw.
const CHUNK: u64 = 4096;

/// madvise(2).
pub(super) fn madvise(c: &Call<'_>) -> CallResult<u64> {
    let advised = advise(c, c.address(0), c.args[1], c.int(2));
    c.served(done(advised))
}

/// Advice on one range. No lock is held.
fn advise(c: &Call<'_>, addr: VirtAddr, len: u64, advice: i32) -> CallResult<()> {
    let space = c.caller.space();
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

/// process_madvise(2) on the caller itself: no descriptor stands for another process here. Linux's
/// `vector_madvise` stops at the first range that fails, and answers with the bytes before it if there are
/// any.
pub(super) fn process_madvise(c: &Call<'_>) -> CallResult<u64> {
    if c.word(4) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let ranges = ranges(c)?;
    if !PIDFD_SELF.contains(&c.int(0)) {
        return Err(Errno::EBADF.into());
    }
    let total: u64 = ranges.iter().map(|&(_, len)| len).sum();
    let mut done = 0;
    for (addr, len) in ranges {
        if done == total {
            break;
        }
        match advise(c, addr, len, c.int(3)) {
            Ok(()) => done += len,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    c.served(Ok(done))
}

/// The `struct iovec[]` at argument 1 (Linux's `import_iovec`). A range alone is cut short at what one call
/// can transfer before it is looked at; in a list, what is over is left out at its end.
fn ranges(c: &Call<'_>) -> CallResult<Vec<(VirtAddr, u64)>> {
    let count = c.args[2];
    if count > RANGES {
        return Err(Errno::EINVAL.into());
    }
    let mut ranges = Vec::new();
    for index in 0..count {
        let at = c.address(1).checked_add(index * 16).ok_or(Errno::EFAULT)?;
        let [base, len] = c.read_words(at)?;
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL.into());
        }
        ranges.push((VirtAddr::new(base), len));
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
