//! What a merge did.

use crate::addr::PageRange;

/// How a range became one VMA with its neighbours: as what it came (new, or all or a part of a VMA that
/// changed), and with which of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the drawing at the module's top shows each")]
pub enum Merge {
    NewLeft,
    NewRight,
    NewBoth,
    WholeLeft,
    WholeRight,
    WholeBoth,
    PartLeft,
    PartRight,
}

impl Merge {
    /// All there are.
    pub const ALL: [Merge; 8] = [
        Merge::NewLeft,
        Merge::NewRight,
        Merge::NewBoth,
        Merge::WholeLeft,
        Merge::WholeRight,
        Merge::WholeBoth,
        Merge::PartLeft,
        Merge::PartRight,
    ];

    /// As the drawing calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Merge::NewLeft => "new, left",
            Merge::NewRight => "new, right",
            Merge::NewBoth => "new, both",
            Merge::WholeLeft => "whole, left",
            Merge::WholeRight => "whole, right",
            Merge::WholeBoth => "whole, both",
            Merge::PartLeft => "part, left",
            Merge::PartRight => "part, right",
        }
    }
}

/// A range that has become part of a VMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Merged {
    /// The VMA.
    pub range: PageRange,
    /// How.
    pub how: Merge,
}
