//! Which pages of a pager's memory are there, and what is being done to them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::addr::Frame;

/// A page that is there, or is about to be. Who wants one that somebody is at waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// That thread has it filled.
    Filling(ThreadId),
    /// It may be mapped.
    Here(Here),
    /// That thread takes it away, or has it taken. No new entry may name it.
    Busy(Here, ThreadId),
}

/// A frame, and when it came: the number of those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Here {
    pub(super) frame: Frame,
    since: u64,
}

/// What is there of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// Nothing: who asked is filling it now.
    IsMine,
    /// This frame. It stays as long as the lock is held.
    Here(Frame),
    /// This thread has been called for that very page.
    Itself,
}

/// What becomes of a page that was taken out of use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It can be mapped again.
    Stays,
    /// The same; it could not leave, and others are tried before it is again.
    ComesLast,
    /// It is gone; its frame is for the caller to give up.
    Goes,
}

/// The pages of one pager's memory, by index.
#[derive(Debug, Default)]
pub(super) struct Pages {
    held: Mutex<Held>,
    /// Somebody has done with a page.
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    slots: BTreeMap<u64, Slot>,
    /// Those that have a frame, the first that came in front.
    order: BTreeMap<u64, u64>,
    came: u64,
    /// Those that a program wants to be out of memory.
    pub(super) unwanted: Vec<u64>,
}

impl Pages {
    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody is at the page. If it is not there, the caller is to fill it, and to say what came of that:
    /// [`filled`](Self::filled). `then` is given what is there, under the lock.
    pub(super) fn look<T>(&self, index: u64, then: impl FnOnce(Look) -> T) -> T {
        let me = thread::current().id();
        let mut held = self.lock();
        loop {
            match held.slots.get(&index) {
                None => {
                    held.slots.insert(index, Slot::Filling(me));
                    return then(Look::IsMine);
                }
                Some(Slot::Here(here)) => return then(Look::Here(here.frame)),
                Some(Slot::Filling(by) | Slot::Busy(_, by)) if *by == me => {
                    return then(Look::Itself);
                }
                Some(_) => {
                    held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Has the caller fill a page as [`look`](Self::look) does, if nothing is there and nobody at it.
    pub(super) fn claim(&self, index: u64) -> bool {
        let mut held = self.lock();
        let free = !held.slots.contains_key(&index);
        if free {
            held.slots.insert(index, Slot::Filling(thread::current().id()));
        }
        free
    }

    /// Ends what [`look`](Self::look) began: with a frame, which the pages have a reference to from now on, or none.
    pub(super) fn filled(&self, index: u64, frame: Option<Frame>) {
        let mut held = self.lock();
        match frame {
            Some(frame) => held.add(index, frame),
            None => {
                held.slots.remove(&index);
            }
        }
        self.changed.notify_all();
    }

    /// Ends what [`Held::take_out`] began.
    pub(super) fn done(&self, index: u64, outcome: Outcome) {
        let mut held = self.lock();
        let Some(&Slot::Busy(here, _)) = held.slots.get(&index) else { return };
        match outcome {
            Outcome::Stays => {
                held.slots.insert(index, Slot::Here(here));
            }
            Outcome::ComesLast => held.put_last(index, here),
            Outcome::Goes => {
                held.slots.remove(&index);
                held.order.remove(&here.since);
            }
        }
        self.changed.notify_all();
    }

    /// Waits until nobody else takes a page of the range.
    pub(super) fn settle(&self, pages: &Range<u64>) {
        let mut held = self.lock();
        while held.others_take(pages) {
            held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Held {
    /// A page that came last.
    fn add(&mut self, index: u64, frame: Frame) {
        self.came += 1;
        self.slots.insert(index, Slot::Here(Here { frame, since: self.came }));
        self.order.insert(self.came, index);
    }

    /// Others are tried before this page is again, which may be mapped.
    pub(super) fn comes_last(&mut self, index: u64) {
        if let Some(&Slot::Here(here)) = self.slots.get(&index) {
            self.put_last(index, here);
        }
    }

    fn put_last(&mut self, index: u64, here: Here) {
        self.order.remove(&here.since);
        self.add(index, here.frame);
    }

    /// How many pages have a frame.
    pub(super) fn count(&self) -> u64 {
        self.order.len() as u64
    }

    /// The frame of a page that may be mapped.
    pub(super) fn here(&self, index: u64) -> Option<Frame> {
        match self.slots.get(&index) {
            Some(Slot::Here(here)) => Some(here.frame),
            _ => None,
        }
    }

    /// Whether a page has a frame.
    pub(super) fn has(&self, index: u64) -> bool {
        matches!(self.slots.get(&index), Some(Slot::Here(_) | Slot::Busy(..)))
    }

    /// Those pages of a range that may be mapped.
    pub(super) fn all_here(&self, pages: Range<u64>) -> impl Iterator<Item = (u64, Frame)> + '_ {
        self.slots.range(pages).filter_map(|(&index, slot)| match slot {
            Slot::Here(here) => Some((index, here.frame)),
            Slot::Filling(_) | Slot::Busy(..) => None,
        })
    }

    /// The same of all, the first that came in front.
    pub(super) fn oldest(&self) -> impl Iterator<Item = (u64, Frame)> + '_ {
        self.order.values().filter_map(|&index| Some((index, self.here(index)?)))
    }

    /// Whether another thread is at a page of the range that may have been written.
    pub(super) fn others_take(&self, pages: &Range<u64>) -> bool {
        let me = thread::current().id();
        let mut slots = self.slots.range(pages.clone());
        slots.any(|(_, slot)| matches!(slot, Slot::Busy(_, by) if *by != me))
    }

    /// Takes a page out of use, which may be mapped until then.
    pub(super) fn take_out(&mut self, index: u64) {
        if let Some(slot) = self.slots.get_mut(&index)
            && let Slot::Here(here) = *slot
        {
            *slot = Slot::Busy(here, thread::current().id());
        }
    }

    /// All frames, at the end.
    pub(super) fn frames(&self) -> impl Iterator<Item = (u64, Frame)> + '_ {
        self.slots.iter().filter_map(|(&index, slot)| match slot {
            Slot::Here(here) | Slot::Busy(here, _) => Some((index, here.frame)),
            Slot::Filling(_) => None,
        })
    }
}
