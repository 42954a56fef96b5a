//! Ends in the way it is told: with a status, by a signal, or never.
//!
//! Usage: exit STATUS | exit null | exit zero | exit trap | exit panic | exit spin

#![no_std]
#![no_main]
#![deny(unsafe_code)]

use guest::memory;
use guest::process::{self, Args};
use guest::{check, eprintln};

guest::payload!(main);

fn main(args: Args) {
    if let Some(status) = args.number(1) {
        let Ok(status) = u8::try_from(status) else {
            check::fail(format_args!("a status is from 0 to 255, not {status}"));
        };
        process::exit(status);
    }
    match args.get(1) {
        // Reads where nothing is mapped.
        Some("null") => {
            let _ = memory::load(0);
        }
        // Jumps to address 0.
        Some("zero") => process::jump(0),
        Some("trap") => process::trap(),
        Some("panic") => panic!("as told"),
        Some("spin") => loop {
            core::hint::spin_loop();
        },
        _ => {
            eprintln!("usage: exit STATUS | null | zero | trap | panic | spin");
            process::exit(2);
        }
    }
}
