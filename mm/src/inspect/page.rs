//! What is at one address: for a page's history, which is what this says, each time that it changes.

use std::fmt;

use super::entry::{Frameless, Rights};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::paging::Entry;
use crate::space::AddressSpace;

/// What is at an address, now. Two are equal if nobody could tell the page from what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageState {
    mapped: bool,
    /// `None` where there is not even a table.
    entry: Option<Entry>,
    /// How many entries name its frame, of all processes; the zero page's are not counted.
    maps: u32,
}

/// What is at an address of the space; the address is rounded down to its page.
#[must_use]
pub fn page(space: &AddressSpace, addr: VirtAddr) -> PageState {
    let start = addr.page_floor();
    let entry = PageRange::from_len(start, PAGE_SIZE)
        .and_then(|range| space.table().look(range).next())
        .map(|leaf| leaf.entry);
    let frame = entry.and_then(Entry::frame);
    PageState {
        mapped: space.vmas().find_exact(start).is_some(),
        entry,
        maps: frame.map_or(0, |frame| space.system().frames().maps(frame)),
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entry) = self.entry.filter(|entry| !entry.is_empty()) else {
            return f.write_str(if self.mapped { "mapped, no page" } else { "unmapped" });
        };
        match entry.frame() {
            Some(frame) => {
                write!(f, "{}, frame {:#x}, named by {}", Rights(entry), frame.number(), self.maps)
            }
            None => Frameless(entry).fmt(f),
        }
    }
}
