//! What can be seen of an address space: `/proc/PID/maps`, smaps' flags, the memory lines of
//! `/proc/PID/status`, and the audit of its invariants.

mod audit;
mod maps;
mod smaps;
mod status;

pub use audit::{audit, unmerged};
pub(crate) use maps::NAME_COLUMN;
pub use maps::{MapsLine, maps, maps_text};
pub use smaps::VmFlagsLine;
pub use status::{MemoryStatus, status};
