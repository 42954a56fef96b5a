//! The trace format: what strace prints for a memory call, one event a line, and `@` lines for what
//! strace cannot see.
//!
//! ```text
//!   text ── Reader ──> lines, halves of a call joined ── parse_call, parse_at ──> Event
//!   Event ── Display ──> text in the canonical form, which reads back as the same event
//! ```
//!
//! ```
//! let text = b"mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f33a2a5e000\n";
//! let events: Result<Vec<_>, _> = mm::replay::trace::Reader::new(text).collect();
//! assert_eq!(events?[0].to_string().as_bytes(), text.trim_ascii_end());
//! # Ok::<(), mm::replay::trace::TraceError>(())
//! ```

mod directive;
mod error;
pub(super) mod lex;
mod parse_at;
mod parse_call;
mod parse_maps;
mod print;
mod reader;
#[cfg(test)]
pub(super) mod tests;

pub use directive::{
    AnonOrigin, Directive, File, FileKind, Held, Hidden, MapLine, OpenMode, Rss, Setting, Span,
    Touched, UffdChange, UffdModes, VmFlagNames,
};
pub use error::{Problem, Syntax, TraceError};
pub use reader::Reader;

use super::calls::{Call, Outcome, ProcessCall};

/// What happened, and where the trace says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The line, counted from 1; for a call in two halves, the second.
    pub line: usize,
    /// The line it began on: that of a call's first half, else `line`.
    pub begun: usize,
    /// The process or thread; none in a trace of a single one.
    pub pid: Option<u32>,
    /// What happened.
    pub action: Action,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A call and its result.
    Call {
        /// The call.
        call: Call,
        /// Its result.
        outcome: Outcome,
    },
    /// A call that makes a task has begun: the task may run before the call returns, and its result
    /// follows as a call of its own.
    Begun(ProcessCall),
    /// A signal was delivered: the text between `---` and `---`.
    Signal(String),
    /// `+++ exited with 0 +++`.
    Exited {
        /// The exit status.
        status: i32,
    },
    /// `+++ killed by SIGKILL +++`: the signal, and whether there was a core.
    Killed(String),
    /// `+++ superseded by execve in pid 12 +++`: the thread that called execve takes this pid.
    Superseded {
        /// The pid it had.
        by: u32,
    },
    /// An `@` line.
    Directive(Directive),
}
