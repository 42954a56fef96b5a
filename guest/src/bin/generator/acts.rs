//! One act after the other.

use guest::call::number;
use guest::family::{End, Forked};
use guest::memory::{self, PAGE};
use guest::random::Random;

use crate::area::control;
use crate::files::Files;
use crate::seen::{self, Vmas};
use crate::trace::{self, Trace, put};
use crate::turns;

const MADV_DONTDUMP: u64 = 16;

/// The kinds of acts that are counted.
pub(crate) const KINDS: [&str; 25] = [
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "madvise",
    "lock",
    "brk",
    "msync",
    "mincore",
    "mseal",
    "process_madvise",
    "remap_file_pages",
    "memfd_create",
    "open",
    "close",
    "ftruncate",
    "refused",
    "touched",
    "stored",
    "loaded",
    "SEGV_MAPERR",
    "SEGV_ACCERR",
    "BUS_ADRERR",
    "fork",
    "exit",
];

/// A process that does what is chosen at random.
pub(crate) struct Generator {
    pub(crate) random: Random,
    pub(crate) vmas: Vmas,
    pub(crate) files: Files,
    pub(crate) trace: Trace,
    /// Where it is in the control page, and its number in the trace.
    slot: usize,
    pub(crate) process: u32,
}

impl Generator {
    /// The first process.
    pub(crate) fn new() -> Self {
        let process = control().enter(0, 0);
        let (vmas, files) = (Vmas::new(), Files::new());
        Generator { random: Random::new(0), vmas, files, trace: trace::begin(), slot: 0, process }
    }

    /// Counts an act of this kind, which is one of [`KINDS`].
    pub(crate) fn count(&self, kind: &str) {
        if let Some(kind) = KINDS.iter().position(|&known| known == kind) {
            control().count(kind);
        }
    }

    /// Does what all processes do, in turns, to the end.
    pub(crate) fn run(mut self) -> ! {
        seen::tell_maps(&mut self.trace, self.process);
        put!(&mut self.trace, "{} @personality 0x0040000\n", self.process);
        if let Ok(brk) = Self::make(number::BRK, [0]) {
            put!(&mut self.trace, "{} @brk {brk:#x} {brk:#x}\n", self.process);
        }
        let fd = turns::UNMAPPABLE;
        put!(&mut self.trace, "{} @file {fd} kind=pipe mode=r\n", self.process);
        // The heap's VMA is always one of its own.
        let (last, advice) = (memory::last_image_page(), MADV_DONTDUMP);
        let result = Self::make(number::MADVISE, [last, PAGE, advice]);
        self.tell("madvise", format_args!("madvise({last:#x}, {PAGE}, {advice})"), &result);
        loop {
            self.random = Random::new(control().seed());
            self.vmas.look();
            if control().left() == 0 {
                self.finish();
            } else {
                self.act();
                control().set_seed(self.random.bits());
                self.pass_on();
            }
        }
    }

    /// Does something, and looks at what came of it.
    fn act(&mut self) {
        let control = control();
        control.set_left(control.left() - 1);
        match self.random.below(100) {
            0..=17 => self.mmap(),
            18..=24 => self.munmap(),
            25..=35 => self.mprotect(),
            36..=45 => self.mremap(),
            46..=56 => self.madvise(),
            57..=60 => self.lock(),
            61..=63 => self.brk(),
            64..=86 => self.touch(),
            87..=89 => self.fork(),
            90..=91 => self.exit(),
            92..=94 => self.open_or_close(),
            95 => self.truncate(),
            96 => self.msync(),
            97 => self.mincore(),
            98 => self.process_madvise(),
            _ => self.rare(),
        }
        self.vmas.look();
        self.vmas.tell(&mut self.trace);
        if control.left().is_multiple_of(control.every()) {
            self.look_at_all();
        }
    }

    fn look_at_all(&mut self) {
        seen::tell_maps(&mut self.trace, self.process);
        seen::tell_pages(&mut self.trace, self.process, &self.vmas);
    }

    /// Makes a process, if there can be another one. It has the next act.
    fn fork(&mut self) {
        let Some(slot) = control().free_slot() else { return };
        self.count("fork");
        self.trace.flush();
        control().set_seed(self.random.bits());
        let (forked, child) = turns::fork(slot, self.slot);
        match forked {
            Forked::Child => {
                (self.slot, self.process) = (slot, child);
                self.wait();
                self.random = Random::new(control().seed());
            }
            Forked::Parent(_) => {
                put!(&mut self.trace, "{} fork() = {child}\n", self.process);
            }
        }
    }

    /// Ends, unless it has children, or is the first.
    fn exit(&mut self) {
        if self.slot != 0 && !control().has_children(self.slot) {
            self.count("exit");
            control().set_seed(self.random.bits());
            self.end();
        }
    }

    fn end(&mut self) -> ! {
        put!(&mut self.trace, "{} exit_group(0) = ?\n", self.process);
        put!(&mut self.trace, "{} +++ exited with 0 +++\n", self.process);
        self.trace.flush();
        turns::end(self.slot)
    }

    /// Gives the turn to one of all processes, and waits for it again.
    fn pass_on(&mut self) {
        let count = control().alive().count() as u64;
        let at = usize::try_from(self.random.below(count)).unwrap_or(0);
        if let Some(next) = control().alive().nth(at).filter(|&next| next != self.slot) {
            self.pass_to(next);
        }
    }

    fn pass_to(&mut self, slot: usize) {
        self.trace.flush();
        turns::pass(slot);
        self.wait();
    }

    fn wait(&mut self) {
        if let Some((child, end)) = turns::wait(self.slot) {
            let End::Exited(status) = end else {
                guest::check::fail(format_args!("process {child} ended with {end:?}"));
            };
            let word = status << 8;
            put!(
                &mut self.trace,
                "{} wait4({child}, [{word:#x}], 0, NULL) = {child}\n",
                self.process
            );
        }
    }

    /// There is no act left: children end before their parents, and each looks at all that it has.
    fn finish(&mut self) {
        let control = control();
        if control.has_children(self.slot) {
            let leaf = control.alive().find(|&slot| slot != 0 && !control.has_children(slot));
            if let Some(leaf) = leaf {
                self.pass_to(leaf);
            }
            return;
        }
        self.look_at_all();
        if self.slot != 0 {
            self.end();
        }
        for (kind, count) in control.counts() {
            put!(&mut self.trace, "# made {kind} {count}\n");
        }
        self.trace.flush();
        guest::process::exit(0)
    }
}
