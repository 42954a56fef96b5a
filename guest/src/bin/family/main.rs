//! Processes that make processes.
//!
//! Usage: family tree COUNT PAGES | calls | shared | storm ROUNDS SEED | until-refused | outlive | endless
//!
//! `tree` has COUNT processes below the first, each of which writes a tenth of PAGES pages and finds its own
//! and its ancestors' bytes in them, and nobody else's. `outlive` ends before its children do, `endless` does
//! not end by itself, nor do its children.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod calls;
mod endings;
mod shared;
mod tree;

use guest::family::{self, End, Forked};
use guest::process::{self, Args};
use guest::{check_eq, eprintln, must, println};

guest::payload!(main);

fn main(args: Args) {
    let number = |index, default| args.number(index).unwrap_or(default);
    match args.get(1) {
        Some("tree") => tree::grow(number(2, 20), number(3, 160)),
        Some("calls") => calls::all(),
        Some("shared") => shared::all(),
        Some("storm") => endings::storm(number(2, 10), number(3, 1)),
        Some("until-refused") => endings::until_refused(),
        Some("outlive") => endings::outlive(),
        Some("endless") => endings::endless(),
        _ => {
            eprintln!(
                "usage: family tree COUNT PAGES | calls | shared | storm ROUNDS SEED | \
                 until-refused | outlive | endless"
            );
            process::exit(2);
        }
    }
    println!("family: done");
}

/// A child that does `what` and exits with its result.
fn child(what: impl FnOnce() -> u8) -> u64 {
    match must!(family::fork()) {
        Forked::Child => process::exit(what()),
        Forked::Parent(pid) => pid,
    }
}

/// A number as wait4(2) and kill(2) take it.
fn signed(pid: u64) -> i64 {
    pid.cast_signed()
}

/// Waits for one child, which must end so.
fn expect(pid: u64, end: End, what: &str) {
    check_eq!(family::wait(signed(pid), 0), Ok((pid, end)), "{what}");
}
