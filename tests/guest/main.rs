//! Programs in a guest: the same cases under the host's KVM and, one boot each, in the nested machine
//! with nested paging and with shadow paging.
//!
//! A case that cannot run here is ignored with its reason, and counted. The nested machine needs no
//! KVM, so its cases are never ignored.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test is a crate of its own")]

#[path = "../common/mod.rs"]
mod common;

mod bounded;
mod case;
mod cases;
mod core_files;
mod cut;
mod direct;
mod full;
mod granted;
mod interrupted;
mod killed;
mod nested;
mod proc_files;
mod settings;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let cases = cases::all();
    let mut trials: Vec<Trial> = direct::trials(&cases);
    trials.extend(interrupted::trials());
    trials.extend(core_files::trials());
    trials.extend(cut::trials());
    trials.extend(full::trials());
    trials.extend(granted::trials());
    trials.extend(bounded::trials());
    trials.extend(killed::trials());
    trials.extend(proc_files::trials());
    trials.extend(settings::trials());
    trials.extend(nested::trials(&cases, arguments.filter.as_deref()));
    libtest_mimic::run(&arguments, trials).exit();
}
