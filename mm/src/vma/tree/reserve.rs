//! Memory taken ahead, so that an operation which is about to change the tree can no longer fail: the
//! part that `mas_preallocate` plays in Linux.

use std::collections::TryReserveError;

use super::node::{Inner, Leaf};
use super::path::MAX_SPANS;
use super::{Span, Tree};

/// Why memory for more spans could not be taken. The guest's answer to it is `ENOMEM`.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The allocator refused.
    #[error("taking memory for {spans} more spans: {source}")]
    Allocator {
        /// How many spans were to be added.
        spans: usize,
        /// What the allocator said.
        source: TryReserveError,
    },
    /// It would be more than [`Tree::set_memory_limit`] allows.
    #[error("taking memory for {spans} more spans: the tree may not grow past {limit} bytes")]
    Limit {
        /// How many spans were to be added.
        spans: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// More spans than a tree can name.
    #[error("taking memory for {spans} more spans: a tree holds at most 2^29")]
    TooMany {
        /// How many spans were to be added.
        spans: usize,
    },
}

impl<V: Span> Tree<V> {
    /// After it, that many calls of [`insert`](Tree::insert) or [`cut`](Tree::cut) do not allocate, whatever nodes they
    /// split, and whatever is removed in between; a [`carve`](Tree::carve) counts as two. What takes spans out or
    /// changes them never allocates.
    ///
    /// # Errors
    /// [`ReserveError`] if there is no memory; the spans are as before, and so is what was reserved.
    #[inline]
    pub fn reserve(&mut self, spans: usize) -> Result<(), ReserveError> {
        let total = self.len.saturating_add(spans);
        // Each adds at most one leaf.
        let enough = total <= self.inners_suffice
            && self.values.spare() >= spans
            && (self.leaves.spare() >= spans
                || most_leaves(total) <= self.leaves.in_use() + self.leaves.spare());
        if enough { Ok(()) } else { self.reserve_exactly(spans) }
    }

    /// The same where it takes a closer look.
    fn reserve_exactly(&mut self, spans: usize) -> Result<(), ReserveError> {
        let total = self.len.saturating_add(spans);
        if total > MAX_SPANS {
            return Err(ReserveError::TooMany { spans });
        }
        let leaves = spans.min(most_leaves(total).saturating_sub(self.leaves.in_use()));
        let inners = self.inners_for(spans, total);
        let growth = self.values.bytes_to_reserve(spans)
            + self.leaves.bytes_to_reserve(leaves)
            + self.inners.bytes_to_reserve(inners);
        if growth > 0 {
            self.grow(spans, leaves, inners, growth)?;
        }
        if self.inners.in_use() + self.inners.spare() >= most_inners(total) {
            self.inners_suffice = total;
        }
        Ok(())
    }

    /// Takes memory for so many spans and nodes, `growth` bytes in all.
    fn grow(
        &mut self,
        spans: usize,
        leaves: usize,
        inners: usize,
        growth: usize,
    ) -> Result<(), ReserveError> {
        if self.memory_bytes().saturating_add(growth) > self.memory_limit {
            return Err(ReserveError::Limit { spans, limit: self.memory_limit });
        }
        self.values
            .reserve(spans)
            .and_then(|()| self.leaves.reserve(leaves))
            .and_then(|()| self.inners.reserve(inners))
            .map_err(|source| ReserveError::Allocator { spans, source })
    }

    /// Makes [`reserve`](Self::reserve) fail rather than let the tree take more than this from the
    /// allocator: for an accounting of kernel memory, and for tests of failure. `usize::MAX` lifts it.
    pub const fn set_memory_limit(&mut self, bytes: usize) {
        self.memory_limit = bytes;
    }

    /// Bytes that the tree has taken from the allocator.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.values.bytes() + self.leaves.bytes() + self.inners.bytes()
    }

    /// The most inner nodes that `spans` insertions can add, with which there are `total`: each splits
    /// at most one node of each level; and there are never more than [`most_inners`].
    fn inners_for(&self, spans: usize, total: usize) -> usize {
        // A root that splits adds itself and the root above it; a new root then has room for long.
        let splits = spans.saturating_mul(self.height + 2);
        splits.min(most_inners(total).saturating_sub(self.inners.in_use()))
    }
}

/// The most leaves for so many spans: all but the root have their fewest rows or more.
fn most_leaves(spans: usize) -> usize {
    (spans / Leaf::MIN).max(1)
}

/// The most inner nodes for so many spans.
fn most_inners(spans: usize) -> usize {
    let mut inners = 0;
    let mut level = most_leaves(spans);
    while level > 1 {
        level = (level / Inner::MIN).max(1);
        inners += level;
    }
    inners
}
