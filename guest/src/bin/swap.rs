//! More live data than there is memory, and processes forked over it.
//!
//! Usage: swap \[MEBIBYTES\] (64) \[PROCESSES\] (4) \[shared\]. All pages are written, so that each tells which it is and whose.
//! Each process looks at all of them, writes every fourth one for itself and looks again, both at once with the
//! others; in the end the first one finds all as they were. What was found is summed up, in the order of the pages.
//! With `shared` the memory is everybody's: in the end the first one finds what each, of at most four, has written.

#![no_std]
#![no_main]
#![deny(unsafe_code)]

use guest::family::{self, End, Forked};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::process::{self, Args};
use guest::random::Random;
use guest::{check_eq, must, println};

guest::payload!(main);

/// Which words of a page are looked at: both ends, and one in the middle.
const WORDS: [u64; 3] = [0, 2048, PAGE - 8];
/// Whose pages those are that the first process has written.
const FIRST: u64 = 0;

fn main(args: Args) {
    let pages = args.number(1).unwrap_or(64) << 8;
    let processes = args.number(2).unwrap_or(4);
    let shared = args.get(3) == Some("shared");
    let kind = if shared { Flags::SHARED | Flags::ANONYMOUS } else { Flags::OWN };
    let area = must!(memory::map(Place::Anywhere, pages * PAGE, Prot::RW, kind | Flags::NORESERVE));
    let data = Data { area, pages };
    for page in 0..pages {
        data.write(page, FIRST);
    }
    let sum = data.check(FIRST, 0);
    for number in 1..=processes {
        if let Forked::Child = must!(family::fork()) {
            if !shared {
                check_eq!(data.check(FIRST, number), sum, "what process {number} has found");
            }
            let own = || (0..pages).filter(|page| page % 4 == number % 4);
            own().for_each(|page| data.write(page, number));
            if shared {
                own().for_each(|page| data.check_page(page, number));
            } else {
                data.check(number, number);
            }
            process::exit(0);
        }
    }
    for _ in 0..processes {
        check_eq!(must!(family::wait(-1, 0)).1, End::Exited(0), "a process");
    }
    if shared {
        for page in 0..pages {
            let writer = (1..=processes).find(|number| number % 4 == page % 4);
            data.check_page(page, writer.unwrap_or(FIRST));
        }
    } else {
        check_eq!(data.check(FIRST, 0), sum, "what the first has found in the end");
    }
    println!("{processes} processes over {} MiB: {sum:016x}", pages >> 8);
}

/// All of it.
struct Data {
    area: u64,
    pages: u64,
}

impl Data {
    /// What a word of a page is, as its owner has written it.
    fn word(page: u64, at: u64, owner: u64) -> u64 {
        Random::new(page << 24 | at << 8 | owner).bits()
    }

    fn write(&self, page: u64, owner: u64) {
        for at in WORDS {
            memory::store(self.area + page * PAGE + at, Self::word(page, at, owner));
        }
    }

    /// Looks at a page that `owner` has written last.
    fn check_page(&self, page: u64, owner: u64) {
        for at in WORDS {
            let found = memory::load(self.area + page * PAGE + at);
            check_eq!(found, Self::word(page, at, owner), "page {page}, of process {owner}");
        }
    }

    /// Looks at all pages, from another one on for each process. Every fourth one is `owner`'s own, the others are
    /// the first process's. The sum of them all.
    fn check(&self, owner: u64, process: u64) -> u64 {
        let first = self.pages / 5 * process;
        let mut sum = 0_u64;
        for page in (first..self.pages).chain(0..first.min(self.pages)) {
            let whose = if page % 4 == owner % 4 { owner } else { FIRST };
            for at in WORDS {
                let found = memory::load(self.area + page * PAGE + at);
                check_eq!(found, Self::word(page, at, whose), "page {page} of process {process}");
                sum = sum.wrapping_add(found.rotate_left((page % 64) as u32));
            }
        }
        sum
    }
}
