//! The cases in the nested machine: one boot for each kind of paging runs them all.

use libtest_mimic::Trial;

/// A trial a case and kind.
pub fn trials() -> Vec<Trial> {
    Vec::new()
}
