//! The reverse map asked while memory is moved, forked, written and unmapped: real threads on a whole
//! machine. What `locks` shows of the locks in every order, on few steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

/// How often each change is made: the windows are of some ten nanoseconds.
const ROUNDS: u64 = if cfg!(miri) { 3 } else { 1000 };

/// Asks for a frame until `done`, as fast as can be; says how often, and the least entries found.
fn ask(m: &SoftwareMachine, frame: Frame, done: &AtomicBool) -> (u64, usize) {
    let system = Arc::clone(m.space.look().system());
    let (mut asked, mut least) = (0, usize::MAX);
    while !done.load(Ordering::Relaxed) {
        let mut found = Vec::new();
        let all = system.anon().entries_of(&m.frames, frame, |entry| {
            found.push((entry.space, entry.addr));
            ControlFlow::<()>::Continue(())
        });
        assert!(all.is_continue());
        let count = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), count, "an entry was found twice");
        (asked, least) = (asked + 1, least.min(count));
    }
    (asked, least)
}

/// Runs `change` many times while a page of the first process, page 0 at first, is asked for.
fn while_asked(rounds: u64, change: impl Fn(&SoftwareMachine, u64)) {
    let m = machine();
    map(&m, 0, 4, RW);
    m.store(page(0), 1).unwrap();
    let frame = frame_at(&m, 0);
    m.frames.get(frame);
    let done = AtomicBool::new(false);
    let (asked, least) = thread::scope(|scope| {
        let asker = scope.spawn(|| ask(&m, frame, &done));
        for round in 0..rounds {
            change(&m, round);
        }
        done.store(true, Ordering::Relaxed);
        asker.join().unwrap()
    });
    assert!(asked == 0 || least >= 1, "the page was not found, though it was there all the time");
    m.frames.put(frame).unwrap();
    audit(&[&m]).unwrap();
    m.space.exit().unwrap();
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn a_page_that_moves_to_and_fro_is_always_found() {
    while_asked(10 * ROUNDS, |m, round| {
        let (from, to) = if round.is_multiple_of(2) { (0, 600) } else { (600, 0) };
        remap(m, from, 4, to, MAYMOVE_FIXED);
    });
}

#[test]
fn a_page_is_found_while_children_come_and_go() {
    while_asked(ROUNDS, |m, round| {
        let child = fork(m);
        // They write a page beside it, and every second one the page itself.
        child.store(page(round % 2), 2).unwrap();
        child.space.exit().unwrap();
    });
}

#[test]
fn a_page_is_found_while_what_is_around_it_is_cut_unmapped_and_written_again() {
    while_asked(ROUNDS, |m, round| {
        m.space.change().munmap(page(1 + round % 3), PAGE_SIZE).unwrap();
        map(m, 1, 3, RW);
        m.store(page(1 + round % 3), 3).unwrap();
    });
}
