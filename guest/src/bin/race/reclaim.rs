//! The page leaves memory while it is written to, and comes back.

use guest::family::{self, Forked};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::{check, check_eq, must, process};

use crate::changes::{Change, NUMBER, OWN, PAGE_AT, Race, number_at};
use crate::pages::{PAGEOUT, advise};
use crate::writer::{Board, Word};

/// What is done besides `CHANGES`, before each of which the page may have left.
pub(crate) const RECLAIMS: [Change; 1] = [Race::page_out_often];

/// How often the page goes in a round.
const GOES: u64 = 8;
/// Pages that another process uses all the while, so that memory runs out.
const BALLAST: u64 = 8 << 8;

impl Race {
    /// There need not be anywhere to go.
    pub(crate) fn page_out(&self) {
        must!(advise(PAGE_AT, PAGE, PAGEOUT));
    }

    /// It comes back with what the writer wrote, also while it left.
    fn page_out_often(&mut self) {
        self.release(Word::Stays);
        memory::store(PAGE_AT + OWN, self.round);
        let before = self.last();
        for go in 0..GOES {
            let start = self.last();
            self.page_out();
            // At once, or when its frame has been given to others.
            if go % 2 == 0 {
                self.fill_bait();
            }
            if let Some(read) = self.pages.read_as_file(NUMBER) {
                let end = self.board.start();
                check!(
                    start <= read && read <= end,
                    "round {}: {read} was read of the file, from {start} to {end} are there",
                    self.round
                );
            }
            check_eq!(memory::load(PAGE_AT + OWN), self.round, "the own word, back");
        }
        let limit = self.board.start();
        let found = number_at(PAGE_AT);
        check!(before <= found, "round {}: {before} was left behind: {found}", self.round);
        self.check_bait();
        self.stop_and_compare(limit);
    }
}

/// Begins a process that uses more memory than there is; its number. It ends when `round` is the last one.
pub(crate) fn begin_pressure(board: &Board) -> u64 {
    match must!(family::fork()) {
        Forked::Child => press(board),
        Forked::Parent(pid) => pid,
    }
}

fn press(board: &Board) -> ! {
    let ballast = must!(memory::map(Place::Anywhere, BALLAST * PAGE, Prot::RW, Flags::OWN));
    let mut turn = 0;
    while !board.is_last() {
        for page in 0..BALLAST {
            let at = ballast + page * PAGE;
            if turn > 0 {
                check_eq!(memory::load(at), turn << 32 | page, "ballast");
            }
            memory::store(at, (turn + 1) << 32 | page);
        }
        turn += 1;
    }
    process::exit(0)
}
