//! The floor: the same guest on bare `KVM_*` ioctls, whose host does what no host could leave out, and
//! nothing else. No address space, no allocator, no checks of what the guest did.
//!
//! ```text
//!   frame   0        1       2..4            5..8               9    10      11 12    13     14    16..
//!           unused   root    kernel tables   stub entry GDT IDT TSS  stack   tables   code   page  tables of
//!                            (3)                                             of CODE  table        DATA
//!   frame 512 and up: pages of DATA, in the order of their faults
//! ```
//!
//! What it shares with mmvisor: ring 3 behind a `SYSCALL` stub, the same stub and entry pages, a #PF by
//! way of the IDT onto a ring-0 stack, registers through `KVM_CAP_SYNC_REGS`, two memory slots and one
//! vCPU, anonymous host memory, and the same number of pages for each fault.

#![allow(unsafe_code, reason = "ioctls, and memory shared with the guest")]

use std::io;
use std::ptr::{self, NonNull};

use guest::{abi, trampoline};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};
use vmm::kvm::Kind;

use crate::program::{CODE, DATA, DATA_BYTES, ENTRY};
use crate::rounds::Outcome;

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
/// Bytes of guest memory: mmvisor's first slot.
const MEMORY: usize = 16 << 20;
/// Frames of guest memory's first block, which holds all but the pages of DATA.
const FIRST_PAGE: u64 = 512;

/// Present, writable, user, accessed: an entry that points to a table.
const TABLE: u64 = 0x27;
/// Present, writable, user, accessed, dirty, not executable.
const PAGE_READ_WRITE: u64 = 0x67 | 1 << 63;
/// Present, user, accessed.
const PAGE_CODE: u64 = 0x25;
/// Present, accessed.
const KERNEL_READ_ONLY: u64 = 0x21;
/// Present, writable, accessed, dirty.
const KERNEL_STACK: u64 = 0x63;

const ROOT: usize = 1;
const KERNEL_TABLE: usize = 4;
const TSS: usize = 9;
const STACK: usize = 10;
const CODE_TABLE: usize = 13;
const CODE_PAGE: usize = 14;
const DATA_TABLES: usize = 16;

/// When the host makes the pages of DATA present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Populate {
    /// When the guest touches them.
    Never,
    /// A block of 2 MiB at a time, huge.
    Blocks,
}

/// How many pages a fault on DATA maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Around {
    /// The one that was touched.
    One,
    /// First 1, then 2, 4, 8 and so on up to 64, as mmvisor does for a program that goes page by page.
    Doubling,
}

/// Whether the code page is there at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    /// Its first instruction faults.
    Faults,
    /// It is mapped.
    Mapped,
}

/// Host memory of the guest.
#[derive(Debug)]
struct Memory {
    reserved: NonNull<libc::c_void>,
    base: *mut u8,
}

impl Memory {
    fn new() -> Outcome<Memory> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no other.
        let reserved = unsafe {
            libc::mmap(
                ptr::null_mut(),
                MEMORY + HUGE_PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if reserved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let base = reserved.cast::<u8>();
        let base = base.wrapping_add(base.align_offset(HUGE_PAGE));
        Ok(Memory { reserved: NonNull::new(reserved).ok_or("a mapping at 0")?, base })
    }

    /// The word at `index` of a frame.
    fn word(&self, frame: usize, index: usize) -> *mut u64 {
        assert!(frame < MEMORY / PAGE && index < PAGE / 8);
        self.base.wrapping_add(frame * PAGE).cast::<u64>().wrapping_add(index)
    }

    fn store(&self, frame: usize, index: usize, value: u64) {
        // SAFETY: `word` is in the mapping and aligned; the guest may write it too, and volatile makes
        // no assumption about that.
        unsafe { self.word(frame, index).write_volatile(value) };
    }

    fn load(&self, frame: usize, index: usize) -> u64 {
        // SAFETY: as in `store`.
        unsafe { self.word(frame, index).read_volatile() }
    }

    fn copy(&self, frame: usize, bytes: &[u8]) {
        assert!(frame < MEMORY / PAGE && bytes.len() <= PAGE);
        let to = self.base.wrapping_add(frame * PAGE);
        // SAFETY: the frame is in the mapping, no guest runs yet, and `bytes` is not in the mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    fn populate(&self, frame: usize) {
        assert!(frame + HUGE_PAGE / PAGE <= MEMORY / PAGE);
        let at = self.base.wrapping_add(frame * PAGE).cast();
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_POPULATE_WRITE] {
            // SAFETY: the span is in the mapping, and the advice changes no bytes.
            unsafe { libc::madvise(at, HUGE_PAGE, advice) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the machine that used it is gone (`Floor`'s order of fields).
        unsafe { libc::munmap(self.reserved.as_ptr(), MEMORY + HUGE_PAGE) };
    }
}

/// The bare machine.
#[derive(Debug)]
pub(crate) struct Floor {
    vcpu: VcpuFd,
    _vm: VmFd,
    memory: Memory,
    kind: Kind,
    populate: Populate,
    around: Around,
    /// The next frame for a page of DATA.
    next: u64,
    window: u64,
    faults: u64,
}

impl Floor {
    /// From nothing to a program at its first instruction. `kind` says which way back from a fault is the
    /// cheaper one.
    pub(crate) fn start(
        kind: Kind,
        program: &[u8],
        code: Code,
        populate: Populate,
        around: Around,
    ) -> Outcome<Floor> {
        let kvm = Kvm::new()?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let vm = kvm.create_vm()?;
        let memory = Memory::new()?;
        for (slot, at, bytes) in [(0, 0, MEMORY), (1, 1 << 30, PAGE)] {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: at,
                memory_size: bytes as u64,
                // The second slot only has to be there.
                userspace_addr: memory.base as u64,
            };
            // SAFETY: the span is in the mapping, which outlives the machine (the order of fields).
            unsafe { vm.set_user_memory_region(region) }?;
        }
        build(&memory, program, code);
        let mut vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid2(&cpuid)?;
        let set = vcpu.set_msrs(&msrs()?)?;
        if set != 4 {
            return Err("KVM refused an MSR".into());
        }
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        let page = vcpu.sync_regs_mut();
        page.sregs = sregs();
        page.regs = kvm_regs { rip: CODE + ENTRY, rflags: 0x202, ..Default::default() };
        vcpu.set_sync_dirty_reg(SyncReg::Register);
        vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        let next = FIRST_PAGE;
        Ok(Floor { vcpu, _vm: vm, memory, kind, populate, around, next, window: 1, faults: 0 })
    }

    /// Runs until the program has made `calls` more calls.
    pub(crate) fn run_calls(&mut self, calls: u64) -> Outcome<()> {
        let mut left = calls;
        while left > 0 {
            let port = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) => port,
                Ok(other) => return Err(format!("the floor's guest stopped: {other:?}").into()),
                Err(error) if error.errno() == libc::EINTR => continue,
                Err(error) => return Err(error.into()),
            };
            if port == abi::PORT_CALL {
                self.answer_call();
                left -= 1;
            } else {
                self.answer_fault();
            }
        }
        Ok(())
    }

    /// Page faults so far.
    pub(crate) fn page_faults(&self) -> u64 {
        self.faults
    }

    /// Every call returns 1.
    fn answer_call(&mut self) {
        let page = self.vcpu.sync_regs_mut();
        page.regs.rax = 1;
        page.regs.rip = page.regs.rcx;
        page.regs.rflags = page.regs.r11;
        self.back_to_user();
    }

    fn answer_fault(&mut self) {
        self.faults += 1;
        let address = self.vcpu.sync_regs_mut().sregs.cr2;
        if address >= DATA {
            self.map_data(address);
        } else {
            self.memory.store(CODE_TABLE, 0, (CODE_PAGE * PAGE) as u64 | PAGE_CODE);
        }
        if self.kind != Kind::Soft {
            // The entry's own `iretq` goes back.
            return;
        }
        // Software KVM interprets ring 0, so writing the state is cheaper. The last words of the stack
        // are rip, cs, rflags, rsp, ss.
        let words = PAGE / 8;
        let [rip, rflags, rsp] = [5, 3, 2].map(|below| self.memory.load(STACK, words - below));
        let page = self.vcpu.sync_regs_mut();
        page.regs.rip = rip;
        page.regs.rflags = rflags;
        page.regs.rsp = rsp;
        self.back_to_user();
    }

    fn map_data(&mut self, address: u64) {
        let first = usize::try_from((address - DATA) / PAGE as u64).unwrap_or(0);
        let count = match self.around {
            Around::One => 1,
            Around::Doubling => self.window.min(512 - first as u64 % 512),
        };
        self.window = (self.window * 2).min(64);
        for i in 0..count {
            if self.populate == Populate::Blocks && self.next.is_multiple_of(FIRST_PAGE) {
                self.memory.populate(usize::try_from(self.next).unwrap_or(0));
            }
            let page = first + usize::try_from(i).unwrap_or(0);
            self.memory.store(
                DATA_TABLES + page / 512,
                page % 512,
                self.next << 12 | PAGE_READ_WRITE,
            );
            self.next += 1;
        }
    }

    fn back_to_user(&mut self) {
        let page = self.vcpu.sync_regs_mut();
        if page.sregs.cs.selector != abi::USER_CS {
            page.sregs.cs = USER_CODE;
            page.sregs.ss = USER_DATA;
            self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
    }
}

/// Writes the tables, the kernel half and the program.
fn build(memory: &Memory, program: &[u8], code: Code) {
    let frame = |number: usize| (number * PAGE) as u64;
    let link = |from: usize, index: usize, to: usize| {
        memory.store(from, index, frame(to) | TABLE);
    };
    // KERNEL_BASE is entry 511 of the root, 510 of the next table, 0 of the third.
    link(ROOT, 511, 2);
    link(2, 510, 3);
    link(3, 0, KERNEL_TABLE);
    for (index, page, bits) in [
        (0, 5, PAGE_CODE),
        (1, 6, KERNEL_READ_ONLY),
        (2, 7, KERNEL_READ_ONLY),
        (3, 8, KERNEL_READ_ONLY),
        (0x100, TSS, KERNEL_READ_ONLY),
        (0x101, STACK, KERNEL_STACK),
    ] {
        memory.store(KERNEL_TABLE, index, frame(page) | bits);
    }
    memory.copy(5, trampoline::stub_page());
    memory.copy(6, trampoline::entry_page());
    for (selector, descriptor) in [
        (abi::KERNEL_CS, 0x00af_9b00_0000_ffff),
        (abi::KERNEL_DS, 0x00cf_9300_0000_ffff),
        (abi::USER_DS, 0x00cf_f300_0000_ffff),
        (abi::USER_CS, 0x00af_fb00_0000_ffff),
    ] {
        memory.store(7, usize::from(selector / 8), descriptor);
    }
    // The one gate that is used: #PF, an interrupt gate on IST 1.
    let entry = abi::ENTRY_PAGE + 14 * abi::ENTRY_STRIDE;
    let gate = (entry & 0xffff)
        | u64::from(abi::KERNEL_CS) << 16
        | 0x8e01 << 32
        | (entry >> 16 & 0xffff) << 48;
    memory.store(8, 28, gate);
    memory.store(8, 29, entry >> 32);
    memory.copy(TSS, &tss());
    // CODE and DATA are in the first gigabyte.
    link(ROOT, 0, 11);
    link(11, 0, 12);
    link(12, 2, CODE_TABLE);
    let data = usize::try_from(DATA >> 21).unwrap_or(0);
    let tables = usize::try_from(DATA_BYTES.div_ceil(2 << 20)).unwrap_or(0);
    for table in 0..tables {
        link(12, data + table, DATA_TABLES + table);
    }
    memory.copy(CODE_PAGE, program);
    if code == Code::Mapped {
        memory.store(CODE_TABLE, 0, frame(CODE_PAGE) | PAGE_CODE);
    }
}

/// A task-state segment: the stack of IST 1, and an I/O bitmap that allows the call port.
fn tss() -> [u8; TSS_BYTES] {
    let mut segment = [0xff; TSS_BYTES];
    segment[..104].fill(0);
    segment[36..44].copy_from_slice(&(abi::VCPU_BASE + abi::VCPU_STRIDE).to_le_bytes());
    segment[102] = 104;
    segment[104 + usize::from(abi::PORT_CALL / 8)] = !(1 << (abi::PORT_CALL % 8));
    segment
}

const TSS_BYTES: usize = 104 + abi::PORT_CALL as usize / 8 + 2;
#[allow(clippy::cast_possible_truncation, reason = "under 128")]
const TSS_LIMIT: u32 = TSS_BYTES as u32 - 1;

const USER_DATA: kvm_segment = kvm_segment {
    base: 0,
    limit: 0xffff_ffff,
    selector: abi::USER_DS,
    type_: 3,
    present: 1,
    dpl: 3,
    db: 1,
    s: 1,
    l: 0,
    g: 1,
    avl: 0,
    unusable: 0,
    padding: 0,
};
const USER_CODE: kvm_segment =
    kvm_segment { selector: abi::USER_CS, type_: 11, db: 0, l: 1, ..USER_DATA };

fn sregs() -> kvm_sregs {
    let null = kvm_segment { selector: 0, present: 0, unusable: 1, ..USER_DATA };
    let table = |base, limit| kvm_dtable { base, limit, padding: [0; 3] };
    kvm_sregs {
        cs: USER_CODE,
        ss: USER_DATA,
        ds: null,
        es: null,
        fs: null,
        gs: null,
        ldt: kvm_segment { type_: 2, s: 0, ..null },
        tr: kvm_segment {
            base: abi::VCPU_BASE,
            limit: TSS_LIMIT,
            selector: abi::TSS_SELECTOR,
            type_: 11,
            dpl: 0,
            db: 0,
            s: 0,
            g: 0,
            ..USER_DATA
        },
        gdt: table(abi::GDT_PAGE, 0x37),
        idt: table(abi::IDT_PAGE, 0x1ff),
        // PE MP ET NE WP PG; PAE OSFXSR OSXMMEXCPT; SCE LME LMA NXE.
        cr0: 0x8005_0033 & !0x4_0000,
        cr3: (ROOT * PAGE) as u64,
        cr4: 0x620,
        efer: 0xd01,
        // Where the APIC is and that this is the first CPU, as after a reset.
        apic_base: 0xfee0_0900,
        ..Default::default()
    }
}

fn msrs() -> Outcome<Msrs> {
    let star = u64::from(abi::KERNEL_CS) << 32 | u64::from(abi::USER_DS - 8) << 48;
    let entries = [
        (0xc000_0081, star),
        (0xc000_0082, abi::STUB_PAGE + abi::STUB_CALL),
        (0xc000_0083, abi::STUB_PAGE + abi::STUB_COMPAT),
        (0xc000_0084, 0x4_7700),
    ]
    .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    Msrs::from_entries(&entries).map_err(|error| format!("{error:?}").into())
}
