//! prlimit(2), getrlimit(2), setrlimit(2) (Linux's `do_prlimit`).

use super::{Call, Reach};
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};
use crate::space::SharedSpace;
use crate::vma::limits::{Capabilities, Limit, Resource};

/// prlimit64(2). A process that has ended has no limits any more (Linux keeps them until it is waited for).
///
/// # Errors
/// In this order: `EFAULT` the new limit; `ESRCH`; `EPERM` another's; `EINVAL` no such limit, or above its hard one; `EPERM`
/// raising a hard one; `EFAULT`.
pub(super) fn prlimit64(c: &Call<'_>) -> CallResult<u64> {
    let new = match c.address(2) {
        VirtAddr::ZERO => None,
        at => Some(read_limit(c, at)?),
    };
    let may_raise = may_raise(c);
    let old =
        c.with_space(c.int(0), Reach::Limit, |space| exchange(space, c.word(1), new, may_raise))?;
    match c.address(3) {
        VirtAddr::ZERO => Ok(0),
        at => write_limit(c, at, old),
    }
}

/// getrlimit(2).
pub(super) fn getrlimit(c: &Call<'_>) -> CallResult<u64> {
    let old = exchange(c.caller.space(), c.word(0), None, Raise::Refused)?;
    write_limit(c, c.address(1), old)
}

/// setrlimit(2).
pub(super) fn setrlimit(c: &Call<'_>) -> CallResult<u64> {
    let new = read_limit(c, c.address(1))?;
    exchange(c.caller.space(), c.word(0), Some(new), may_raise(c))?;
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

/// Whether hard limits may be raised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Raise {
    Allowed,
    Refused,
}

/// Raising a hard limit takes `CAP_SYS_RESOURCE` of the caller's.
fn may_raise(c: &Call<'_>) -> Raise {
    let may = c.caller.space().look().limits().may(Capabilities::SYS_RESOURCE);
    if may { Raise::Allowed } else { Raise::Refused }
}

/// Reads a limit, and sets it if there is a new one.
fn exchange(
    space: &SharedSpace,
    resource: u64,
    new: Option<Limit>,
    may_raise: Raise,
) -> CallResult<Limit> {
    /// The most descriptors that any process may have (`fs.nr_open`).
    const NR_OPEN: u64 = 1 << 20;
    let resource = Resource::from_number(resource).ok_or(Errno::EINVAL)?;
    let mut space = space.change();
    let old = space.limits().get(resource);
    let Some(new) = new else { return Ok(old) };
    if new.soft > new.hard {
        return Err(Errno::EINVAL.into());
    }
    let too_many_files = resource == Resource::OpenFiles && new.hard > NR_OPEN;
    let raises = new.hard > old.hard && may_raise == Raise::Refused;
    if too_many_files || raises {
        return Err(Errno::EPERM.into());
    }
    space.limits_mut().set(resource, new);
    Ok(old)
}
