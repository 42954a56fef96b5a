//! Threads that go through the memory of all processes while those go on: khugepaged, ksmd.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mm::error::Broken;
use mm::khugepaged::{self, Scanned};
use mm::ksm;
use mm::system::System;

use super::Family;
use super::family::join;

/// A thread, until this is dropped.
#[derive(Debug)]
pub struct Background {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes it for the last time.
#[derive(Debug, Default)]
struct Stop {
    is_told: Mutex<bool>,
    bell: Condvar,
}

impl Background {
    /// Has small pages made huge ones (`mm::khugepaged`), so often. Before there are processes.
    ///
    /// # Errors
    /// The host's, if it gives no thread.
    pub fn khugepaged(family: &Arc<Family>, every: Duration) -> io::Result<Self> {
        family.machine().system().enable_khugepaged();
        let after_none = Duration::from_millis(khugepaged::ALLOC_SLEEP_MILLISECS);
        Background::start("khugepaged", family, every, move |system| {
            Ok(match system.khugepaged(khugepaged::PAGES_TO_SCAN)? {
                Scanned::Enough => every,
                Scanned::NoMemory => every.max(after_none),
            })
        })
    }

    /// Has equal pages made one (`mm::ksm`), so often. Before there are processes.
    ///
    /// # Errors
    /// The host's, if it gives no thread.
    pub fn ksmd(family: &Arc<Family>, every: Duration) -> io::Result<Self> {
        family.machine().system().enable_ksm();
        Background::start("ksmd", family, every, move |system| {
            system.ksm(ksm::PAGES_TO_SCAN)?;
            Ok(every)
        })
    }

    /// A thread that works after a pause again and again, and says how long the next one is.
    fn start(
        name: &str,
        family: &Arc<Family>,
        first: Duration,
        work: impl Fn(&System) -> Result<Duration, Broken> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let (family, told) = (Arc::clone(family), Arc::clone(&stop));
        let named = thread::Builder::new().name(name.to_owned());
        let thread = named.spawn(move || {
            let mut pause = first;
            while !told.within(pause) {
                match work(family.machine().system()) {
                    Ok(next) => pause = next,
                    Err(broken) => return family.fail(broken.into()),
                }
            }
        })?;
        Ok(Background { stop, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        *self.stop.is_told.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.bell.notify_all();
        self.thread.take().into_iter().for_each(join);
    }
}

impl Stop {
    /// Waits so long, or until it is told; says whether it was.
    fn within(&self, time: Duration) -> bool {
        let is_told = self.is_told.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell.wait_timeout_while(is_told, time, |is_told| !*is_told);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
