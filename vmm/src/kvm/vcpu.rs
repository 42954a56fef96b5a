//! A vCPU that runs ring 3, and is told and asked everything through its run page.
//!
//! `KVM_CAP_SYNC_REGS` has KVM copy all registers into the run page at each exit, and back from it where
//! they are marked: no system call but `KVM_RUN` itself is needed for a hypercall or a fault.
//!
//! ```text
//!            ┌──────────── run() ────────────┐
//!            v                               │
//!          Exit::Call ──> registers() ──> resume_user(&registers)
//!          Exit::Fault ─> page mapped ──> retry_fault()
//!                    └──> signal ───────> resume_user(&registers)
//! ```

mod program;

use std::sync::Arc;

use kvm_bindings::{Msrs, kvm_debugregs, kvm_regs, kvm_sregs, kvm_xcr, kvm_xcrs};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use mm::addr::{Frame, GuestPhysAddr, PAGE_SIZE, VirtAddr};
use mm::error::Broken;
use mm::phys::PhysMemory;

use super::exit::{self, Direction, Meaning, PortAccess};
use super::presence::Place;
use super::{
    Exit, GuestMemory, Kind, KvmError, Position, UserFrame, Vm, XsaveArea, XsaveLayout, cpuid,
    kick, state,
};
use crate::boot::VcpuArea;

/// The general registers, rip and rflags, under the names of the architecture.
pub type Registers = kvm_regs;

/// An address that ring 3 cannot be entered at: to the program a #GP, Linux's `SIGSEGV`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:#x} is not a canonical address")]
pub struct NonCanonical(pub u64);

/// A virtual CPU. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    memory: Arc<GuestMemory>,
    place: Arc<Place>,
    area: VcpuArea,
    /// What KVM gave the new vCPU.
    initial: InitialState,
    /// Ring 3's registers at the last exit.
    user: Registers,
    position: Position,
    retry: RetryBy,
}

/// How a faulting instruction is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RetryBy {
    /// By the `iretq` in the exception entry: no state is written.
    EntryReturn,
    /// By writing ring 3's state. On software KVM, which interprets ring 0, a fault that is answered so
    /// takes 28.0 us instead of 30.8.
    State,
}

/// What [`Vcpu::reset`] goes back to.
#[derive(Debug)]
struct InitialState {
    sregs: kvm_sregs,
    xcr0: Option<u64>,
    cr4: u64,
    xsave: XsaveArea,
    xsave_bytes: usize,
    layout: Arc<XsaveLayout>,
}

impl Vcpu {
    /// Has KVM make vCPU number `index`, once for each number.
    pub(super) fn create(vm: &Vm, index: u32) -> Result<VcpuFd, KvmError> {
        vm.fd().create_vcpu(u64::from(index)).map_err(KvmError::host("create a vCPU"))
    }

    /// Sets vCPU number `area.index`, just made, to ring 3 with everything zero and no address space.
    pub(super) fn new(vm: &Vm, fd: VcpuFd, area: VcpuArea) -> Result<Vcpu, KvmError> {
        // Once, before the first run: later it would be refused.
        fd.set_cpuid2(vm.cpuid()).map_err(KvmError::host("set the guest's CPUID"))?;
        let sregs = fd.get_sregs().map_err(KvmError::host("read a vCPU's system registers"))?;
        let xcr0 = cpuid::xcr0(vm.cpuid());
        let mut cr4 = 0;
        if xcr0.is_some() {
            cr4 |= state::CR4_OSXSAVE;
        }
        if cpuid::has_fsgsbase(vm.cpuid()) {
            cr4 |= state::CR4_FSGSBASE;
        }
        let xsave_bytes = vm.xsave_bytes();
        let xsave = XsaveArea::initial(xsave_bytes)?;
        let layout = Arc::clone(vm.xsave_layout());
        let initial = InitialState { sregs, xcr0, cr4, xsave, xsave_bytes, layout };
        let memory = Arc::clone(vm.memory());
        let retry = if vm.kind() == Kind::Soft { RetryBy::State } else { RetryBy::EntryReturn };
        let user = Registers::default();
        let place = vm.presence().add();
        let position = Position::User;
        let mut vcpu = Vcpu { fd, memory, place, area, initial, user, position, retry };
        for register in [SyncReg::Register, SyncReg::SystemRegister, SyncReg::VcpuEvents] {
            vcpu.fd.set_sync_valid_reg(register);
        }
        // No program has used it: its vector state, debug registers and events are a reset CPU's, and
        // its registers go in with the first run. Each call would cost some 6 us on software KVM.
        vcpu.set_msrs()?;
        vcpu.set_xcr0()?;
        vcpu.show_start();
        vcpu.fd.set_sync_dirty_reg(SyncReg::Register);
        vcpu.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        Ok(vcpu)
    }

    /// This vCPU's number in its machine.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.area.index
    }

    /// Back to a new vCPU's state: registers, floating-point and vector state, debug registers, MSRs,
    /// pending events, no address space. Nothing of the program that used it is left.
    ///
    /// # Errors
    /// [`KvmError::Host`] if KVM refuses; the vCPU must then not be used again.
    pub fn reset(&mut self) -> Result<(), KvmError> {
        self.complete_pending_access();
        self.show_start();
        let start = self.fd.sync_regs();
        self.fd.set_vcpu_events(&start.events).map_err(KvmError::host("reset a vCPU's events"))?;
        self.fd.set_sregs(&start.sregs).map_err(KvmError::host("set a vCPU's system registers"))?;
        self.fd.set_regs(&start.regs).map_err(KvmError::host("set a vCPU's registers"))?;
        self.set_msrs()?;
        self.set_xcr0()?;
        self.initial.xsave.store_to(&self.fd)?;
        let debug = kvm_debugregs { dr6: DR6_RESET, dr7: DR7_RESET, ..Default::default() };
        self.fd.set_debug_regs(&debug).map_err(KvmError::host("reset a vCPU's debug registers"))
    }

    /// Has the run page, which may still show the program before, show the start: ring 3, everything
    /// zero, no address space. Nothing is marked to be taken over by KVM.
    fn show_start(&mut self) {
        let sregs = state::user_sregs(&self.initial.sregs, &self.area, 0, self.initial.cr4);
        let regs = Registers { rflags: state::user_rflags(0), ..Default::default() };
        let page = self.fd.sync_regs_mut();
        page.regs = regs;
        page.sregs = sregs;
        page.events = state::no_events();
        let run = self.fd.get_kvm_run();
        run.kvm_dirty_regs = 0;
        run.immediate_exit = 0;
        self.user = regs;
    }

    fn set_msrs(&self) -> Result<(), KvmError> {
        let msrs = Msrs::from_entries(&state::msrs()).map_err(|error| KvmError::Host {
            what: "hold a vCPU's MSRs",
            source: std::io::Error::other(format!("{error:?}")),
        })?;
        let set = self.fd.set_msrs(&msrs).map_err(KvmError::host("set a vCPU's MSRs"))?;
        if set == state::msrs().len() {
            return Ok(());
        }
        Err(KvmError::Host {
            what: "set a vCPU's MSRs (one of those for SYSCALL and SYSENTER)",
            source: std::io::Error::from_raw_os_error(libc::EINVAL),
        })
    }

    fn set_xcr0(&self) -> Result<(), KvmError> {
        let Some(value) = self.initial.xcr0 else { return Ok(()) };
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, value, ..Default::default() };
        self.fd.set_xcrs(&xcrs).map_err(KvmError::host("set a vCPU's XCR0"))
    }

    /// Lets KVM finish an `in` or `out` that it is in the middle of, without running the guest.
    fn complete_pending_access(&mut self) {
        let kicked = self.fd.get_kvm_run().immediate_exit;
        self.fd.set_kvm_immediate_exit(1);
        let root = self.root().addr().get();
        let _inside = self.place.enter(root);
        // EINTR is the answer; any other failure shows at the next run.
        let _ = self.fd.run().map(drop);
        self.fd.set_kvm_immediate_exit(kicked);
    }

    /// Where the last exit left it.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Ring 3's registers as of the last exit, unless it is [entering](Position::Entering). After [`Exit::Call`] rip and rflags are what the stub found
    /// in rcx and r11; after [`Exit::Fault`] rip, rsp and rflags are the frame's.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.user
    }

    /// Makes the next [`run`](Vcpu::run) continue at ring 3 with these registers. Of rflags only what a
    /// program may change itself is taken; CS and SS are always ring 3's.
    ///
    /// # Errors
    /// [`NonCanonical`] if rip is: nothing was changed.
    pub fn resume_user(&mut self, registers: &Registers) -> Result<(), NonCanonical> {
        if !state::is_canonical(registers.rip) {
            return Err(NonCanonical(registers.rip));
        }
        self.user = *registers;
        self.user.rflags = state::user_rflags(registers.rflags);
        self.enter_user_at_next_run();
        Ok(())
    }

    /// After [`Exit::Fault`]: lets the next [`run`](Vcpu::run) repeat the instruction, all registers as
    /// they were.
    pub fn retry_fault(&mut self) {
        match self.retry {
            RetryBy::EntryReturn => {
                // Nothing is marked: the vCPU goes on behind the entry's `out`, to its `iretq`.
            }
            // The frame is the CPU's own, so its flags and address need no check.
            RetryBy::State => self.enter_user_at_next_run(),
        }
    }

    /// Writes ring 3's registers, `self.user`, to the run page, and marks what has changed.
    fn enter_user_at_next_run(&mut self) {
        let user = self.user;
        let page = self.fd.sync_regs_mut();
        page.regs = user;
        let new_segments = !state::runs_user_segments(&page.sregs);
        if new_segments {
            page.sregs.cs = state::USER_CODE;
            page.sregs.ss = state::USER_DATA;
        }
        // An exception that KVM was about to deliver belongs to the state that is replaced; the
        // instruction raises it again if it still should.
        let exception = page.events.exception.injected | page.events.exception.pending != 0;
        if exception {
            page.events.exception.injected = 0;
            page.events.exception.pending = 0;
        }
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        if new_segments {
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        if exception {
            self.fd.set_sync_dirty_reg(SyncReg::VcpuEvents);
        }
    }

    /// Which top-level page table is in use.
    #[must_use]
    pub fn root(&self) -> Frame {
        GuestPhysAddr::new(self.fd.sync_regs().sregs.cr3).frame()
    }

    /// Uses another top-level page table from the next [`run`](Vcpu::run) on. This is not a flush.
    pub fn set_root(&mut self, table: Frame) {
        self.fd.sync_regs_mut().sregs.cr3 = table.addr().get();
        self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
    }

    /// The same if it is another one than now.
    pub fn set_root_if_other(&mut self, table: Frame) {
        if self.root() != table {
            self.set_root(table);
        }
    }

    /// Runs the guest until it stops.
    pub fn run(&mut self) -> Exit {
        let access = match self.enter() {
            Ok(access) => access,
            Err(exit) => return exit,
        };
        let page = self.fd.sync_regs();
        let (regs, sregs) = (page.regs, page.sregs);
        self.user = regs;
        self.position = Position::User;
        match exit::meaning(access, &regs, &sregs, self.area.stack_top) {
            Meaning::Call => {
                self.note_call(&regs);
                Exit::Call
            }
            Meaning::CompatCall => {
                self.note_call(&regs);
                Exit::CompatCall
            }
            Meaning::Entry { vector } => self.fault(vector, &sregs),
            Meaning::User => {
                // An `in` would write rax, and a string instruction go on, at the next entry.
                self.complete_pending_access();
                Exit::UserPort { port: access.port }
            }
            Meaning::Impossible => {
                Exit::Broken(format!("unexpected {access:?} at ring 0; {}", self.describe()))
            }
        }
    }

    /// One `KVM_RUN`: the port access that ended it, or why it is none.
    fn enter(&mut self) -> Result<PortAccess, Exit> {
        let root = self.root().addr().get();
        let immediate_exit: *mut u8 = &raw mut self.fd.get_kvm_run().immediate_exit;
        let result = {
            let _inside = self.place.enter(root);
            let _armed = kick::arm(immediate_exit);
            match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    Ok(PortAccess { port, direction: Direction::Out, bytes: data.len() })
                }
                Ok(VcpuExit::IoIn(port, data)) => {
                    let bytes = data.len();
                    data.fill(0xff);
                    Ok(PortAccess { port, direction: Direction::In, bytes })
                }
                Ok(VcpuExit::Intr) => Err(Stop::Signal),
                Ok(other) => Err(Stop::Other(format!("{other:?}"))),
                Err(error) if error.errno() == libc::EINTR => Err(Stop::Signal),
                Err(error) if error.errno() == libc::EAGAIN => Err(Stop::Signal),
                Err(error) if error.errno() == libc::EFAULT => Err(Stop::Unbacked),
                Err(error) => Err(Stop::Other(format!("KVM_RUN failed: {error}"))),
            }
        };
        result.map_err(|stop| match stop {
            Stop::Signal => {
                self.fd.set_kvm_immediate_exit(0);
                self.note_position();
                Exit::Interrupted(self.position)
            }
            Stop::Unbacked => {
                self.note_position();
                Exit::Unbacked(format!("KVM_RUN says EFAULT; {}", self.describe()))
            }
            Stop::Other(what) => Exit::Broken(format!("{what}; {}", self.describe())),
        })
    }

    /// Notes where the vCPU is that stopped for nothing that the guest did.
    fn note_position(&mut self) {
        let page = self.fd.sync_regs();
        let (regs, sregs) = (page.regs, page.sregs);
        self.position = exit::position(&regs, &sregs);
        if self.position == Position::User {
            self.user = regs;
        }
    }

    /// The stub's registers as ring 3's: `SYSCALL` left rip in rcx and rflags in r11.
    fn note_call(&mut self, regs: &Registers) {
        self.user = Registers { rip: regs.rcx, rflags: regs.r11, ..*regs };
    }

    fn fault(&mut self, vector: u8, sregs: &kvm_sregs) -> Exit {
        let mut bytes = [0_u8; exit::FRAME_WORDS * 8];
        let below_top = PAGE_SIZE - bytes.len() as u64;
        self.memory.read(GuestPhysAddr::new(self.area.stack.addr().get() + below_top), &mut bytes);
        let mut words = [0_u64; exit::FRAME_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let Some((error, frame)) = exit::parse_frame(vector, words) else {
            let known = self.describe();
            return Exit::Broken(format!(
                "exception {vector} at ring 0, frame {words:x?}; {known}"
            ));
        };
        let UserFrame { rip, rflags, rsp, .. } = frame;
        self.user = Registers { rip, rflags, rsp, ..self.user };
        Exit::Fault { vector, error, address: VirtAddr::new(sregs.cr2), frame }
    }

    /// All that is known of a vCPU that stopped where it must not.
    fn describe(&mut self) -> String {
        let page = self.fd.sync_regs();
        let (regs, sregs) = (page.regs, page.sregs);
        let run = self.fd.get_kvm_run();
        let reason = run.exit_reason;
        let mut text = format!(
            "vCPU {}: exit reason {reason}, rip {:#x}, cs {:#x}, rsp {:#x}, rflags {:#x}, cr2 {:#x}, cr3 {:#x}",
            self.area.index,
            regs.rip,
            sregs.cs.selector,
            regs.rsp,
            regs.rflags,
            sregs.cr2,
            sregs.cr3
        );
        if reason == kvm_bindings::KVM_EXIT_INTERNAL_ERROR {
            // SAFETY: the exit reason says which member of the union KVM has written; all are numbers.
            let internal = unsafe { run.__bindgen_anon_1.internal };
            let used = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
            text.push_str(&format!(
                ", internal error {}, data {:x?}",
                internal.suberror,
                &internal.data[..used]
            ));
        }
        text
    }
}

/// Why `KVM_RUN` ended other than by a port access.
enum Stop {
    Signal,
    Unbacked,
    Other(String),
}

/// DR6 after a reset.
const DR6_RESET: u64 = 0xffff_0ff0;
/// DR7 after a reset: no breakpoint.
const DR7_RESET: u64 = 0x400;

impl From<NonCanonical> for Broken {
    fn from(error: NonCanonical) -> Self {
        Broken::Invariant(error.to_string())
    }
}
