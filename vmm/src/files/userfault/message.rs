//! What is read from a userfaultfd (`struct uffd_msg`).
//!
//! ```text
//!   byte   0        8            16            24          32
//!   fault  0x12     flags        address       task
//!   fork   0x13     descriptor
//!   remap  0x14     from         to            bytes
//!   remove 0x15     start        end
//!   unmap  0x16     start        end
//! ```

use mm::paging::AccessKind;
use mm::userfault::{Asked, Event, Features, Reason};

/// Bytes of a message.
pub const MESSAGE: usize = 32;

/// `UFFD_EVENT_PAGEFAULT`, `_FORK`, `_REMAP`, `_REMOVE`, `_UNMAP`.
const PAGEFAULT: u8 = 0x12;
const FORK: u8 = 0x13;
const REMAP: u8 = 0x14;
const REMOVE: u8 = 0x15;
const UNMAP: u8 = 0x16;

/// `UFFD_PAGEFAULT_FLAG_WRITE`, `_WP`, `_MINOR`.
const WRITE: u64 = 1;
const PROTECTED: u64 = 2;
const MINOR: u64 = 4;

/// A message.
pub(super) type Message = [u8; MESSAGE];

/// A fault, of the task `pid`.
pub(super) fn of_fault(asked: &Asked, features: Features, pid: i32) -> Message {
    let mut flags = if asked.kind == AccessKind::Write { WRITE } else { 0 };
    flags |= match asked.reason {
        Reason::Missing => 0,
        Reason::Unmapped => MINOR,
        Reason::Protected => PROTECTED,
    };
    let task = if features.contains(Features::THREAD_ID) { pid } else { 0 };
    message(PAGEFAULT, [flags, asked.told_at(features).get(), u64::from(task.unsigned_abs())])
}

/// An event; a fork's descriptor is said when it is read.
pub(super) fn of_event(event: &Event) -> Message {
    match event {
        Event::Fork(_) => message(FORK, [0; 3]),
        Event::Remap(from, to, len) => message(REMAP, [from.get(), to.get(), *len]),
        Event::Remove(range) => message(REMOVE, [range.start().get(), range.end().get(), 0]),
        Event::Unmap(range) => message(UNMAP, [range.start().get(), range.end().get(), 0]),
    }
}

/// A fork whose userfaultfd the reader has as this descriptor.
pub(crate) fn of_fork(fd: i32) -> Message {
    message(FORK, [u64::from(fd.unsigned_abs()), 0, 0])
}

fn message(event: u8, words: [u64; 3]) -> Message {
    let mut message = [0; MESSAGE];
    message[0] = event;
    for (to, word) in message[8..].chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    message
}
