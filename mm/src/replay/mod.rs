//! Executors of memory traces. So far the software executor: a vCPU's memory accesses without a vCPU.

mod software;

pub use software::{CountingSink, SoftwareMachine};
