//! What a guest without a kernel still needs in its kernel half: descriptor tables, the trampoline's
//! two pages, and for each vCPU a task-state segment and a ring-0 stack, with the page tables that map
//! them.
//!
//! [`install`] builds it once per machine and returns the value of top-level entry 511, which every
//! address space copies (Linux's `pgd_ctor`). Everything here is plain stores into guest memory that
//! no vCPU runs on yet; later additions (a further vCPU) only turn absent entries into present ones,
//! which needs no flush.

mod descriptors;
mod half;

pub use half::{KernelHalf, VCPU_FRAMES, VcpuArea, install};

pub(crate) use descriptors::{GDT_LIMIT, IDT_LIMIT, TSS_LIMIT};

use mm::addr::Frame;
use mm::error::Broken;

/// Where the kernel half's frames come from. They are never given back.
pub type FrameSource<'a> = dyn FnMut() -> Result<Frame, Broken> + 'a;

/// Whether ring 3 may write the call port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallPort {
    /// Allowed by every TSS's I/O bitmap: software KVM runs the system-call stub at ring 3.
    UserMayWrite,
    /// Denied: the stub runs at ring 0, where the bitmap is not asked.
    KernelOnly,
}
