//! A machine for tests: a few pages, page tables written by hand, programs of a few instructions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use guest::abi;
use mm::addr::{Frame, PAGE_SIZE};
use mm::paging::{FlushRequest, FlushSink, TableChange};
use mm::phys::PhysMemory;

use super::{Exit, FlushPolicy, GuestMemory, Kvm, KvmSink, Vcpu, VcpuPool, Vm};
use crate::boot;

/// Where test programs are mapped.
pub(super) const CODE: u64 = 0x40_0000;
/// Where tests map data.
pub(super) const DATA: u64 = 0x80_0000;

/// A leaf that ring 3 may read and execute.
pub(super) const READ: u64 = 1 | 1 << 2 | 1 << 5;
/// A leaf that ring 3 may read, write and execute.
pub(super) const WRITE: u64 = READ | 1 << 1 | 1 << 6;
/// An entry that points to a table.
const TABLE: u64 = WRITE;

/// Defines a function that returns the bytes of a position-independent program.
macro_rules! program {
    ($name:ident: $($line:literal),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata",
            concat!("mmvisor_test_", stringify!($name), ":"),
            $($line,)+
            concat!("mmvisor_test_", stringify!($name), "_end:"),
            ".popsection",
            options(att_syntax),
        );
        fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("mmvisor_test_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("mmvisor_test_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the assembly above puts both symbols around its read-only bytes.
            unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
        }
    };
}
pub(super) use program;

/// A machine with one address space.
pub(super) struct Machine {
    pub(super) vm: Arc<Vm>,
    pub(super) pool: VcpuPool,
    pub(super) sink: KvmSink,
    pub(super) root: Frame,
    next_frame: Mutex<u64>,
}

/// A machine, or `None` where the environment says that there is no KVM.
pub(super) fn machine(policy: FlushPolicy) -> Option<Machine> {
    if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: MMVISOR_NO_KVM=1");
        return None;
    }
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => panic!("this test needs KVM (MMVISOR_NO_KVM=1 skips it): {error}"),
    };
    let vm = Arc::new(Vm::new(&kvm, 64 << 20).unwrap());
    let sink = KvmSink::new(&vm, policy, Arc::new(AtomicU64::new(64))).unwrap();
    let next_frame = Mutex::new(1);
    let memory = Arc::clone(vm.memory());
    let half =
        boot::install(memory.as_ref(), kvm.kind().call_port(), &mut || Ok(bump(&next_frame)));
    let half = Arc::new(half.unwrap());
    let root = bump(&next_frame);
    memory.words(root)[511].store(half.entry(), Ordering::Release);
    let pool = VcpuPool::new(Arc::clone(&vm), half);
    Some(Machine { vm, pool, sink, root, next_frame })
}

/// The frame that an entry names.
pub(super) fn frame_of(entry: u64) -> Frame {
    Frame::new((entry & 0x000f_ffff_ffff_f000) >> 12)
}

fn bump(next: &Mutex<u64>) -> Frame {
    let mut next = next.lock().unwrap();
    *next += 1;
    Frame::new(*next - 1)
}

impl Machine {
    pub(super) fn memory(&self) -> &GuestMemory {
        self.vm.memory()
    }

    /// A new frame, zeroed.
    pub(super) fn frame(&self) -> Frame {
        let frame = bump(&self.next_frame);
        self.memory().zero(frame);
        frame
    }

    /// The entry that maps `address`, its tables made as needed.
    pub(super) fn entry(&self, root: Frame, address: u64) -> &AtomicU64 {
        let mut table = root;
        for shift in [39, 30, 21] {
            let entry = &self.memory().words(table)[(address >> shift & 511) as usize];
            if entry.load(Ordering::Acquire) == 0 {
                entry.store(self.frame().addr().get() | TABLE, Ordering::Release);
            }
            table = frame_of(entry.load(Ordering::Acquire));
        }
        &self.memory().words(table)[(address >> 12 & 511) as usize]
    }

    /// Sets the leaf for `address`; bits of 0 unmap it. Nothing is flushed.
    pub(super) fn set(&self, address: u64, frame: Frame, bits: u64) {
        let value = if bits == 0 { 0 } else { frame.addr().get() | bits };
        self.entry(self.root, address).store(value, Ordering::Release);
    }

    /// Maps a new page.
    pub(super) fn map(&self, address: u64, bits: u64) -> Frame {
        let frame = self.frame();
        self.set(address, frame, bits);
        frame
    }

    /// A vCPU about to run `program` at [`CODE`], with rdi = [`DATA`].
    pub(super) fn vcpu(&self, program: &[u8]) -> Vcpu {
        // Into the frame that is there, if any: mapping another would need a flush.
        let entry = self.entry(self.root, CODE).load(Ordering::Acquire);
        let code = if entry == 0 { self.map(CODE, READ) } else { frame_of(entry) };
        self.memory().zero(code);
        self.memory().write(code.addr(), program);
        self.vcpu_at(CODE)
    }

    /// A vCPU about to run what is at `rip`, with rdi = [`DATA`] and no stack.
    pub(super) fn vcpu_at(&self, rip: u64) -> Vcpu {
        let mut vcpu = self.pool.take(&mut || Ok(self.frame())).unwrap();
        vcpu.set_root(self.root);
        let mut registers = *vcpu.registers();
        registers.rip = rip;
        registers.rdi = DATA;
        vcpu.resume_user(&registers).unwrap();
        vcpu
    }

    pub(super) fn flush(&self, frames: &[Frame], tables: TableChange) {
        let leaves =
            frames.iter().map(|start| mm::addr::FrameRun { start: *start, count: 1 }).collect();
        self.sink.flush(&FlushRequest { leaves, tables }).unwrap();
    }

    pub(super) fn store(&self, frame: Frame, word: u64) {
        self.memory().words(frame)[0].store(word, Ordering::Release);
    }

    pub(super) fn load(&self, frame: Frame) -> u64 {
        self.memory().words(frame)[0].load(Ordering::Acquire)
    }
}

/// Runs to the next exit that is not an interruption.
pub(super) fn run(vcpu: &mut Vcpu) -> Exit {
    loop {
        match vcpu.run() {
            Exit::Interrupted(_) => {}
            exit => return exit,
        }
    }
}

/// Runs to a call, continues behind it, and says what was in rax.
pub(super) fn run_to_call(vcpu: &mut Vcpu) -> u64 {
    assert_eq!(run(vcpu), Exit::Call);
    let registers = *vcpu.registers();
    vcpu.resume_user(&registers).unwrap();
    registers.rax
}

/// The vector and error code of the fault that the vCPU runs into.
pub(super) fn run_to_fault(vcpu: &mut Vcpu) -> (u8, u64) {
    match run(vcpu) {
        Exit::Fault { vector, error, .. } => (vector, error),
        other => panic!("{other:?} instead of a fault"),
    }
}

/// Address of a byte of the kernel half that only ring 0 may use.
pub(super) const KERNEL_PAGES: [u64; 5] =
    [abi::ENTRY_PAGE, abi::GDT_PAGE, abi::IDT_PAGE, abi::VCPU_BASE, abi::VCPU_BASE + PAGE_SIZE];
