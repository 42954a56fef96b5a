//! What runs inside the guest: the ring-0 trampoline, and a small runtime for payloads (hypercall
//! programs without an operating system under them).
//!
//! A payload is a static ELF. It speaks Linux's system-call interface, so most of it also runs
//! natively.

#![no_std]

pub mod abi;
pub mod trampoline;
