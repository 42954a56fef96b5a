//! To come.

#![no_std]
#![no_main]

use guest::process::Args;

guest::payload!(main);

fn main(_: Args) {}
