//! The one that writes: a process in the first one's memory, on a vCPU of its own.
//!
//! ```text
//!   START = n ──> the word = n ──> DONE = n ──> the word reads as n? ──> n + 1
//!                     │                              │
//!                     └──────────── faults ──────────┴──> parks until the next round
//! ```
//!
//! Stores become visible in order (Intel SDM volume 3, 10.2.2), so a number that is not in START yet has not
//! been written to the word.

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use guest::call::{number, syscall};
use guest::family::{self, CLONE_VM, SIGCHLD};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::{check, fault, must, process};

/// What both see: a page of shared memory, so that neither a fork nor anything that is done to the word
/// gets in its way.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Board {
    /// The number that is being written.
    start: AtomicU64,
    /// The last number that was written.
    done: AtomicU64,
    /// Not 0: the writer shall park.
    stop: AtomicU64,
    /// What the word read as, where that was not the number just written.
    came: AtomicU64,
    /// The round that the writer shall write in.
    round: AtomicU64,
    /// The round that it is through with.
    parked: AtomicU64,
    /// The fault that it parked after; 0 for none.
    code: AtomicU64,
    /// That fault's address.
    address: AtomicU64,
    /// Not 0: the word may read as 0 though a number was written.
    may_vanish: AtomicU64,
    /// Where the word is.
    word: AtomicU64,
    /// What a forked child found in the word.
    pub(crate) snapshot: AtomicU64,
    /// The round of it.
    pub(crate) taken: AtomicU64,
}

/// The status of a writer that lost a number.
const LOST: u8 = 9;

global_asm!(
    ".pushsection .text.race_write, \"ax\", @progbits",
    // race_write(word, board) -> 0 told to stop, 1 the word is not what was written
    // Registers alone: a stack would be another page to fault on.
    "race_write:",
    "mov rax, qword ptr [rsi + {done}]",
    "2:",
    "inc rax",
    "mov qword ptr [rsi + {start}], rax",
    "mov qword ptr [rdi], rax",
    "mov qword ptr [rsi + {done}], rax",
    "mov rcx, qword ptr [rdi]",
    "cmp rcx, rax",
    "jne 3f",
    "cmp qword ptr [rsi + {stop}], 0",
    "je 2b",
    "xor eax, eax",
    "ret",
    "3:",
    "mov qword ptr [rsi + {came}], rcx",
    "mov eax, 1",
    "ret",
    ".popsection",
    done = const offset_of!(Board, done),
    start = const offset_of!(Board, start),
    stop = const offset_of!(Board, stop),
    came = const offset_of!(Board, came),
);

unsafe extern "C" {
    fn race_write();
}

/// A fault that the writer parked after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parked {
    /// Its `si_code`; 0 where it was told to stop.
    pub(crate) code: u64,
    /// Its `si_addr`.
    pub(crate) address: u64,
}

impl Board {
    /// A page for it.
    pub(crate) fn map() -> &'static Board {
        let flags = Flags::SHARED.union(Flags::ANONYMOUS);
        let at = must!(memory::map(Place::Anywhere, PAGE, Prot::RW, flags | Flags::POPULATE));
        // SAFETY: a page of zeros that is never unmapped; all of it is atomic words.
        unsafe { &*(at as *const Board) }
    }

    /// The number that is being written: everything that was, is not above it.
    pub(crate) fn start(&self) -> u64 {
        self.start.load(Ordering::SeqCst)
    }

    /// The last number that was written.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Makes the writer write.
    pub(crate) fn release(&self, round: u64, word: u64, what: Word) {
        self.stop.store(0, Ordering::SeqCst);
        self.word.store(word, Ordering::SeqCst);
        self.may_vanish.store((what == Word::MayVanish).into(), Ordering::SeqCst);
        self.round.store(round, Ordering::SeqCst);
    }

    /// Whether all rounds are over.
    pub(crate) fn is_last(&self) -> bool {
        self.round.load(Ordering::SeqCst) == LAST
    }

    /// Makes the writer park.
    pub(crate) fn stop(&self) {
        self.stop.store(1, Ordering::SeqCst);
    }

    /// Waits until the writer has parked, which must not write a number past `limit` before.
    pub(crate) fn wait_parked(&self, round: u64, limit: u64, what: &str) -> Parked {
        let mut pause = Pause::default();
        loop {
            let parked = self.parked.load(Ordering::SeqCst) == round;
            let done = self.done();
            check!(
                done <= limit,
                "round {round}: {what}: {done} was written after the call had returned at {limit}"
            );
            if parked {
                let get = |word: &AtomicU64| word.load(Ordering::SeqCst);
                return Parked { code: get(&self.code), address: get(&self.address) };
            }
            pause.wait();
        }
    }

    fn park(&self, round: u64, why: Parked) {
        self.code.store(why.code, Ordering::SeqCst);
        self.address.store(why.address, Ordering::SeqCst);
        self.parked.store(round, Ordering::SeqCst);
    }
}

/// Waits for the other one: awake first, then asleep, so that it gets a processor where there are too few.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    turns: u32,
}

impl Pause {
    pub(crate) fn wait(&mut self) {
        self.turns += 1;
        if self.turns < 2_000 {
            core::hint::spin_loop();
            return;
        }
        let nanoseconds: [u64; 2] = [0, 50_000];
        // SAFETY: the call reads two words.
        let _ = unsafe { syscall(number::NANOSLEEP, [&raw const nanoseconds as u64, 0]) };
    }
}

/// What the writer may find where it has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// The number, always.
    Stays,
    /// The number, or 0 where the page is replaced.
    MayVanish,
}

/// The round after which the writer ends.
pub(crate) const LAST: u64 = u64::MAX;

/// Begins the writer; its number.
pub(crate) fn begin(board: &'static Board) -> u64 {
    const STACK: u64 = 16 * PAGE;
    let top = must!(memory::map(Place::Anywhere, STACK, Prot::RW, Flags::OWN)) + STACK;
    let argument = core::ptr::from_ref(board) as u64;
    // SAFETY: the stack is the writer's alone, and it uses nothing but it, the board, and what attempts
    // use, which nobody else makes.
    must!(unsafe { family::clone(CLONE_VM | SIGCHLD, top, write, argument) })
}

extern "C" fn write(board: u64) -> ! {
    // SAFETY: the board's address, as `begin` passes it.
    let board = unsafe { &*(board as *const Board) };
    let mut seen = 0;
    let mut pause = Pause::default();
    loop {
        let round = board.round.load(Ordering::SeqCst);
        if round == LAST {
            process::exit(0);
        }
        if round == seen {
            pause.wait();
            continue;
        }
        seen = round;
        pause = Pause::default();
        let why = write_until_parked(board);
        board.park(round, why);
    }
}

fn write_until_parked(board: &Board) -> Parked {
    let word = board.word.load(Ordering::SeqCst);
    loop {
        let code = race_write as *const () as u64;
        // SAFETY: it writes to the word, which is no page of Rust's, and to the board's atomics.
        match unsafe { fault::attempt(code, word, core::ptr::from_ref(board) as u64) } {
            Ok(0) => return Parked { code: 0, address: 0 },
            Ok(_) => {
                let came = board.came.load(Ordering::SeqCst);
                if came != 0 || board.may_vanish.load(Ordering::SeqCst) == 0 {
                    let (round, done) = (board.round.load(Ordering::SeqCst), board.done());
                    guest::eprintln!("race: round {round}: {done} was written, {came} came back");
                    process::exit(LOST);
                }
            }
            Err(caught) => return Parked { code: caught.code, address: caught.address },
        }
    }
}
