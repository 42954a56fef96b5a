//! Ends in the way it is told: with a status, by a signal, or never.
//!
//! Usage: exit STATUS | null | zero | trap | panic | spin | faults
//!
//! The last two never end by themselves, and print a line when they have begun.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

use guest::process::{self, Args};
use guest::{check, eprintln, fault, memory, println};

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
        Some("spin") => {
            println!("exit: spinning");
            loop {
                core::hint::spin_loop();
            }
        }
        // Faults and survives it, for ever.
        Some("faults") => {
            println!("exit: faulting");
            loop {
                check!(fault::load(0).is_err(), "there is something at address 0");
            }
        }
        _ => {
            eprintln!("usage: exit STATUS | null | zero | trap | panic | spin | faults");
            process::exit(2);
        }
    }
}
