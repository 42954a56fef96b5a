//! The locks that the reverse map is made of: the standard library's. In `tests::model` the same code is
//! over loom's, which tries every order of the threads.

pub(super) use std::sync::{Mutex, RwLock};
