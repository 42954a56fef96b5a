//! The player's memory: at known addresses, far from all that scripts are about.
//!
//! ```text
//!   0x400000           the image; brk's heap follows it, untouched
//!   0x10000000000      (where tests put their maps)
//!   0x200000000000     control page │ script 1 MiB │ answers 7 MiB: shared with all processes
//!   0x200001000000     stack, each process's own
//!   0x7ffff7fff000     (where mmap places top-down, below the stack that exec made)
//! ```

use core::slice;

use guest::memory::{self, Flags, PAGE, Place, Prot};
use guest::must;
use guest::script::{ANSWER_BYTES, Header, Kind, SCRIPT_BYTES};

use crate::control::Control;

const CONTROL: u64 = 0x2000_0000_0000;
/// Where the script lies.
pub(crate) const SCRIPT: u64 = CONTROL + PAGE;
const ANSWERS: u64 = SCRIPT + SCRIPT_BYTES as u64;
const SHARED_END: u64 = ANSWERS + ANSWER_BYTES as u64;
const STACK: u64 = CONTROL + (16 << 20);
/// The top of the player's own stack.
pub(crate) const STACK_TOP: u64 = STACK + (256 << 10);

const _: () = assert!(SHARED_END < STACK && size_of::<Control>() as u64 <= PAGE);

/// Bytes in a word of an answer.
const WORD: u64 = size_of::<u64>() as u64;

/// Maps all of it.
pub(crate) fn map() {
    let shared = Flags::SHARED | Flags::ANONYMOUS;
    let _ = must!(memory::map(Place::IfFree(CONTROL), SHARED_END - CONTROL, Prot::RW, shared));
    let _ = must!(memory::map(Place::IfFree(STACK), STACK_TOP - STACK, Prot::RW, Flags::OWN));
}

/// The control page.
pub(crate) fn control() -> &'static Control {
    // SAFETY: `map` came first; the page is zeros at first and holds nothing but atomics.
    unsafe { &*(CONTROL as *const Control) }
}

/// The script, of `length` bytes, at most [`SCRIPT_BYTES`].
pub(crate) fn script(length: usize) -> &'static [u8] {
    // SAFETY: `map` came first. The root writes there only when it has no processes and holds no
    // script; a script whose own calls write there has itself to thank.
    unsafe { slice::from_raw_parts(SCRIPT as *const u8, length.min(SCRIPT_BYTES)) }
}

/// The answers, of which there are `length` bytes.
pub(crate) fn answers(length: usize) -> &'static [u8] {
    // SAFETY: `map` came first; asked for when no process is left that writes there.
    unsafe { slice::from_raw_parts(ANSWERS as *const u8, length.min(ANSWER_BYTES)) }
}

/// An answer that is being written, by the process whose turn it is. The answer counts once it is
/// finished; one that does not fit ends the script.
#[derive(Debug)]
pub(crate) struct Sheet {
    start: u64,
    next: u64,
}

impl Sheet {
    /// Begins an answer after those that are there.
    pub(crate) fn begin() -> Self {
        let start = ANSWERS + control().written();
        let mut sheet = Sheet { start, next: start };
        sheet.word(0);
        sheet
    }

    /// Room for `length` bytes, filled up to words; its address.
    fn take(&mut self, length: u64) -> u64 {
        let addr = self.next;
        let padded = length.next_multiple_of(WORD);
        if padded > SHARED_END - addr {
            control().give_up();
        }
        self.next += padded;
        addr
    }

    /// Writes a word; its address, for [`Sheet::set`].
    pub(crate) fn word(&mut self, word: u64) -> u64 {
        let addr = self.take(WORD);
        self.set(addr, word);
        addr
    }

    /// Changes a word that was written.
    pub(crate) fn set(&mut self, addr: u64, word: u64) {
        // SAFETY: `take` gave the address: in the answers, aligned, and this process's to write.
        unsafe { (addr as *mut u64).write_volatile(word) };
    }

    /// Writes a run of bytes, without its length; its address.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let addr = self.zeros(bytes.len() as u64);
        // SAFETY: `zeros` gave this many bytes, which no reference covers.
        unsafe { (addr as *mut u8).copy_from(bytes.as_ptr(), bytes.len()) };
        addr
    }

    /// Writes zeros up to whole words, without their length; their address.
    pub(crate) fn zeros(&mut self, length: u64) -> u64 {
        let addr = self.take(length);
        // An earlier script's answers lie there.
        for word in (addr..self.next).step_by(size_of::<u64>()) {
            self.set(word, 0);
        }
        addr
    }

    /// The answer is whole.
    pub(crate) fn finish(mut self, kind: Kind) {
        // At most ANSWER_BYTES / WORD.
        let words = u32::try_from((self.next - self.start) / WORD).unwrap_or(u32::MAX);
        let header = Header { code: kind as u8, process: 0, detail: 0, words };
        self.set(self.start, header.word());
        control().set_written(self.next - ANSWERS);
    }
}
