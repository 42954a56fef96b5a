//! x86-64 page tables in guest memory, edited from outside the guest.

pub mod flush;

pub use flush::{FlushBatch, FlushRequest, FlushSink, TableChange};
