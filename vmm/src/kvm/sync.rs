//! What `presence` is made of: the standard library's. In its model the same code is over loom's, which tries
//! every order of two threads, and every value that the memory model lets a load see.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
pub(super) use std::sync::{Arc, Mutex};
