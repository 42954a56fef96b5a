//! Every memory call that Linux has, made in a guest: what it answers, and what the processor then lets
//! the program do. Natively the kernel judges the same expectations, but for what not every kernel is
//! built with.
//!
//! ```text
//!   area      the pages that all parts work on, and how they call
//!   moves     mremap in all its forms, remap_file_pages
//!   advice    madvise's every advice, process_madvise, mincore, msync
//!   guards    protections, guard regions, seals: what the processor says of an access
//!   locks     mlock and its kin
//!   process   limits, policies, personality, prctl, userfaultfd
//! ```
//!
//! Usage: calls

#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod advice;
mod area;
mod guards;
mod locks;
mod moves;
mod process;

use guest::println;
use guest::process::Args;

guest::payload!(main);

fn main(_: Args) {
    moves::all();
    advice::all();
    guards::all();
    locks::all();
    process::all();
    println!("calls: every memory call answers as Linux does");
}
