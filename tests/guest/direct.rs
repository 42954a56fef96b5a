//! The cases under the host's KVM.

use std::process::Command;

use libtest_mimic::{Completion, Failed, Trial};

use crate::cases::{self, Case, Where};
use crate::common::{self, MMVISOR, kvm_unusable};

/// A trial a case.
pub fn trials() -> Vec<Trial> {
    cases::all()
        .into_iter()
        .filter(|case| case.place != Where::Nested)
        .map(|case| Trial::ignorable_test(format!("kvm::{}", case.name), move || trial(&case)))
        .collect()
}

fn trial(case: &Case) -> Result<Completion, Failed> {
    if let Some(why) = kvm_unusable() {
        return Ok(Completion::ignored_with(why));
    }
    let mut command = Command::new(MMVISOR);
    command.args(&case.options).args(&case.program).args(&case.args).env_remove("RUST_LOG");
    command.envs(case.env.iter().copied());
    let ran = common::run(&mut command, &case.stdin, case.limit);
    case.judge(&ran)?;
    Ok(Completion::Completed)
}
