//! What the trials here have in common.

use std::fmt::Debug;

use libtest_mimic::{Failed, Trial};

/// A trial's name and what it does.
pub type Named = (&'static str, fn() -> Result<(), Failed>);

/// A group of trials.
pub fn group(name: &str, trials: &[Named]) -> Vec<Trial> {
    trials.iter().map(|&(trial, run)| Trial::test(format!("{name}::{trial}"), run)).collect()
}

/// Fails unless both values are equal, and says what came and what should have come.
#[allow(clippy::needless_pass_by_value, reason = "what is compared is made for it, mostly")]
pub fn equal<T: PartialEq + Debug>(came: T, wanted: T) -> Result<(), Failed> {
    if came == wanted { Ok(()) } else { Err(format!("{came:?}, not {wanted:?}").into()) }
}
