//! What memory costs, measured by the program that uses it: the same natively and in a guest.
//!
//! Usage: pages \[MEBIBYTES\] (256) \[huge | swap | swap-shared\]. Each line is a name and nanoseconds, by the clock and of
//! the processor; with `huge` in huge pages, with `swap` others, of shared memory with `swap-shared`:
//!
//! ```text
//!   touch   a write to each page of fresh memory      again   the same once more
//!   fork    the call, with all of it resident         copy    a write to each page while a child holds it
//!   read    a read of each page after another fork    reap    fork, exit of the child, wait
//!   unmap   munmap of all of it
//!
//!   out     MADV_PAGEOUT of all of it                 in      a read of each page
//! ```

#![no_std]
#![no_main]

use guest::call::{number, syscall};
use guest::family::{self, Forked};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::process::{self, Args};
use guest::{must, println};

guest::payload!(main);

/// `CLOCK_MONOTONIC`.
const MONOTONIC: u64 = 1;
/// `CLOCK_THREAD_CPUTIME_ID`.
const PROCESSOR: u64 = 3;
/// `MADV_HUGEPAGE`.
const HUGE_PAGES: u64 = 14;
/// `MADV_NOHUGEPAGE`: pages of 4 KiB, natively too.
const NO_HUGE_PAGES: u64 = 15;
/// `MADV_PAGEOUT`.
const PAGE_OUT: u64 = 21;
/// How long a child sleeps between two looks at whether it may go, in nanoseconds.
const NAP: u64 = 1_000_000;

fn main(args: Args) {
    let mebibytes = args.number(1).unwrap_or(256);
    let len = mebibytes << 20;
    let mode = args.get(2);
    let shared = Flags::SHARED | Flags::ANONYMOUS;
    let kind = if mode == Some("swap-shared") { shared } else { Flags::OWN };
    let area = must!(memory::map(Place::Anywhere, len, Prot::RW, kind));
    // SAFETY: advice without an effect on what memory holds.
    let advise = |advice| must!(unsafe { syscall(number::MADVISE, [area, len, advice]) });
    advise(if mode == Some("huge") { HUGE_PAGES } else { NO_HUGE_PAGES });
    let gate = must!(memory::map(Place::Anywhere, PAGE, Prot::RW, shared));
    let all = || (area..area + len).step_by(4096);
    let write = |value: u64| all().for_each(|page| memory::store(page, value));

    if matches!(mode, Some("swap" | "swap-shared")) {
        write(1);
        measure("out", || advise(PAGE_OUT));
        measure("in", || all().for_each(|page| _ = memory::load(page)));
        return;
    }
    measure("touch", || write(1));
    measure("again", || write(2));
    measure("fork", || held_child(gate));
    measure("copy", || write(3));
    release(gate);
    held_child(gate);
    measure("read", || all().for_each(|page| _ = memory::load(page)));
    release(gate);
    measure("reap", || match must!(family::fork()) {
        Forked::Child => process::exit(0),
        Forked::Parent(_) => must!(family::wait(-1, 0)),
    });
    measure("unmap", || must!(memory::unmap(area, len)));
}

/// A child that holds a copy of all memory until it is released.
fn held_child(gate: u64) {
    memory::store(gate, 0);
    if let Forked::Child = must!(family::fork()) {
        while memory::load(gate) == 0 {
            let nap = [0, NAP];
            // SAFETY: the call reads the two words.
            must!(unsafe { syscall(number::NANOSLEEP, [nap.as_ptr() as u64, 0]) });
        }
        process::exit(0);
    }
}

fn release(gate: u64) {
    memory::store(gate, 1);
    must!(family::wait(-1, 0));
}

fn measure<T>(name: &str, what: impl FnOnce() -> T) -> T {
    let before = [MONOTONIC, PROCESSOR].map(now);
    let result = what();
    let after = [MONOTONIC, PROCESSOR].map(now);
    println!("{name} {} {}", after[0] - before[0], after[1] - before[1]);
    result
}

fn now(clock: u64) -> u64 {
    let mut time = [0_u64; 2];
    // SAFETY: the call writes the two words.
    must!(unsafe { syscall(number::CLOCK_GETTIME, [clock, time.as_mut_ptr() as u64]) });
    time[0] * 1_000_000_000 + time[1]
}
