//! Can mmvisor work here? Each thing that it relies on is asked of the KVM at hand by a guest of a few
//! instructions. It is also what nested-virtualization CI calls: does KVM, at this nesting depth, really
//! do page tables, faults and shootdowns right?

mod host;
mod probes;
mod report;

pub use host::Host;
pub use report::{Outcome, Probe, Report};

use crate::kvm::{FlushPolicy, Kvm};
use crate::machine::KeptMachine;

/// Asks everything. Takes about a second, and ends even if a guest does not.
///
/// With [`FlushPolicy::None`] the probes of flushing flush nothing, and must fail where a missing flush
/// shows: that proves them. Any other policy is the same to them: they try each method.
#[must_use]
pub fn run(flush: FlushPolicy) -> Report {
    match Kvm::open() {
        Ok(kvm) => {
            // If none can be made, the first probe says why.
            let _kept = KeptMachine::new();
            Report {
                host: Host::of(Some(kvm.kind())),
                problem: None,
                probes: probes::all().map(|probe| probe.ask(&kvm, flush)).collect(),
            }
        }
        Err(error) => {
            Report { host: Host::of(None), problem: Some(error.to_string()), probes: Vec::new() }
        }
    }
}
