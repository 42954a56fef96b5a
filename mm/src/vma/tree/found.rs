//! A span with the way to its neighbours: who looks at all three searches once.

use std::fmt;

use super::{Span, Spot, Tree};

/// A span that was found, and where: what [`Tree::near`] returns.
pub struct Found<'a, V> {
    tree: &'a Tree<V>,
    spot: Spot<'a>,
    span: &'a V,
}

impl<'a, V: Span> Found<'a, V> {
    #[inline]
    pub(super) fn new(tree: &'a Tree<V>, spot: Spot<'a>) -> Option<Self> {
        tree.value(spot).map(|span| Found { tree, spot, span })
    }

    /// The span.
    #[must_use]
    pub fn span(&self) -> &'a V {
        self.span
    }

    /// The span that ends where this one starts.
    #[must_use]
    pub fn touching_before(&self) -> Option<&'a V> {
        let before = self.tree.before(self.spot)?;
        if before.end() == self.spot.start() { self.tree.value(before) } else { None }
    }

    /// The span that starts where this one ends.
    #[must_use]
    pub fn touching_after(&self) -> Option<&'a V> {
        let after = self.tree.after(self.spot)?;
        if after.start() == self.spot.end() { self.tree.value(after) } else { None }
    }
}

impl<V: fmt::Debug> fmt::Debug for Found<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Found").field(&self.span).finish()
    }
}
