//! The one that changes what the other one writes to.
//!
//! ```text
//!   release the writer ──> a while ──> the call ──> START is s ──> the writer faults, at DONE <= s
//!                                        │
//!                                        └ (it may go on)  ──> stop it: its last number is in the word
//! ```

use core::sync::atomic::Ordering;

use guest::family::{self, End, Forked};
use guest::fault::{SEGV_ACCERR, SEGV_MAPERR, in_mmvisor};
use guest::memory::{self, Flags, Move, PAGE, Place, Prot};
use guest::random::Random;
use guest::{check, check_eq, must, process};

use crate::pages::{DONTNEED, Kind, Pages, advise, move_to};
use crate::reclaim;
use crate::writer::{self, Board, LAST, Parked, Pause, Word};

/// The page that is written to; nothing else is anywhere near, but for what is in its huge page with it. In the
/// middle of a table.
pub(crate) const PAGE_AT: u64 = HUGE_AT + PLACE * PAGE;
/// Where the table begins, and the huge page is, if there is one.
pub(crate) const HUGE_AT: u64 = 0x2000_0000_0000;
/// Which page of it is written to.
pub(crate) const PLACE: u64 = 100;
/// How far away it is moved: to under other tables.
pub(crate) const FAR: u64 = 1 << 39;
const AWAY: u64 = PAGE_AT + FAR;
/// Pages that take over frames that others give up; they must keep their bytes.
const BAIT: u64 = 0x1000_0000_0000;
/// How many.
const BAITS: u64 = 8;
/// What they are filled with.
const FILLED: u64 = 0x5a5a_a5a5_c3c3_3c3c;
/// How far apart the pages are whose tables are freed, and how many there are: enough that the empty tables
/// are more than mmvisor keeps.
const TABLE_STEP: u64 = 1 << 30;
const TABLES: u64 = 200;
/// Where the writer's number is in the page, and where the changing one's own word is.
pub(crate) const NUMBER: u64 = 8;
pub(crate) const OWN: u64 = 16;

/// Something that is done to the page.
pub(crate) type Change = fn(&mut Race);

/// What is done to the page.
pub(crate) const CHANGES: [Change; 7] = [
    Race::unmap,
    Race::make_read_only,
    Race::make_untouchable,
    Race::move_away,
    Race::fork,
    Race::drop_page,
    Race::replace,
];

/// What is done above it.
pub(crate) const TABLES_GO: [Change; 1] = [Race::free_tables];

/// What is done where there are two NUMA nodes, and only that is asked for.
pub(crate) const MOVES: [Change; 1] = [Race::migrate];

/// How often the page goes to each node in a round.
const GOES: i32 = 4;

/// What there is beside the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Around {
    /// Nothing.
    Nothing,
    /// The rest of a huge page.
    HugePage,
    /// Nothing; and the page is put out of memory when it is about to be changed.
    Reclaim,
    /// The same, and another process uses more memory than there is.
    Pressure,
}

pub(crate) struct Race {
    pub(crate) board: &'static Board,
    pub(crate) random: Random,
    pub(crate) pages: Pages,
    pub(crate) around: Around,
    pub(crate) round: u64,
    /// The last number when the page was new.
    new_at: u64,
}

/// Does each change `rounds` times, on pages of this kind. How many numbers the writer wrote.
pub(crate) fn race(
    rounds: u64,
    seed: u64,
    kind: Kind,
    around: Around,
    changes: &[&[Change]],
) -> u64 {
    // Asked before there are two: natively the answer installs signal handlers.
    let _ = in_mmvisor();
    let board = Board::map();
    let pressing = (around == Around::Pressure).then(|| reclaim::begin_pressure(board));
    let pid = writer::begin(board);
    let (random, pages) = (Random::new(seed), Pages::new(kind));
    let mut race = Race { board, random, pages, around, round: 0, new_at: 0 };
    race.map();
    for _ in 0..rounds {
        for change in changes.iter().copied().flatten() {
            race.round += 1;
            if around == Around::HugePage {
                race.map();
                race.new_at = race.board.done();
            }
            race.fill_bait();
            change(&mut race);
            race.check_bait();
        }
    }
    board.release(LAST, 0, Word::Stays);
    check_eq!(family::wait(pid.cast_signed(), 0), Ok((pid, End::Exited(0))), "the writer");
    if let Some(pid) = pressing {
        let ended = family::wait(pid.cast_signed(), 0);
        check_eq!(ended, Ok((pid, End::Exited(0))), "the one that uses memory");
    }
    board.done()
}

impl Race {
    fn unmap(&mut self) {
        self.release(Word::Stays);
        must!(memory::unmap(PAGE_AT, PAGE));
        let limit = self.board.start();
        self.fill_bait();
        self.faulted(limit, SEGV_MAPERR, "munmap");
        self.map();
        self.is_new("a new page");
    }

    fn make_read_only(&mut self) {
        self.release(Word::Stays);
        must!(memory::protect(PAGE_AT, PAGE, Prot::READ));
        let limit = self.board.start();
        let found = number_at(PAGE_AT);
        self.faulted(limit, SEGV_ACCERR, "mprotect, read-only");
        check_eq!(number_at(PAGE_AT), found, "round {}: a read-only word", self.round);
        self.kept(PAGE_AT, "read-only");
        must!(memory::protect(PAGE_AT, PAGE, Prot::RW));
    }

    fn make_untouchable(&mut self) {
        self.release(Word::Stays);
        must!(memory::protect(PAGE_AT, PAGE, Prot::empty()));
        let limit = self.board.start();
        self.faulted(limit, SEGV_ACCERR, "mprotect, none");
        must!(memory::protect(PAGE_AT, PAGE, Prot::RW));
        self.kept(PAGE_AT, "after PROT_NONE");
    }

    fn move_away(&mut self) {
        self.release(Word::Stays);
        check_eq!(memory::remap(PAGE_AT, PAGE, PAGE, Move::To(AWAY)), Ok(AWAY), "mremap");
        let limit = self.board.start();
        let found = number_at(AWAY);
        self.faulted(limit, SEGV_MAPERR, "mremap");
        check_eq!(number_at(AWAY), found, "round {}: a word that was moved", self.round);
        self.kept(AWAY, "moved away");
        check_eq!(memory::remap(AWAY, PAGE, PAGE, Move::To(PAGE_AT)), Ok(PAGE_AT), "mremap back");
        self.kept(PAGE_AT, "moved back");
    }

    fn fork(&mut self) {
        if self.pages.are_shared() { self.fork_shared() } else { self.fork_private() }
    }

    /// The child sees what the writer writes after the fork too, and its parents what it writes; that it
    /// drops and unmaps the page is its own affair.
    fn fork_shared(&mut self) {
        self.release(Word::Stays);
        let before = self.last();
        memory::store(PAGE_AT + OWN, self.round);
        let pid = match must!(family::fork()) {
            Forked::Child => process::exit(self.sharing_child(before)),
            Forked::Parent(pid) => pid,
        };
        let ended = family::wait(pid.cast_signed(), 0);
        check_eq!(ended, Ok((pid, End::Exited(0))), "round {}: the child", self.round);
        check_eq!(memory::load(PAGE_AT + OWN), self.round + 1, "the child's word");
        self.stop_and_compare(self.board.start());
    }

    fn sharing_child(&self, before: u64) -> u8 {
        check_eq!(memory::load(PAGE_AT + OWN), self.round, "the parent's word in the child");
        memory::store(PAGE_AT + OWN, self.round + 1);
        let found = number_at(PAGE_AT);
        check!(before <= found, "round {}: the child lost {before}: {found}", self.round);
        self.let_write(self.board.start());
        let later = number_at(PAGE_AT);
        check!(found < later, "round {}: the child sees {found} still", self.round);
        must!(advise(PAGE_AT, PAGE, DONTNEED));
        let again = number_at(PAGE_AT);
        check!(later <= again, "round {}: {later} was dropped: {again}", self.round);
        must!(memory::unmap(PAGE_AT, PAGE));
        self.let_write(self.board.start());
        0
    }

    /// The child has what was there when it was made, whatever its parents write, and they do not see what
    /// it writes.
    fn fork_private(&mut self) {
        self.release(Word::Stays);
        let before = self.last();
        memory::store(PAGE_AT + OWN, self.round);
        let pid = match must!(family::fork()) {
            Forked::Child => process::exit(self.child(before)),
            Forked::Parent(pid) => pid,
        };
        let limit = self.board.start();
        check_eq!(memory::load(PAGE_AT + OWN), self.round, "the own word after fork");
        memory::store(PAGE_AT + OWN, self.round + 1);
        while self.board.taken.load(Ordering::SeqCst) != self.round {
            self.let_write(limit);
        }
        let found = self.board.snapshot.load(Ordering::SeqCst);
        check!(
            before <= found && found <= limit,
            "round {}: the child has {found}, fork was between {before} and {limit}",
            self.round
        );
        let ended = family::wait(pid.cast_signed(), 0);
        check_eq!(ended, Ok((pid, End::Exited(0))), "round {}: the child", self.round);
        check_eq!(memory::load(PAGE_AT + OWN), self.round + 1, "the own word after the child");
        self.stop_and_compare(limit);
    }

    fn child(&self, before: u64) -> u8 {
        let found = number_at(PAGE_AT);
        let own = memory::load(PAGE_AT + OWN);
        let limit = self.board.start();
        self.board.snapshot.store(found, Ordering::SeqCst);
        self.board.taken.store(self.round, Ordering::SeqCst);
        self.let_write(limit);
        check_eq!(number_at(PAGE_AT), found, "round {}: the child's word, later", self.round);
        memory::store(PAGE_AT + NUMBER, u64::MAX);
        self.let_write(self.board.start());
        check_eq!(number_at(PAGE_AT), u64::MAX, "round {}: the child's own number", self.round);
        check_eq!(own, self.round, "round {}: the child's other word", self.round);
        check!(before <= found, "round {}: the child lost {before}: {found}", self.round);
        0
    }

    /// On its new node the page has what the writer wrote, also while it moved.
    fn migrate(&mut self) {
        self.release(Word::Stays);
        // There must be a page.
        memory::store(PAGE_AT + OWN, self.round);
        let before = self.last();
        for go in 0..2 * GOES {
            let node = (go + 1) % 2;
            check_eq!(move_to(PAGE_AT, node), node, "round {}: go {go}", self.round);
            self.fill_bait();
        }
        let limit = self.board.start();
        let found = number_at(PAGE_AT);
        check!(before <= found, "round {}: {before} was left behind: {found}", self.round);
        check_eq!(memory::load(PAGE_AT + OWN), self.round, "the own word after moves");
        self.stop_and_compare(limit);
    }

    fn drop_page(&mut self) {
        if self.pages.are_shared() { self.drop_entry() } else { self.drop_bytes() }
    }

    /// The object keeps its page: nothing is lost.
    fn drop_entry(&mut self) {
        self.release(Word::Stays);
        let before = self.last();
        must!(advise(PAGE_AT, PAGE, DONTNEED));
        let limit = self.board.start();
        let found = number_at(PAGE_AT);
        check!(before <= found, "round {}: {before} was dropped: {found}", self.round);
        self.stop_and_compare(limit);
    }

    fn drop_bytes(&mut self) {
        self.release(Word::MayVanish);
        let before = self.board.done();
        must!(advise(PAGE_AT, PAGE, DONTNEED));
        self.anew(before, "MADV_DONTNEED");
    }

    fn replace(&mut self) {
        self.release(Word::MayVanish);
        let before = self.board.done();
        self.map();
        self.anew(before, "mmap in place");
    }

    /// Page tables whose last page goes are freed, once there are many.
    fn free_tables(&mut self) {
        for n in 1..=TABLES {
            let at = PAGE_AT + n * TABLE_STEP;
            self.pages.map(at, PAGE);
            memory::store(at, n);
        }
        self.release(Word::Stays);
        must!(memory::unmap(PAGE_AT - PAGE, (TABLES + 1) * TABLE_STEP));
        let limit = self.board.start();
        // Tables are wanted again, of the frames that the old ones had.
        for n in 1..=TABLES / 4 {
            let at = AWAY + n * TABLE_STEP;
            self.pages.map(at, PAGE);
            memory::store(at, n);
        }
        self.faulted(limit, SEGV_MAPERR, "munmap with tables");
        for n in 1..=TABLES / 4 {
            check_eq!(memory::load(AWAY + n * TABLE_STEP), n, "a page under new tables");
        }
        must!(memory::unmap(AWAY, TABLES * TABLE_STEP));
        self.map();
        self.is_new("a new page under new tables");
    }

    /// A new page, in place of what is there.
    fn map(&mut self) {
        match self.around {
            Around::HugePage => self.map_huge(),
            _ => self.pages.map(PAGE_AT, PAGE),
        }
    }

    /// Lets the writer begin, and for a while that is not always the same: up to when it is at its first
    /// page fault, or well under way.
    pub(crate) fn release(&mut self, what: Word) {
        let from = self.board.done();
        self.board.release(self.round, PAGE_AT + NUMBER, what);
        match self.random.below(4) {
            0 => {}
            1 => {
                for _ in 0..self.random.below(20_000) {
                    core::hint::spin_loop();
                }
            }
            _ => {
                let more = self.random.below(200);
                self.let_write(from + more);
            }
        }
        if matches!(self.around, Around::Reclaim | Around::Pressure) && self.random.chance(50) {
            self.page_out();
        }
    }

    /// Waits until the writer has written a few more numbers than this.
    pub(crate) fn let_write(&self, number: u64) {
        let mut pause = Pause::default();
        while self.board.done() < number + 20 {
            pause.wait();
        }
    }

    /// Waits for the writer's fault.
    pub(crate) fn faulted(&self, limit: u64, code: u64, what: &str) {
        let parked = self.board.wait_parked(self.round, limit, what);
        let wanted = Parked { code, address: PAGE_AT + NUMBER };
        check_eq!(parked, wanted, "round {}: the writer's fault by {what}", self.round);
    }

    /// The word has the writer's last number, or nothing if it wrote none to this page.
    pub(crate) fn kept(&self, at: u64, what: &str) {
        check_eq!(number_at(at), self.last(), "round {}: the last number, {what}", self.round);
    }

    /// The last number that was written to this page; 0 if none was.
    pub(crate) fn last(&self) -> u64 {
        let done = self.board.done();
        if done == self.new_at { 0 } else { done }
    }

    /// What was written before is gone, what is written after stays.
    fn anew(&self, before: u64, what: &str) {
        let limit = self.board.start();
        let found = number_at(PAGE_AT);
        check!(
            found == 0 || found > before,
            "round {}: {what}: the word is {found} still, {before} was written before",
            self.round
        );
        self.stop_and_compare(limit);
    }

    pub(crate) fn stop_and_compare(&self, limit: u64) {
        self.let_write(limit);
        self.board.stop();
        let parked = self.board.wait_parked(self.round, u64::MAX, "stop");
        check_eq!(parked, Parked { code: 0, address: 0 }, "round {}: a fault", self.round);
        check_eq!(number_at(PAGE_AT), self.board.done(), "round {}: the last number", self.round);
    }

    /// Nothing is in the page, while the writer is parked.
    fn is_new(&mut self, what: &str) {
        self.new_at = self.board.done();
        // Read sometimes: the writer then replaces the page of zeros instead of finding nothing.
        if self.random.chance(30) {
            return;
        }
        for at in (PAGE_AT..PAGE_AT + PAGE).step_by(8) {
            check_eq!(memory::load(at), 0, "round {}: {what}, at {at:#x}", self.round);
        }
    }

    /// New pages full of known bytes.
    pub(crate) fn fill_bait(&self) {
        must!(memory::map(Place::Fixed(BAIT), BAITS * PAGE, Prot::RW, Flags::OWN));
        for page in 0..BAITS {
            for word in [0, NUMBER, OWN, PAGE - 8] {
                memory::store(BAIT + page * PAGE + word, FILLED);
            }
        }
    }

    pub(crate) fn check_bait(&self) {
        for page in 0..BAITS {
            for word in (0..PAGE).step_by(8) {
                let wanted = if [0, NUMBER, OWN, PAGE - 8].contains(&word) { FILLED } else { 0 };
                let at = BAIT + page * PAGE + word;
                check_eq!(memory::load(at), wanted, "round {}: another page", self.round);
            }
        }
    }
}

pub(crate) fn number_at(page: u64) -> u64 {
    memory::load(page + NUMBER)
}
