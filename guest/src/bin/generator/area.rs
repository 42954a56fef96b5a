//! The generator's own memory: at known addresses, far from all that it tries.
//!
//! ```text
//!   0x400000           the image; brk's heap follows it
//!   0x10000000000      what is mapped at addresses of its choice
//!   0x200000000000     control page, shared by all processes
//!   0x200001000000     stack, each process's own
//!   0x7ffff7fff000     where the kernel places what has no address
//! ```

use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::must;

use crate::acts::KINDS;

const CONTROL: u64 = 0x2000_0000_0000;
const STACK: u64 = CONTROL + (16 << 20);
/// The top of the stack.
pub(crate) const STACK_TOP: u64 = STACK + (256 << 10);
/// What nothing is to be tried on.
pub(crate) const OWN: Range<u64> = CONTROL..CONTROL + (32 << 20);

/// How many processes there are at most at a time.
pub(crate) const PROCESSES: usize = 6;

/// Maps all of it.
pub(crate) fn map() {
    let shared = Flags::SHARED | Flags::ANONYMOUS;
    let _ = must!(memory::map(Place::IfFree(CONTROL), PAGE, Prot::RW, shared));
    let _ = must!(memory::map(Place::IfFree(STACK), STACK_TOP - STACK, Prot::RW, Flags::OWN));
}

/// The control page.
pub(crate) fn control() -> &'static Control {
    // SAFETY: `map` came first; the page is zeros at first and holds nothing but atomics.
    unsafe { &*(CONTROL as *const Control) }
}

const _: () = assert!(size_of::<Control>() as u64 <= PAGE);

/// What the processes have in common. Only who has the turn looks at it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Control {
    seed: AtomicU64,
    left: AtomicU64,
    every: AtomicU64,
    /// Whether anything was ever locked.
    locked: AtomicU32,
    /// How many processes there have been.
    born: AtomicU32,
    /// Of each process that there is: the kernel's number, and ours; 0 of those that there are not.
    pids: [AtomicU64; PROCESSES],
    names: [AtomicU32; PROCESSES],
    parents: [AtomicU32; PROCESSES],
    counts: [AtomicU64; KINDS.len()],
}

macro_rules! words {
    ($($get:ident, $set:ident: $field:ident, $what:literal;)*) => {
        $(
            #[doc = $what]
            pub(crate) fn $get(&self) -> u64 {
                self.$field.load(Relaxed)
            }

            #[doc = $what]
            pub(crate) fn $set(&self, value: u64) {
                self.$field.store(value, Relaxed);
            }
        )*
    };
}

impl Control {
    words! {
        seed, set_seed: seed, "From which the next act is chosen.";
        left, set_left: left, "Acts that are still to come.";
        every, set_every: every, "Every how many of them all is looked at.";
    }

    /// Whether anything was ever locked.
    pub(crate) fn is_locked(&self) -> bool {
        self.locked.load(Relaxed) != 0
    }

    /// Something may be locked from now on.
    pub(crate) fn set_locked(&self) {
        self.locked.store(1, Relaxed);
    }

    /// Counts an act of a kind.
    pub(crate) fn count(&self, kind: usize) {
        self.counts[kind].fetch_add(1, Relaxed);
    }

    /// How often there was an act of each kind.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.into_iter().zip(self.counts.iter().map(|count| count.load(Relaxed)))
    }

    /// A slot for another process, if there is one.
    pub(crate) fn free_slot(&self) -> Option<usize> {
        (0..PROCESSES).find(|&slot| self.names[slot].load(Relaxed) == 0)
    }

    /// The number of a process in the trace, from 1; 0 where there is none.
    pub(crate) fn name(&self, slot: usize) -> u32 {
        self.names[slot].load(Relaxed)
    }

    /// There is a process in this slot, the child of another's; its number in the trace.
    pub(crate) fn enter(&self, slot: usize, parent: usize) -> u32 {
        let name = self.born.fetch_add(1, Relaxed) + 1;
        self.names[slot].store(name, Relaxed);
        self.parents[slot].store(u32::try_from(parent).unwrap_or(0), Relaxed);
        name
    }

    /// There is none any more.
    pub(crate) fn leave(&self, slot: usize) {
        self.names[slot].store(0, Relaxed);
    }

    /// The kernel's number of the process in a slot.
    pub(crate) fn pid(&self, slot: usize) -> u64 {
        self.pids[slot].load(Relaxed)
    }

    /// Remembers it.
    pub(crate) fn set_pid(&self, slot: usize, pid: u64) {
        self.pids[slot].store(pid, Relaxed);
    }

    /// The slot of a process's parent.
    pub(crate) fn parent(&self, slot: usize) -> usize {
        self.parents[slot].load(Relaxed) as usize
    }

    /// The slots of all processes that there are.
    pub(crate) fn alive(&self) -> impl Iterator<Item = usize> + Clone {
        (0..PROCESSES).filter(|&slot| self.name(slot) != 0)
    }

    /// Whether a process has children; the first one has them to the end, and is its own.
    pub(crate) fn has_children(&self, slot: usize) -> bool {
        self.alive().any(|other| other != slot && self.parent(other) == slot)
    }
}
