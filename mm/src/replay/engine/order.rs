//! Calls of several threads at once. strace tells them in the order in which it saw them return; the kernel
//! may have had another, and the addresses that it chose tell which.
//!
//! ```text
//!   12 munmap(0x1000, 4096 <unfinished ...>      the kernel unmapped first:
//!   13 mmap(NULL, 4096, ...) = 0x1000            0x1000 was free by then
//!   12 <... munmap resumed>) = 0
//! ```
//!
//! Only calls that were under way at the same time are put in another order, and only where the order of the
//! trace cannot be.

use std::collections::VecDeque;

use super::memory::{FIXED, MREMAP_FIXED};
use super::tasks::Space;
use super::{AddressMode, Answer, Engine, Executor, Place, Reply};
use crate::addr::{VirtAddr, page_align};
use crate::replay::calls::{Call, MemoryCall, Outcome};
use crate::replay::trace::{Action, Event, Reader, TraceError};

/// How many events may lie between a call's return and that of one that came before it.
const FAR: usize = 64;
const MREMAP_MAYMOVE: u64 = nix::libc::MREMAP_MAYMOVE as u64;

/// The events to come; some may be taken before their turn.
pub(super) struct Events<'a> {
    reader: Reader<'a>,
    waiting: VecDeque<Result<Event, TraceError>>,
}

impl<'a> Events<'a> {
    pub(super) fn new(reader: Reader<'a>) -> Self {
        Events { reader, waiting: VecDeque::new() }
    }

    pub(super) fn next(&mut self) -> Option<Result<Event, TraceError>> {
        self.waiting.pop_front().or_else(|| self.reader.next())
    }

    /// The next one, if it is such a one.
    pub(super) fn next_if(
        &mut self,
        wanted: impl FnOnce(&Result<Event, TraceError>) -> bool,
    ) -> Option<Result<Event, TraceError>> {
        if self.waiting.is_empty() {
            self.waiting.extend(self.reader.next());
        }
        if wanted(self.waiting.front()?) { self.waiting.pop_front() } else { None }
    }

    /// The memory calls that had begun before the line and return after it, with their places.
    fn under_way(&mut self, line: usize) -> Vec<(usize, Event)> {
        while self.waiting.len() < FAR
            && let Some(event) = self.reader.next()
        {
            self.waiting.push_back(event);
        }
        let is_memory = |action: &Action| {
            matches!(action, Action::Call { call: Call::Memory(_), outcome: Outcome::Value(_) })
        };
        let events = self.waiting.iter().enumerate().filter_map(|(index, event)| {
            let event = event.as_ref().ok()?;
            (event.begun < line && is_memory(&event.action)).then(|| (index, event.clone()))
        });
        events.collect()
    }

    fn take(&mut self, index: usize) {
        self.waiting.remove(index);
    }
}

impl<E: Executor> Engine<'_, E> {
    /// Where a call got an address that is taken as far as the trace has told, a call that was under way
    /// has freed it before: runs that now.
    pub(super) fn make_room(
        &mut self,
        at: Place,
        call: &MemoryCall,
        recorded: Outcome,
        events: &mut Events<'_>,
    ) -> Result<(), E::Error> {
        let Some(Chosen { fresh: (start, len), .. }) = Chosen::of(call, recorded) else {
            return Ok(());
        };
        while self.tasks.space(at.task).is_some_and(|space| is_taken(space, start, len)) {
            let under_way = events.under_way(at.line);
            let freed = under_way.into_iter().find(|(_, event)| {
                self.is_beside(at, event)
                    && matches!(
                        event.action,
                        Action::Call { call: Call::Memory(MemoryCall::Munmap { addr, len: freed }), .. }
                            if addr.get() < start.saturating_add(len)
                                && start < addr.get().saturating_add(freed)
                    )
            });
            let Some((index, event)) = freed else { return Ok(()) };
            events.take(index);
            self.event(&event, events)?;
        }
        Ok(())
    }

    /// Before a call that frees addresses: maps that were under way when it returned, and that are now
    /// where the trace has them, came first. If they did not, it makes no difference.
    pub(super) fn before_freeing(
        &mut self,
        at: Place,
        call: &MemoryCall,
        recorded: Outcome,
        events: &mut Events<'_>,
    ) -> Result<(), E::Error> {
        let frees = matches!(call, MemoryCall::Munmap { .. } | MemoryCall::Mremap { .. });
        let succeeded = matches!(recorded, Outcome::Value(_));
        if self.addresses == AddressMode::Relocated || !frees || !succeeded {
            return Ok(());
        }
        while let Some((index, event)) = self.fits_first(at, events)? {
            events.take(index);
            self.event(&event, events)?;
        }
        Ok(())
    }

    /// Where a map is not where the trace has it, tries whether others that were under way came before it;
    /// `answer` is then what it answers after them.
    pub(super) fn in_another_order(
        &mut self,
        at: Place,
        call: &MemoryCall,
        recorded: Outcome,
        answer: &mut Answer,
        events: &mut Events<'_>,
    ) -> Result<(), E::Error> {
        if self.addresses == AddressMode::Relocated {
            return Ok(());
        }
        let Some(wanted) = Chosen::of(call, recorded) else { return Ok(()) };
        while let Ok(got) = answer.result
            && got != wanted.address
        {
            self.undo(at, call, got)?;
            let first = self.fits_first(at, events)?;
            if let Some((index, event)) = &first {
                events.take(*index);
                self.event(event, events)?;
            }
            if let Reply::Is(again) = self.executor.call(at.task, call, recorded)? {
                *answer = again;
            }
            if first.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A map under way that would be where the trace has it if it came now.
    fn fits_first(
        &mut self,
        at: Place,
        events: &mut Events<'_>,
    ) -> Result<Option<(usize, Event)>, E::Error> {
        for (index, event) in events.under_way(at.line) {
            let Action::Call { call: Call::Memory(call), outcome } = &event.action else {
                continue;
            };
            let Some(wanted) = Chosen::of(call, *outcome) else { continue };
            if !self.is_beside(at, &event) {
                continue;
            }
            let Reply::Is(Answer { result: Ok(got), .. }) =
                self.executor.call(at.task, call, *outcome)?
            else {
                continue;
            };
            self.undo(at, call, got)?;
            if got == wanted.address {
                return Ok(Some((index, event)));
            }
        }
        Ok(None)
    }

    /// Takes back a map, or a move or growth of one, that got this address.
    fn undo(&mut self, at: Place, call: &MemoryCall, got: u64) -> Result<(), E::Error> {
        let steps = match *call {
            MemoryCall::Mremap { addr, old_len, new_len, .. } => {
                let old_len = page_align(old_len).unwrap_or(old_len);
                let grown = new_len.saturating_sub(old_len);
                let back = (got != addr.get()).then(|| MemoryCall::Mremap {
                    addr: VirtAddr::new(got),
                    old_len,
                    new_len: old_len,
                    flags: MREMAP_MAYMOVE | MREMAP_FIXED,
                    new_addr: addr,
                });
                vec![Some(munmap(got.wrapping_add(old_len), grown)), back]
            }
            MemoryCall::Mmap { len, .. } => vec![Some(munmap(got, len))],
            _ => vec![],
        };
        for step in steps.into_iter().flatten() {
            self.executor.call(at.task, &step, Outcome::Value(0))?;
        }
        Ok(())
    }

    /// Whether an event is of another task in the same address space.
    fn is_beside(&self, at: Place, event: &Event) -> bool {
        let other = self.tasks.find(event.pid);
        other.is_some_and(|other| other != at.task && self.tasks.share_space(at.task, other))
    }
}

/// What the kernel chose for a call.
struct Chosen {
    /// The address that the call answered.
    address: u64,
    /// The addresses that were free before, with their length in bytes.
    fresh: (u64, u64),
}

impl Chosen {
    /// Of a map, or of one that grows in its place or elsewhere.
    fn of(call: &MemoryCall, recorded: Outcome) -> Option<Self> {
        let Outcome::Value(address) = recorded else { return None };
        let fresh = match *call {
            MemoryCall::Mmap { len, flags, .. } if flags & FIXED == 0 => (address, len),
            MemoryCall::Mremap { addr, old_len, new_len, flags: MREMAP_MAYMOVE, .. }
                if 0 < old_len && old_len < new_len =>
            {
                if address == addr.get() {
                    (address.checked_add(old_len)?, new_len - old_len)
                } else {
                    (address, new_len)
                }
            }
            _ => return None,
        };
        Some(Chosen { address, fresh })
    }
}

fn munmap(start: u64, len: u64) -> MemoryCall {
    MemoryCall::Munmap { addr: VirtAddr::new(start), len }
}

/// Whether the trace has told of something in a range.
fn is_taken(space: &Space, start: u64, len: u64) -> bool {
    space.addresses.parts(start, len).iter().any(|part| part.ours.is_some())
}
