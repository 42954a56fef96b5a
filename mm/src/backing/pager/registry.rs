//! The pagers of one machine: who is asked for memory when there is none, and what is to be done about them once no
//! lock is held.
//!
//! A thread that has one of this crate's locks can only give up pages that no closure has to see
//! ([`System::drop_clean_pages`]); when it has let go of them and still needs memory, closures are called
//! ([`System::or_page_out`]). What a program's call leaves to be done, and what an ended program leaves behind, waits for
//! [`System::serve_pagers`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::evict::Closures;
use super::paged::Paged;
use crate::error::Broken;
use crate::system::System;

/// The pagers of one machine.
#[derive(Debug, Default)]
pub(crate) struct Pagers {
    /// A leaf lock.
    all: Mutex<Vec<Arc<Paged>>>,
    /// Whether there is anything to be done. Most machines have no pager, and most calls ask.
    due: AtomicBool,
    /// Threads that are in a closure, once for each. A leaf lock.
    inside: Mutex<Vec<ThreadId>>,
    rounds: Mutex<Rounds>,
    /// Somebody has done with giving up pages.
    ended: Condvar,
}

/// Who gives up pages.
#[derive(Debug, Default)]
struct Rounds {
    /// How many do so now.
    under_way: u64,
    /// How many have freed something.
    fruitful: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pagers {
    pub(super) fn add(&self, pager: Arc<Paged>) {
        lock(&self.all).push(pager);
    }

    fn all(&self) -> Vec<Arc<Paged>> {
        lock(&self.all).clone()
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.all).is_empty()
    }

    /// Notes that there is something to be done.
    pub(super) fn note(&self) {
        self.due.store(true, Ordering::Release);
    }

    /// Whether there is something to be done once no lock is held.
    #[inline]
    pub(crate) fn are_due(&self) -> bool {
        self.due.load(Ordering::Acquire)
    }

    /// Runs a closure of a user's.
    pub(super) fn inside<T>(&self, closure: impl FnOnce() -> T) -> T {
        lock(&self.inside).push(thread::current().id());
        let value = closure();
        let mut inside = lock(&self.inside);
        if let Some(at) = inside.iter().rposition(|&one| one == thread::current().id()) {
            inside.swap_remove(at);
        }
        value
    }

    /// Whether this thread runs a closure of a user's.
    pub(super) fn is_inside(&self) -> bool {
        lock(&self.inside).contains(&thread::current().id())
    }

    /// Has pages leave; who finds none for himself meanwhile waits for it.
    pub(super) fn round(&self, evict: impl FnOnce() -> Result<u64, Broken>) -> Result<u64, Broken> {
        lock(&self.rounds).under_way += 1;
        let gone = evict();
        let mut rounds = lock(&self.rounds);
        rounds.under_way -= 1;
        rounds.fruitful += u64::from(gone.as_ref().is_ok_and(|&gone| gone > 0));
        self.ended.notify_all();
        gone
    }

    /// Lets go of those that nobody maps and nobody has in hand; but `dropped` is in the hands of the caller.
    pub(super) fn forget_unused(&self, dropped: Option<&Arc<Paged>>) {
        let unused = |pager: &mut Arc<Paged>| {
            let by_caller = dropped.is_some_and(|dropped| Arc::ptr_eq(dropped, pager));
            Arc::strong_count(pager) == 1 + usize::from(by_caller)
        };
        let gone: Vec<Arc<Paged>> = lock(&self.all).extract_if(.., unused).collect();
        // Their ends call closures.
        drop(gone);
    }
}

impl System {
    /// [`or_reclaim`](Self::or_reclaim), where pagers may be asked as well to take what has been written. The caller
    /// has no lock of this crate.
    ///
    /// # Errors
    /// Those of the attempt; [`Broken`] when a flush fails.
    pub fn or_page_out<T, E: From<Broken>>(
        &self,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let (refusals, rounds) = (self.frames().refusals(), self.pagers.fruitful());
            let result = self.or_reclaim(&mut attempt);
            if result.is_ok() || self.frames().refusals() == refusals {
                return result;
            }
            // Within a closure no others are called.
            if self.pagers.is_inside() || self.page_out()? == 0 && !self.others_freed(rounds) {
                return result;
            }
        }
    }

    /// Has each pager give up some of its pages, the first that came. Says how many that were.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn page_out(&self) -> Result<u64, Broken> {
        if self.pagers.is_empty() {
            return Ok(0);
        }
        let freed = self.pagers.all().iter().try_fold(0, |freed, pager| {
            Ok::<_, Broken>(freed + pager.give_up(Closures::MayRun, self)?)
        })?;
        self.count_paged_out(freed);
        Ok(freed)
    }

    /// Waits until others have done, and says whether anybody has freed something since then.
    fn others_freed(&self, since: u64) -> bool {
        let mut rounds = lock(&self.pagers.rounds);
        while rounds.fruitful == since && rounds.under_way > 0 {
            rounds = self.pagers.ended.wait(rounds).unwrap_or_else(PoisonError::into_inner);
        }
        rounds.fruitful != since
    }

    /// Gives up some pages that nobody has written since they were filled, and that no closure wants to see. Says how
    /// many. The caller may have the lock of a space.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn drop_clean_pages(&self) -> Result<u64, Broken> {
        if self.pagers.is_empty() {
            return Ok(0);
        }
        self.pagers
            .all()
            .iter()
            .try_fold(0, |freed, pager| Ok(freed + pager.give_up(Closures::MayNot, self)?))
    }

    /// Does what has been left for pagers to be done: pages that `MADV_PAGEOUT` has named leave, what nobody maps any
    /// more is taken if it was written, what nobody has is gone. It is called wherever a program's call or its end may
    /// have left something; whoever changes address spaces himself calls it, too, without any lock of this crate.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails. A taker that fails is logged; [`PagedMemory::sync`](super::PagedMemory::sync)
    /// says so.
    pub fn serve_pagers(&self) -> Result<(), Broken> {
        if !self.pagers.are_due() || self.pagers.is_inside() {
            return Ok(());
        }
        self.pagers.due.store(false, Ordering::Release);
        for pager in self.pagers.all() {
            let evicted = pager.evict_unwanted(self)?;
            self.count_paged_out(evicted);
            if pager.left.swap(false, Ordering::AcqRel) {
                // Told by the log already.
                let _ = pager.take_written(&(0..u64::MAX), self);
            }
        }
        self.pagers.forget_unused(None);
        Ok(())
    }
}

impl Pagers {
    fn fruitful(&self) -> u64 {
        lock(&self.rounds).fruitful
    }
}
