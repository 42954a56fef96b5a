//! The atomics that a frame's counts are made of: the standard library's. In `tests::model` the same code
//! is over loom's, which tries every order of two threads.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
