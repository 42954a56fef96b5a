//! The audit: every invariant that ties VMAs, page table, frames and counters together. Tests call it
//! after each operation.

use crate::addr::{PageRange, VirtAddr};
use crate::paging::Owner;
use crate::space::{AddressSpace, PageClass};
use crate::vma::account::Account;
use crate::vma::merge::continues;
use crate::vma::{Lineage, VmFlags};

/// Checks one address space.
///
/// # Errors
/// A sentence about the first invariant that does not hold:
/// - the tree is in order, nothing overlaps, its gaps are right;
/// - the accounts are the sums over the VMAs;
/// - nothing is writable that may not be;
/// - every entry lies in a VMA and allows nothing that the VMA forbids, and its frame is in use;
/// - the resident counters are the numbers of entries.
pub fn audit(space: &AddressSpace) -> Result<(), String> {
    space.vmas().audit()?;
    let recounted = Account::recount(space.vmas().iter());
    // What a move that kept its source mapped left locked stays counted.
    let (peak, locked) = (recounted.peak, space.account().locked.min(recounted.locked));
    let account = Account { peak, locked, ..*space.account() };
    check(account == recounted, || format!("accounts {account:?}, VMAs say {recounted:?}"))?;
    for vma in space.vmas().iter() {
        let may = vma.flags.needed_may();
        check(vma.flags.contains(may), || format!("{vma:?} lacks {may:?}"))?;
        let uffd = vma.flags.intersects(VmFlags::UFFD);
        check(uffd == vma.userfault().is_some(), || format!("{vma:?}: flags and userfaultfd"))?;
    }
    audit_entries(space)
}

/// The first two neighbours that could be one VMA and are not. Linux leaves such ones in few places
/// only: the heap's first page, the cut of a call that then failed, the source of a move that keeps it
/// mapped. After any other call on a space that had none there is none.
#[must_use]
pub fn unmerged(space: &AddressSpace) -> Option<(PageRange, PageRange)> {
    let vmas = space.vmas();
    vmas.iter().zip(vmas.iter().skip(1)).find_map(|(left, right)| {
        let agree = match (left.anon(), right.anon()) {
            (Some(a), Some(b)) => a == b,
            (Some(id), None) | (None, Some(id)) => id.lineage() == Lineage::Own,
            (None, None) => true,
        };
        let special = left.flags.intersects(VmFlags::SPECIAL);
        (continues(left, right) && agree && !special).then(|| (left.range(), right.range()))
    })
}

fn audit_entries(space: &AddressSpace) -> Result<(), String> {
    let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) else { return Ok(()) };
    let (mut own, mut file, mut shared) = (0, 0, 0);
    for leaf in space.table().cursor(all) {
        let (addr, entry) = (leaf.addr, leaf.entry);
        let vma = space.vmas().find_exact(addr);
        let vma = vma.ok_or_else(|| format!("{addr} has {entry:?} but no VMA"))?;
        if entry.is_guard() {
            continue;
        }
        let allowed = vma.flags.page_access();
        check(allowed.contains(entry.access()), || {
            format!("{addr} has {entry:?}, its VMA {vma:?} forbids that")
        })?;
        let private_backed = entry.owner() == Owner::Backing && vma.is_private();
        check(!(private_backed && entry.is_writable()), || {
            format!("{addr} may be written, but the page is the backing's")
        })?;
        let anon = vma.backing.is_none();
        check(!anon || entry.owner() == Owner::Process, || {
            format!("{addr} is anonymous, but {entry:?} says it is a backing's")
        })?;
        let written = entry.owner() == Owner::Process && entry.is_writable();
        check(vma.anon().is_some() || !written, || {
            format!("{addr} has a page of the process's own, {vma:?} no anonymous identity")
        })?;
        let frame = entry.frame().ok_or_else(|| format!("{addr} names no frame: {entry:?}"))?;
        let frames = space.system().frames();
        check(frames.references(frame) > 0, || format!("{addr} names the free {frame:?}"))?;
        match PageClass::of(entry.owner(), frame, frames) {
            PageClass::Own => own += 1,
            PageClass::File => file += 1,
            PageClass::Shared => shared += 1,
        }
    }
    let resident = &space.counters().resident;
    let counted = [PageClass::Own, PageClass::File, PageClass::Shared].map(|c| resident.of(c));
    check(counted == [own, file, shared], || {
        format!("resident pages {counted:?}, entries say {:?}", [own, file, shared])
    })?;
    Ok(())
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
