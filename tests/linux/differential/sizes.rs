//! What smaps says of the memory behind a VMA, as far as both sides can be compared.
//!
//! | line | compared |
//! |---|---|
//! | Rss | but for regular files: how far Linux reads ahead and maps around is its own affair |
//! | Anonymous | always |
//! | Referenced | not: Linux has a flag of the page's own beside the entries' |
//! | Locked | not: it is a share, and how many have a page depends on who copied it ahead |

use std::fmt;
use std::ops::Range;

use mm::backing::Backing;
use mm::inspect::SmapsEntry;

use crate::script::VmaFlags;

/// Of one VMA, in kB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Its addresses.
    pub range: Range<u64>,
    of_file: bool,
    rss: u64,
    referenced: u64,
    anonymous: u64,
}

impl Sizes {
    /// Ours, of a map of the backing.
    pub fn of(entry: &SmapsEntry, backing: Option<&dyn Backing>) -> Self {
        let (range, usage) = (entry.line.range, &entry.usage);
        Sizes {
            range: range.start().get()..range.end().get(),
            of_file: backing.is_some_and(|backing| !backing.is_shared_memory()),
            rss: usage.rss >> 10,
            referenced: usage.referenced >> 10,
            anonymous: usage.anonymous >> 10,
        }
    }

    /// What differs from Linux's, if anything.
    pub fn differs(&self, theirs: &[VmaFlags]) -> Option<String> {
        let vma = theirs.iter().find(|vma| vma.range == self.range)?;
        let [rss, referenced, anonymous, _] = vma.sizes;
        let alike = anonymous == self.anonymous && (self.of_file || rss == self.rss);
        (!alike).then(|| {
            format!("Linux: Rss {rss}, Referenced {referenced}, Anonymous {anonymous}; we: {self}")
        })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { range, of_file, rss, referenced, anonymous } = self;
        let what = if *of_file { ", of a file" } else { "" };
        write!(
            f,
            "{:x}-{:x}{what}: Rss {rss}, Referenced {referenced}, Anonymous {anonymous} kB",
            range.start, range.end
        )
    }
}
