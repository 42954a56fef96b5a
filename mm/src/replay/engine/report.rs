//! What a replay found.

use std::fmt;

use crate::replay::trace::TraceError;

/// A line of the trace whose result is not what the executor has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The line, counted from 1.
    pub line: usize,
    /// The call or the `@` line, without its result.
    pub call: String,
    /// What the trace has.
    pub expected: String,
    /// What the executor has.
    pub got: String,
}

impl fmt::Display for Mismatch {
    /// `LINE: CALL: expected X, got Y`; the trace's name and a colon belong before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { line, call, expected, got } = self;
        write!(f, "{line}: {call}: expected {expected}, got {got}")
    }
}

/// How much was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Calls in the trace, as far as it was read.
    pub calls: u64,
    /// Results that were compared.
    pub checks: u64,
    /// Those that were not equal.
    pub mismatches: u64,
    /// Calls and checks left out: not modelled, not supported by the executor, of unknown result, or on
    /// addresses that nothing in the trace explains.
    pub skipped: u64,
    /// Ranges taken to be mapped only because a call on them succeeded.
    pub assumed: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { calls, checks, mismatches, skipped, assumed } = self;
        write!(f, "{calls} calls, {checks} checks, {mismatches} mismatches, ")?;
        write!(f, "{skipped} skipped, {assumed} assumed")
    }
}

/// A replay that is over.
#[derive(Debug)]
pub struct Report<E> {
    /// How much was replayed.
    pub summary: Summary,
    /// Why it ended before the trace did, if so.
    pub ended: Option<ReplayError<E>>,
}

/// Why a replay ended before its trace did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// The trace could not be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The executor could not go on.
    #[error("line {line}: the executor failed: {source}")]
    Executor {
        /// The line it was at.
        line: usize,
        /// Why.
        source: E,
    },
}

impl<E> Report<E> {
    /// 0 if all results were equal, 1 if one was not, 2 if the trace could not be read or the executor
    /// could not go on.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match (&self.ended, self.summary.mismatches) {
            (Some(_), _) => 2,
            (None, 0) => 0,
            (None, _) => 1,
        }
    }
}
