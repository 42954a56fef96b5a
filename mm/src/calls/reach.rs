//! process_vm_readv(2), process_vm_writev(2): bytes from one process's memory to another's (Linux's
//! `mm/process_vm_access.c`).

use super::advice::{Checked, ranges};
use super::{Call, Reach};
use crate::addr::{PAGE_BYTES, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::space::SharedSpace;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the other process to the caller.
    In,
    /// From the caller to the other process.
    Out,
}

/// process_vm_readv(2).
pub(super) fn process_vm_readv(c: &Call<'_>) -> CallResult<u64> {
    transfer(c, Way::In)
}

/// process_vm_writev(2).
pub(super) fn process_vm_writev(c: &Call<'_>) -> CallResult<u64> {
    transfer(c, Way::Out)
}

/// Moves bytes until one side has no more, or one byte cannot be had, which counts only if it is the first one. No lock
/// is held between two pages.
///
/// # Errors
/// In this order: `EINVAL` flags; `EINVAL`, `EFAULT` the caller's ranges, then the other's; `ESRCH`; `EPERM` another's; `EFAULT` the first
/// byte. Nothing at all of either is 0, whoever is meant.
fn transfer(c: &Call<'_>, way: Way) -> CallResult<u64> {
    if c.args[5] != 0 {
        return Err(Errno::EINVAL.into());
    }
    let own = ranges(c, 1, Checked::Yes)?;
    if own.iter().all(|&(_, len)| len == 0) {
        return Ok(0);
    }
    let others = ranges(c, 3, Checked::No)?;
    if others.iter().all(|&(_, len)| len == 0) {
        return Ok(0);
    }
    // 0 is nobody's number here.
    let pid = if c.int(0) == 0 { -1 } else { c.int(0) };
    c.with_space(pid, Reach::Attach, |space| move_all(c, space, way, &own, &others))
}

fn move_all(
    c: &Call<'_>,
    space: &SharedSpace,
    way: Way,
    own: &[(VirtAddr, u64)],
    others: &[(VirtAddr, u64)],
) -> CallResult<u64> {
    let mut own = Pieces { ranges: own, done: 0 };
    let mut others = Pieces { ranges: others, done: 0 };
    let mut buffer = [0; PAGE_BYTES];
    let mut moved = 0;
    while let (Some((mine, mine_left)), Some((theirs, theirs_left))) = (own.next(), others.next()) {
        let count = mine_left.min(theirs_left);
        let bytes = &mut buffer[..count];
        let result = match way {
            Way::In => space.read(theirs, bytes).and_then(|()| c.caller.write(mine, bytes)),
            Way::Out => c.caller.read(mine, bytes).and_then(|()| space.write(theirs, bytes)),
        };
        match result.map_err(super::bad_address) {
            Ok(()) => {}
            Err(crate::error::CallError::Errno(_)) if moved > 0 => break,
            Err(error) => return Err(error),
        }
        moved += count as u64;
        own.done += count as u64;
        others.done += count as u64;
    }
    Ok(moved)
}

/// What is left of ranges.
struct Pieces<'a> {
    ranges: &'a [(VirtAddr, u64)],
    /// Bytes of the first that are done.
    done: u64,
}

impl Pieces<'_> {
    /// Where to go on, and how many bytes there are up to the end of the range or page.
    fn next(&mut self) -> Option<(VirtAddr, usize)> {
        while let Some((&(base, len), rest)) = self.ranges.split_first() {
            if self.done < len {
                // What overflows is no memory of anybody's.
                let at = base.checked_add(self.done).unwrap_or(VirtAddr::new(u64::MAX));
                let in_page = PAGE_BYTES as u64 - at.page_offset();
                let left = in_page.min(len - self.done);
                return Some((at, usize::try_from(left).unwrap_or(1)));
            }
            (self.ranges, self.done) = (rest, 0);
        }
        None
    }
}
