//! The words that scripts pass, by name, and where tests put their maps.

pub use guest::memory::PAGE;

/// The first address that tests map: far from all that a process begins with.
pub const BASE: u64 = 0x100_0000_0000;

/// PROT_NONE
pub const NONE: u64 = libc::PROT_NONE as u64;
/// PROT_READ
pub const R: u64 = libc::PROT_READ as u64;
/// PROT_READ|PROT_WRITE
pub const RW: u64 = R | libc::PROT_WRITE as u64;
/// PROT_READ|PROT_WRITE|PROT_EXEC
pub const RWX: u64 = RW | libc::PROT_EXEC as u64;

/// MAP_SHARED
pub const SHARED: u64 = libc::MAP_SHARED as u64;
/// MAP_PRIVATE
pub const PRIVATE: u64 = libc::MAP_PRIVATE as u64;
/// MAP_FIXED
pub const FIXED: u64 = libc::MAP_FIXED as u64;
/// MAP_ANONYMOUS
pub const ANON: u64 = libc::MAP_ANONYMOUS as u64;
/// MAP_GROWSDOWN
pub const GROWSDOWN: u64 = libc::MAP_GROWSDOWN as u64;
/// The descriptor of maps without a file.
pub const NO_FILE: u64 = u64::MAX;

/// MREMAP_MAYMOVE
pub const MAYMOVE: u64 = libc::MREMAP_MAYMOVE as u64;
/// MREMAP_MAYMOVE|MREMAP_FIXED
pub const MOVE_TO: u64 = MAYMOVE | libc::MREMAP_FIXED as u64;
/// MREMAP_DONTUNMAP
pub const DONTUNMAP: u64 = libc::MREMAP_DONTUNMAP as u64;
