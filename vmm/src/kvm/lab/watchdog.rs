//! Stops a guest that does not stop itself: a question to a KVM that may not work must have an end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::kvm::{Kicker, install_kick_handler};

/// Kicks the thread that started it once its time is over, again and again until it is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    barked: Arc<AtomicBool>,
    /// Closed by the drop: the thread's end.
    _leash: Sender<()>,
}

impl Watchdog {
    /// When it starts to kick.
    pub(crate) const LIMIT: Duration = Duration::from_secs(10);
    /// How often from then on.
    const AGAIN: Duration = Duration::from_millis(100);

    /// Watches the calling thread from now on.
    ///
    /// # Errors
    /// The host's, if it refuses a thread or a signal handler.
    pub(crate) fn start() -> io::Result<Watchdog> {
        install_kick_handler()?;
        let barked = Arc::new(AtomicBool::new(false));
        let (leash, end) = channel();
        let (kicker, seen) = (Kicker::of_this_thread(), Arc::clone(&barked));
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut patience = Self::LIMIT;
            while end.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                seen.store(true, Ordering::Release);
                if kicker.kick().is_err() {
                    return;
                }
                patience = Self::AGAIN;
            }
        })?;
        Ok(Watchdog { barked, _leash: leash })
    }

    /// Whether the time is over.
    pub(crate) fn has_barked(&self) -> bool {
        self.barked.load(Ordering::Acquire)
    }
}
