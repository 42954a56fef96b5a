//! The calls that lock memory in place or seal it.

use super::{Call, done};
use crate::addr::VirtAddr;
use crate::error::CallResult;
use crate::space::{Populate, not_locked};

/// mlock(2).
pub(super) fn mlock(c: &Call<'_>) -> CallResult<u64> {
    lock(c, 0)
}

/// mlock2(2).
pub(super) fn mlock2(c: &Call<'_>) -> CallResult<u64> {
    lock(c, c.word(2))
}

fn lock(c: &Call<'_>, flags: u64) -> CallResult<u64> {
    let (space, addr, len) = (c.caller.space(), c.address(0), c.args[1]);
    space.change().mlock2(addr, len, flags)?;
    match space.populate_paged(addr, len, Populate::Locked)? {
        None => Ok(0),
        Some(fault) => Err(not_locked(fault).into()),
    }
}

/// munlock(2).
pub(super) fn munlock(c: &Call<'_>) -> CallResult<u64> {
    done(c.caller.space().change().munlock(c.address(0), c.args[1]))
}

/// mlockall(2).
pub(super) fn mlockall(c: &Call<'_>) -> CallResult<u64> {
    let space = c.caller.space();
    space.change().mlockall(c.word(0))?;
    space.populate_all_paged(VirtAddr::ZERO, VirtAddr::TASK_END.get(), Populate::Locked)?;
    Ok(0)
}

/// munlockall(2).
pub(super) fn munlockall(c: &Call<'_>) -> CallResult<u64> {
    c.caller.space().change().munlockall();
    Ok(0)
}

/// mseal(2).
pub(super) fn mseal(c: &Call<'_>) -> CallResult<u64> {
    done(c.caller.space().change().mseal(c.address(0), c.args[1], c.args[2]))
}
