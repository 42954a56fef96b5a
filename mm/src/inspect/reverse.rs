//! The audit of the reverse map: what it finds of a page against what all page tables name.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::addr::{Frame, PageRange, VirtAddr};
use crate::paging::Owner;
use crate::phys::FrameKind;
use crate::space::AddressSpace;
use crate::system::System;

/// Where a page is: the number of the space, and the address.
type Places = Vec<(u64, VirtAddr)>;

/// Checks that the entries which the reverse map finds for an anonymous frame are those that name it, each
/// once, and that the reverse map knows of these spaces only.
///
/// # Errors
/// A sentence about the first frame for which they are not.
pub(super) fn audit_reverse(spaces: &[&AddressSpace]) -> Result<(), String> {
    let Some(system) = spaces.first().map(|space| space.system()) else { return Ok(()) };
    let numbers: Vec<u64> = spaces.iter().map(|space| space.number()).collect();
    system.anon().audit(&numbers)?;
    let mut named: BTreeMap<Frame, Places> = BTreeMap::new();
    let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) else { return Ok(()) };
    for space in spaces {
        let own = space.table().look(all).filter(|leaf| leaf.entry.owner() == Owner::Process);
        let own = own.filter_map(|leaf| Some((leaf.addr, leaf.entry.frame()?)));
        // Merged pages belong to nobody.
        let is_merged = |frame| system.frames().kind(frame) == Some(FrameKind::Merged);
        for (addr, frame) in own.filter(|&(_, frame)| !is_merged(frame)) {
            named.entry(frame).or_default().push((space.number(), addr));
        }
    }
    for (frame, mut places) in named {
        let mut found = found(system, frame);
        places.sort_unstable();
        found.sort_unstable();
        if found != places {
            let owner = system.frames().owner(frame);
            return Err(format!(
                "{frame:?}, {owner:x?}: entries at {places:x?}, the reverse map finds {found:x?}"
            ));
        }
    }
    Ok(())
}

fn found(system: &System, frame: Frame) -> Places {
    let mut found = Places::new();
    let all = system.anon().entries_of(system.frames(), frame, |entry| {
        found.push((entry.space, entry.addr));
        ControlFlow::<()>::Continue(())
    });
    debug_assert!(all.is_continue());
    found
}
