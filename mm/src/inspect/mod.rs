//! What can be seen of an address space: `/proc/PID/maps`, and the audit of its invariants.

mod audit;
mod maps;

pub use audit::{audit, unmerged};
pub use maps::{MapsLine, maps, maps_text};
