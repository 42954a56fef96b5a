//! The error code of a page fault (Intel SDM volume 3, section 5.7; AMD APM volume 2, section 8.4.2).

use mm::addr::VirtAddr;
use mm::error::Broken;
use mm::paging::AccessKind;

/// It was a write.
const WRITE: u64 = 1 << 1;
/// An entry on the way has a reserved bit set.
const RESERVED: u64 = 1 << 3;
/// It was an instruction fetch.
const FETCH: u64 = 1 << 4;

/// Which access faulted.
///
/// # Errors
/// [`Broken`] if it was not the access but an entry of ours that is wrong.
pub fn faulting_access(address: VirtAddr, error: u64) -> Result<AccessKind, Broken> {
    // Software KVM says so of any address in the upper half, where its own tables are.
    if error & RESERVED != 0 && address < VirtAddr::TASK_END {
        let what = format!("a page-table entry for {address} has reserved bits set");
        return Err(Broken::Invariant(what));
    }
    Ok(match error {
        error if error & FETCH != 0 => AccessKind::Execute,
        error if error & WRITE != 0 => AccessKind::Write,
        _ => AccessKind::Read,
    })
}
