//! The standard library as the memory manager finds it when it is built for shuttle: locks, atomics and `Arc`
//! are shuttle's, which decides at each of them which thread goes on.

pub use std::*;

/// `std::thread`: whom shuttle lets go on.
pub mod thread {
    pub use shuttle::thread::{ThreadId, current, yield_now};
}

/// `std::sync`. What is in it as std has it is never waited for.
pub mod sync {
    pub use shuttle::sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak, atomic,
    };
    pub use std::sync::{LazyLock, LockResult, PoisonError, TryLockError};

    /// `std::sync::OnceLock`, where who comes second waits in shuttle.
    #[derive(Debug)]
    pub struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        making: Mutex<()>,
    }

    impl<T> OnceLock<T> {
        /// Nothing yet.
        #[must_use]
        pub const fn new() -> Self {
            OnceLock { value: std::sync::OnceLock::new(), making: Mutex::new(()) }
        }

        /// What was made, if it was.
        pub fn get(&self) -> Option<&T> {
            self.value.get()
        }

        /// What was made, or is now.
        pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
            if let Some(made) = self.value.get() {
                return made;
            }
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if self.value.get().is_none() {
                // Nobody else does so meanwhile.
                let _ = self.value.set(make());
            }
            self.value.get_or_init(|| unreachable!("it was just set"))
        }
    }
}
