//! The cases under the host's KVM.

use std::process::Command;

use libtest_mimic::{Completion, Failed, Trial};
use vmm::kvm::Kind;

use crate::case::{Case, Where};
use crate::common::{self, MMVISOR, kvm_unusable};

/// A trial a case.
pub fn trials(cases: &[Case]) -> Vec<Trial> {
    cases
        .iter()
        .filter(|case| case.place != Where::Nested)
        .cloned()
        .map(|case| Trial::ignorable_test(format!("kvm::{}", case.name), move || trial(&case)))
        .collect()
}

fn trial(case: &Case) -> Result<Completion, Failed> {
    if let Some(why) = kvm_unusable().or_else(|| out_of_place(case.place, Kind::detect())) {
        return Ok(Completion::ignored_with(why));
    }
    let mut command = Command::new(MMVISOR);
    command
        .args(case.options_for("guest"))
        .args(&case.program)
        .args(&case.args)
        .env_remove("RUST_LOG");
    command.envs(case.env.iter().copied());
    let ran = common::run_with_input(&mut command, &case.stdin, case.stdin_then, case.limit);
    case.judge(&ran)?;
    Ok(Completion::Completed)
}

/// Why a case makes no sense under this KVM; `None` if it does.
fn out_of_place(place: Where, kind: Kind) -> Option<String> {
    // With nested paging a missing flush shows only if the processor has kept the translation, which it
    // need not. Where the kind cannot be told it may be that.
    let shadow = matches!(kind, Kind::Soft | Kind::Shadow);
    (place == Where::ShadowPaging && !shadow)
        .then(|| format!("a missing flush need not show under {kind}; the nested machine shows it"))
}
