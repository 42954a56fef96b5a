//! What can be seen of an address space: `/proc/PID/maps`, smaps and its roll-up, pagemap, the memory
//! lines of `/proc/PID/status`, a dump of the page table, what is at one address, and the audit of its
//! invariants and of the frames that several share. All are functions of the space as it is: nothing is
//! settled or flushed for being looked at.

mod audit;
mod build_id;
mod core;
mod counts;
mod dump;
mod entry;
mod maps;
mod numa_maps;
mod page;
mod pagemap;
mod query;
mod reverse;
mod scan;
mod shown;
mod smaps;
mod status;
#[cfg(test)]
mod tests;
mod usage;

pub use audit::{audit, unmerged};
pub use build_id::build_id;
pub use core::{CoreSegment, core_pages, core_segments};
pub use counts::audit_all;
pub use dump::TableDump;
pub(crate) use maps::NAME_COLUMN;
pub use maps::{MapsLine, maps, maps_text};
pub use numa_maps::{NumaLine, numa_maps};
pub use page::{PageState, page};
pub use pagemap::{Pagemap, PagemapWord, pagemap};
pub use query::{Asked, FoundVma, query_vma};
pub use scan::{Categories, PageRegion, ScanFlags, ScanRequest, ScanRoom, Scanned, scan};
pub(crate) use shown::{Shown, ShownPage};
pub use smaps::{SmapsEntry, SmapsRollup, VmFlagsLine, smaps, smaps_rollup};
pub use status::{MemoryStatus, status};
pub use usage::{Share, Usage};
