//! What the random calls have met: each call with each of its answers, and each way to merge. A rule that
//! nothing reaches is not compared.

use std::collections::BTreeMap;
use std::fmt;

use mm::error::Errno;
use mm::replay::calls::MemoryCall as M;
use mm::vma::merge::Merge;

use super::act::{Act, Deed};
use super::model::Result;

/// Counts of answers and merges.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    answers: BTreeMap<(String, String), u64>,
    merges: [u64; Merge::ALL.len()],
    left_out: u64,
}

impl Tally {
    /// Counts an act's answer.
    pub fn answer(&mut self, act: &Act, result: &Result) {
        let answer = match result {
            Result::Value(_) | Result::Resident(_) | Result::Done(_) => "ok".to_owned(),
            Result::Wrote(Ok(_), _) => "ok".to_owned(),
            Result::Errno(number) | Result::Wrote(Err(number), _) => name(*number),
            Result::Signal(11, 1) => "SEGV_MAPERR".to_owned(),
            Result::Signal(11, _) => "SEGV_ACCERR".to_owned(),
            Result::Signal(..) => "SIGBUS".to_owned(),
        };
        *self.answers.entry((act.name(), answer)).or_default() += 1;
        if let (Deed::Call(M::MovePages { .. }), Result::Wrote(Ok(_), buffers)) =
            (&act.deed, result)
        {
            for status in buffers.iter().flat_map(|statuses| statuses.chunks(4)) {
                let status = status.try_into().map_or(0, i32::from_le_bytes);
                let answer = if status < 0 { name(-status) } else { "ok".to_owned() };
                *self.answers.entry(("a page's status".to_owned(), answer)).or_default() += 1;
            }
        }
    }

    /// Counts a sequence that is not compared on this kernel.
    pub fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// How many sequences were not compared.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Counts merges.
    pub fn merges(&mut self, counts: [u64; Merge::ALL.len()]) {
        for (all, count) in self.merges.iter_mut().zip(counts) {
            *all += count;
        }
    }

    /// Takes in another's counts.
    pub fn add(&mut self, other: &Tally) {
        for (what, count) in &other.answers {
            *self.answers.entry(what.clone()).or_default() += count;
        }
        self.merges(other.merges);
        self.left_out += other.left_out;
    }

    /// What of `expected` was not met, and which merges were not.
    pub fn missing(&self, expected: &[(&str, &str)]) -> Vec<String> {
        let answers = expected.iter().flat_map(|(call, answers)| {
            answers.split_whitespace().map(move |answer| (*call, answer))
        });
        let unmet = |&(call, answer): &(&str, &str)| {
            !self.answers.contains_key(&(call.to_owned(), answer.to_owned()))
        };
        let merges = Merge::ALL.iter().filter(|&&merge| self.merges[merge as usize] == 0);
        answers
            .filter(unmet)
            .map(|(call, answer)| format!("{call}: {answer}"))
            .chain(merges.map(|merge| format!("a merge: {}", merge.name())))
            .collect()
    }
}

/// An errno's.
fn name(number: i32) -> String {
    format!("{:?}", Errno::from_raw(number))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.left_out > 0 {
            write!(f, "\n  {} sequences left out: this kernel has other rules", self.left_out)?;
        }
        let mut before = "";
        for ((call, answer), count) in &self.answers {
            if call == before {
                write!(f, ", {answer} {count}")?;
            } else {
                write!(f, "\n  {call:22}{answer} {count}")?;
            }
            before = call;
        }
        write!(f, "\n  merges                ")?;
        for merge in Merge::ALL {
            write!(f, "{} {}; ", merge.name(), self.merges[merge as usize])?;
        }
        Ok(())
    }
}
