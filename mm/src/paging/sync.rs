//! What `replace` is made of: the standard library's. In its model the same code is over loom's, which tries
//! every order of its threads.

pub(super) use std::sync::atomic::{AtomicU64, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard};
