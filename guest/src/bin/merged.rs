//! Processes most of whose memory is equal, for who measures what merging it saves.
//!
//! Usage: merged \[PROCESSES\] (100) \[PAGES\] (256) \[OWN\] (32). Each process has PAGES pages, all different, and the same as the
//! others' but for OWN of them. `written` is printed when all are there; when a line has been read they are advised to be
//! mergeable, and `advised` is printed; when another has been read, each process looks at all bytes, and they end.

#![no_std]
#![no_main]

use guest::call::{number, syscall};
use guest::family::{self, End, Forked};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::process::{self, Args};
use guest::random::Random;
use guest::{check, check_eq, must, println};

guest::payload!(main);

/// `MADV_MERGEABLE`.
const MERGEABLE: u64 = 12;

/// What is to be done, and how many processes have done the step before.
struct Gate(u64);

impl Gate {
    fn step(&self) -> u64 {
        memory::load(self.0)
    }

    fn wait_for(&self, step: u64) {
        while self.step() < step {
            nap();
        }
    }
}

fn main(args: Args) {
    let number = |index, default| args.number(index).unwrap_or(default);
    let (processes, pages, own) = (number(1, 100), number(2, 256), number(3, 32));
    let board = PAGE * (1 + processes / 512);
    let shared = Flags::SHARED | Flags::ANONYMOUS;
    let gate = Gate(must!(memory::map(Place::Anywhere, board, Prot::RW, shared)));
    // Where each process says which step it has done.
    let done = |process| gate.0 + 8 * process;
    for process in 1..=processes {
        if let Forked::Child = must!(family::fork()) {
            play(&gate, done(process), process, pages, own);
        }
    }
    for (step, what) in [(1, "written"), (2, "advised")] {
        for process in 1..=processes {
            while memory::load(done(process)) < step {
                nap();
            }
        }
        println!("{what}");
        read_line();
        memory::store(gate.0, step);
    }
    for _ in 0..processes {
        check_eq!(must!(family::wait(-1, 0)).1, End::Exited(0), "a process");
    }
}

fn play(gate: &Gate, done: u64, process: u64, pages: u64, own: u64) -> ! {
    let area = must!(memory::map(Place::Anywhere, pages * PAGE, Prot::RW, Flags::OWN));
    let words = |page: u64| {
        let whose = if page < own { process } else { 0 };
        let mut random = Random::new(whose << 32 | page);
        (0..PAGE / 8).map(move |word| (area + page * PAGE + word * 8, random.bits()))
    };
    for (at, word) in (0..pages).flat_map(words) {
        memory::store(at, word);
    }
    memory::store(done, 1);
    gate.wait_for(1);
    // SAFETY: the advice changes no byte.
    must!(unsafe { syscall(number::MADVISE, [area, pages * PAGE, MERGEABLE]) });
    memory::store(done, 2);
    gate.wait_for(2);
    for (at, word) in (0..pages).flat_map(words) {
        check!(memory::load(at) == word, "process {process}: other bytes at {at:#x}");
    }
    process::exit(0)
}

fn read_line() {
    let mut byte = 0_u64;
    while byte & 0xff != u64::from(b'\n') {
        // SAFETY: the call writes one byte of the word.
        let read = unsafe { syscall(number::READ, [0, &raw mut byte as u64, 1]) };
        check_eq!(read, Ok(1), "a line of standard input");
    }
}

fn nap() {
    let time: [u64; 2] = [0, 10_000_000];
    // SAFETY: the call reads two words.
    let _ = unsafe { syscall(number::NANOSLEEP, [time.as_ptr() as u64, 0]) };
}
