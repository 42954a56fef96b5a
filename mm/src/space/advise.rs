//! madvise(2): Linux's `mm/madvise.c`. What changes VMAs is here; what changes pages is in
//! `space/discard`.

use super::AddressSpace;
use super::merge_any::mergeable;
use super::range::CallRange;
use crate::addr::{PageRange, VirtAddr};
use crate::error::{CallError, CallResult, Errno};
use crate::paging::FlushBatch;
use crate::rules::Rule;
use crate::vma::limits::Capabilities;
use crate::vma::{VmFlags, Vma};

/// `MADV_*` of madvise(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
#[allow(missing_docs, reason = "madvise(2) describes each")]
pub enum Advice {
    Normal = 0,
    Random = 1,
    Sequential = 2,
    WillNeed = 3,
    DontNeed = 4,
    Free = 8,
    Remove = 9,
    DontFork = 10,
    DoFork = 11,
    Mergeable = 12,
    Unmergeable = 13,
    HugePage = 14,
    NoHugePage = 15,
    DontDump = 16,
    DoDump = 17,
    WipeOnFork = 18,
    KeepOnFork = 19,
    Cold = 20,
    PageOut = 21,
    PopulateRead = 22,
    PopulateWrite = 23,
    DontNeedLocked = 24,
    Collapse = 25,
    HwPoison = 100,
    SoftOffline = 101,
    GuardInstall = 102,
    GuardRemove = 103,
}

const ALL: [Advice; 27] = [
    Advice::Normal,
    Advice::Random,
    Advice::Sequential,
    Advice::WillNeed,
    Advice::DontNeed,
    Advice::Free,
    Advice::Remove,
    Advice::DontFork,
    Advice::DoFork,
    Advice::Mergeable,
    Advice::Unmergeable,
    Advice::HugePage,
    Advice::NoHugePage,
    Advice::DontDump,
    Advice::DoDump,
    Advice::WipeOnFork,
    Advice::KeepOnFork,
    Advice::Cold,
    Advice::PageOut,
    Advice::PopulateRead,
    Advice::PopulateWrite,
    Advice::DontNeedLocked,
    Advice::Collapse,
    Advice::HwPoison,
    Advice::SoftOffline,
    Advice::GuardInstall,
    Advice::GuardRemove,
];

impl Advice {
    /// From madvise's number; `None` where Linux answers `EINVAL`.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        ALL.into_iter().find(|&advice| advice as i32 == number)
    }

    /// Whether it throws away what memory holds: sealed memory refuses that.
    fn discards(self) -> bool {
        matches!(
            self,
            Advice::Free
                | Advice::DontNeed
                | Advice::DontNeedLocked
                | Advice::Remove
                | Advice::DontFork
                | Advice::WipeOnFork
                | Advice::GuardInstall
        )
    }
}

impl AddressSpace {
    /// Takes advice about a range. Over a hole it goes on past it, and then answers `ENOMEM`.
    ///
    /// # Errors
    /// `EINVAL`: advice, address unaligned, length or range wraps. Then VMA by VMA: `EPERM` sealed;
    /// `EINVAL`, `EBADF` or `EACCES` where the advice does not fit the VMA (see madvise(2)); `EAGAIN`
    /// too many VMAs. At the end `ENOMEM`: a hole. Source: madvise(2), Linux's `mm/madvise.c`.
    pub fn madvise(&mut self, addr: VirtAddr, len: u64, advice: i32) -> CallResult<()> {
        let advice = Advice::from_number(advice).ok_or(Errno::EINVAL)?;
        let Some(range) = CallRange::aligned(addr, len)? else { return Ok(()) };
        match advice {
            Advice::HwPoison | Advice::SoftOffline => {
                let admin = self.limits.may(Capabilities::SYS_ADMIN);
                // No page here can be poisoned.
                Err(if admin { Errno::EINVAL } else { Errno::EPERM }.into())
            }
            Advice::PopulateRead => self.populate_for(range, crate::paging::AccessKind::Read),
            Advice::PopulateWrite => self.populate_for(range, crate::paging::AccessKind::Write),
            _ => {
                let mut batch = FlushBatch::new();
                let result = self.walk(range, |space, part| space.advise(part, advice, &mut batch));
                self.finish(batch)?;
                result
            }
        }
    }

    /// A part of one VMA (`madvise_vma_behavior`).
    fn advise(
        &mut self,
        part: PageRange,
        advice: Advice,
        batch: &mut FlushBatch,
    ) -> CallResult<VirtAddr> {
        let vma = self.vmas.find_exact(part.start()).ok_or(Errno::ENOMEM)?;
        if vma.flags.contains(VmFlags::SEALED)
            && advice.discards()
            && vma.is_anonymous()
            && !vma.flags.contains(VmFlags::WRITE)
        {
            return Err(Errno::EPERM.into());
        }
        if self.advise_pages(vma, part, advice, batch)? == Kind::Pages {
            if advice == Advice::GuardInstall {
                // The whole VMA is marked, and stays so.
                let start = vma.range().start();
                self.vmas.update(start, |vma| vma.flags |= VmFlags::MAYBE_GUARD);
            }
            return Ok(part.end());
        }
        let flags = advised(vma, advice)?;
        if flags == vma.flags || !self.rule(Rule::Advice) {
            return Ok(part.end());
        }
        if advice == Advice::HugePage {
            self.settle_for_folios(part)?;
        }
        if advice == Advice::Unmergeable {
            self.unmerge(vma, part).map_err(later)?;
        }
        self.modify_flags(part, flags).map_err(later)
    }
}

/// madvise(2)'s word for want of memory: what has none now may have it later.
pub(super) fn later(error: CallError) -> CallError {
    match error {
        CallError::Errno(Errno::ENOMEM) => Errno::EAGAIN.into(),
        error => error,
    }
}

/// What an advice is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Pages; it has been followed.
    Pages,
    /// The VMA's flags.
    Flags,
}

/// The VMA's flags after the advice.
fn advised(vma: &Vma, advice: Advice) -> Result<VmFlags, Errno> {
    let flags = vma.flags;
    let random = VmFlags::RAND_READ;
    let sequential = VmFlags::SEQ_READ;
    Ok(match advice {
        Advice::Normal => flags - random - sequential,
        Advice::Sequential => (flags - random) | sequential,
        Advice::Random => (flags - sequential) | random,
        Advice::DontFork => flags | VmFlags::DONTCOPY,
        Advice::DoFork if flags.contains(VmFlags::IO) => return Err(Errno::EINVAL),
        Advice::DoFork => flags - VmFlags::DONTCOPY,
        Advice::WipeOnFork if !vma.is_anonymous() || !vma.is_private() => {
            return Err(Errno::EINVAL);
        }
        Advice::WipeOnFork => flags | VmFlags::WIPEONFORK,
        Advice::KeepOnFork if flags.contains(VmFlags::DROPPABLE) => return Err(Errno::EINVAL),
        Advice::KeepOnFork => flags - VmFlags::WIPEONFORK,
        Advice::DontDump => flags | VmFlags::DONTDUMP,
        Advice::DoDump => {
            let special = flags.intersects(VmFlags::SPECIAL) && !flags.contains(VmFlags::HUGETLB);
            if special || flags.contains(VmFlags::DROPPABLE) {
                return Err(Errno::EINVAL);
            }
            flags - VmFlags::DONTDUMP
        }
        Advice::Mergeable => mergeable(flags),
        Advice::Unmergeable => flags - VmFlags::MERGEABLE,
        Advice::HugePage => (flags - VmFlags::NOHUGEPAGE) | VmFlags::HUGEPAGE,
        Advice::NoHugePage => (flags - VmFlags::HUGEPAGE) | VmFlags::NOHUGEPAGE,
        _ => flags,
    })
}
