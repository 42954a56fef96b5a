//! What reading a file through a map of it costs, measured by the program that does so: the same natively and
//! in a guest. The file is descriptor 3.
//!
//! Usage: mapped MEBIBYTES 3<FILE. Each line is a name and nanoseconds, by the clock and of the processor:
//!
//! ```text
//!   order    all bytes, page after page, through a map never used     again    the same map once more
//!   random   all bytes, pages in a random order, a map never used     touch    a word of each page, in order,
//!                                                                              a map never used
//! ```

#![no_std]
#![no_main]

use guest::call::{number, syscall};
use guest::memory::{self, PAGE, Prot};
use guest::process::Args;
use guest::{must, println};

guest::payload!(main);

/// The file.
const FILE: u64 = 3;
/// `MAP_SHARED`.
const SHARED: u64 = 1;
/// `CLOCK_MONOTONIC`.
const MONOTONIC: u64 = 1;
/// `CLOCK_THREAD_CPUTIME_ID`.
const PROCESSOR: u64 = 3;

fn main(args: Args) {
    let len = args.number(1).unwrap_or(16) << 20;
    let pages = len / PAGE;
    let whole = |page: u64| (page..page + PAGE).step_by(8).for_each(|word| _ = memory::load(word));

    let area = map(len);
    measure("order", || (0..pages).for_each(|page| whole(area + page * PAGE)));
    measure("again", || (0..pages).for_each(|page| whole(area + page * PAGE)));
    must!(memory::unmap(area, len));

    let area = map(len);
    measure("random", || shuffled(pages).for_each(|page| whole(area + page * PAGE)));
    must!(memory::unmap(area, len));

    let area = map(len);
    measure("touch", || (0..pages).for_each(|page| _ = memory::load(area + page * PAGE)));
    must!(memory::unmap(area, len));
}

fn map(len: u64) -> u64 {
    // SAFETY: a new map, where there was nothing.
    must!(unsafe { syscall(number::MMAP, [0, len, Prot::READ.bits(), SHARED, FILE, 0]) })
}

/// Each number below `count` once, in no order that anybody could foresee: a linear congruential sequence of
/// full period (Knuth volume 2, 3.2.1.2, theorem A), its numbers past the end left out.
fn shuffled(count: u64) -> impl Iterator<Item = u64> {
    let span = count.next_power_of_two();
    let mut state = 0_u64;
    (0..span)
        .map(move |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state %= span;
            // The low bits alternate: mixed without losing any.
            let half = span.trailing_zeros() / 2;
            state ^ (state >> half)
        })
        .filter(move |&page| page < count)
}

fn measure(name: &str, what: impl FnOnce()) {
    let before = [MONOTONIC, PROCESSOR].map(now);
    what();
    let after = [MONOTONIC, PROCESSOR].map(now);
    println!("{name} {} {}", after[0] - before[0], after[1] - before[1]);
}

fn now(clock: u64) -> u64 {
    let mut time = [0_u64; 2];
    // SAFETY: the call writes the two words.
    must!(unsafe { syscall(number::CLOCK_GETTIME, [clock, time.as_mut_ptr() as u64]) });
    time[0] * 1_000_000_000 + time[1]
}
