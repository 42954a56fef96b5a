//! x86-64 page tables in guest memory, edited from outside the guest.
//!
//! The protocol in one picture:
//!
//! ```text
//!   add a permission:     compare-and-exchange the leaf; nothing else
//!   take one away:        swap the leaf ──> FlushBatch::lowered (if accessed) ──> finish()
//!   give another page:    exchange the leaf, as taking away; while vCPUs run: Replacement (`replace`)
//!   unlink a table:       store 0       ──> FlushBatch::table_unlinked        ──> finish()
//! ```

mod cursor;
mod entry;
pub mod flush;
mod large;
mod promote;
mod replace;
mod sync;
mod table;
mod walk;

#[cfg(test)]
mod model;

pub use cursor::{Cursor, Leaf, Linked, Look, Seen};
pub use entry::{Access, Entry, Owner, Touch};
pub use flush::{
    FlushBatch, FlushRequest, FlushSink, ForkedPages, ForkedRoot, Others, TableChange,
};
pub use large::Large;
pub(crate) use replace::Replacements;
pub(crate) use table::holds_nothing;
pub use table::{Below, KernelHalf, PageTable};
pub use walk::{AccessKind, Miss};
