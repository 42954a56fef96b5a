//! Where a guest is: under the host's KVM, or in a machine emulated with a KVM of its own. There the same
//! mmvisor gets the same command.

use std::ffi::{OsStr, OsString};

use clap::ValueEnum;

use crate::kvm::FlushPolicy;
use crate::nested::Job;

/// Where to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Where {
    /// Under the host's KVM if it can be used, else nested.
    Auto,
    /// Under the host's KVM.
    Kvm,
    /// In an emulated machine that has a KVM of its own.
    Nested,
}

/// Variables of mmvisor's own environment that the mmvisor in the machine must have, too.
const HANDED_ON: [&str; 4] =
    ["RUST_LOG", "RUST_LOG_STYLE", "RUST_BACKTRACE", FlushPolicy::VARIABLE];

/// A job with those variables.
pub(super) fn hand_on_variables(job: Job) -> Job {
    let set = |name| Some((name, std::env::var_os(name)?));
    HANDED_ON.into_iter().filter_map(set).fold(job, |job, (name, value)| job.env(name, value))
}

/// `--name=value`.
pub(super) fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut option = OsString::from(name);
    option.push("=");
    option.push(value);
    option
}

/// `--name=value` with the value's name on the command line.
pub(super) fn named(name: &str, value: &impl ValueEnum) -> Option<OsString> {
    value.to_possible_value().map(|value| option(name, value.get_name()))
}
