//! The reverse map: from a page to the page-table entries that name it, in all address spaces (Linux's
//! `mm/rmap.c`).
//!
//! ```text
//!   VMA ──backing──> object ──> its ObjectMaps ──> (space, addresses, first page) ... ──> page table
//!   anonymous frame ──> its node in AnonVmas ────> chains: (space, addresses, shift) ... ──> page table
//! ```
//!
//! Who goes this way has no lock of the spaces that it comes to. What keeps it right is in
//! [`ObjectMaps`], in [`AnonVmas`], and in
//! `PageTable::hold_still`.

mod anon;
mod object;

pub(crate) use anon::SpaceChains;
pub use anon::{AnonVmas, Found};

pub(crate) use object::{Changing, Writes};
pub use object::{Copies, Held, ObjectMaps};

use std::sync::Arc;

use crate::paging::PageTable;
use crate::space::Counters;

/// What the reverse map has to know of an address space.
#[derive(Clone, Debug)]
pub(crate) struct Mapper {
    /// Spaces are numbered as they are made: a child comes after its parent.
    pub(crate) number: u64,
    pub(crate) table: Arc<PageTable>,
    pub(crate) counters: Arc<Counters>,
}
