//! A file that two processes of a guest and a process of the host write at once, while the latter cuts it short and
//! makes it longer again.
//!
//! Usage: cuts host ROUNDS SEED FILE PROGRAM ARGUMENT...   the host's process; makes the file, and runs the others
//!        cuts guest SEED                                  both of them; the file is descriptor 3
//!
//! PROGRAM is mmvisor, with the file and this program for arguments, or this program itself.
//!
//! ```text
//!   a round   writer 0, 1   write words of their own through maps, and read them ──┐  ┌─ touch some ─┐  ┌─ compare
//!             the host      writes its own, cuts, extends, and notes each act      └──┴─ cut, held ──┴──┴─ whole
//! ```
//!
//! A word that was written before a cut that reaches it ended is gone; one written after it is there; one written
//! meanwhile is either. A touch ends in SIGBUS if the file was short of its page all the while, in nothing if it never
//! was. The host's own words, written and cut by one, are exactly as they should be; all three find the same bytes.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod board;
mod host;
mod writer;

use guest::eprintln;
use guest::process::{self, Args};

guest::payload!(main);

fn main(args: Args) {
    let number = |index| args.number(index).unwrap_or(1);
    match (args.get(1), args.get(4), args.get(5)) {
        (Some("host"), Some(_), Some(_)) => host::run(&args, number(2), number(3)),
        (Some("guest"), None, _) => writer::run(number(2)),
        _ => {
            eprintln!(
                "usage: cuts host ROUNDS SEED FILE PROGRAM ARGUMENT... | cuts guest SEED 3<>FILE"
            );
            process::exit(2)
        }
    }
}
