//! The rules of Linux that no call shows: state behind the VMAs decides whether two of them become one,
//! or where memory goes. Each has a name here, and can be switched off, for one purpose: a comparison with
//! a real kernel that does not notice a missing rule proves nothing about it.

use std::sync::atomic::{AtomicU32, Ordering};

/// One of the hidden rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Memory that was written to has an identity (`anon_vma`), and does not merge with another.
    Identity,
    /// The first write takes a neighbour's identity if they could merge one day
    /// (`find_mergeable_anon_vma`).
    IdentityReuse,
    /// What was cut apart for a change merges again when the change is undone.
    Rejoin,
    /// Memory that was never written to forgets at a move where it came from.
    MovedOffset,
    /// Memory that came by fork lends its identity to nothing new beside it.
    ForkLineage,
    /// Memory that is made read-only before it was written to is not accounted for any more.
    Uncharge,
    /// Maps of a file that go on in the file are one.
    FileOffset,
    /// Shared anonymous memory is an object of its own, so two never merge.
    SharedObject,
    /// Two opens of one file are two files.
    OpenFile,
    /// Advice that changes flags splits VMAs.
    Advice,
    /// Guards survive `MADV_DONTNEED`.
    Guard,
    /// mprotect changes what lies before a hole.
    PartialEffect,
    /// mlock leaves memory locked although it could not be brought in.
    LockStays,
    /// mremap moves several VMAs at once if nothing but their place changes.
    SeveralMove,
    /// What `MREMAP_DONTUNMAP` leaves behind is as if never written to.
    EmptySource,
    /// Memory of whole huge pages is placed at a huge page.
    HugeAlignment,
    /// A stack keeps its distance from what lies below when it grows.
    StackGap,
    /// There are no more VMAs than `vm.max_map_count`.
    MapLimit,
    /// `RLIMIT_DATA` counts private writable memory.
    DataLimit,
    /// A sealed VMA refuses to change.
    Seal,
    /// `MAP_SHARED_VALIDATE` refuses what it does not know.
    Validate,
    /// A page that somebody has brought in is resident for all who map the file.
    PageCache,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 22] = [
        Rule::Identity,
        Rule::IdentityReuse,
        Rule::Rejoin,
        Rule::MovedOffset,
        Rule::ForkLineage,
        Rule::Uncharge,
        Rule::FileOffset,
        Rule::SharedObject,
        Rule::OpenFile,
        Rule::Advice,
        Rule::Guard,
        Rule::PartialEffect,
        Rule::LockStays,
        Rule::SeveralMove,
        Rule::EmptySource,
        Rule::HugeAlignment,
        Rule::StackGap,
        Rule::MapLimit,
        Rule::DataLimit,
        Rule::Seal,
        Rule::Validate,
        Rule::PageCache,
    ];
}

/// Which rules a machine follows: all, unless a test has switched one off.
#[derive(Debug, Default)]
pub struct Rules(AtomicU32);

impl Rules {
    /// Does without a rule from now on. The memory of programs is wrong then.
    pub fn switch_off(&self, rule: Rule) {
        self.0.fetch_or(1 << rule as u32, Ordering::Relaxed);
    }

    /// Whether a rule applies.
    pub(crate) fn apply(&self, rule: Rule) -> bool {
        self.0.load(Ordering::Relaxed) & 1 << rule as u32 == 0
    }
}
