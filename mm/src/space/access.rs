//! The host's own reads and writes of a program's memory (Linux's `copy_from_user` and
//! `copy_to_user`). They fault pages in, respect permissions and leave accessed and dirty bits as the
//! program's own accesses would.

use super::{AddressSpace, Resolved};
use crate::addr::{GuestPhysAddr, PAGE_SIZE, VirtAddr, index};
use crate::error::{AccessError, Broken, Fault};
use crate::paging::AccessKind;
use crate::phys::Gone;

/// How often a page may vanish between its fault and its use before we call it a bug.
const RETRIES: u32 = 64;

/// What became of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accessed {
    /// It was made.
    Done,
    /// The space must make way first ([`make_way`](AddressSpace::make_way)).
    NeedsExclusive,
    /// The page must be brought first.
    NeedsPage,
    /// Who serves a userfaultfd is to be told, and waited for.
    ForHandler,
}

impl From<Resolved> for Accessed {
    fn from(resolved: Resolved) -> Self {
        match resolved {
            Resolved::Done => Accessed::Done,
            Resolved::NeedsExclusive => Accessed::NeedsExclusive,
            Resolved::NeedsPage => Accessed::NeedsPage,
            Resolved::ForHandler => Accessed::ForHandler,
        }
    }
}

impl AddressSpace {
    /// Translates one address for an access, faulting the page in, and makes it while the page stays.
    pub(super) fn access(
        &self,
        addr: VirtAddr,
        kind: AccessKind,
        access: &mut dyn FnMut(GuestPhysAddr) -> Result<(), Gone>,
    ) -> Result<Accessed, AccessError> {
        for _ in 0..RETRIES {
            {
                let _held = self.hold(addr);
                // What may be given up is not, while it is used.
                let _still = self.table.hold_still();
                if let Ok(at) = self.table.walk(addr, kind) {
                    let gone = |Gone| Fault::NoBacking(addr).into();
                    return access(at).map(|()| Accessed::Done).map_err(gone);
                }
            }
            match self.fault(addr, kind)? {
                Resolved::Done => {}
                resolved => return Ok(resolved.into()),
            }
        }
        Err(Broken::Invariant(format!("a page at {addr} does not stay for a {kind:?}")).into())
    }
}

/// One page's part of a span of bytes.
pub(super) struct Piece {
    pub(super) addr: VirtAddr,
    /// Which bytes of the buffer.
    pub(super) bytes: std::ops::Range<usize>,
}

/// Cuts `len` bytes at `addr` at page boundaries.
///
/// # Errors
/// A fault at the end of the user half if the span passes it.
pub(super) fn pieces(
    addr: VirtAddr,
    len: usize,
) -> Result<impl Iterator<Item = Piece>, AccessError> {
    let end = addr.checked_add(len as u64).filter(|&end| end <= VirtAddr::TASK_END);
    if end.is_none() {
        return Err(Fault::NotMapped(addr).into());
    }
    let mut done = 0;
    Ok(std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let addr = addr.offset(done as u64);
        let in_page = index(PAGE_SIZE - addr.page_offset());
        let bytes = done..(done + in_page).min(len);
        done = bytes.end;
        Some(Piece { addr, bytes })
    }))
}
