//! The credentials of the process that the calling thread runs.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Capability, Credentials};

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

/// Whether those have a capability.
#[must_use]
pub fn may(capability: Capability) -> bool {
    CURRENT.with_borrow(|credentials| credentials.may(capability))
}

/// Does something with the rights of the real user, whoever the effective one is (`access_override_creds`).
pub fn as_real_user<T>(act: impl FnOnce() -> T) -> T {
    let own = CURRENT.take();
    CURRENT.set(Arc::new(own.of_real_user()));
    let result = act();
    CURRENT.set(own);
    result
}

/// The calling thread runs a process with these from now on.
pub fn enter(credentials: &SharedCredentials) {
    CURRENT.set(credentials.get());
}
