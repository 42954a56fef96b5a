//! A tree of processes over one area of memory.
//!
//! ```text
//!   process n has the numbers first..last: it is `first`, writes its tenth, and halves the rest
//!
//!        1..8 ──┬── 2..5 ──┬── 3..4
//!               │          └── 4..5
//!               └── 5..8 ──┬── 6..7
//!                          └── 7..8
//! ```

use core::ops::Range;

use guest::family::{self, End, Forked};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::{check, check_eq, must, process};

/// In how many parts the area is written.
const PARTS: u64 = PART_COUNT as u64;
const PART_COUNT: usize = 10;

/// The area, and who wrote each part of it last as far as this process must see.
#[derive(Clone, Copy)]
struct Area {
    start: u64,
    pages: u64,
    writers: [u64; PART_COUNT],
}

/// Grows a tree of `count` processes over `pages` pages, and waits for it.
pub(crate) fn grow(count: u64, pages: u64) {
    let start = must!(memory::map(Place::Anywhere, pages * PAGE, Prot::RW, Flags::OWN));
    let mut area = Area { start, pages, writers: [0; PART_COUNT] };
    (0..PARTS).for_each(|part| area.write(part, 1_000_000));
    branch(&area, 1..1 + count);
    area.check(0);
}

/// The children that share out `numbers`, one after the other.
fn branch(area: &Area, numbers: Range<u64>) {
    let middle = numbers.start + (numbers.end - numbers.start).div_ceil(2);
    for half in [numbers.start..middle, middle..numbers.end] {
        if half.is_empty() {
            continue;
        }
        match must!(family::fork()) {
            Forked::Child => {
                one(*area, half);
                process::exit(0);
            }
            Forked::Parent(pid) => {
                let ended = family::wait(pid.cast_signed(), 0);
                check_eq!(ended, Ok((pid, End::Exited(0))), "process {}", half.start);
            }
        }
    }
}

/// A process of the tree.
fn one(mut area: Area, numbers: Range<u64>) {
    let number = numbers.start;
    area.check(number);
    area.write(number % PARTS, number);
    area.check(number);
    branch(&area, number + 1..numbers.end);
    // What the children wrote is theirs.
    area.check(number);
}

impl Area {
    fn pages_of(&self, part: u64) -> Range<u64> {
        part * self.pages / PARTS..(part + 1) * self.pages / PARTS
    }

    fn address(&self, page: u64) -> u64 {
        // Not always the same word of a page.
        self.start + page * PAGE + page % 512 * 8
    }

    fn write(&mut self, part: u64, writer: u64) {
        for page in self.pages_of(part) {
            memory::store(self.address(page), mark(writer, page));
        }
        if let Some(slot) = self.writers.get_mut(usize::try_from(part).unwrap_or(0)) {
            *slot = writer;
        }
    }

    /// The checksum over all pages is that of what must be there.
    fn check(&self, number: u64) {
        let (mut wanted, mut found) = (0_u64, 0_u64);
        for (part, &writer) in (0..).zip(&self.writers) {
            for page in self.pages_of(part) {
                wanted = wanted.rotate_left(1) ^ mark(writer, page);
                found = found.rotate_left(1) ^ memory::load(self.address(page));
            }
        }
        check!(found == wanted, "process {number}: the checksum is {found:#x}, not {wanted:#x}");
    }
}

fn mark(writer: u64, page: u64) -> u64 {
    (writer << 32 | page).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
