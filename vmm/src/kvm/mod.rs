//! KVM: which kind this is, a virtual machine and its memory, vCPUs that run ring 3, and the
//! ways to make a changed page table visible to them.
//!
//! ```text
//!   Kvm ──> Vm ──> GuestMemory      the guest's frames (mm::phys::PhysMemory)
//!            │└──> KvmSink          flushes (mm::paging::FlushSink)
//!            └──> VcpuPool ──> Vcpu run() ──> Exit
//! ```
//!
//! The guest is an attacker. Whatever it does ends in an [`Exit`]; nothing here panics on it.

#![allow(unsafe_code, reason = "ioctls, the run page and guest memory")]

mod cpu_names;
mod cpuid;
mod empty_slot;
mod error;
mod exit;
mod flush;
mod host_calls;
mod host_nodes;
mod kick;
mod kind;
pub(crate) mod lab;
mod memory;
mod memory_slot;
mod page_fault;
mod pool;
mod presence;
mod state;
mod sync;
mod vcpu;
mod vm;
mod xsave;
mod xsave_layout;

pub use cpu_names::CpuNames;
pub use error::KvmError;
pub use exit::{Exit, Position, UserFrame};
pub use flush::{FlushCounts, FlushPolicy, KvmSink};
pub(crate) use host_nodes::HostNodes;
pub use kick::{Kicker, install_kick_handler};
pub use kind::Kind;
pub use memory::GuestMemory;
pub use page_fault::faulting_access;
pub use pool::VcpuPool;
pub use vcpu::{NonCanonical, Registers, Vcpu};
pub use vm::{DEVICE_VARIABLE, Kvm, Vm};
pub use xsave::XsaveArea;
pub use xsave_layout::{Component, HEADER_BYTES, LEGACY_BYTES, X87_AND_SSE, XsaveLayout};

#[cfg(test)]
mod presence_model;
#[cfg(test)]
mod tests;
