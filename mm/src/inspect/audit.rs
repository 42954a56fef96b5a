//! The audit: every invariant that ties VMAs, page table, frames and counters together. Tests call it
//! after each operation.

use crate::addr::{PageRange, VirtAddr};
use crate::paging::Owner;
use crate::space::AddressSpace;
use crate::vma::Vma;
use crate::vma::account::Account;
use crate::vma::merge::can_merge;

/// Checks one address space.
///
/// # Errors
/// A sentence about the first invariant that does not hold:
/// - the tree is in order, nothing overlaps, its gaps are right;
/// - the accounts are the sums over the VMAs;
/// - no two neighbours that could be one VMA are two, and nothing is writable that may not be;
/// - every entry lies in a VMA and allows nothing that the VMA forbids, and its frame is in use;
/// - the resident counters are the numbers of entries.
pub fn audit(space: &AddressSpace) -> Result<(), String> {
    space.vmas().audit()?;
    let recounted = Account::recount(space.vmas().iter());
    let account = Account { peak: recounted.peak, ..*space.account() };
    check(account == recounted, || format!("accounts {account:?}, VMAs say {recounted:?}"))?;
    let mut before: Option<&Vma> = None;
    for vma in space.vmas().iter() {
        let may = vma.flags.needed_may();
        check(vma.flags.contains(may), || format!("{vma:?} lacks {may:?}"))?;
        if let Some(prev) = before {
            check(!can_merge(prev, vma), || format!("{prev:?} and {vma:?} are one VMA"))?;
        }
        before = Some(vma);
    }
    audit_entries(space)
}

fn audit_entries(space: &AddressSpace) -> Result<(), String> {
    let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) else { return Ok(()) };
    let (mut own, mut backed) = (0, 0);
    for leaf in space.table().cursor(all) {
        let (addr, entry) = (leaf.addr, leaf.entry);
        let vma = space.vmas().find_exact(addr);
        let vma = vma.ok_or_else(|| format!("{addr} has {entry:?} but no VMA"))?;
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
        check(vma.anon().is_some() || entry.owner() == Owner::Backing, || {
            format!("{addr} has a page of the process's own, {vma:?} no anonymous identity")
        })?;
        let frame = entry.frame().ok_or_else(|| format!("{addr} names no frame: {entry:?}"))?;
        let frames = space.system().frames();
        check(frames.references(frame) > 0, || format!("{addr} names the free {frame:?}"))?;
        match entry.owner() {
            Owner::Process => own += 1,
            Owner::Backing => backed += 1,
        }
    }
    let resident = &space.counters().resident;
    check(resident.own() == own && resident.backed() == backed, || {
        format!(
            "resident {} own and {} backed pages, entries say {own} and {backed}",
            resident.own(),
            resident.backed()
        )
    })?;
    Ok(())
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
