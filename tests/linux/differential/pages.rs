//! What pagemap says of pages, as far as both sides can be compared: not which frames they are, nor whether
//! they are soft-dirty, which this host's kernel does not tell.

use std::fmt;
use std::ops::Range;

use mm::inspect::PagemapWord;

use super::sizes::{Faults, Past};

/// How much of each VMA is looked at, in pages.
pub const LOOKED_AT: u64 = 64;

/// The pages of a VMA, the first [`LOOKED_AT`] of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pages {
    /// Their addresses.
    pub range: Range<u64>,
    compared: PagemapWord,
    words: Vec<PagemapWord>,
}

impl Pages {
    /// Ours. Pages copied ahead of a write are nobody else's any more: then that is not compared.
    pub fn of(range: Range<u64>, words: impl Iterator<Item = PagemapWord>, past: Past) -> Self {
        let mut compared = PagemapWord::all() - PagemapWord::FRAME - PagemapWord::SOFT_DIRTY;
        compared.set(PagemapWord::EXCLUSIVE, past.faults == Faults::One);
        Pages { range, compared, words: words.map(|word| word & compared).collect() }
    }

    /// What differs from Linux's, if anything.
    pub fn differ(&self, theirs: &[u64]) -> Option<String> {
        let theirs: Vec<PagemapWord> = theirs
            .iter()
            .map(|&word| PagemapWord::from_bits_retain(word) & self.compared)
            .collect();
        (theirs != self.words).then(|| {
            let at = theirs.iter().zip(&self.words).position(|(theirs, ours)| theirs != ours);
            let word = |words: &[PagemapWord]| at.and_then(|at| words.get(at).copied());
            let (theirs, ours) = (word(&theirs), word(&self.words));
            format!("pagemap of {self}, page {at:?}: Linux {theirs:?}, we {ours:?}")
        })
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.range.start, self.range.end)
    }
}
