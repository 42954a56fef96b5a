//! The two that write in a guest.

use guest::family::{self, End, Forked};
use guest::fault::{self, Answer, BUS_ADRERR, Caught, SIGBUS, in_mmvisor};
use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::random::Random;
use guest::{check, check_eq, must};

use crate::board::{
    Board, LAST, PAGES, SLOTS, Say, Span, WORDS, index_of, offset_of, places, read_all, sum_of,
};

/// Touches in a round.
const TOUCHES: u64 = 60;
/// Touches of a file that is held as it is: each is known to be a SIGBUS or not.
const HELD: u64 = 8;

/// A word as it was written last.
#[derive(Clone, Copy, Debug)]
struct Written {
    value: u64,
    /// Before and after which acts.
    span: Span,
    /// Perhaps past the file's end, in its last page: what becomes of that is the file system's affair.
    behind: bool,
}

struct Writer {
    board: Board,
    who: u64,
    round: u64,
    random: Random,
    words: [Written; WORDS],
    /// Memory for as many bytes as there are with words.
    buffer: u64,
}

/// Both, one the other's child.
pub(crate) fn run(seed: u64) {
    // Natively the answer installs signal handlers.
    let _ = in_mmvisor();
    let board = Board::map();
    match must!(family::fork()) {
        // In a map that it has inherited.
        Forked::Child => write(board, 1, seed),
        Forked::Parent(pid) => {
            write(board, 0, seed);
            check_eq!(family::wait(-1, 0), Ok((pid, End::Exited(0))), "the other writer");
        }
    }
}

fn write(board: Board, who: u64, seed: u64) {
    let buffer = must!(memory::map(Place::Anywhere, PAGES * PAGE, Prot::RW, Flags::OWN));
    let nothing = Written { value: 0, span: Span { ended: 1, begun: 1 }, behind: false };
    let random = Random::new(seed << 1 | who);
    let mut writer = Writer { board, who, round: 0, random, words: [nothing; WORDS], buffer };
    loop {
        let before = writer.round;
        writer.round = board.wait(Say::Round, 0, |round| round != before);
        if writer.round == LAST {
            return;
        }
        (0..TOUCHES).for_each(|touch| writer.touch(touch));
        board.say(Say::Done, who, writer.round);
        board.wait(Say::Held, 0, |round| round == writer.round);
        (TOUCHES..TOUCHES + HELD).for_each(|touch| writer.touch(touch));
        board.say(Say::Seen, who, writer.round);
        board.wait(Say::Quiet, 0, |round| round == writer.round);
        writer.compare();
        board.say(Say::Checked, who, writer.round);
    }
}

impl Writer {
    fn touch(&mut self, touch: u64) {
        let (page, slot) = (self.random.below(PAGES), self.random.below(SLOTS));
        let (offset, index) = (offset_of(self.who, page, slot), index_of(page, slot));
        let (at, board) = (self.board.at(offset), self.board);
        if self.random.chance(25) {
            let (found, span) = board.during(|| fault::load(at));
            match found {
                Ok(found) => {
                    self.is_there(page, span);
                    self.judge(offset, self.words[index], span, found);
                }
                Err(caught) => self.is_bus(page, span, &caught),
            }
            return;
        }
        let value = self.round << 16 | touch << 8 | (self.who + 1);
        let (done, span) = board.during(|| fault::store(at, value));
        match done {
            Ok(()) => {
                self.is_there(page, span);
                let behind = board.is_cut(offset, span.ended - 1..span.begun);
                self.words[index] = Written { value, span, behind };
            }
            Err(caught) => self.is_bus(page, span, &caught),
        }
    }

    /// The page was there at some moment of the touch.
    fn is_there(&self, page: u64, span: Span) {
        let start = offset_of(0, page, 0) & !(PAGE - 1);
        let was = (span.ended - 1..span.begun).any(|act| self.board.length(act) > start);
        check!(
            was,
            "writer {}, round {}: page {page} is cut, and was touched",
            self.who,
            self.round
        );
    }

    /// It was not there at some moment, and that is what the signal says.
    fn is_bus(&self, page: u64, span: Span, caught: &Caught) {
        let start = offset_of(0, page, 0) & !(PAGE - 1);
        let was = self.board.is_cut(start, span.ended - 1..span.begun);
        let (who, round) = (self.who, self.round);
        check!(was, "writer {who}, round {round}: page {page} is there, and {caught:?}");
        let slots = (0..SLOTS).map(|slot| self.board.at(offset_of(who, page, slot)));
        let wanted = |address| Answer { signal: SIGBUS, code: BUS_ADRERR, address };
        check!(
            slots.map(wanted).any(|answer| answer == caught.answer()),
            "writer {who}, round {round}: page {page}: {caught:?}"
        );
        self.board.say(Say::Buses, who, self.board.hear(Say::Buses, who) + 1);
    }

    /// A word read in this time is as it was written last, or nothing, as cuts have it.
    fn judge(&self, offset: u64, word: Written, read: Span, found: u64) {
        let nothing = word.behind
            || self.board.is_cut(offset, word.span.ended..read.begun)
            || word.value == 0;
        let kept = !self.board.is_cut(offset, word.span.begun..read.ended);
        check!(
            (found == 0 && nothing) || (found == word.value && kept),
            "writer {}, round {}: {found:#x} at {offset:#x} in {read:?}, of {word:x?}",
            self.who,
            self.round
        );
    }

    /// Each word of its own as it should be, and all bytes summed up, as memory and as a file.
    fn compare(&mut self) {
        let (end, who) = (self.board.hear(Say::Epoch, 0) / 2, self.who);
        let (mut gone, mut kept) = (0, 0);
        for (index, (page, slot)) in places().enumerate() {
            let (offset, word) = (offset_of(who, page, slot), self.words[index]);
            let found = memory::load(self.board.at(offset));
            self.judge(offset, word, Span { ended: end, begun: end }, found);
            if word.value != 0 {
                *(if found == 0 { &mut gone } else { &mut kept }) += 1;
            }
            let span = Span { ended: 1, begun: 1 };
            self.words[index] = Written { value: found, span, behind: false };
        }
        self.board.say(Say::Gone, who, self.board.hear(Say::Gone, who) + gone);
        self.board.say(Say::Kept, who, self.board.hear(Say::Kept, who) + kept);
        let sum = self.board.sum();
        read_all(self.buffer);
        check_eq!(sum_of(self.buffer), sum, "writer {who}, round {}: as a file", self.round);
        self.board.say(Say::Sum, who, sum);
    }
}
