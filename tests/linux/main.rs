//! The host kernel as the oracle: scripts of memory calls that it performs, one answer a step.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

#[path = "../common/mod.rs"]
mod common;

mod differential;
mod encoding;
mod facts;
mod oracle;
mod player;
mod script;
mod trial;
mod values;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> = facts::trials();
    trials.extend(encoding::trials());
    trials.extend(player::trials());
    trials.extend(differential::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
