//! The kernel half of every address space: its pages, and the page tables that map them.

use std::sync::atomic::Ordering;

use guest::{abi, accesses, trampoline};
use mm::addr::{Frame, PAGE_SIZE};
use mm::error::Broken;
use mm::phys::PhysMemory;

use super::{CallPort, FrameSource, descriptors};

/// Bits of a page-table entry (Intel SDM volume 3, table 4-20).
mod bits {
    /// The entry maps or points to something.
    pub(super) const PRESENT: u64 = 1;
    /// Writes are allowed.
    pub(super) const WRITABLE: u64 = 1 << 1;
    /// Ring 3 is allowed.
    pub(super) const USER: u64 = 1 << 2;
    /// Has been used. Preset, so that the CPU has nothing to write.
    pub(super) const ACCESSED: u64 = 1 << 5;
    /// Has been written. Preset likewise.
    pub(super) const DIRTY: u64 = 1 << 6;
    /// Instruction fetches are not allowed.
    pub(super) const NO_EXECUTE: u64 = 1 << 63;
    /// An entry that points to a table allows everything: the leaf decides.
    pub(super) const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
}

/// What ring 0 and ring 3 may do with a page of the kernel half.
#[derive(Clone, Copy)]
enum Access {
    /// The system-call stub, which software KVM runs at ring 3, and the accesses: ring 3 may execute them.
    UserCode,
    /// The exception entries.
    KernelCode,
    /// Descriptor tables.
    KernelReadOnly,
    /// The ring-0 stack.
    KernelStack,
}

impl Access {
    fn leaf_bits(self) -> u64 {
        use bits::{ACCESSED, DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE};
        match self {
            Access::UserCode => PRESENT | USER | ACCESSED,
            Access::KernelCode => PRESENT | ACCESSED,
            Access::KernelReadOnly => PRESENT | ACCESSED | NO_EXECUTE,
            Access::KernelStack => PRESENT | WRITABLE | ACCESSED | DIRTY | NO_EXECUTE,
        }
    }
}

/// The most frames that a vCPU takes: two pages, and the two tables over them.
pub const VCPU_FRAMES: usize = 4;

/// A vCPU's own pages.
#[derive(Clone, Copy, Debug)]
pub struct VcpuArea {
    /// Which vCPU, from 0.
    pub index: u32,
    /// Guest address of its task-state segment.
    pub tss: u64,
    /// Guest address just past its ring-0 stack, where every exception frame begins.
    pub stack_top: u64,
    /// The frame of the stack's only page: the host reads exception frames there.
    pub stack: Frame,
}

/// The kernel half: what entry 511 of every top-level table points to.
#[derive(Debug)]
pub struct KernelHalf {
    /// The table that entry 511 points to.
    root: Frame,
    call_port: CallPort,
}

/// Builds the kernel half in guest memory: trampoline, GDT, IDT and the tables that map them.
///
/// `frames` gives frames of any content.
///
/// # Errors
/// [`Broken`] if `frames` has none.
pub fn install(
    memory: &dyn PhysMemory,
    call_port: CallPort,
    frames: &mut FrameSource<'_>,
) -> Result<KernelHalf, Broken> {
    let root = zeroed(memory, frames)?;
    let half = KernelHalf { root, call_port };
    for (address, bytes, access) in [
        (abi::STUB_PAGE, trampoline::stub_page(), Access::UserCode),
        (abi::ENTRY_PAGE, trampoline::entry_page(), Access::KernelCode),
        (abi::GDT_PAGE, &descriptors::gdt(), Access::KernelReadOnly),
        (abi::IDT_PAGE, &descriptors::idt(), Access::KernelReadOnly),
    ] {
        half.map_page(memory, address, bytes, access, frames)?;
    }
    Ok(half)
}

impl KernelHalf {
    /// The value of entry 511 of a top-level table.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.root.addr().get() | bits::TABLE
    }

    /// Adds the page of accesses, for a machine that replays traces. Once.
    ///
    /// # Errors
    /// [`Broken`] if `frames` has none.
    pub fn add_accesses(
        &self,
        memory: &dyn PhysMemory,
        frames: &mut FrameSource<'_>,
    ) -> Result<(), Broken> {
        let page = accesses::access_page();
        self.map_page(memory, abi::ACCESS_PAGE, page, Access::UserCode, frames).map(drop)
    }

    /// Adds the pages of vCPU `index`. Each index is added once.
    ///
    /// # Errors
    /// [`Broken`] if `frames` has none, or the index is past the last page of the kernel half.
    pub fn add_vcpu(
        &self,
        memory: &dyn PhysMemory,
        index: u32,
        frames: &mut FrameSource<'_>,
    ) -> Result<VcpuArea, Broken> {
        let past_the_end =
            || Broken::Invariant(format!("vCPU {index} has no place in the kernel half"));
        let tss = abi::VCPU_BASE
            .checked_add(u64::from(index) * abi::VCPU_STRIDE)
            .ok_or_else(past_the_end)?;
        let stack_top = tss.checked_add(abi::VCPU_STRIDE).ok_or_else(past_the_end)?;
        let segment = descriptors::tss(stack_top, self.call_port);
        self.map_page(memory, tss, &segment, Access::KernelReadOnly, frames)?;
        let stack =
            self.map_page(memory, stack_top - PAGE_SIZE, &[], Access::KernelStack, frames)?;
        Ok(VcpuArea { index, tss, stack_top, stack })
    }

    /// Maps a new page of the given bytes, zeros behind them.
    fn map_page(
        &self,
        memory: &dyn PhysMemory,
        address: u64,
        bytes: &[u8],
        access: Access,
        frames: &mut FrameSource<'_>,
    ) -> Result<Frame, Broken> {
        let page = zeroed(memory, frames)?;
        memory.write(page.addr(), bytes);
        let mut table = self.root;
        for shift in [30, 21] {
            table = self.next_table(memory, table, index(address, shift), frames)?;
        }
        let leaf = page.addr().get() | access.leaf_bits();
        memory.words(table)[index(address, 12)].store(leaf, Ordering::Release);
        Ok(page)
    }

    /// The table that an entry points to, made if there is none.
    fn next_table(
        &self,
        memory: &dyn PhysMemory,
        table: Frame,
        slot: usize,
        frames: &mut FrameSource<'_>,
    ) -> Result<Frame, Broken> {
        let entry = &memory.words(table)[slot];
        let value = entry.load(Ordering::Acquire);
        if value & bits::PRESENT != 0 {
            return Ok(Frame::new((value & !bits::NO_EXECUTE) >> mm::addr::PAGE_SHIFT));
        }
        let next = zeroed(memory, frames)?;
        entry.store(next.addr().get() | bits::TABLE, Ordering::Release);
        Ok(next)
    }
}

/// Which entry of a table `address` goes through; `shift` is 12, 21 or 30.
fn index(address: u64, shift: u32) -> usize {
    let [low, high, ..] = (address >> shift & 511).to_le_bytes();
    usize::from(u16::from_le_bytes([low, high]))
}

fn zeroed(memory: &dyn PhysMemory, frames: &mut FrameSource<'_>) -> Result<Frame, Broken> {
    let frame = frames()?;
    memory.zero(frame);
    Ok(frame)
}
