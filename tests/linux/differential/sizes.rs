//! What smaps says of the memory behind a VMA, as far as both sides can be compared.
//!
//! | line | compared |
//! |---|---|
//! | KernelPageSize, Anonymous, AnonHugePages, ShmemPmdMapped, THPeligible | always |
//! | LazyFree | as long as nothing was locked: Linux gives up no page that anybody has locked, or left locked by a move |
//! | Rss | but for regular files: how far Linux reads ahead and maps around is its own affair |
//! | Pss, Locked, clean and dirty | the same, where faults bring in one page: a page copied ahead of a write is nobody else's any more |
//! | Referenced | as Pss, and between bounds: Linux forgets that a page was used otherwise than through its entries when it moves it between its lists |

use std::fmt;
use std::ops::Range;

use guest::script::SIZES;
use mm::addr::PAGE_SIZE;
use mm::backing::Backing;
use mm::inspect::SmapsEntry;

use crate::script::VmaFlags;

/// How many pages a fault brings in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// One, as Linux's do.
    One,
    /// Several.
    Several,
}

/// What differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unlike {
    /// In words.
    pub what: String,
    /// What it may come from.
    pub cause: Cause,
}

/// What a difference may come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The host's processor may have set an accessed bit: it may for an access that it only guessed, and never made.
    /// Then it is not there the next time.
    Accessed,
    /// Anything else.
    Other,
}

/// Whether memory may have been locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locks {
    /// None was.
    None,
    /// Some may have been.
    Some,
}

/// What the comparison has to know of the acts so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    /// How faults bring in pages.
    pub faults: Faults,
    /// What was locked.
    pub locks: Locks,
}

/// Of one VMA, in kB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Its addresses.
    pub range: Range<u64>,
    of_file: bool,
    past: Past,
    /// By the lines' names.
    lines: [u64; SIZES.len()],
    /// What Referenced is at least.
    accessed: u64,
}

/// Whether a backing is a regular file, of which Linux may have read more.
pub fn is_file(backing: &dyn Backing) -> bool {
    !backing.is_shared_memory() && backing.page_size() == PAGE_SIZE
}

impl Sizes {
    /// Ours, of a map of the backing.
    pub fn of(entry: &SmapsEntry, backing: Option<&dyn Backing>, past: Past) -> Self {
        let (range, usage) = (entry.line.range, &entry.usage);
        let bytes = [
            entry.page_size,
            usage.rss,
            usage.pss.bytes(),
            usage.pss_dirty.bytes(),
            usage.shared_clean,
            usage.shared_dirty,
            usage.private_clean,
            usage.private_dirty,
            usage.referenced,
            usage.anonymous,
            usage.lazy_free,
            usage.anon_huge,
            usage.shmem_huge,
            usage.locked.bytes(),
            u64::from(entry.thp_eligible) << 10,
        ];
        Sizes {
            range: range.start().get()..range.end().get(),
            of_file: backing.is_some_and(is_file),
            past,
            lines: bytes.map(|bytes| bytes >> 10),
            accessed: usage.accessed >> 10,
        }
    }

    /// What differs from Linux's, if anything.
    pub fn differs(&self, theirs: &[VmaFlags]) -> Option<Unlike> {
        let vma = theirs.iter().find(|vma| vma.range == self.range)?;
        let lines = SIZES.iter().zip(self.lines).zip(vma.sizes);
        let alike = |(&name, ours): (&&str, u64), theirs: u64| match name {
            "KernelPageSize" | "Anonymous" | "AnonHugePages" | "ShmemPmdMapped" | "THPeligible" => {
                ours == theirs
            }
            "LazyFree" if self.past.locks == Locks::Some => theirs <= ours,
            "LazyFree" => ours == theirs,
            _ if self.of_file => true,
            "Rss" => ours == theirs,
            _ if self.past.faults == Faults::Several => true,
            "Referenced" => (self.accessed..=ours).contains(&theirs),
            _ => ours == theirs,
        };
        let unlike: Vec<_> = lines.filter(|&(ours, theirs)| !alike(ours, theirs)).collect();
        let guessed =
            |&((name, ours), theirs): &((&&str, u64), u64)| *name == "Referenced" && theirs > ours;
        let cause = if unlike.iter().all(guessed) { Cause::Accessed } else { Cause::Other };
        let named: Vec<String> = unlike
            .iter()
            .map(|((name, ours), theirs)| format!("{name} {theirs}, ours {ours}"))
            .collect();
        let what = || format!("Linux: {}; we: {self}", named.join("; "));
        (!named.is_empty()).then(|| Unlike { what: what(), cause })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        write!(f, "{start:x}-{end:x}{}:", if self.of_file { ", of a file" } else { "" })?;
        SIZES.iter().zip(self.lines).try_for_each(|(name, line)| write!(f, " {name} {line}"))?;
        write!(f, " kB, {} kB accessed", self.accessed)
    }
}
