//! The page by which the root and a script's processes agree on whose turn it is.
//!
//! The turn is the number of the step to be performed; who performs it has the answers and this page
//! to itself, and passes the turn on. Exit is passed on by the root, once the process is gone.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use guest::call::{number, syscall};
use guest::process;
use guest::script::{Kind, Op, PROCESSES, Steps};

use crate::area::Sheet;

/// Looks at the turn before going to sleep: handing over to a process that still looks takes a tenth
/// of waking one.
const LOOKS: u32 = 1000;

/// All zeros is a control page before the first script.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Control {
    turn: AtomicU32,
    /// How many processes sleep until it is their turn.
    sleepers: AtomicU32,
    /// 1 if the answers did not fit.
    full: AtomicU32,
    /// The number + 1 of the process that is performing Exit, or 0.
    leaving: AtomicU32,
    /// Bytes of whole answers.
    written: AtomicU64,
    /// The processes, a bit each, that a failed fork did not make.
    absent: AtomicU64,
    /// Each process's pid, 0 before its fork and after its end.
    pids: [AtomicU32; PROCESSES],
}

const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_WAKE_BITSET: u64 = 10;

/// Which sleepers are woken: a bit for a process.
const fn waker(process: u8) -> u64 {
    1 << (process % 32)
}

impl Control {
    /// As before the first script.
    pub(crate) fn reset(&self) {
        for word in
            [&self.turn, &self.sleepers, &self.full, &self.leaving].into_iter().chain(&self.pids)
        {
            word.store(0, Relaxed);
        }
        self.written.store(0, Relaxed);
        self.absent.store(0, Relaxed);
    }

    /// The step that is being performed, or the number of all steps.
    pub(crate) fn turn(&self) -> u32 {
        self.turn.load(SeqCst)
    }

    /// Says at which step a script ended that did not end well. By the root, when no process is left.
    pub(crate) fn set_turn(&self, step: u32) {
        self.turn.store(step, SeqCst);
    }

    /// Bytes of whole answers.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Sets the bytes of whole answers. By whoever has the turn.
    pub(crate) fn set_written(&self, bytes: u64) {
        self.written.store(bytes, Relaxed);
    }

    /// Where a process's pid is kept.
    pub(crate) fn pid(&self, process: u8) -> &AtomicU32 {
        &self.pids[usize::from(process) % PROCESSES]
    }

    /// The processes that there are: number and pid.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (u8, u32)> {
        (0..).zip(&self.pids).map(|(n, pid)| (n, pid.load(SeqCst))).filter(|&(_, pid)| pid != 0)
    }

    /// Ends this process because the answers do not fit.
    pub(crate) fn give_up(&self) -> ! {
        self.full.store(1, SeqCst);
        process::exit(1)
    }

    /// Whether a process ended because the answers did not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(SeqCst) != 0
    }

    /// Ends this process as its script says.
    pub(crate) fn leave(&self, process: u8) -> ! {
        self.leaving.store(u32::from(process) + 1, SeqCst);
        process::exit(0)
    }

    /// Whether this process ended as its script says; asked by the root, once.
    pub(crate) fn left(&self, process: u8) -> bool {
        self.leaving.compare_exchange(u32::from(process) + 1, 0, SeqCst, SeqCst).is_ok()
    }

    /// Says that a fork has not made this process.
    pub(crate) fn set_absent(&self, process: u8) {
        self.absent.fetch_or(1 << (process % 64), Relaxed);
    }

    /// Waits until it is the turn of a step.
    pub(crate) fn wait(&self, step: u32, process: u8) {
        for _ in 0..LOOKS {
            if self.turn() == step {
                return;
            }
            core::hint::spin_loop();
        }
        loop {
            // Counted before the turn is looked at, and whoever passes the turn looks here after:
            // one of the two sees the other.
            self.sleepers.fetch_add(1, SeqCst);
            let turn = self.turn();
            if turn != step {
                let args = [self.word(), FUTEX_WAIT_BITSET, turn.into(), 0, 0, waker(process)];
                // SAFETY: waits for the word to change, and changes nothing.
                let _ = unsafe { syscall(number::FUTEX, args) };
            }
            self.sleepers.fetch_sub(1, SeqCst);
            if self.turn() == step {
                return;
            }
        }
    }

    /// Passes the turn on after a step; `rest` are the steps after it. Steps of absent processes are
    /// answered here.
    pub(crate) fn pass(&self, step: u32, mut rest: Steps<'_>) {
        let mut next = step + 1;
        let wake = loop {
            // The script was checked: there is no malformed step.
            let Some(Ok(step)) = rest.next() else { break u64::from(u32::MAX) };
            if self.absent.load(Relaxed) & 1 << (step.process % 64) == 0 {
                break waker(step.process);
            }
            if let Op::Fork { child } = step.op {
                self.set_absent(child);
            }
            Sheet::begin().finish(Kind::Absent);
            next += 1;
        };
        self.turn.store(next, SeqCst);
        if self.sleepers.load(SeqCst) != 0 {
            let all = u64::from(i32::MAX.unsigned_abs());
            // SAFETY: wakes processes, and changes nothing.
            let _ = unsafe {
                syscall(number::FUTEX, [self.word(), FUTEX_WAKE_BITSET, all, 0, 0, wake])
            };
        }
    }

    fn word(&self) -> u64 {
        self.turn.as_ptr() as u64
    }
}
