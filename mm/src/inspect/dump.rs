//! The page table as a tree for people: the tables of the user half, and in each last one the runs of
//! entries that are alike.
//!
//! ```text
//! root 0x3 of 4 tables
//! 000000000000-008000000000 table 0x4
//!   000000000000-000040000000 table 0x5
//!     000000000000-000000200000 table 0x6
//!       000000010000-000000013000 rw- AD own, 3 pages, frames 0x10 to 0x12
//!       000000014000-000000015000 r-- A- backing, 1 page, frame 0x9
//!       000000016000-000000018000 guard, 2 pages
//! ```
//!
//! What the letters are is in [`super::entry`].

use std::fmt;
use std::sync::atomic::Ordering;

use super::entry::{Frameless, Rights};
use crate::addr::{Frame, PAGE_SHIFT, PAGE_SIZE, index};
use crate::paging::Entry;
use crate::space::AddressSpace;

/// The level of the root.
const ROOT_LEVEL: u32 = 4;
/// Entries of the root that belong to the user half.
const USER_ENTRIES: usize = 256;

/// The dump of a space's page table: prints it as it is then.
#[derive(Debug)]
pub struct TableDump<'a>(pub &'a AddressSpace);

impl fmt::Display for TableDump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.table();
        let root = table.root();
        writeln!(f, "root {:#x} of {} tables", root.number(), table.table_frames())?;
        self.write_table(f, root, ROOT_LEVEL, 0)
    }
}

impl TableDump<'_> {
    /// Writes what is below a table of the level that maps from `start` on.
    fn write_table(
        &self,
        f: &mut fmt::Formatter<'_>,
        table: Frame,
        level: u32,
        start: u64,
    ) -> fmt::Result {
        let words = self.0.system().frames().memory().words(table);
        let used = if level == ROOT_LEVEL { USER_ENTRIES } else { words.len() };
        let span = 1_u64 << (PAGE_SHIFT + 9 * (level - 1));
        let mut run: Option<Run> = None;
        for (addr, word) in (start..).step_by(index(span)).zip(words).take(used) {
            let entry = Entry::new(word.load(Ordering::Acquire));
            if level == 1 {
                if run.as_mut().is_some_and(|run| run.take(entry)) {
                    continue;
                }
                write_run(f, run.take())?;
                run = (!entry.is_empty()).then_some(Run {
                    start: addr,
                    first: entry,
                    pages: 1,
                    stride: None,
                });
            } else if let Some(large) = entry.large_run() {
                let number = large.start.number();
                let (end, last) = (addr + span, number + large.count - 1);
                writeln!(
                    f,
                    "    {addr:012x}-{end:012x} {}, huge, frames {number:#x} to {last:#x}",
                    Rights(entry)
                )?;
            } else if let Some(child) = entry.frame() {
                let depth = index(u64::from(ROOT_LEVEL - level));
                let (indent, end) = (2 * depth, addr + span);
                let number = child.number();
                writeln!(f, "{:indent$}{addr:012x}-{end:012x} table {number:#x}", "")?;
                self.write_table(f, child, level - 1, addr)?;
            }
        }
        write_run(f, run)
    }
}

/// Entries one after another that are alike but for their frames: these follow each other, or are the same
/// one.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    first: Entry,
    pages: u64,
    /// From one frame to the next; not known of one entry alone.
    stride: Option<u64>,
}

impl Run {
    /// Takes in the entry after its last one, if it is like the others.
    fn take(&mut self, entry: Entry) -> bool {
        let strides = self.stride.map_or(0..=1, |stride| stride..=stride);
        let Some(stride) =
            strides.into_iter().find(|stride| self.entry(stride * self.pages) == entry)
        else {
            return false;
        };
        self.stride = Some(stride);
        self.pages += 1;
        true
    }

    /// The first entry, for the frame so many after its own.
    fn entry(&self, after: u64) -> Entry {
        match self.first.frame() {
            Some(frame) => {
                self.first.renamed(Frame::new(frame.number() + after), self.first.owner())
            }
            None => {
                self.first.swap_slot().map_or(self.first, |slot| Entry::swapped(slot.offset(after)))
            }
        }
    }
}

fn write_run(f: &mut fmt::Formatter<'_>, run: Option<Run>) -> fmt::Result {
    let Some(Run { start, first, pages, stride }) = run else { return Ok(()) };
    let end = start + pages * PAGE_SIZE;
    write!(f, "      {start:012x}-{end:012x} ")?;
    let count = if pages == 1 { "1 page".to_owned() } else { format!("{pages} pages") };
    if let (Some(slot), Some(1)) = (first.swap_slot(), stride) {
        let (from, to) = (slot.number(), slot.offset(pages - 1).number());
        return writeln!(f, "swapped, {count}, places {from:#x} to {to:#x}");
    }
    let Some(frame) = first.frame() else {
        return writeln!(f, "{}, {count}", Frameless(first));
    };
    write!(f, "{}, {count}, ", Rights(first))?;
    let number = frame.number();
    match stride {
        Some(1) => writeln!(f, "frames {number:#x} to {:#x}", number + pages - 1),
        _ => writeln!(f, "frame {number:#x}"),
    }
}
