//! Tests of the tree: against a plain model, and case by case.

mod edits;
mod model;
mod queries;
mod scale;

use super::{Span, Tree};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};

/// A span that can be told from another of the same range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tagged {
    range: PageRange,
    tag: u32,
}

impl Span for Tagged {
    fn range(&self) -> PageRange {
        self.range
    }
}

/// The address of a page number.
fn page(number: u64) -> VirtAddr {
    VirtAddr::new(number * PAGE_SIZE)
}

/// The pages `[start, end)`.
fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(page(start), page(end)).unwrap()
}

/// A tree of the page ranges given.
fn tree(ranges: &[(u64, u64)]) -> Tree<PageRange> {
    let mut tree = Tree::new();
    for &(start, end) in ranges {
        tree.insert(pages(start, end)).unwrap();
        tree.audit().unwrap();
    }
    tree
}

/// A tree of `count` spans of one page, each after a gap of one page: 1-2, 3-4, 5-6 ...
fn comb(count: u64) -> Tree<PageRange> {
    let mut tree = Tree::new();
    for at in 0..count {
        tree.insert(pages(2 * at + 1, 2 * at + 2)).unwrap();
    }
    tree.audit().unwrap();
    tree
}
