//! A userfaultfd(2) that programs have open: what it is told is queued, and read from it.

mod bell;
mod message;
mod queue;

use std::sync::Arc;

use mm::error::Errno;
use mm::space::SpaceHolder;
use mm::userfault::{Handler, Served, Userfault};

pub use message::MESSAGE;
pub(crate) use message::of_fork;
pub(crate) use queue::{Queue, Read};

/// A userfaultfd that is open. Who waits for it goes on when nobody has it any more.
#[derive(Debug)]
pub struct UserfaultFile {
    uffd: Arc<Userfault>,
    queue: Queue,
}

impl UserfaultFile {
    /// One of this memory; `flags` are userfaultfd(2)'s.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` the host allows no more.
    pub fn new(served: Served, flags: i32, space: SpaceHolder) -> Result<Self, Errno> {
        let queue = Queue::new(flags)?;
        queue.set_space(space);
        let uffd = Userfault::new(served, Arc::new(queue.clone()));
        Ok(UserfaultFile { uffd: Arc::new(uffd), queue })
    }

    /// A child's, which was told to its parent's.
    #[must_use]
    pub fn of_child(uffd: Arc<Userfault>) -> Option<Self> {
        let queue = uffd.handler_as::<Queue>()?.clone();
        Some(UserfaultFile { uffd, queue })
    }

    /// It, as memory knows it.
    #[must_use]
    pub fn uffd(&self) -> &Arc<Userfault> {
        &self.uffd
    }

    /// What it is told.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for UserfaultFile {
    fn drop(&mut self) {
        self.queue.release(&self.uffd);
    }
}
