//! Address spaces on the software executor: single facts about Linux, and random calls against a plain
//! model.

mod ahead_files;
mod bytes;
mod change;
mod collapse;
mod commit;
mod cow;
mod downwards;
mod failure;
mod files;
mod folio;
mod forced;
mod fork;
mod grow;
mod handoff;
mod host_files;
mod huge;
mod khugepaged;
mod ksm;
mod model;
mod mthp;
mod numa;
mod objects;
mod pager;
mod pool;
mod promote;
mod reclaim;
mod segments;
mod swap;
mod thp;
mod touch;
mod userfault;
mod userfault_moves;
mod vcpus;
mod watched;
mod windows;

use super::*;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::backing::Backing;
use crate::error::{AccessError, CallError, CallResult, Fault};
use crate::inspect::{audit, audit_all, maps_text};
use crate::paging::AccessKind;
use crate::replay::SoftwareMachine;
use crate::vma::{MapFlags, MapType, Prot};

const BASE: u64 = 0x1_0000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

fn machine() -> SoftwareMachine {
    SoftwareMachine::new(8192, Limits::default()).unwrap()
}

fn page(index: u64) -> VirtAddr {
    VirtAddr::new(BASE + index * PAGE_SIZE)
}

fn map_at(m: &SoftwareMachine, index: u64, pages: u64, prot: Prot) -> CallResult<VirtAddr> {
    let request = MapRequest::anonymous(page(index), pages * PAGE_SIZE, prot, MapFlags::FIXED);
    m.space.change().mmap(&request)
}

/// Maps a file from its first page on.
fn map_file<B: Backing + 'static>(
    m: &SoftwareMachine,
    at: u64,
    pages: u64,
    kind: MapType,
    file: &Arc<B>,
) {
    let request = MapRequest {
        addr: page(at),
        len: pages * PAGE_SIZE,
        prot: RW,
        flags: MapFlags::FIXED | kind.into(),
        file: Some(Arc::clone(file) as Arc<dyn Backing>),
        offset: 0,
    };
    m.space.change().mmap(&request).unwrap();
}

fn protect(m: &SoftwareMachine, index: u64, pages: u64, prot: Prot) -> CallResult<()> {
    m.space.change().mprotect(page(index), pages * PAGE_SIZE, prot)
}

fn unmap(m: &SoftwareMachine, index: u64, pages: u64) -> CallResult<()> {
    m.space.change().munmap(page(index), pages * PAGE_SIZE)
}

fn remap(
    m: &SoftwareMachine,
    from: u64,
    old: u64,
    new: u64,
    to: Option<u64>,
) -> CallResult<VirtAddr> {
    let (may_move, fixed) = (1, if to.is_some() { 2 } else { 0 });
    m.space.change().mremap(&RemapRequest {
        addr: page(from),
        old_len: old * PAGE_SIZE,
        new_len: new * PAGE_SIZE,
        flags: may_move | fixed,
        new_addr: to.map_or(VirtAddr::ZERO, page),
    })
}

fn lines(m: &SoftwareMachine) -> Vec<String> {
    maps_text(&m.space.look()).lines().map(|line| line[..line.len().min(28)].to_owned()).collect()
}

fn fault_of<T: std::fmt::Debug>(result: Result<T, AccessError>) -> Fault {
    match result {
        Err(AccessError::Fault(fault)) => fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

fn errno_of<T: std::fmt::Debug>(result: CallResult<T>) -> Errno {
    match result {
        Err(CallError::Errno(errno)) => errno,
        other => panic!("expected an errno, got {other:?}"),
    }
}

/// A process forked while no vCPU runs.
fn child_of(m: &SoftwareMachine) -> SoftwareMachine {
    let child = m.space.change().fork(Vcpus::Stopped).unwrap();
    let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
    SoftwareMachine { space: SharedSpace::new(child), sink, frames }
}

fn audited(ms: &[&SoftwareMachine]) {
    let guards: Vec<_> = ms.iter().map(|m| m.space.look()).collect();
    let spaces: Vec<&AddressSpace> = guards.iter().map(|guard| &**guard).collect();
    audit_all(&spaces).unwrap();
}

/// Forks with each frame refused that it asks for, and looks at what each failure leaves; then without.
fn refuse_forks(m: &SoftwareMachine, left: impl Fn()) {
    for nth in (1..).filter_map(NonZeroU64::new) {
        m.frames.failures().refuse(nth);
        let forked = m.space.change().fork(Vcpus::Stopped);
        m.frames.failures().stop();
        match forked {
            Ok(child) => {
                assert!(nth > NonZeroU64::MIN, "a fork asks for frames");
                return child.exit().unwrap();
            }
            Err(error) => assert_eq!(errno_of::<()>(Err(error)), Errno::ENOMEM),
        }
        left();
        audited(&[m]);
    }
}
