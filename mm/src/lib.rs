//! Linux's memory manager as a library. It keeps address spaces (`mm_struct`), their VMAs
//! (`vm_area_struct`) and their x86-64 page tables in a guest's physical memory, and knows nothing of
//! KVM: who owns the memory implements [`phys::PhysMemory`], who runs the vCPUs implements
//! [`paging::FlushSink`].
//!
//! The VMA is intent, the page table is fact, and nothing stands between them. Read
//! [`space::AddressSpace`] first.

#![deny(unsafe_code)]

// In `interleave` shuttle decides at each lock and atomic which thread goes on.
#[cfg(interleave)]
extern crate interleaved_std as std;

pub mod addr;
pub mod backing;
pub mod calls;
pub mod current;
pub mod error;
pub mod failure;
pub mod hooks;
pub mod inspect;
pub mod khugepaged;
pub mod ksm;
pub mod numa;
pub mod paging;
pub mod phys;
pub mod promise;
pub mod reclaim;
pub mod replay;
pub mod rmap;
pub mod rules;
pub mod segments;
pub mod space;
pub mod swap;
pub mod sysctl;
pub mod system;
pub mod userfault;
pub mod vma;
