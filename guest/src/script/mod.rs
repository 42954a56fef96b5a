//! A script of memory calls and accesses, as bytes: what a test gives to the payload `player`, and
//! what comes back. Both ends use this module, so there is one place where the layout is written.
//!
//! Everything is little-endian words of eight bytes; a run of bytes is filled up with zeros to whole
//! words. A script is its steps, one after the other, an answer sheet is the answers, one a step.
//!
//! ```text
//!   word 0      code of the operation  8 bits │ process  8 │ detail  16 │ length in words  32
//!   then        what the operation needs, see `Op`
//! ```
//!
//! Nothing here allocates, and nothing that is decoded is trusted: a length that goes past the end or
//! a code that is unknown is a [`Malformed`].

mod answer;
mod frame;
mod step;
mod words;

pub use answer::{Answer, FlagLine, FlagLines, Kind, Name, Outputs, SIZES, Vma, Vmas};
pub use frame::{Ending, Report, Request};
pub use step::{Access, Arg, Op, Step, Steps, Wrong, check};
pub use words::{Header, Malformed};

use words::Words;

/// How many processes a script may have: their numbers are below this.
pub const PROCESSES: usize = 64;
/// The most bytes that a script may have.
pub const SCRIPT_BYTES: usize = 1 << 20;
/// The most bytes of answers that a script may cause.
pub const ANSWER_BYTES: usize = 7 << 20;
