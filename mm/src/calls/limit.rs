//! prlimit(2), getrlimit(2), setrlimit(2) (Linux's `do_prlimit`).

use super::Call;
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};
use crate::vma::limits::{Capabilities, Limit, Resource};

/// prlimit64(2), for the caller itself: there is no other process that it could see.
pub(super) fn prlimit64(c: &Call<'_>) -> CallResult<u64> {
    let new = match c.address(2) {
        VirtAddr::ZERO => None,
        at => Some(read_limit(c, at)?),
    };
    if ![0, c.caller.pid()].contains(&c.int(0)) {
        return Err(Errno::ESRCH.into());
    }
    let old = exchange(c, c.word(1), new)?;
    match c.address(3) {
        VirtAddr::ZERO => Ok(0),
        at => write_limit(c, at, old),
    }
}

/// getrlimit(2).
pub(super) fn getrlimit(c: &Call<'_>) -> CallResult<u64> {
    let old = exchange(c, c.word(0), None)?;
    write_limit(c, c.address(1), old)
}

/// setrlimit(2).
pub(super) fn setrlimit(c: &Call<'_>) -> CallResult<u64> {
    let new = read_limit(c, c.address(1))?;
    exchange(c, c.word(0), Some(new))?;
    Ok(0)
}

fn read_limit(c: &Call<'_>, at: VirtAddr) -> CallResult<Limit> {
    let [soft, hard] = c.read_words(at)?;
    Ok(Limit { soft, hard })
}

fn write_limit(c: &Call<'_>, at: VirtAddr, limit: Limit) -> CallResult<u64> {
    c.write_words(at, &[limit.soft, limit.hard])?;
    Ok(0)
}

/// Reads a limit, and sets it if there is a new one. Raising a hard limit takes `CAP_SYS_RESOURCE`.
fn exchange(c: &Call<'_>, resource: u64, new: Option<Limit>) -> CallResult<Limit> {
    /// The most descriptors that any process may have (`fs.nr_open`).
    const NR_OPEN: u64 = 1 << 20;
    let resource = Resource::from_number(resource).ok_or(Errno::EINVAL)?;
    let mut space = c.caller.space().change();
    let old = space.limits().get(resource);
    let Some(new) = new else { return Ok(old) };
    if new.soft > new.hard {
        return Err(Errno::EINVAL.into());
    }
    let too_many_files = resource == Resource::OpenFiles && new.hard > NR_OPEN;
    let raises = new.hard > old.hard && !space.limits().may(Capabilities::SYS_RESOURCE);
    if too_many_files || raises {
        return Err(Errno::EPERM.into());
    }
    space.limits_mut().set(resource, new);
    Ok(old)
}
