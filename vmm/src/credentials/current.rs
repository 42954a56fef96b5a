//! The credentials of the process that the calling thread runs.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use super::Credentials;

/// A process's credentials, which others ask after.
#[derive(Clone, Debug, Default)]
pub struct SharedCredentials(Arc<Mutex<Arc<Credentials>>>);

impl SharedCredentials {
    /// A process's that begins with these.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>) -> Self {
        SharedCredentials(Arc::new(Mutex::new(credentials)))
    }

    /// As they are now.
    #[must_use]
    pub fn get(&self) -> Arc<Credentials> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The calling thread's process has these from now on.
    pub fn set(&self, credentials: Arc<Credentials>) {
        CURRENT.set(Arc::clone(&credentials));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = credentials;
    }
}

thread_local! {
    static CURRENT: RefCell<Arc<Credentials>> = RefCell::default();
}

/// Those of the process that the calling thread runs; root's for none.
#[must_use]
pub fn current() -> Arc<Credentials> {
    CURRENT.with_borrow(Arc::clone)
}

/// The calling thread runs a process with these from now on.
pub fn enter(credentials: &SharedCredentials) {
    CURRENT.set(credentials.get());
}
