//! The one on the host, which writes and cuts.

#![allow(unsafe_code)]

use guest::call::{number, syscall};
use guest::family::{self, End, Forked};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::process::{self, Args};
use guest::random::Random;
use guest::{check, check_eq, eprintln, must, println};

use crate::board::{
    ACTS, Board, FILE, FIRST, FULL, HOST, LAST, PAGES, SLOTS, Say, WORDS, index_of, is_anybodys,
    look_after_children, offset_of, places, read_all, sleep, sum_of,
};

struct Host {
    board: Board,
    random: Random,
    round: u64,
    /// The act that is done next, and how long the file is.
    act: u64,
    length: u64,
    /// Its words as they must be.
    words: [u64; WORDS],
    buffer: u64,
}

/// Makes the file, runs the program of the arguments from number 5 on, and goes through the rounds with it.
pub(crate) fn run(args: &Args, rounds: u64, seed: u64) {
    open(args.get(4).unwrap_or_default());
    cut(FULL);
    let pid = match must!(family::fork()) {
        Forked::Child => {
            let error = args.execute(5);
            eprintln!("cuts: {}: {error:?}", args.get(5).unwrap_or_default());
            process::exit(2)
        }
        Forked::Parent(pid) => pid,
    };
    let buffer = must!(memory::map(Place::Anywhere, PAGES * PAGE, Prot::RW, Flags::OWN));
    let (random, words) = (Random::new(!seed), [0; WORDS]);
    let board = Board::map();
    let mut host = Host { board, random, round: 0, act: 0, length: FULL, words, buffer };
    for round in 1..=rounds {
        host.round = round;
        host.play();
    }
    board.say(Say::Round, 0, LAST);
    check_eq!(family::wait(pid.cast_signed(), 0), Ok((pid, End::Exited(0))), "the writers");
    let of_both = |what| board.hear(what, 0) + board.hear(what, 1);
    let (buses, gone, kept) = (of_both(Say::Buses), of_both(Say::Gone), of_both(Say::Kept));
    check!(buses > 0 && gone > 0 && kept > 0, "{buses} {gone} {kept}: nothing was tried");
    println!("cuts: {rounds} rounds");
    eprintln!("cuts: {buses} times SIGBUS; {gone} words were gone at a round's end, {kept} there");
}

impl Host {
    fn play(&mut self) {
        let (board, round) = (self.board, self.round);
        let is_done = |who| board.hear(Say::Done, who) == round;
        board.note_length(0, self.length);
        board.say(Say::Epoch, 0, 2);
        self.act = 1;
        board.say(Say::Round, 0, round);
        let mut turns = 0_u64;
        while !(is_done(0) && is_done(1)) {
            turns += 1;
            look_after_children(turns);
            self.do_something();
        }
        let held = FIRST + self.some(FULL - FIRST);
        self.set_length(held);
        board.say(Say::Held, 0, round);
        for who in [0, 1] {
            board.wait(Say::Seen, who, |seen| seen == round);
        }
        self.set_length(FULL);
        board.say(Say::Quiet, 0, round);
        let sums = [0, 1].map(|who| {
            board.wait(Say::Checked, who, |checked| checked == round);
            board.hear(Say::Sum, who)
        });
        self.compare(sums);
    }

    fn do_something(&mut self) {
        // Two acts are left, to hold it and to make it whole.
        let may_act = self.act < ACTS - 2;
        match self.random.below(10) {
            0..3 if may_act => {
                let to = FIRST + self.some(self.length - FIRST);
                self.set_length(to);
            }
            3..5 if may_act => self.set_length(FULL),
            5 if may_act => {
                let to = self.length + self.some(FULL - self.length);
                self.set_length(to);
            }
            6 => sleep(self.random.below(200_000)),
            _ => self.write(),
        }
        for _ in 0..self.random.below(2_000) {
            core::hint::spin_loop();
        }
    }

    /// At most so many bytes: whole pages mostly, and always whole words.
    fn some(&mut self, most: u64) -> u64 {
        let grain = if self.random.chance(60) { PAGE } else { 8 };
        self.random.below(most + 1) / grain * grain
    }

    fn set_length(&mut self, to: u64) {
        self.board.note_length(self.act, to);
        self.board.say(Say::Epoch, 0, 2 * self.act + 1);
        cut(to);
        self.board.say(Say::Epoch, 0, 2 * self.act + 2);
        self.act += 1;
        self.length = to;
        for (word, (page, slot)) in self.words.iter_mut().zip(places()) {
            if offset_of(HOST, page, slot) >= to {
                *word = 0;
            }
        }
    }

    /// Writes a word of its own, if it is within the file: as memory, or as a file.
    fn write(&mut self) {
        let (page, slot) = (self.random.below(PAGES), self.random.below(SLOTS));
        let offset = offset_of(HOST, page, slot);
        if offset >= self.length {
            return;
        }
        let value = self.round << 16 | self.random.below(256) << 8 | (HOST + 1);
        self.words[index_of(page, slot)] = value;
        if self.random.chance(50) {
            memory::store(self.board.at(offset), value);
            return;
        }
        let args = [FILE, &raw const value as u64, 8, offset];
        // SAFETY: the call reads the word.
        check_eq!(unsafe { syscall(number::PWRITE64, args) }, Ok(8), "pwrite");
    }

    /// Its own words are exactly as they should be, what is nobody's is nothing, and all is what the others have found.
    fn compare(&self, sums: [u64; 2]) {
        read_all(self.buffer);
        let round = self.round;
        for (&word, (page, slot)) in self.words.iter().zip(places()) {
            let offset = offset_of(HOST, page, slot);
            let found = memory::load(self.buffer + offset - FIRST);
            check_eq!(found, word, "round {round}: the host's word at {offset:#x}");
        }
        for offset in (FIRST..FULL).step_by(8) {
            let found = memory::load(self.buffer + offset - FIRST);
            check!(
                found == 0 || is_anybodys(offset),
                "round {round}: {found:#x} is nobody's, at {offset:#x}"
            );
        }
        let sum = sum_of(self.buffer);
        check_eq!([self.board.sum(); 2], [sum; 2], "round {round}: all bytes as memory");
        check_eq!(sums, [sum; 2], "round {round}: what the writers have found");
    }
}

/// Makes the file, as the descriptor that it is in the guest too.
fn open(path: &'static str) {
    /// `O_RDWR | O_CREAT | O_TRUNC`.
    const FRESH: u64 = 0o1102;
    // The arguments are strings with a zero at their end.
    let args = [path.as_ptr() as u64, FRESH, 0o600];
    // SAFETY: the call reads the path.
    let file = must!(unsafe { syscall(number::OPEN, args) });
    // SAFETY: nothing of ours is that descriptor.
    must!(unsafe { syscall(number::DUP2, [file, FILE]) });
}

fn cut(length: u64) {
    // SAFETY: no memory of Rust's is a map of the file.
    must!(unsafe { syscall(number::FTRUNCATE, [FILE, length]) });
}
