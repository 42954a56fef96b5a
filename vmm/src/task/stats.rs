//! What a run counts: calls by name, exits by kind, host time in each.

use std::collections::BTreeMap;
use std::time::Duration;

/// Calls of one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CallStats {
    /// How many.
    pub count: u64,
    /// How many of them failed with an errno.
    pub errors: u64,
    /// Host time in them.
    pub time: Duration,
}

/// Exits of a vCPU by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exits {
    /// Hypercalls.
    pub calls: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Other exceptions.
    pub exceptions: u64,
    /// Signals to the thread.
    pub interrupts: u64,
}

/// What one task counted.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// By call number.
    pub calls: BTreeMap<u64, CallStats>,
    /// By kind.
    pub exits: Exits,
    /// In `KVM_RUN`.
    pub guest_time: Duration,
    /// In page faults.
    pub fault_time: Duration,
}

impl Stats {
    /// Adds what another task counted.
    pub fn add(&mut self, other: &Stats) {
        for (&number, call) in &other.calls {
            let sum = self.calls.entry(number).or_default();
            sum.count += call.count;
            sum.errors += call.errors;
            sum.time += call.time;
        }
        self.exits.calls += other.exits.calls;
        self.exits.page_faults += other.exits.page_faults;
        self.exits.exceptions += other.exits.exceptions;
        self.exits.interrupts += other.exits.interrupts;
        self.guest_time += other.guest_time;
        self.fault_time += other.fault_time;
    }

    /// Host time in calls.
    #[must_use]
    pub fn call_time(&self) -> Duration {
        self.calls.values().map(|call| call.time).sum()
    }
}
