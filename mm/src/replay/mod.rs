//! Memory traces: their names and text, and the executors that run them. So far the software executor:
//! a vCPU's memory accesses without a vCPU.

pub mod calls;
pub mod engine;
pub mod linux;
pub mod names;
mod software;
mod start;
pub mod text;
pub mod trace;

#[cfg(test)]
pub(crate) use software::access;
pub use software::{CountingSink, SoftwareMachine};
pub use start::{all_vmas, starting_state};
