//! The replacement of a page under loom: every order of three vCPUs, two of which only access the page.
//!
//! ```text
//!   faulting vCPU   copies, takes the old page out, flushes, puts the copy in
//!   writer          as soon as it can: writes the copy, then says so
//!   reader          has the old page cached. Once it knows of the write, it must read what was written
//! ```

// The code itself, with `super::sync` being this module's.
#[path = "replace.rs"]
#[allow(clippy::duplicate_mod, reason = "once over each kind of locks")]
mod replace;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

use loom::sync::Arc;
use loom::thread;
use replace::Replacements;
use sync::{AtomicU64, Mutex, Ordering};

use super::entry::{Access, Entry, Owner, Touch};
use crate::addr::Frame;

/// The byte in the old page, and what the writer writes.
const OLD: u64 = 7;
const NEW: u64 = 8;

/// One page of a space, and what vCPUs have cached of its entry.
struct Machine {
    slot: AtomicU64,
    replacements: Replacements,
    /// The old page and its copy.
    pages: [AtomicU64; 2],
    /// The reader's cached translation. Locked while an instruction uses it, as a shootdown waits for the
    /// instruction's end.
    cached: Mutex<Option<Entry>>,
    written: AtomicU64,
}

fn leaf(frame: u64, access: Access) -> Entry {
    Entry::leaf(Frame::new(frame), Owner::Process, access, Touch::Read)
}

impl Machine {
    fn new() -> Arc<Machine> {
        let old = leaf(0, Access::READ);
        Arc::new(Machine {
            slot: AtomicU64::new(old.raw()),
            replacements: Replacements::default(),
            pages: [AtomicU64::new(OLD), AtomicU64::new(0)],
            cached: Mutex::new(Some(old)),
            written: AtomicU64::new(0),
        })
    }

    fn page_of(&self, entry: Entry) -> &AtomicU64 {
        &self.pages[usize::from(entry.frame() == Some(Frame::new(1)))]
    }

    fn flush(&self) {
        *self.cached.lock().unwrap() = None;
    }

    /// The entry as a vCPU finds it that has nothing cached, after the faults that it takes.
    fn walk(&self) -> Entry {
        let entry = self.replacements.settled(&self.slot);
        assert!(entry.is_present() && entry.frame().is_some(), "{entry:?}: a page of zeros comes");
        entry
    }

    fn write(&self) {
        let entry = self.walk();
        // Otherwise it takes a fault and has the page replaced, as the first vCPU does.
        if entry.is_writable() {
            self.page_of(entry).store(NEW, Ordering::SeqCst);
            self.written.store(1, Ordering::SeqCst);
        }
    }

    fn read(&self) {
        let written = self.written.load(Ordering::SeqCst) == 1;
        let mut cached = self.cached.lock().unwrap();
        let entry = *cached.get_or_insert_with(|| self.walk());
        let byte = self.page_of(entry).load(Ordering::SeqCst);
        assert!(
            byte == if written { NEW } else { byte },
            "the old page, after a write to the new one"
        );
        assert!([OLD, NEW].contains(&byte), "{byte} is in neither page");
    }

    fn copy(&self) {
        self.pages[1].store(self.pages[0].load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// As `fault/cow` does.
    fn replace(&self) {
        let (old, new) = (leaf(0, Access::READ), leaf(1, Access::READ | Access::WRITE));
        self.copy();
        let round = self.replacements.begin();
        assert!(round.take_out(&self.slot, old));
        self.flush();
        round.put_in(&self.slot, new);
    }

    /// As it did before.
    fn replace_at_once(&self) {
        let (old, new) = (leaf(0, Access::READ), leaf(1, Access::READ | Access::WRITE));
        self.copy();
        let (done, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        self.slot.compare_exchange(old.raw(), new.raw(), done, failed).unwrap();
        self.flush();
    }
}

fn three_vcpus(replace: fn(&Machine)) {
    loom::model(move || {
        let machine = Machine::new();
        let [writer, reader] = [Machine::write, Machine::read].map(|access: fn(&Machine)| {
            let machine = Arc::clone(&machine);
            thread::spawn(move || access(&machine))
        });
        replace(&machine);
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(Entry::new(machine.slot.load(Ordering::SeqCst)).frame(), Some(Frame::new(1)));
    });
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn nobody_reads_the_old_page_once_the_new_one_was_written() {
    three_vcpus(Machine::replace);
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn of_pages_that_come_at_once_all_are_seen_or_none() {
    loom::model(|| {
        let shared = Arc::new((Replacements::default(), [AtomicU64::new(0), AtomicU64::new(0)]));
        let put = |first: u64, slots: std::ops::Range<usize>| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (replacements, all) = &*shared;
                let pages = (first..).zip(&all[slots]);
                replacements.put_all(pages.map(|(i, slot)| (slot, leaf(i, Access::READ))))
            })
        };
        let (both, one) = (put(1, 0..2), put(3, 1..2));
        // In this order: who sees the first page later finds the second one, too.
        let (replacements, [first, second]) = &*shared;
        let first = replacements.settled(first).frame();
        let second = replacements.settled(second).frame();
        let (both, one) = (both.join().unwrap(), one.join().unwrap());
        assert!(both != one, "one of the two was first");
        assert!(first.is_none() || both && second == Some(Frame::new(2)), "{first:?} {second:?}");
        let end: Vec<_> =
            shared.1.iter().map(|slot| Entry::new(slot.load(Ordering::SeqCst)).frame()).collect();
        let pair = [Some(Frame::new(1)), Some(Frame::new(2))];
        assert_eq!(end, if both { pair } else { [None, Some(Frame::new(3))] });
    });
}

#[test]
#[should_panic(expected = "the old page, after a write to the new one")]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn an_exchange_at_once_shows_the_old_page_after_the_new_one() {
    three_vcpus(Machine::replace_at_once);
}

#[test]
#[cfg_attr(miri, ignore = "loom switches stacks by itself")]
fn of_two_that_replace_a_page_one_does() {
    loom::model(|| {
        let machine = Machine::new();
        let replace = |machine: &Machine, place: usize| {
            let old = leaf(0, Access::READ);
            let found = machine.walk();
            // Found replaced already: the fault comes again, and finds nothing to do.
            if found != old {
                return 0;
            }
            let round = machine.replacements.begin();
            if !round.take_out(&machine.slot, old) {
                return 0;
            }
            machine.flush();
            round.put_in(&machine.slot, leaf(1 + place as u64, Access::READ | Access::WRITE));
            1
        };
        let other = Arc::clone(&machine);
        let thread = thread::spawn(move || replace(&other, 1));
        let replaced = replace(&machine, 0) + thread.join().unwrap();
        assert_eq!(replaced, 1);
        assert!(machine.walk().is_writable());
    });
}
