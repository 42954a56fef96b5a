//! The host's part of a page fault, as the run loop calls it, against the host kernel's whole fault: one page
//! each, nothing brought in ahead, the kernel's huge pages off. All memory was used before, so that what is
//! measured is the fault and not the host's own first one.

use std::sync::Arc;

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::paging::AccessKind;
use mm::space::{AddressSpace, MapRequest, SpaceUser, Vcpus};
use mm::vma::limits::Limits;
use mm::vma::{MapFlags, Prot};
use nix::sys::mman::{MapFlags as HostFlags, ProtFlags};
use nix::sys::prctl::set_thp_disable;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use vmm::kvm::FlushPolicy;
use vmm::machine::{Machine, MachineConfig};

use crate::program::in_memory;
use crate::rounds::{Outcome, Pair, Spent, alternate};

/// Faults a round.
pub(crate) const FAULTS: u64 = 512;
const BYTES: u64 = FAULTS * PAGE_SIZE;

/// What a fault has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// A page of zeros: the first write to anonymous memory.
    Zeros,
    /// A copy: a write to a page that somebody else has too.
    Copy,
}

/// Measures such faults.
pub(crate) fn measure(rounds: u32, need: Need) -> Outcome<Pair> {
    let machine =
        Machine::new(MachineConfig { memory: 64 << 20, flush: FlushPolicy::Chosen, nodes: 1 })?;
    machine.system().sysctl.set_fault_ahead(1);
    alternate(rounds, || native(need), || ours(&machine, need))
}

/// What it takes to write zeros to as many pages.
pub(crate) fn zeroing() -> Outcome<Spent> {
    let mut pages = vec![1_u8; usize::try_from(BYTES)?];
    Spent::on(|| {
        std::hint::black_box(&mut pages).fill(0);
        Ok(())
    })
}

/// Of the host's kernel.
fn native(need: Need) -> Outcome<Spent> {
    set_thp_disable(true)?;
    let bytes = usize::try_from(BYTES)?;
    let region = match need {
        Need::Zeros => MmapRegion::<()>::new(bytes)?,
        Need::Copy => {
            let file = in_memory(&vec![1; bytes])?;
            let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let flags = HostFlags::MAP_PRIVATE | HostFlags::MAP_NORESERVE;
            let file = FileOffset::new(file, 0);
            let region = MmapRegion::build(Some(file), bytes, prot.bits(), flags.bits())?;
            region.as_volatile_slice().read_slice(&mut vec![0; bytes], 0)?;
            region
        }
    };
    let slice = region.as_volatile_slice();
    let spent = Spent::on(|| {
        for page in 0..FAULTS {
            slice.write_obj(1_u8, usize::try_from(page * PAGE_SIZE)?)?;
        }
        Ok(())
    });
    set_thp_disable(false)?;
    spent
}

/// Of mmvisor, without the exit and the way back.
fn ours(machine: &Machine, need: Need) -> Outcome<Spent> {
    let space = SpaceUser::new(AddressSpace::new(Arc::clone(machine.system()), Limits::default())?);
    let writable = Prot::READ | Prot::WRITE;
    let request = MapRequest::anonymous(VirtAddr::ZERO, BYTES, writable, MapFlags::empty());
    let start = space.change().mmap(&request)?;
    let write = || -> Outcome<()> {
        for page in 0..FAULTS {
            space.fault(start.offset(page * PAGE_SIZE), AccessKind::Write)?;
        }
        Ok(())
    };
    let spent = match need {
        Need::Zeros => Spent::on(write)?,
        Need::Copy => {
            write()?;
            let child = SpaceUser::new(space.change().fork(Vcpus::Stopped)?);
            let spent = Spent::on(write)?;
            child.put()?;
            spent
        }
    };
    space.put()?;
    Ok(spent)
}
