//! Two vCPUs in one address space: one writes to a page all the time, while the other unmaps, protects, moves,
//! forks, drops and replaces that page, and frees the tables above it.
//!
//! Usage: race ROUNDS SEED [private|shared|memfd] [WHAT]
//!
//! ```text
//!   WHAT       what else is done to the page
//!   moves      it goes from NUMA node to NUMA node, and nothing else
//!   split      it is in a huge page, which is taken apart by it or beside it   (private alone)
//!   collapse   small pages are made a huge one with it                         (private alone)
//!   pageout    it is put out of memory, often as it is changed
//!   pressure   the same, and another process uses more memory than there is
//! ```
//!
//! After such a call has returned, nothing may be written by the old permission; nothing that was written
//! before may be lost, where the call keeps it; and nothing may be written to another page.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod changes;
mod huge;
mod pages;
mod reclaim;
mod writer;

use guest::process::{self, Args};
use guest::{eprintln, println};

use changes::{Around, CHANGES, Change, MOVES, TABLES_GO};
use huge::{COLLAPSES, SPLITS};
use pages::Kind;
use reclaim::RECLAIMS;

guest::payload!(main);

fn main(args: Args) {
    let number = |index, default| args.number(index).unwrap_or(default);
    let kind = match args.get(3) {
        None | Some("private") => Kind::Private,
        Some("shared") => Kind::Shared,
        Some("memfd") => Kind::Memfd,
        Some(_) => usage(),
    };
    let (around, changes): (_, &[&[Change]]) = match (args.get(4), kind) {
        (None, _) => (Around::Nothing, &[&CHANGES, &TABLES_GO]),
        (Some("moves"), _) => (Around::Nothing, &[&MOVES]),
        (Some("split"), Kind::Private) => (Around::HugePage, &[&SPLITS, &CHANGES]),
        (Some("collapse"), Kind::Private) => (Around::HugePage, &[&COLLAPSES]),
        (Some("pageout"), _) => (Around::Reclaim, &[&RECLAIMS, &CHANGES]),
        (Some("pressure"), _) => (Around::Pressure, &[&RECLAIMS, &CHANGES]),
        _ => usage(),
    };
    let numbers = changes::race(number(1, 200), number(2, 1), kind, around, changes);
    println!("race: done");
    eprintln!("race: {numbers} numbers were written");
}

fn usage() -> ! {
    eprintln!(
        "usage: race ROUNDS SEED [private|shared|memfd] [moves|split|collapse|pageout|pressure]"
    );
    process::exit(2)
}
