//! Virtual memory areas: what the program asked for. Pure values: no frames, no page tables.

pub mod account;
mod area;
mod aslr;
mod flags;
pub mod limits;
pub mod merge;
pub mod place;
pub mod policy;
mod rare;
pub mod split;
pub mod tree;

pub use area::{AnonId, Lineage, Vma};
pub use aslr::Aslr;
pub use flags::{MapFlags, MapType, Prot, VmFlags};
