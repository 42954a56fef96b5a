//! The least payload: says hello, and repeats its arguments and its environment.
//!
//! Usage: hello \[WORDS...\]

#![no_std]
#![no_main]
#![deny(unsafe_code)]

use guest::print;
use guest::println;
use guest::process::{self, Args};

guest::payload!(main);

fn main(args: Args) {
    print!("hello from ring {}", process::ring());
    for word in args.iter() {
        print!(" {word}");
    }
    println!();
}
