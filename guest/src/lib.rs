//! What runs inside the guest: the ring-0 trampoline, and a small runtime for payloads (hypercall
//! programs without an operating system under them).
//!
//! A payload is a static ELF. It speaks Linux's system-call interface, so it also runs natively,
//! with the host kernel as the oracle of what it expects; [`native`] stands in there for the two
//! calls that only mmvisor has. The least payload:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! guest::payload!(main);
//!
//! fn main(_: guest::process::Args) {
//!     guest::println!("hello");
//! }
//! ```
//!
//! # What is Rust's and what is the payload's
//!
//! There is no allocator here. All the memory that Rust code holds references into is the program's
//! image and its stack; every other address is plain bytes, reached by number through [`memory`]
//! and [`fault`] and never by reference. That is why mapping and unmapping are safe functions: they
//! refuse the image and the live stack (see [`memory::reserved`]), and can hurt nothing else.

#![no_std]
#![deny(unsafe_code)]

pub mod abi;
pub mod accesses;
mod bits;
pub mod call;
pub mod check;
mod choices;
pub mod entry;
pub mod errno;
pub mod family;
pub mod fault;
pub mod fresh;
pub mod memory;
pub mod native;
pub mod print;
pub mod proc;
pub mod process;
pub mod random;
pub mod script;
pub mod trampoline;
