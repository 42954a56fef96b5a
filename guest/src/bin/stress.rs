//! Seeded random memory calls in a window, against a model of what each page must hold and allow.
//!
//! After each call some pages are probed (read, write, execute) and read back, now and then all of
//! them, and at the end every byte. Pages that are new hold zeros; a page that was written to holds
//! its stamp all through, wherever it has been moved since.
//!
//! Usage: stress \[SEED \[CALLS\]\] (1 and 2000). A run that failed is run again by its seed.

#![no_std]
#![no_main]

use guest::errno::Errno;
use guest::fault::{self, Answer};
use guest::memory::{self, Flags, Move, PAGE, Place, Prot};
use guest::process::Args;
use guest::random::Random;
use guest::{check, check_eq, must, println};

guest::payload!(main);

/// Where the window is: far from where the system places anything by itself.
const WINDOW: u64 = 0x1000_0000_0000;
/// Pages in the window. Nothing is mapped next to it.
const PAGES: usize = 256;
/// Pages that the heap may have.
const HEAP_PAGES: usize = 64;
/// Pages that one call covers at most.
const SPAN: u64 = 40;
/// Every how many calls all pages are read back.
const REREAD: u64 = 128;

/// What a stamp's words begin with in memory: RET, so that a stamped page may be executed.
const RET: u64 = 0xc3;

/// What the model knows of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Hole,
    Mapped {
        prot: Prot,
        /// What each word holds, but for [`word`]'s mixing; 0 for a page of zeros.
        stamp: u64,
        /// Pages of one piece side by side are surely in one mapping: a call made them so, and none
        /// has cut between them. (Mappings that the system merged are not counted on.)
        piece: u64,
    },
}

/// What the word at a byte offset of a page with this stamp holds.
const fn word(stamp: u64, offset: u64) -> u64 {
    if stamp == 0 { 0 } else { stamp ^ (offset << 32) }
}

/// How often each call was made, and how often it was refused as it had to be.
#[derive(Default)]
struct Counts {
    maps: u64,
    unmaps: u64,
    protects: u64,
    remaps: u64,
    brks: u64,
    refused: u64,
    probes: u64,
}

struct Stress {
    random: Random,
    window: [Page; PAGES],
    heap: [Page; HEAP_PAGES],
    heap_start: u64,
    stamps: u64,
    pieces: u64,
    counts: Counts,
}

/// A run of window pages: from `first`, `count` of them.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    count: usize,
}

impl Span {
    const fn addr(self) -> u64 {
        WINDOW + self.first as u64 * PAGE
    }

    const fn len(self) -> u64 {
        self.count as u64 * PAGE
    }

    const fn pages(self) -> core::ops::Range<usize> {
        self.first..self.first + self.count
    }

    const fn overlaps(self, other: Span) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }
}

impl Stress {
    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).unwrap_or(0)
    }

    fn span(&mut self) -> Span {
        let first = self.index(PAGES);
        let most = (PAGES - first).min(usize::try_from(SPAN).unwrap_or(1));
        Span { first, count: 1 + self.index(most) }
    }

    fn prot(&mut self) -> Prot {
        // Readable and writable half of the time, or little would ever be written.
        if self.random.chance(50) { Prot::RW } else { Prot::from_bits_retain(self.random.below(8)) }
    }

    fn piece(&mut self) -> u64 {
        self.pieces += 1;
        self.pieces
    }

    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps << 8 | RET
    }

    fn is_free(&self, span: Span) -> bool {
        self.window[span.pages()].iter().all(|page| *page == Page::Hole)
    }

    fn set_new(&mut self, span: Span, prot: Prot) {
        let piece = self.piece();
        self.window[span.pages()].fill(Page::Mapped { prot, stamp: 0, piece });
    }

    /// The part of the span, from its first page on, that is surely in one mapping.
    fn one_piece(&self, span: Span) -> Option<Span> {
        let Page::Mapped { piece: wanted, .. } = self.window[span.first] else {
            return None;
        };
        let same = |page: &&Page| matches!(page, Page::Mapped { piece, .. } if *piece == wanted);
        let count = self.window[span.pages()].iter().take_while(same).count();
        Some(Span { first: span.first, count })
    }

    fn map(&mut self) {
        self.counts.maps += 1;
        let span = self.span();
        let prot = self.prot();
        let mut flags = Flags::OWN;
        if self.random.chance(20) {
            flags |= Flags::POPULATE;
        }
        if self.random.chance(10) {
            flags |= Flags::NORESERVE;
        }
        let free = self.is_free(span);
        let place = match self.random.below(10) {
            0..=4 => Place::Fixed(span.addr()),
            5..=6 => Place::IfFree(span.addr()),
            7..=8 => Place::Hint(span.addr()),
            _ => Place::Anywhere,
        };
        let came = memory::map(place, span.len(), prot, flags);
        if matches!(place, Place::IfFree(_)) && !free {
            check_eq!(
                came,
                Err(Errno::EEXIST),
                "mmap over what is there, with MAP_FIXED_NOREPLACE"
            );
            self.counts.refused += 1;
            return;
        }
        let addr = must!(came);
        let elsewhere = match place {
            Place::Anywhere => true,
            Place::Hint(_) => !free,
            Place::Fixed(_) | Place::IfFree(_) => false,
        };
        if elsewhere {
            self.visit_elsewhere(addr, span.len(), prot);
        } else {
            check_eq!(addr, span.addr(), "where mmap({place:?}) mapped");
            self.set_new(span, prot);
        }
    }

    /// A new mapping outside the window: looked at, and unmapped.
    fn visit_elsewhere(&mut self, addr: u64, len: u64, prot: Prot) {
        let window = WINDOW..WINDOW + PAGES as u64 * PAGE;
        check_eq!(addr % PAGE, 0, "the address that mmap chose, {addr:#x}, within its page");
        check!(
            addr + len <= window.start || window.end <= addr,
            "mmap chose {addr:#x}, inside the window"
        );
        let last = addr + len - PAGE;
        let page = Page::Mapped { prot, stamp: 0, piece: 0 };
        self.probe(addr, page);
        self.probe(last, page);
        must!(memory::unmap(addr, len));
        self.probe(addr, Page::Hole);
        self.probe(last, Page::Hole);
    }

    fn unmap(&mut self) {
        self.counts.unmaps += 1;
        let span = self.span();
        if self.random.chance(5) {
            check_eq!(
                memory::unmap(span.addr() + 8, span.len()),
                Err(Errno::EINVAL),
                "munmap inside a page"
            );
            check_eq!(memory::unmap(span.addr(), 0), Err(Errno::EINVAL), "munmap of nothing");
            self.counts.refused += 2;
            return;
        }
        must!(memory::unmap(span.addr(), span.len()));
        self.window[span.pages()].fill(Page::Hole);
    }

    fn protect(&mut self) {
        self.counts.protects += 1;
        let span = self.span();
        let new = self.prot();
        let came = memory::protect(span.addr(), span.len(), new);
        // A hole ends the call; what lies before it is changed.
        let mut reached = span.count;
        let mut last_piece = (0, 0);
        for (n, at) in span.pages().enumerate() {
            let Page::Mapped { stamp, piece, .. } = self.window[at] else {
                reached = n;
                break;
            };
            if last_piece.0 != piece {
                last_piece = (piece, self.piece());
            }
            self.window[at] = Page::Mapped { prot: new, stamp, piece: last_piece.1 };
        }
        self.renumber_after(span.first + reached, last_piece.0);
        if reached < span.count {
            self.counts.refused += 1;
            check_eq!(came, Err(Errno::ENOMEM), "mprotect with a hole {reached} pages in");
        } else {
            check_eq!(came, Ok(()), "mprotect of {} pages", span.count);
        }
    }

    /// After a cut at page `at`: the rest of the piece, on the far side, is a piece of its own.
    fn renumber_after(&mut self, at: usize, cut: u64) {
        let new = self.piece();
        for page in self.window.iter_mut().skip(at) {
            match page {
                Page::Mapped { piece, .. } if *piece == cut => *piece = new,
                _ => break,
            }
        }
    }

    fn remap(&mut self) {
        self.counts.remaps += 1;
        let span = self.span();
        let Some(old) = self.one_piece(span) else {
            let came = memory::remap(span.addr(), span.len(), span.len() + PAGE, Move::Allowed);
            check_eq!(came, Err(Errno::EFAULT), "mremap of a hole");
            self.counts.refused += 1;
            return;
        };
        match self.random.below(4) {
            0 => self.shrink(old),
            1 => self.grow(old, Move::Never),
            2 => self.grow(old, Move::Allowed),
            _ => self.transfer(old),
        }
    }

    fn shrink(&mut self, old: Span) {
        let keep = 1 + self.index(old.count);
        check_eq!(
            memory::remap(old.addr(), old.len(), keep as u64 * PAGE, Move::Never),
            Ok(old.addr()),
            "mremap to less"
        );
        self.window[old.first + keep..old.first + old.count].fill(Page::Hole);
    }

    fn grow(&mut self, old: Span, moving: Move) {
        let Page::Mapped { prot, piece, .. } = self.window[old.first] else {
            return;
        };
        let end = old.first + old.count;
        let more = 1 + self.index(8);
        if end + more > PAGES {
            return;
        }
        let added = Span { first: end, count: more };
        let new_len = old.len() + added.len();
        let came = memory::remap(old.addr(), old.len(), new_len, moving);
        if self.is_free(added) {
            check_eq!(came, Ok(old.addr()), "mremap that has room to grow");
            self.window[added.pages()].fill(Page::Mapped { prot, stamp: 0, piece });
        } else if moving == Move::Never {
            check_eq!(came, Err(Errno::ENOMEM), "mremap that has no room to grow");
            self.counts.refused += 1;
        } else {
            let to = must!(came);
            self.window_must_not_hold(to, new_len);
            for (n, at) in old.pages().enumerate() {
                self.probe(to + n as u64 * PAGE, self.window[at]);
            }
            let fresh = Page::Mapped { prot, stamp: 0, piece };
            self.probe(to + old.len(), fresh);
            self.probe(to + new_len - PAGE, fresh);
            must!(memory::unmap(to, new_len));
            self.window[old.pages()].fill(Page::Hole);
        }
    }

    fn window_must_not_hold(&self, addr: u64, len: u64) {
        let end = WINDOW + PAGES as u64 * PAGE;
        check!(addr + len <= WINDOW || end <= addr, "mremap chose {addr:#x}, inside the window");
    }

    /// Moves a piece to another place in the window, over whatever is there, perhaps growing or
    /// shrinking it.
    fn transfer(&mut self, old: Span) {
        let to = self.span();
        let came = memory::remap(old.addr(), old.len(), to.len(), Move::To(to.addr()));
        if old.overlaps(to) {
            check_eq!(came, Err(Errno::EINVAL), "mremap onto itself");
            self.counts.refused += 1;
            return;
        }
        check_eq!(came, Ok(to.addr()), "mremap to a fixed address");
        let Page::Mapped { prot, .. } = self.window[old.first] else {
            return;
        };
        self.set_new(to, prot);
        let piece = self.pieces;
        for n in 0..old.count.min(to.count) {
            if let Page::Mapped { prot, stamp, .. } = self.window[old.first + n] {
                self.window[to.first + n] = Page::Mapped { prot, stamp, piece };
            }
        }
        self.window[old.pages()].fill(Page::Hole);
    }

    fn brk(&mut self) {
        self.counts.brks += 1;
        let end = self.heap_start + self.random.below(HEAP_PAGES as u64 * PAGE);
        check_eq!(memory::brk(end), end, "brk");
        let used = (end - self.heap_start).div_ceil(PAGE);
        for (n, page) in (0..).zip(&mut self.heap) {
            match page {
                _ if n >= used => *page = Page::Hole,
                Page::Hole => *page = Page::Mapped { prot: Prot::RW, stamp: 0, piece: 0 },
                Page::Mapped { .. } => {}
            }
        }
        check_eq!(memory::brk(0), end, "the end of the heap");
    }

    /// Makes one access of each kind, and compares what it did with what the page allows.
    fn probe(&mut self, addr: u64, page: Page) {
        self.counts.probes += 3;
        let (read, write, execute) = match page {
            Page::Hole => (false, false, false),
            Page::Mapped { prot, .. } => {
                (!prot.is_empty(), prot.contains(Prot::WRITE), prot.contains(Prot::EXEC))
            }
        };
        let denied = if page == Page::Hole { Answer::unmapped(addr) } else { Answer::denied(addr) };
        let wanted = |allowed: bool| if allowed { None } else { Some(denied) };
        let came = fault::read(addr).err().map(|caught| caught.answer());
        check_eq!(came, wanted(read), "reading {addr:#x}");
        let came = fault::write(addr).err().map(|caught| caught.answer());
        check_eq!(came, wanted(write), "writing {addr:#x}");
        // SAFETY: a page of the window, the heap or a visit holds zeros or a stamp, which begins
        // with RET.
        let came = unsafe { fault::execute(addr) }.err().map(|caught| caught.answer());
        check_eq!(came, wanted(execute), "executing {addr:#x}");
        if let (true, Page::Mapped { stamp, .. }) = (read, page) {
            for offset in [0, 8, PAGE / 2, PAGE - 8] {
                check_eq!(
                    memory::load(addr + offset),
                    word(stamp, offset),
                    "the word at {addr:#x} + {offset:#x}"
                );
            }
        }
    }

    /// Fills a page with a stamp of its own, if it may be written.
    fn write(&mut self, addr: u64, page: Page) -> Page {
        let Page::Mapped { prot, piece, .. } = page else {
            return page;
        };
        if !prot.contains(Prot::WRITE) {
            return page;
        }
        let stamp = self.stamp();
        for offset in (0..PAGE).step_by(8) {
            memory::store(addr + offset, word(stamp, offset));
        }
        Page::Mapped { prot, stamp, piece }
    }

    fn probe_some(&mut self) {
        for _ in 0..3 {
            let at = self.index(PAGES);
            let addr = WINDOW + at as u64 * PAGE;
            self.probe(addr, self.window[at]);
            if self.random.chance(60) {
                self.window[at] = self.write(addr, self.window[at]);
            }
        }
        let at = self.index(HEAP_PAGES);
        let addr = self.heap_start + at as u64 * PAGE;
        self.probe(addr, self.heap[at]);
        self.heap[at] = self.write(addr, self.heap[at]);
    }

    /// Reads every byte that may be read, and compares.
    fn reread(&self) {
        let window = (WINDOW..).step_by(4096).zip(&self.window);
        let heap = (self.heap_start..).step_by(4096).zip(&self.heap);
        for (addr, page) in window.chain(heap) {
            let Page::Mapped { prot, stamp, .. } = *page else {
                continue;
            };
            if prot.is_empty() {
                continue;
            }
            for offset in (0..PAGE).step_by(8) {
                let came = memory::load(addr + offset);
                check_eq!(came, word(stamp, offset), "the word at {addr:#x} + {offset:#x}");
            }
        }
    }

    /// Makes every page readable, reads all of them, and unmaps them.
    fn finish(&mut self) {
        for (addr, page) in (WINDOW..).step_by(4096).zip(&mut self.window) {
            if let Page::Mapped { prot, .. } = page {
                *prot = Prot::READ;
                must!(memory::protect(addr, PAGE, Prot::READ));
            }
        }
        self.reread();
        must!(memory::unmap(WINDOW, PAGES as u64 * PAGE));
        self.window.fill(Page::Hole);
        check_eq!(memory::brk(self.heap_start), self.heap_start, "brk to where the heap began");
        self.heap.fill(Page::Hole);
        for at in 0..PAGES {
            self.probe(WINDOW + at as u64 * PAGE, Page::Hole);
        }
        self.probe(self.heap_start, Page::Hole);
    }
}

fn main(args: Args) {
    let seed = args.number(1).unwrap_or(1);
    let calls = args.number(2).unwrap_or(2000);
    let heap = memory::brk(0);
    let heap_start = (heap + PAGE - 1) & !(PAGE - 1);
    check_eq!(memory::brk(heap_start), heap_start, "brk to a page's start");
    let mut stress = Stress {
        random: Random::new(seed),
        window: [Page::Hole; PAGES],
        heap: [Page::Hole; HEAP_PAGES],
        heap_start,
        stamps: 0,
        pieces: 0,
        counts: Counts::default(),
    };
    for call in 1..=calls {
        match stress.random.below(100) {
            0..=34 => stress.map(),
            35..=49 => stress.unmap(),
            50..=74 => stress.protect(),
            75..=94 => stress.remap(),
            _ => stress.brk(),
        }
        stress.probe_some();
        if call % REREAD == 0 {
            stress.reread();
        }
    }
    stress.finish();
    let Counts { maps, unmaps, protects, remaps, brks, refused, probes } = stress.counts;
    println!(
        "stress: seed {seed}, {calls} calls (mmap {maps}, munmap {unmaps}, mprotect {protects}, mremap {remaps}, \
         brk {brks}; {refused} refused), {probes} accesses probed, {} pages written",
        stress.stamps
    );
}
