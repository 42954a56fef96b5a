//! What can be seen of an address space: `/proc/PID/maps`, smaps' flags, the memory lines of
//! `/proc/PID/status`, and the audit of its invariants and of the frames that several share.

mod audit;
mod counts;
mod maps;
mod smaps;
mod status;

pub use audit::{audit, unmerged};
pub use counts::audit_all;
pub(crate) use maps::NAME_COLUMN;
pub use maps::{MapsLine, maps, maps_text};
pub use smaps::VmFlagsLine;
pub use status::{MemoryStatus, status};
