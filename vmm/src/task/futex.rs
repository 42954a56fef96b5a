//! Who waits for a word of memory (futex(2)): queues, in the order in which they came.
//!
//! ```text
//!   wait:   in the queue ── the word is what it should be? ── yes: rests until woken
//!                                                          └─ no: out again; who was woken meanwhile wakes another
//!   wake:   out of the queue, told by his eventfd
//! ```
//!
//! A waiter is in the queue before it looks at the word, and no lock is held while it does: the page may have to be brought
//! in. So who changes the word and then wakes finds him, or he finds the change.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mm::space::Word;
use rustix::event::{EventfdFlags, eventfd};

/// All waiters of the machine.
#[derive(Debug, Default)]
pub struct Futexes(Mutex<Queues>);

#[derive(Debug, Default)]
struct Queues {
    next: u64,
    by_word: BTreeMap<Word, VecDeque<Waiter>>,
    /// Where each waits: others may have him wait elsewhere.
    words: BTreeMap<u64, Word>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    bits: u32,
    told: Arc<OwnedFd>,
}

/// A place in a queue. It is given up when it is dropped.
#[derive(Debug)]
pub struct Wait<'a> {
    futexes: &'a Futexes,
    ticket: u64,
    told: Arc<OwnedFd>,
}

/// Whether somebody has woken a waiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// He was.
    Yes,
    /// He was not, and is in no queue any more.
    No,
}

impl Futexes {
    /// Waits for a word, to be woken for any of the bits.
    ///
    /// # Errors
    /// The host's, where it has no more descriptors.
    pub fn wait(&self, word: Word, bits: u32) -> Result<Wait<'_>, rustix::io::Errno> {
        let told = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut queues = self.queues();
        let ticket = queues.next;
        queues.next += 1;
        queues.words.insert(ticket, word);
        let waiter = Waiter { ticket, bits, told: Arc::clone(&told) };
        queues.by_word.entry(word).or_default().push_back(waiter);
        drop(queues);
        Ok(Wait { futexes: self, ticket, told })
    }

    /// Wakes up to so many who wait for a word and any of the bits; how many.
    pub fn wake(&self, word: Word, most: u64, bits: u32) -> u64 {
        self.queues().wake(word, most, bits)
    }

    /// Wakes up to so many, and has up to so many others wait for another word: how many of each.
    pub fn requeue(&self, from: Word, to: Word, wake: u64, most: u64) -> (u64, u64) {
        let mut queues = self.queues();
        let woken = queues.wake(from, wake, u32::MAX);
        let Some(mut queue) = queues.by_word.remove(&from).filter(|_| from != to) else {
            let staying = queues.by_word.get(&to).map_or(0, VecDeque::len) as u64;
            return (woken, if from == to { staying.min(most) } else { 0 });
        };
        let count = (queue.len() as u64).min(most);
        let moved: Vec<Waiter> = queue.drain(..usize::try_from(count).unwrap_or(0)).collect();
        if !queue.is_empty() {
            queues.by_word.insert(from, queue);
        }
        for waiter in moved {
            queues.words.insert(waiter.ticket, to);
            queues.by_word.entry(to).or_default().push_back(waiter);
        }
        (woken, count)
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn wake(&mut self, word: Word, most: u64, bits: u32) -> u64 {
        let Some(queue) = self.by_word.get_mut(&word) else { return 0 };
        let mut woken = 0;
        queue.retain(|waiter| {
            let goes = woken < most && waiter.bits & bits != 0;
            if goes {
                woken += 1;
                self.words.remove(&waiter.ticket);
                // It holds one number more than the one that is ever added.
                let _ = rustix::io::write(&waiter.told, &1_u64.to_ne_bytes());
            }
            !goes
        });
        if queue.is_empty() {
            self.by_word.remove(&word);
        }
        woken
    }

    fn remove(&mut self, ticket: u64) -> Woken {
        let Some(word) = self.words.remove(&ticket) else { return Woken::Yes };
        if let Some(queue) = self.by_word.get_mut(&word) {
            queue.retain(|waiter| waiter.ticket != ticket);
            if queue.is_empty() {
                self.by_word.remove(&word);
            }
        }
        Woken::No
    }
}

impl Wait<'_> {
    /// What can be read once he was woken.
    #[must_use]
    pub fn told(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    /// Gives up the place; says whether he was woken before.
    #[must_use]
    pub fn leave(self) -> Woken {
        self.futexes.queues().remove(self.ticket)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.futexes.queues().remove(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(offset: u64) -> Word {
        Word::Shared { device: (0, 1), inode: 1, offset }
    }

    #[test]
    fn who_came_first_is_woken_first_for_his_bits() {
        let futexes = Futexes::default();
        let [first, second] = [1, 2].map(|bits| futexes.wait(word(0), bits).unwrap());
        assert_eq!(futexes.wake(word(4), 9, u32::MAX), 0);
        assert_eq!(futexes.wake(word(0), 1, 2), 1);
        assert_eq!((first.leave(), second.leave()), (Woken::No, Woken::Yes));
        assert_eq!(futexes.wake(word(0), 9, u32::MAX), 0);
    }

    #[test]
    fn who_waits_elsewhere_is_woken_there() {
        let futexes = Futexes::default();
        let waits: Vec<_> = (0..4).map(|_| futexes.wait(word(0), u32::MAX).unwrap()).collect();
        assert_eq!(futexes.requeue(word(0), word(4), 1, 2), (1, 2));
        assert_eq!(futexes.wake(word(4), 1, u32::MAX), 1);
        let woken: Vec<_> = waits.into_iter().map(Wait::leave).collect();
        assert_eq!(woken, [Woken::Yes, Woken::Yes, Woken::No, Woken::No]);
        let queues = futexes.queues();
        assert!(queues.by_word.is_empty() && queues.words.is_empty());
    }
}
