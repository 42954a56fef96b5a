//! The protocol of the counts under loom: every interleaving of two threads, and every value that the
//! memory model lets a load see.

// The code itself, with `super::sync` being this module's.
#[path = "../count.rs"]
#[allow(clippy::duplicate_mod, reason = "once over each kind of atomics")]
#[allow(dead_code, reason = "not all of it has to do with threads")]
mod count;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

use count::{Counts, Left};
use loom::sync::Arc;
use loom::thread;
use sync::{AtomicU64, Ordering};

/// A frame, and what was written about it and in it.
struct Frame {
    counts: Counts,
    /// A word in it for each thread; also what its record says.
    bytes: [AtomicU64; 2],
    /// How often it became free.
    freed: AtomicU64,
}

impl Frame {
    fn free() -> Arc<Frame> {
        let bytes = [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Frame { counts: Counts::new(), bytes, freed: AtomicU64::new(0) })
    }

    fn used() -> Arc<Frame> {
        let frame = Frame::free();
        frame.counts.take();
        frame
    }

    fn write(&self, word: usize) {
        self.bytes[word].store(1, Ordering::Relaxed);
    }

    fn read(&self, word: usize) -> u64 {
        self.bytes[word].load(Ordering::Relaxed)
    }

    /// Gives up a reference; says whether it was the last one.
    fn put(&self) -> bool {
        let last = self.counts.put() == Ok(Left::None);
        if last {
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
        last
    }
}

/// A frame with two holders.
fn shared_by_two() -> Arc<Frame> {
    let frame = Frame::used();
    frame.counts.get();
    frame
}

/// Runs `first` and `second` on threads of their own, and `then` after both, in every order.
fn both(frame: fn() -> Arc<Frame>, first: fn(&Frame), second: fn(&Frame), then: fn(&Frame)) {
    loom::model(move || {
        let frame = frame();
        let other = Arc::clone(&frame);
        let thread = thread::spawn(move || second(&other));
        first(&frame);
        thread.join().unwrap();
        then(&frame);
    });
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn of_two_holders_the_last_one_frees_and_sees_what_the_other_wrote() {
    both(
        shared_by_two,
        |frame| {
            frame.write(0);
            assert!(!frame.put() || frame.read(1) == 1, "the other's bytes are not there yet");
        },
        |frame| {
            frame.write(1);
            assert!(!frame.put() || frame.read(0) == 1, "the other's bytes are not there yet");
        },
        |frame| assert_eq!(frame.freed.load(Ordering::Relaxed), 1),
    );
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn a_finder_never_brings_a_freed_frame_back_and_it_is_freed_once() {
    both(
        Frame::used,
        |frame| {
            frame.put();
        },
        |frame| {
            if frame.counts.try_get() {
                assert_eq!(frame.freed.load(Ordering::Relaxed), 0);
                frame.put();
            }
        },
        |frame| {
            assert_eq!(frame.freed.load(Ordering::Relaxed), 1);
            assert!(!frame.counts.try_get());
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn a_finder_who_gets_a_frame_sees_what_was_recorded_when_it_was_taken() {
    both(
        Frame::free,
        |frame| {
            frame.write(0);
            frame.counts.take();
        },
        |frame| {
            if frame.counts.try_get() {
                assert_eq!(frame.read(0), 1, "the record of its last use");
            }
        },
        |frame| assert!((1..=2).contains(&frame.counts.now().references())),
    );
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn fork_and_a_finder_at_once_lose_no_count() {
    both(
        Frame::used,
        |frame| {
            frame.counts.map();
            frame.counts.dup();
        },
        |frame| {
            if frame.counts.try_get() {
                frame.counts.map();
                frame.counts.unmap().unwrap();
                frame.put();
            }
        },
        |frame| {
            let now = frame.counts.now();
            assert_eq!((now.references(), now.maps()), (2, 2));
        },
    );
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn who_finds_itself_the_only_owner_sees_what_the_other_read_and_wrote() {
    both(
        shared_by_two,
        |frame| {
            if frame.counts.now().references() == 1 {
                assert_eq!(frame.read(1), 1, "reused before the other was done with it");
            }
        },
        |frame| {
            frame.write(1);
            frame.put();
        },
        |frame| assert_eq!(frame.counts.now().references(), 1),
    );
}
