//! Two vCPUs in one address space: one writes to a page all the time, while the other unmaps, protects, moves,
//! forks, drops and replaces that page, and frees the tables above it.
//!
//! Usage: race ROUNDS SEED [private|shared] [moves]
//!
//! After such a call has returned, nothing may be written by the old permission; nothing that was written
//! before may be lost, where the call keeps it; and nothing may be written to another page.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod changes;
mod writer;

use guest::memory::Flags;
use guest::process::{self, Args};
use guest::{eprintln, println};

guest::payload!(main);

fn main(args: Args) {
    let number = |index, default| args.number(index).unwrap_or(default);
    let flags = match args.get(3) {
        None | Some("private") => Flags::OWN,
        Some("shared") => Flags::SHARED | Flags::ANONYMOUS,
        Some(_) => {
            eprintln!("usage: race ROUNDS SEED [private|shared] [moves]");
            process::exit(2);
        }
    };
    // With `moves` it goes from NUMA node to NUMA node, and nothing else is done to it.
    let race = if args.get(4) == Some("moves") { changes::moves } else { changes::all };
    let numbers = race(number(1, 200), number(2, 1), flags);
    println!("race: done");
    eprintln!("race: {numbers} numbers were written");
}
