//! Keeps a ledger in memory that somebody else provides: writes each page in each round, and reads what the round
//! before has written. What is lost on the way, or comes back too late, is found.
//!
//! Usage: ledger ADDRESS PAGES ROUNDS. Waits until something is mapped at the address.

#![no_std]
#![no_main]

use guest::call::{number, syscall};
use guest::memory::{self, PAGE};
use guest::process::Args;
use guest::{check, must, println};

guest::payload!(main);

/// How long it sleeps between two looks at whether there is memory, in nanoseconds.
const NAP: u64 = 1_000_000;
/// A prime, so that pages are visited in an order that is no page's neighbour's.
const STRIDE: u64 = 1_009;

fn main(args: Args) {
    let number = |index| args.number(index).unwrap_or_else(|| check::fail(format_args!("usage")));
    let (start, pages, rounds) = (number(1), number(2), number(3));
    // SAFETY: msync without flags does nothing but look.
    while unsafe { syscall(number::MSYNC, [start, PAGE, 0]) }.is_err() {
        let nap = [0, NAP];
        // SAFETY: the call reads the two words.
        must!(unsafe { syscall(number::NANOSLEEP, [nap.as_ptr() as u64, 0]) });
    }
    for round in 1..=rounds {
        for step in 0..pages {
            let page = step * STRIDE % pages;
            let at = start + page * PAGE;
            // The first word says the round, one of the others what the page was given in it.
            let before = round - 1;
            let (found, entry) = (memory::load(at), memory::load(at + 8 * place(before)));
            if before > 0 && (found, entry) != (before, page * before) {
                check::fail(format_args!(
                    "page {page} says {entry} of round {found}, not {} of {before}",
                    page * before
                ));
            }
            memory::store(at, round);
            memory::store(at + 8 * place(round), page * round);
        }
    }
    println!("{pages} pages, {rounds} rounds: all is there");
}

/// Which word of a page is written in a round.
fn place(round: u64) -> u64 {
    1 + round % 511
}
