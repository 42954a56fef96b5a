//! A program that begins alike in every run and on every host, as far as its memory goes.

#![allow(unsafe_code)]

use crate::call::{number, syscall};
use crate::memory::{self, PAGE};
use crate::must;
use crate::process::Args;

const ADDR_NO_RANDOMIZE: u64 = 0x004_0000;
/// Asks personality(2), and changes nothing.
const ASK: u64 = 0xffff_ffff;
const RLIMIT_DATA: u64 = 2;
const RLIMIT_STACK: u64 = 3;
const RLIMIT_CORE: u64 = 4;
const RLIMIT_AS: u64 = 9;
const MADV_DONTDUMP: u64 = 16;
/// The stack's limit, on which depends where memory is placed.
const STACK: u64 = 8 << 20;

/// Executes the program again, unless it was begun without address randomization, with an empty environment and the
/// stack's limit at its default. The other limits that decide about memory get theirs; `RLIMIT_MEMLOCK` stays.
pub fn begin(args: &Args) {
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_DATA, u64::MAX);
    limit(RLIMIT_AS, u64::MAX);
    // SAFETY: asks.
    let persona = must!(unsafe { syscall(number::PERSONALITY, [ASK]) });
    let begun = limit(RLIMIT_STACK, STACK) == STACK && args.environment().next().is_none();
    if begun && persona & ADDR_NO_RANDOMIZE != 0 {
        return;
    }
    // SAFETY: takes effect with the next program.
    must!(unsafe { syscall(number::PERSONALITY, [ADDR_NO_RANDOMIZE]) });
    crate::check::fail(format_args!("cannot be executed again: {}", args.again()))
}

/// Sets a soft limit, as far as the hard one allows, and says what it was (in terms of what it can be).
fn limit(resource: u64, value: u64) -> u64 {
    let mut limits = [0_u64; 2];
    let args = [0, resource, 0, &raw mut limits as u64];
    // SAFETY: the call writes the two words.
    must!(unsafe { syscall(number::PRLIMIT64, args) });
    let [before, most] = limits;
    limits[0] = value.min(most);
    let args = [0, resource, &raw const limits as u64, 0];
    // SAFETY: the call reads the two words.
    must!(unsafe { syscall(number::PRLIMIT64, args) });
    if before == limits[0] { value } else { before }
}

/// Makes the image's end unlike a heap, so that brk's VMA is always one of its own.
pub fn set_heap_apart() {
    let args = [memory::last_image_page(), PAGE, MADV_DONTDUMP];
    // SAFETY: changes what a core dump has.
    must!(unsafe { syscall(number::MADVISE, args) });
}

/// Makes memory that may only be executed readable, as it is on a processor without protection keys: where there
/// are keys Linux takes one for it, unless all are taken.
pub fn take_protection_keys() {
    // SAFETY: no memory has the key.
    while unsafe { syscall(number::PKEY_ALLOC, [0, 0]) }.is_ok() {}
}
