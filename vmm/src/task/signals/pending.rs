//! Signals that wait to be delivered, to a task or to a whole process (Linux's `sigpending`): a bit each,
//! and a queue of what is told about them.
//!
//! A signal below the real-time ones is there once, and what was told first counts. Real-time ones queue, as
//! far as there is room; one that is sent by kill(2) comes all the same where there is none, once, without
//! what was told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::info::{Info, SI_USER};
use super::{Signal, SignalSet};

/// How many signals all processes together may have queued, whatever their limits say.
const MOST_QUEUED: u64 = 65_536;

/// How many signals are queued for the processes of one user: here, for all.
#[derive(Clone, Debug, Default)]
pub struct Queued(Arc<AtomicU64>);

/// One of them.
#[derive(Debug)]
struct Room(Queued);

impl Queued {
    /// Counts one more, if there are fewer than `limit`.
    fn room(&self, limit: u64) -> Option<Room> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let room = Room(self.clone());
        (before < limit).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// There is no room in the queue: `EAGAIN`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueFull;

/// Signals that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    set: SignalSet,
    queue: VecDeque<(Info, Room)>,
}

impl Pending {
    /// Which.
    pub(super) fn set(&self) -> SignalSet {
        self.set
    }

    /// One more comes (`__send_signal_locked`). `limit` is `RLIMIT_SIGPENDING`.
    pub(super) fn post(
        &mut self,
        info: Info,
        queued: &Queued,
        limit: u64,
    ) -> Result<(), QueueFull> {
        let signal = info.signal();
        if !signal.is_real_time() && self.set.contains(signal) {
            return Ok(());
        }
        // At most one of each of these, so they always have room.
        let always = !signal.is_real_time() && info.code() >= SI_USER;
        match queued.room(if always { u64::MAX } else { limit.min(MOST_QUEUED) }) {
            Some(room) => self.queue.push_back((info, room)),
            None if signal.is_real_time() && info.code() != SI_USER => return Err(QueueFull),
            None => {}
        }
        self.set = self.set | signal.into();
        Ok(())
    }

    /// Takes the one that an instruction has caused first, if it is one of `among`
    /// (`dequeue_synchronous_signal`).
    pub(super) fn take_caused(&mut self, among: SignalSet) -> Option<Info> {
        let among = among & self.set & SignalSet::SYNCHRONOUS;
        if among.is_empty() {
            return None;
        }
        let caused =
            |(info, _): &(Info, Room)| among.contains(info.signal()) && info.code() > SI_USER;
        let index = self.queue.iter().position(caused)?;
        self.remove(index)
    }

    /// Takes the one of `among` that comes first (`dequeue_signal`).
    pub(super) fn take(&mut self, among: SignalSet) -> Option<Info> {
        let signal = (among & self.set).first()?;
        match self.queue.iter().position(|(info, _)| info.signal() == signal) {
            Some(index) => self.remove(index),
            None => {
                self.set = self.set - signal.into();
                Some(Info::lost(signal))
            }
        }
    }

    fn remove(&mut self, index: usize) -> Option<Info> {
        let (info, _) = self.queue.remove(index)?;
        self.forget_unless_queued(info.signal());
        Some(info)
    }

    fn forget_unless_queued(&mut self, signal: Signal) {
        if !self.queue.iter().any(|(info, _)| info.signal() == signal) {
            self.set = self.set - signal.into();
        }
    }

    /// Forgets all of these (`flush_sigqueue_mask`).
    pub(super) fn forget(&mut self, these: SignalSet) {
        if (self.set & these).is_empty() {
            return;
        }
        self.set = self.set - these;
        self.queue.retain(|(info, _)| !these.contains(info.signal()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::signals::info::SI_TKILL;

    const LIMIT: u64 = 3;

    fn user(signal: Signal, pid: i32) -> Info {
        Info::from_process(signal, SI_USER, pid)
    }

    fn real_time(number: i32) -> Signal {
        Signal::new(32 + number).unwrap()
    }

    #[test]
    fn an_ordinary_signal_waits_once_and_the_first_told_counts() {
        let (mut pending, queued) = (Pending::default(), Queued::default());
        pending.post(user(Signal::USR1, 1), &queued, LIMIT).unwrap();
        pending.post(user(Signal::USR1, 2), &queued, LIMIT).unwrap();
        assert_eq!(pending.take(!SignalSet::NONE), Some(user(Signal::USR1, 1)));
        assert_eq!(pending.take(!SignalSet::NONE), None);
    }

    #[test]
    fn real_time_signals_queue_in_order_as_far_as_there_is_room() {
        let (mut pending, queued) = (Pending::default(), Queued::default());
        let sent = |pid| Info::from_process(real_time(2), SI_TKILL, pid);
        for pid in 1..=3 {
            pending.post(sent(pid), &queued, LIMIT).unwrap();
        }
        assert_eq!(pending.post(sent(4), &queued, LIMIT), Err(QueueFull));
        // kill(2) cannot fail for that: one comes, of which nothing is told.
        pending.post(user(real_time(1), 5), &queued, LIMIT).unwrap();
        assert_eq!(pending.take(!SignalSet::NONE), Some(Info::lost(real_time(1))));
        for pid in 1..=3 {
            assert_eq!(pending.take(!SignalSet::NONE), Some(sent(pid)));
        }
        assert!(pending.set().is_empty());
        pending.post(sent(6), &queued, 1).unwrap();
        drop(pending);
        assert!(queued.room(1).is_some(), "what is dropped makes room");
    }

    #[test]
    fn what_an_instruction_caused_comes_before_what_was_sent() {
        let (mut pending, queued) = (Pending::default(), Queued::default());
        let fault = Info::fault(Signal::SEGV, 1, 16);
        for info in [user(Signal::ILL, 1), fault] {
            pending.post(info, &queued, LIMIT).unwrap();
        }
        assert_eq!(pending.take_caused(Signal::ILL.into()), None);
        assert_eq!(pending.take_caused(!SignalSet::NONE), Some(fault));
        assert_eq!(pending.take_caused(!SignalSet::NONE), None, "SIGILL was sent");
        assert_eq!(pending.take(!SignalSet::NONE), Some(user(Signal::ILL, 1)));
    }

    #[test]
    fn what_is_forgotten_is_not_queued_any_more() {
        let (mut pending, queued) = (Pending::default(), Queued::default());
        for signal in [Signal::TERM, real_time(0), real_time(0)] {
            pending.post(user(signal, 1), &queued, LIMIT).unwrap();
        }
        pending.forget(real_time(0).into());
        assert_eq!(pending.take(!SignalSet::NONE), Some(user(Signal::TERM, 1)));
        assert_eq!(pending.take(!SignalSet::NONE), None);
    }
}
