//! The thread that makes huge pages of small ones while the programs go on (`mm::khugepaged`).

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mm::khugepaged::{ALLOC_SLEEP_MILLISECS, PAGES_TO_SCAN, Scanned};

use super::Family;
use super::family::join;

/// The thread, until this is dropped.
#[derive(Debug)]
pub struct Khugepaged {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes it for the last time.
#[derive(Debug, Default)]
struct Stop {
    is_told: Mutex<bool>,
    bell: Condvar,
}

impl Khugepaged {
    /// Has a thread look at the memory of a machine's processes so often. Before it has any.
    ///
    /// # Errors
    /// The host's, if it gives no thread.
    pub fn start(family: &Arc<Family>, every: Duration) -> io::Result<Self> {
        family.machine().system().enable_khugepaged();
        let stop = Arc::new(Stop::default());
        let (family, told) = (Arc::clone(family), Arc::clone(&stop));
        let named = thread::Builder::new().name("khugepaged".to_owned());
        let thread = named.spawn(move || run(&family, &told, every))?;
        Ok(Khugepaged { stop, thread: Some(thread) })
    }
}

impl Drop for Khugepaged {
    fn drop(&mut self) {
        *self.stop.is_told.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.bell.notify_all();
        self.thread.take().into_iter().for_each(join);
    }
}

fn run(family: &Family, stop: &Stop, every: Duration) {
    let system = family.machine().system();
    let mut pause = every;
    while !stop.within(pause) {
        pause = match system.khugepaged(PAGES_TO_SCAN) {
            Ok(Scanned::Enough) => every,
            Ok(Scanned::NoMemory) => every.max(Duration::from_millis(ALLOC_SLEEP_MILLISECS)),
            Err(broken) => return family.fail(broken.into()),
        };
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
