//! Can mmvisor work here? Each thing that it relies on is asked of the KVM at hand by a guest of a few
//! instructions. It is also what nested-virtualization CI calls: does KVM, at this nesting depth, really
//! do page tables, faults and shootdowns right?

mod host;
mod probes;
mod report;

pub use host::Host;
pub use report::{Outcome, Probe, Report};

use crate::kvm::Kvm;

/// Asks everything. Takes about a second, and ends even if a guest does not.
#[must_use]
pub fn run() -> Report {
    match Kvm::open() {
        Ok(kvm) => Report {
            host: Host::of(Some(kvm.kind())),
            problem: None,
            probes: probes::all().map(|probe| probe.ask(&kvm)).collect(),
        },
        Err(error) => {
            Report { host: Host::of(None), problem: Some(error.to_string()), probes: Vec::new() }
        }
    }
}
