//! The third executor of traces: the same calls as in software, on page tables in guest memory, and every
//! access made by a vCPU in ring 3 of a guest.
//!
//! ```text
//!   mm::replay::linux::Linux ── calls ──> mm ──> page tables in guest memory <── walks ─┐
//!          └── access ──> VcpuProcessor ── CR3 = the process's root, RIP = the access ──┴─ vCPU
//!                              ├─ system call behind it: done
//!                              └─ page fault ──> SharedSpace::fault ──> again, or the signal
//! ```
//!
//! The vCPU goes from one process's tables to another's by CR3 alone. That flushes nothing under shadow
//! paging, and is what the machine's flushes are tested by: whatever they miss, some access will see.

use std::sync::Arc;

use guest::abi::{ACCESS_LOAD, ACCESS_PAGE, ACCESS_REWRITE, ACCESS_STORE, ACCESS_STRIDE};
use mm::addr::VirtAddr;
use mm::error::{AccessError, Broken};
use mm::paging::AccessKind;
use mm::replay::linux::{ByteAccess, Linux, Processor};
use mm::space::SharedSpace;
use mm::sysctl::Sysctl;

use crate::kvm::{Exit, Registers, Vcpu, faulting_access};
use crate::machine::{Machine, VcpuError};

/// The page fault's vector.
const PAGE_FAULT: u8 = 14;
/// How often one access may fault: more often than mm can have a reason for.
const MOST_FAULTS: u32 = 64;
/// RFLAGS.TF: a trap behind each instruction.
const TRAP_FLAG: u64 = 1 << 8;
/// Every register while an instruction of the trace's memory runs: not canonical, neither as it is nor
/// scaled by 2, 3, 4, 5, 8 or 9, so that what it does to memory by way of registers faults.
const NOWHERE: u64 = 0x8888_8888_8888_8888;

#[cfg(test)]
mod tests;

/// Executes traces on a machine, which is one made [for that](Machine::for_replay).
///
/// # Errors
/// [`VcpuError`] if there is no vCPU to be had.
pub fn in_guest(machine: &Arc<Machine>) -> Result<Linux, VcpuError> {
    let vcpu = Some(machine.take_vcpu()?);
    // As in software: what a trace was promised it is promised again, whatever this host has.
    machine.system().sysctl.set_total_pages(Sysctl::ENDLESS);
    let processor = VcpuProcessor { vcpu, machine: Arc::clone(machine) };
    Ok(Linux::on(Arc::clone(machine.system()), Box::new(processor)))
}

/// A vCPU that makes single accesses.
#[derive(Debug)]
struct VcpuProcessor {
    /// There until it is given back.
    vcpu: Option<Vcpu>,
    machine: Arc<Machine>,
}

impl Drop for VcpuProcessor {
    fn drop(&mut self) {
        if let Some(vcpu) = self.vcpu.take() {
            self.machine.give_back(vcpu);
        }
    }
}

impl Processor for VcpuProcessor {
    fn access(
        &mut self,
        space: &SharedSpace,
        addr: VirtAddr,
        access: ByteAccess,
    ) -> Result<u8, AccessError> {
        let Some(vcpu) = &mut self.vcpu else {
            return Err(Broken::Invariant("the vCPU is given back".to_owned()).into());
        };
        // A fork may have given the process another root.
        let root = space.look().table().root();
        if vcpu.root() != root {
            vcpu.set_root(root);
        }
        let attempt = Attempt { space, addr, access };
        vcpu.resume_user(&attempt.registers()).map_err(Broken::from)?;
        for _ in 0..=MOST_FAULTS {
            if attempt.step(vcpu)? == Step::Done {
                let [byte, ..] = vcpu.registers().rsi.to_le_bytes();
                return Ok(byte);
            }
        }
        let kind = access.kind();
        let what = format!("{kind:?} of {addr} faults after {MOST_FAULTS} faults were resolved");
        Err(Broken::Invariant(what).into())
    }
}

/// One access under way.
struct Attempt<'a> {
    space: &'a SharedSpace,
    addr: VirtAddr,
    access: ByteAccess,
}

/// What a run of the vCPU came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The access is made.
    Done,
    /// It is to be tried again.
    Again,
}

impl Attempt<'_> {
    /// Where the access is in the kernel half; none for a fetch, which is made by jumping there.
    fn routine(&self) -> Option<u64> {
        let offset = match self.access {
            ByteAccess::Touch(AccessKind::Read) => ACCESS_LOAD,
            ByteAccess::Touch(AccessKind::Write) => ACCESS_REWRITE,
            ByteAccess::Touch(AccessKind::Execute) => return None,
            ByteAccess::Store(_) => ACCESS_STORE,
        };
        Some(ACCESS_PAGE + offset)
    }

    /// The registers that the access begins with.
    fn registers(&self) -> Registers {
        let addr = self.addr.get();
        let Some(rip) = self.routine() else {
            let (rax, rbx, rcx, rdx) = (NOWHERE, NOWHERE, NOWHERE, NOWHERE);
            let (rsi, rdi, rsp, rbp) = (NOWHERE, NOWHERE, NOWHERE, NOWHERE);
            let (r8, r9, r10, r11) = (NOWHERE, NOWHERE, NOWHERE, NOWHERE);
            let (r12, r13, r14, r15) = (NOWHERE, NOWHERE, NOWHERE, NOWHERE);
            let (rip, rflags) = (addr, TRAP_FLAG);
            return Registers {
                rax,
                rbx,
                rcx,
                rdx,
                rsi,
                rdi,
                rsp,
                rbp,
                r8,
                r9,
                r10,
                r11,
                r12,
                r13,
                r14,
                r15,
                rip,
                rflags,
            };
        };
        let byte = match self.access {
            ByteAccess::Store(byte) => byte,
            ByteAccess::Touch(_) => 0,
        };
        Registers { rip, rdi: addr, rsi: byte.into(), ..Registers::default() }
    }

    /// Runs the vCPU to its next exit.
    fn step(&self, vcpu: &mut Vcpu) -> Result<Step, AccessError> {
        let exit = vcpu.run();
        let unexpected = |exit: &Exit| {
            let what = format!("{:?} of {} ended in {exit:?}", self.access, self.addr);
            Err(Broken::Invariant(what).into())
        };
        match (&exit, self.routine()) {
            (Exit::Interrupted(_), _) => Ok(Step::Again),
            (&Exit::Fault { vector: PAGE_FAULT, error, address, .. }, _)
                if address == self.addr =>
            {
                let kind = faulting_access(address, error)?;
                match (kind == self.access.kind(), self.routine()) {
                    (true, _) => {
                        self.space.fault(address, kind)?;
                        vcpu.retry_fault();
                        Ok(Step::Again)
                    }
                    // The instruction there, which was fetched, is about its own bytes.
                    (false, None) => Ok(Step::Done),
                    (false, Some(_)) => unexpected(&exit),
                }
            }
            (Exit::Broken(_), _) => unexpected(&exit),
            (Exit::Call, Some(routine)) => {
                let behind = routine..routine + ACCESS_STRIDE;
                let is_ours = behind.contains(&vcpu.registers().rip);
                if is_ours { Ok(Step::Done) } else { unexpected(&exit) }
            }
            (_, Some(_)) => unexpected(&exit),
            // The trap behind the instruction, or whatever it does itself: it was fetched.
            (_, None) => Ok(Step::Done),
        }
    }
}
