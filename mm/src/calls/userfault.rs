//! userfaultfd(2) and the ioctls of its descriptor that VMAs feel (Linux's `fs/userfaultfd.c`). Faults are
//! not told to it yet: memory that is registered faults as if it were not.

use std::sync::Arc;

use nix::libc;

use super::{Call, Caller};
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};
use crate::vma::Userfault;

/// The flags of userfaultfd(2); the first is `UFFD_USER_MODE_ONLY`.
const FLAGS: u64 = 1 | (libc::O_NONBLOCK | libc::O_CLOEXEC) as u64;

/// Agrees on the interface (include/uapi/linux/userfaultfd.h, as the next two).
pub const UFFDIO_API: u64 = 0xc018_aa3f;
/// Registers a range.
pub const UFFDIO_REGISTER: u64 = 0xc020_aa00;
/// Unregisters a range.
pub const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;

/// The only version of the interface (`UFFD_API`).
const VERSION: u64 = 0xaa;
/// `UFFD_API_FEATURES` on x86-64: all of the first 17.
const FEATURES: u64 = 0x1_ffff;
/// What the descriptor can be asked (`UFFD_API_IOCTLS`): register, unregister, API.
const API_IOCTLS: u64 = 1 << 0x3f | 1 << 1 | 1;
/// What a range can be asked: wake, copy, zeropage, move, poison (`UFFD_API_RANGE_IOCTLS` without the two
/// below).
const RANGE_IOCTLS: u64 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8;
/// With `UFFDIO_REGISTER_MODE_WP`, write-protect.
const WRITEPROTECT: u64 = 1 << 6;
/// With `UFFDIO_REGISTER_MODE_MINOR`, continue.
const CONTINUE: u64 = 1 << 7;
/// `UFFDIO_REGISTER_MODE_WP`, `_MINOR`.
const MODE_WP: u64 = 2;
const MODE_MINOR: u64 = 4;

/// userfaultfd(2).
pub(super) fn userfaultfd(c: &Call<'_>) -> CallResult<u64> {
    if c.word(0) & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let fd = c.caller.install(Arc::default(), c.int(0))?;
    Ok(u64::from(fd.unsigned_abs()))
}

/// ioctl(2) on a userfaultfd; `argument` is the pointer that the program passed.
///
/// # Errors
/// `EINVAL` a request that is not known, `UFFDIO_API` a second time, or any other before it; `EFAULT` the
/// pointer; what [`userfault_register`](crate::space::AddressSpace::userfault_register) says.
pub fn ioctl(
    caller: &dyn Caller,
    uffd: &Arc<Userfault>,
    request: u64,
    argument: VirtAddr,
) -> CallResult<u64> {
    let c = Call { caller, args: [0; 6] };
    match request {
        UFFDIO_API => agree(&c, uffd, argument),
        _ if !uffd.is_initialized() => Err(Errno::EINVAL.into()),
        UFFDIO_REGISTER => register(&c, uffd, argument),
        UFFDIO_UNREGISTER => {
            let [start, len] = c.read_words(argument)?;
            caller.space().change().userfault_unregister(VirtAddr::new(start), len)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `UFFDIO_API`: version and features. A refusal answers with zeros.
fn agree(c: &Call<'_>, uffd: &Userfault, at: VirtAddr) -> CallResult<u64> {
    let [version, features, _] = c.read_words(at)?;
    let known = version == VERSION && features & !FEATURES == 0;
    if !known || uffd.initialize(features).is_err() {
        c.write_words(at, &[0; 3])?;
        return Err(Errno::EINVAL.into());
    }
    c.write_words(at, &[VERSION, FEATURES, API_IOCTLS])?;
    Ok(0)
}

/// `UFFDIO_REGISTER`: tells what the range can be asked from then on.
fn register(c: &Call<'_>, uffd: &Arc<Userfault>, at: VirtAddr) -> CallResult<u64> {
    let [start, len, mode] = c.read_words(at)?;
    c.caller.space().change().userfault_register(uffd, VirtAddr::new(start), len, mode)?;
    let mut ioctls = RANGE_IOCTLS;
    ioctls |= if mode & MODE_WP != 0 { WRITEPROTECT } else { 0 };
    ioctls |= if mode & MODE_MINOR != 0 { CONTINUE } else { 0 };
    c.write_words(at.checked_add(24).ok_or(Errno::EFAULT)?, &[ioctls])?;
    Ok(0)
}
