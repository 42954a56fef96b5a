//! The machine around the memory manager: a KVM virtual machine without a kernel, whose programs'
//! hypercalls are Linux system calls.

#![deny(unsafe_code)]

pub mod boot;
pub mod cli;
pub mod credentials;
pub mod doctor;
pub mod files;
pub mod hypercall;
pub mod kvm;
pub mod load;
pub mod machine;
pub mod nested;
pub mod proc;
pub mod replay;
pub mod swap_file;
pub mod task;
