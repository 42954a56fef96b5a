//! A machine for guests of a few instructions: what `doctor` and the tests ask their questions with.
//!
//! Its page tables are written by hand, entry by entry, so that a question about them is about KVM and
//! not about the memory manager.

mod programs;
mod scenarios;
mod watchdog;

#[cfg(test)]
pub(crate) use programs::program;
pub(crate) use programs::{
    breakpoint, call_loop, count_up, load_loop, load_store, load_two, sum_registers,
};
pub(crate) use scenarios::{
    Revoked, Seen, Visibility, reused_tables, revoked_page, running_vcpus, vector_state,
    write_protected_page,
};
pub(crate) use watchdog::Watchdog;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use guest::abi;
use mm::addr::{Frame, FrameRun, PAGE_SIZE};
use mm::error::Broken;
use mm::paging::{FlushRequest, FlushSink, TableChange};
use mm::phys::PhysMemory;

use super::{
    Exit, FlushPolicy, GuestMemory, Kvm, KvmError, KvmSink, NonCanonical, Registers, Vcpu,
    VcpuPool, Vm,
};
use crate::boot;

/// Where programs are mapped.
pub(crate) const CODE: u64 = 0x40_0000;
/// Where data is mapped: rdi at the start.
pub(crate) const DATA: u64 = 0x80_0000;

/// Offset of the write in [`load_store`].
pub(crate) const STORE_OFFSET: u64 = 8;

/// Bits of a leaf that ring 3 may read and execute.
pub(crate) const READ: u64 = 1 | 1 << 2 | 1 << 5;
/// Bits of a leaf that ring 3 may read, write and execute.
pub(crate) const WRITE: u64 = READ | 1 << 1 | 1 << 6;
/// Bits of an entry that points to a table.
const TABLE: u64 = WRITE;
/// The address bits of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Addresses of pages of the kernel half that only ring 0 may use: entries, GDT, IDT, TSS, stack.
pub(crate) const KERNEL_PAGES: [u64; 5] =
    [abi::ENTRY_PAGE, abi::GDT_PAGE, abi::IDT_PAGE, abi::VCPU_BASE, abi::VCPU_BASE + PAGE_SIZE];

/// Bytes that the machine's memory may grow to.
const MEMORY: u64 = 64 << 20;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    /// There is no machine to ask.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The machine does not work.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The guest did something else.
    #[error("{got:?} instead of {wanted}")]
    Unexpected {
        /// What it should have done.
        wanted: &'static str,
        /// What it did.
        got: Exit,
    },
    /// A value that the guest left is wrong.
    #[error("{what} is {got:#x}, not {wanted:#x}")]
    Wrong {
        /// What the value is.
        what: &'static str,
        /// What it is.
        got: u64,
        /// What it should be.
        wanted: u64,
    },
    /// The guest saw the page tables as they were before the change.
    #[error("the guest still saw the old page tables after the flush")]
    Stale,
    /// The guest did not stop.
    #[error("the guest did not stop within {} s", Watchdog::LIMIT.as_secs())]
    TimedOut,
    /// A thread or a signal could not be had.
    #[error("the host refused a thread or a signal handler: {0}")]
    Host(#[from] std::io::Error),
}

impl From<NonCanonical> for LabError {
    fn from(error: NonCanonical) -> Self {
        LabError::Broken(error.into())
    }
}

/// Answers a wrong value with an error.
pub(crate) fn expect(what: &'static str, got: u64, wanted: u64) -> Result<(), LabError> {
    if got == wanted { Ok(()) } else { Err(LabError::Wrong { what, got, wanted }) }
}

/// A machine with one address space.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) vm: Arc<Vm>,
    pub(crate) pool: VcpuPool,
    pub(crate) sink: KvmSink,
    pub(crate) root: Frame,
    next_frame: Mutex<u64>,
    watchdog: Watchdog,
}

impl Lab {
    /// A machine whose flushes follow `policy`.
    pub(crate) fn new(kvm: &Kvm, policy: FlushPolicy) -> Result<Lab, LabError> {
        let vm = Arc::new(Vm::new(kvm, MEMORY, 1)?);
        let sink = KvmSink::new(&vm, policy, Arc::new(AtomicU64::new(64)))?;
        let memory = Arc::clone(vm.memory());
        let next_frame = Mutex::new(1);
        let call_port = vm.kind().call_port();
        let half = boot::install(memory.as_ref(), call_port, &mut || Ok(bump(&next_frame)))?;
        let root = bump(&next_frame);
        memory.words(root)[511].store(half.entry(), Ordering::Release);
        let pool = VcpuPool::new(Arc::clone(&vm), Arc::new(half));
        Ok(Lab { vm, pool, sink, root, next_frame, watchdog: Watchdog::start()? })
    }

    pub(crate) fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    /// What stops this thread's guests if they do not stop themselves.
    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// A frame that nothing has used.
    pub(crate) fn frame(&self) -> Frame {
        bump(&self.next_frame)
    }

    /// The entry of a last-but-one table that points to the table for `address`.
    pub(crate) fn table_entry(&self, address: u64) -> &AtomicU64 {
        self.descend(address, &[39, 30], 21)
    }

    /// The leaf entry for `address`, its tables made as needed.
    pub(crate) fn leaf_entry(&self, address: u64) -> &AtomicU64 {
        self.descend(address, &[39, 30, 21], 12)
    }

    fn descend(&self, address: u64, levels: &[u32], last: u32) -> &AtomicU64 {
        let index = |shift: u32| usize::try_from(address >> shift & 511).unwrap_or(0);
        let mut table = self.root;
        for shift in levels {
            let entry = &self.memory().words(table)[index(*shift)];
            if entry.load(Ordering::Acquire) == 0 {
                entry.store(self.frame().addr().get() | TABLE, Ordering::Release);
            }
            table = frame_of(entry.load(Ordering::Acquire));
        }
        &self.memory().words(table)[index(last)]
    }

    /// Sets the leaf for `address`. Nothing is flushed.
    pub(crate) fn set(&self, address: u64, frame: Frame, bits: u64) {
        self.leaf_entry(address).store(frame.addr().get() | bits, Ordering::Release);
    }

    /// Clears the leaf for `address`. Nothing is flushed.
    pub(crate) fn clear(&self, address: u64) {
        self.leaf_entry(address).store(0, Ordering::Release);
    }

    /// Maps a new page.
    pub(crate) fn map(&self, address: u64, bits: u64) -> Frame {
        let frame = self.frame();
        self.set(address, frame, bits);
        frame
    }

    /// A vCPU about to run `program` at [`CODE`], with rdi = [`DATA`] and no stack.
    pub(crate) fn vcpu(&self, program: &[u8]) -> Result<Vcpu, LabError> {
        // Into the frame that is there, if any: mapping another would need a flush.
        let entry = self.leaf_entry(CODE).load(Ordering::Acquire);
        let code = if entry == 0 { self.map(CODE, READ) } else { frame_of(entry) };
        self.memory().zero(code);
        self.memory().write(code.addr(), program);
        let mut vcpu = self.pool.take(&mut || Ok(self.frame()))?;
        vcpu.set_root(self.root);
        vcpu.resume_user(&Registers { rip: CODE, rdi: DATA, ..*vcpu.registers() })?;
        Ok(vcpu)
    }

    /// Flushes single frames.
    pub(crate) fn flush(&self, frames: &[Frame], tables: TableChange) -> Result<(), LabError> {
        let leaves = frames.iter().map(|start| FrameRun { start: *start, count: 1 }).collect();
        Ok(self.sink.flush(&FlushRequest { leaves, tables, ..FlushRequest::default() })?)
    }

    /// Flushes a frame that may not be written any more.
    pub(crate) fn flush_writes(&self, start: Frame) -> Result<(), LabError> {
        let writes = vec![FrameRun { start, count: 1 }];
        Ok(self.sink.flush(&FlushRequest { writes, ..FlushRequest::default() })?)
    }

    /// Writes a frame's first word.
    pub(crate) fn store(&self, frame: Frame, word: u64) {
        self.memory().words(frame)[0].store(word, Ordering::Release);
    }

    /// Reads one of a frame's words.
    pub(crate) fn load(&self, frame: Frame, index: usize) -> u64 {
        self.memory().words(frame)[index].load(Ordering::Acquire)
    }

    /// Runs to the next exit that is not an interruption.
    pub(crate) fn run(&self, vcpu: &mut Vcpu) -> Result<Exit, LabError> {
        loop {
            match vcpu.run() {
                Exit::Interrupted(_) if self.watchdog.has_barked() => {
                    return Err(LabError::TimedOut);
                }
                Exit::Interrupted(_) => {}
                exit => return Ok(exit),
            }
        }
    }

    /// Runs to a call, lets the next run continue behind it, and says what was in rax.
    pub(crate) fn run_to_call(&self, vcpu: &mut Vcpu) -> Result<u64, LabError> {
        match self.run(vcpu)? {
            Exit::Call => {
                let registers = *vcpu.registers();
                vcpu.resume_user(&registers)?;
                Ok(registers.rax)
            }
            got => Err(LabError::Unexpected { wanted: "a system call", got }),
        }
    }

    /// Runs to an exception: vector and error code.
    pub(crate) fn run_to_fault(&self, vcpu: &mut Vcpu) -> Result<(u8, u64), LabError> {
        match self.run(vcpu)? {
            Exit::Fault { vector, error, .. } => Ok((vector, error)),
            got => Err(LabError::Unexpected { wanted: "an exception", got }),
        }
    }
}

/// The frame that an entry names.
fn frame_of(entry: u64) -> Frame {
    mm::addr::GuestPhysAddr::new(entry & ADDRESS).frame()
}

fn bump(next: &Mutex<u64>) -> Frame {
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    *next += 1;
    Frame::new(*next - 1)
}
