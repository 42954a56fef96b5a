//! The atomics of the frame records: the standard library's.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
