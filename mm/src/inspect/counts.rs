//! The audit over all address spaces of one machine: what is true of frames only when everybody who may
//! name them is looked at.

use std::collections::HashMap;

use super::audit;
use super::reverse::audit_reverse;
use crate::addr::{Frame, PageRange, SwapSlot, VirtAddr};
use crate::phys::{FrameKind, Marks};
use crate::space::AddressSpace;

/// Checks all address spaces of one machine: each for itself ([`audit`]), and the counts of all frames.
/// Nobody may use or change them meanwhile, and no flush may be due.
///
/// # Errors
/// A sentence about the first invariant that does not hold; beside those of [`audit`]:
/// - the map count of each frame is the number of entries that name it, in all spaces together; but the
///   page of zeros has none;
/// - each of these entries has a reference;
/// - each place of the swap area has as many users as entries name it, or a frame holds its page; such a frame has
///   one reference more than maps;
/// - each page of the pool of huge pages is free, or whole in an object or in entries; what VMAs and their objects are
///   promised is free;
/// - the reverse map finds these entries of an anonymous frame, each once, and no others; and what it notes
///   is of these spaces.
pub fn audit_all(spaces: &[&AddressSpace]) -> Result<(), String> {
    for space in spaces {
        audit(space)?;
    }
    let Some(frames) = spaces.first().map(|space| space.system().frames()) else { return Ok(()) };
    let mut named: HashMap<Frame, u32> = HashMap::new();
    if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
        let leaves = spaces.iter().flat_map(|space| space.table().look(all));
        for frame in leaves.filter_map(|leaf| leaf.entry.frame()) {
            *named.entry(frame).or_default() += 1;
        }
    }
    for frame in (0..frames.memory().frames()).map(Frame::new) {
        let zero = frames.kind(frame) == Some(FrameKind::Zero);
        let entries = named.get(&frame).copied().filter(|_| !zero).unwrap_or(0);
        let (maps, references) = (frames.maps(frame), frames.references(frame));
        if maps != entries {
            return Err(format!("{frame:?} counts {maps} maps, {entries} entries name it"));
        }
        if references < maps {
            return Err(format!("{frame:?} has {references} references for {maps} maps"));
        }
    }
    audit_swap(spaces)?;
    audit_pools(spaces)?;
    audit_reverse(spaces)
}

/// Checks the pools of huge pages: each page is free, or somebody's as a whole; and what is promised is free.
fn audit_pools(spaces: &[&AddressSpace]) -> Result<(), String> {
    let Some(system) = spaces.first().map(|space| space.system()) else { return Ok(()) };
    let frames = system.frames();
    for pool in system.huge_pools() {
        for run in pool.pages() {
            let of = |frame| (frames.references(frame), frames.maps(frame));
            let (references, maps) = of(run.start);
            // The pool's reference, and an object's.
            if !(maps + 1..=maps + 2).contains(&references) {
                return Err(format!(
                    "{run:?} of the pool has {references} references, {maps} maps"
                ));
            }
            if let Some(frame) = (0..run.count).map(|i| run.start.offset(i)).find(|&frame| {
                of(frame) != (references, maps) || frames.kind(frame) != Some(FrameKind::Huge)
            }) {
                return Err(format!("{frame:?} is not as the others of its huge page"));
            }
        }
        let mut objects = HashMap::new();
        let mut promised = 0;
        for vma in spaces.iter().flat_map(|space| space.vmas().iter()) {
            let memory = vma.backing.as_ref().and_then(|backing| backing.huge());
            let Some(memory) = memory.filter(|memory| memory.size() == pool.page_size()) else {
                continue;
            };
            promised += memory.promised_to(vma);
            objects.insert(std::ptr::from_ref(memory), memory.promised());
        }
        promised += objects.values().sum::<u64>();
        let stats = pool.stats();
        // Objects that are not mapped may have been promised some, too.
        if promised > stats.reserved || stats.reserved > stats.free {
            return Err(format!("{promised} huge pages are promised in VMAs, {stats:?}"));
        }
    }
    Ok(())
}

/// Checks the swap area against the entries of all spaces.
fn audit_swap(spaces: &[&AddressSpace]) -> Result<(), String> {
    let Some(system) = spaces.first().map(|space| space.system()) else { return Ok(()) };
    let Some(swap) = system.swap() else { return Ok(()) };
    let mut named: HashMap<SwapSlot, u32> = HashMap::new();
    if let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) {
        let leaves = spaces.iter().flat_map(|space| space.table().look(all));
        for slot in leaves.filter_map(|leaf| leaf.entry.swap_slot()) {
            *named.entry(slot).or_default() += 1;
        }
    }
    for slot in swap.objects.all().iter().flat_map(|object| object.places()) {
        *named.entry(slot).or_default() += 1;
    }
    let frames = system.frames();
    for (slot, users, frame) in swap.all() {
        let entries = named.remove(&slot).unwrap_or(0);
        if users != entries {
            return Err(format!("{slot:?} counts {users} users, {entries} name it"));
        }
        let Some(frame) = frame else {
            if users == 0 {
                return Err(format!("{slot:?} is taken, but nobody's"));
            }
            continue;
        };
        let (maps, references) = (frames.maps(frame), frames.references(frame));
        if references != maps + 1 || users == 0 && maps == 0 {
            return Err(format!(
                "{frame:?} holds {slot:?} of {users} users: {references} references, {maps} maps"
            ));
        }
        if !frames.marks(frame).contains(Marks::SWAP_CACHED) {
            return Err(format!("{frame:?} holds {slot:?}, but does not say so"));
        }
    }
    match named.into_iter().next() {
        Some((slot, entries)) => Err(format!("{entries} name {slot:?}, which is vacant")),
        None => Ok(()),
    }
}
