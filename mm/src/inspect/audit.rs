//! The audit: every invariant that ties VMAs, page table, frames and counters together. Tests call it
//! after each operation.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::paging::{Entry, Owner};
use crate::phys::FrameKind;
use crate::space::{AddressSpace, PageClass, maps_of};
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
/// - the resident counters are the numbers of entries, and so is that of swapped pages;
/// - pages of locked memory say so, where there is swap;
/// - objects that note where they are mapped have noted the VMAs, and nothing else of this space;
/// - the reverse map of anonymous memory has noted the VMAs that were written to, and nothing else.
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
    audit_objects(space)?;
    space.chains().audit(space.vmas().iter())?;
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

fn audit_objects(space: &AddressSpace) -> Result<(), String> {
    // By object: what it has noted, and how many pages of VMAs there are.
    let mut noted = HashMap::new();
    for vma in space.vmas().iter() {
        let Some(maps) = maps_of(vma) else { continue };
        let fresh = || (maps.of_space(space.number()), 0);
        let (ranges, pages) = noted.entry(std::ptr::from_ref(maps)).or_insert_with(fresh);
        *pages += vma.range().pages();
        let shows = ranges.iter().any(|&(range, first)| {
            let from = vma.range().start().get().wrapping_sub(range.start().get()) / PAGE_SIZE;
            range.covers(vma.range()) && first.wrapping_add(from) == vma.pgoff
        });
        check(shows, || format!("its object does not know {vma:?}, only {ranges:?}"))?;
    }
    for (ranges, pages) in noted.values() {
        let known: u64 = ranges.iter().map(|(range, _)| range.pages()).sum();
        check(known == *pages, || format!("an object knows {ranges:?}, VMAs have {pages} pages"))?;
    }
    Ok(())
}

fn audit_entries(space: &AddressSpace) -> Result<(), String> {
    // What was brought in ahead and written since counts from here on.
    let _ = space.resident();
    let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) else { return Ok(()) };
    let (mut own, mut file, mut shared, mut huge, mut swapped) = (0, 0, 0, 0, 0);
    let swaps = space.system().swap();
    for leaf in space.table().look(all) {
        let (addr, entry) = (leaf.addr, leaf.entry);
        let vma = space.vmas().find_exact(addr);
        let vma = vma.ok_or_else(|| format!("{addr} has {entry:?} but no VMA"))?;
        let protected = entry.is_protected();
        check(!protected || vma.flags.contains(VmFlags::UFFD_WP) && !entry.is_writable(), || {
            format!("{addr} has {entry:?} in {vma:?}: protected for a userfaultfd, or not?")
        })?;
        if entry.is_marker() {
            continue;
        }
        if let Some(slot) = entry.swap_slot() {
            let fits = vma.is_private() && vma.anon().is_some();
            check(fits, || format!("{addr} is swapped out, {vma:?} has no memory of its own"))?;
            check(entry.unprotected() == Entry::swapped(slot), || format!("{addr} has {entry:?}"))?;
            check(swaps.is_some_and(|swap| swap.users(slot) > 0), || {
                format!("{addr} names {slot:?}, which nobody uses")
            })?;
            swapped += 1;
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
        check(!entry.is_locked() || vma.flags.contains(VmFlags::LOCKED), || {
            format!("{addr} has {entry:?} of locked memory, {vma:?} is not locked")
        })?;
        let anon = vma.backing.is_none();
        let frame = entry.frame().ok_or_else(|| format!("{addr} names no frame: {entry:?}"))?;
        let frames = space.system().frames();
        let stored = || swaps.is_some_and(|swap| swap.has_stored(frame));
        check(!entry.is_dirty() || !stored(), || {
            format!("{addr} has written {frame:?}, which is in the swap area as it was")
        })?;
        let could_go = match entry.owner() {
            Owner::Process => swaps.is_some(),
            Owner::Backing => space.object_page_could_go(vma, entry),
        };
        let locked = vma.flags.contains(VmFlags::LOCKED) && could_go;
        check(!locked || entry.is_locked(), || {
            format!("{addr} has {entry:?}, which does not tell that {vma:?} is locked")
        })?;
        check(frames.references(frame) > 0, || format!("{addr} names the free {frame:?}"))?;
        let kind = frames.kind(frame);
        let pooled = entry.is_pooled();
        check(pooled == vma.flags.contains(VmFlags::HUGETLB), || {
            format!("{addr} has {entry:?} in {vma:?}: of the pool, or not?")
        })?;
        check(pooled == (kind == Some(FrameKind::Huge)), || {
            format!("{addr} has {entry:?}, but {frame:?} is {kind:?}")
        })?;
        let own_kind = pooled || matches!(kind, Some(FrameKind::Anonymous | FrameKind::Merged));
        check(entry.owner() == Owner::Backing || own_kind, || {
            format!("{addr} names {frame:?} as a page of the process's own, it is {kind:?}")
        })?;
        check(!anon || entry.owner() == Owner::Process || kind == Some(FrameKind::Zero), || {
            format!("{addr} is anonymous, but {entry:?} says it is a backing's")
        })?;
        check(vma.anon().is_some() || entry.owner() == Owner::Backing, || {
            format!("{addr} has a page of the process's own, {vma:?} no anonymous identity")
        })?;
        check(
            !entry.is_writable()
                || entry.owner() == Owner::Backing
                || frames.is_exclusive(frame)
                || pooled && frames.references(frame) == 2,
            || format!("{addr} may be written, but others have {frame:?} too"),
        )?;
        match PageClass::of(entry, frames) {
            Some(PageClass::Own) => own += 1,
            Some(PageClass::File) => file += 1,
            Some(PageClass::Shared) => shared += 1,
            Some(PageClass::Huge) => huge += 1,
            None => {}
        }
    }
    let resident = space.resident();
    let swap_counted = space.counters().swapped.load(Ordering::Relaxed);
    check(swap_counted == swapped, || {
        format!("{swap_counted} pages counted as swapped out, entries say {swapped}")
    })?;
    let counted = [PageClass::Own, PageClass::File, PageClass::Shared, PageClass::Huge];
    let counted = counted.map(|class| resident.of(class));
    check(counted == [own, file, shared, huge], || {
        format!("resident pages {counted:?}, entries say {:?}", [own, file, shared, huge])
    })?;
    Ok(())
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
