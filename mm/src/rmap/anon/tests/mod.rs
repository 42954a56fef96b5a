//! The reverse map of anonymous memory: single facts about Linux's, random calls of several processes
//! against a plain model, and its locks.

mod locks;
mod nodes;
mod processes;
mod races;
mod ranges;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::addr::{Frame, PAGE_SIZE, VirtAddr};
use crate::inspect::audit_all;
use crate::paging::Entry;
use crate::replay::SoftwareMachine;
use crate::space::{AddressSpace, MapRequest, RemapRequest, SharedSpace, Vcpus};
use crate::vma::limits::Limits;
use crate::vma::{MapFlags, Prot};

const BASE: u64 = 0x1_0000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);
const MAYMOVE_FIXED: u64 = 1 | 2;
const DONTUNMAP: u64 = 4;

fn page(index: u64) -> VirtAddr {
    VirtAddr::new(BASE + index * PAGE_SIZE)
}

fn machine() -> SoftwareMachine {
    SoftwareMachine::new(8192, Limits::default()).unwrap()
}

/// A process on the same machine, forked from this one.
fn fork(m: &SoftwareMachine) -> SoftwareMachine {
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    let (sink, frames) = (Arc::clone(&m.sink), Arc::clone(&m.frames));
    SoftwareMachine { space: SharedSpace::new(child), sink, frames }
}

fn map(m: &SoftwareMachine, at: u64, pages: u64, prot: Prot) {
    let request = MapRequest::anonymous(page(at), pages * PAGE_SIZE, prot, MapFlags::FIXED);
    m.space.change().mmap(&request).unwrap();
}

fn remap(m: &SoftwareMachine, from: u64, pages: u64, to: u64, flags: u64) {
    let len = pages * PAGE_SIZE;
    let (addr, new_addr) = (page(from), page(to));
    let request = RemapRequest { addr, old_len: len, new_len: len, flags, new_addr };
    assert_eq!(m.space.change().mremap(&request).unwrap(), new_addr);
}

fn entry_at(space: &AddressSpace, at: u64) -> Option<Entry> {
    let slot = space.table().slot(page(at))?;
    Some(Entry::new(slot.load(std::sync::atomic::Ordering::Relaxed)))
}

fn frame_at(m: &SoftwareMachine, at: u64) -> Frame {
    entry_at(&m.space.look(), at).and_then(Entry::frame).unwrap()
}

/// Where the reverse map finds a frame: the space's number, and the page.
fn found(m: &SoftwareMachine, frame: Frame) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let space = m.space.look();
    let all = space.system().anon().entries_of(&m.frames, frame, |entry| {
        found.push((entry.space, entry.addr.bytes_from(VirtAddr::new(BASE)) / PAGE_SIZE));
        ControlFlow::<()>::Continue(())
    });
    assert!(all.is_continue());
    found
}

fn number(m: &SoftwareMachine) -> u64 {
    m.space.look().number()
}

fn nodes(m: &SoftwareMachine) -> usize {
    m.space.look().system().anon().nodes()
}

/// The node that a page belongs to.
fn node_of(m: &SoftwareMachine, at: u64) -> u32 {
    m.frames.owner(frame_at(m, at)).unwrap().id
}

fn audit(all: &[&SoftwareMachine]) -> Result<(), String> {
    let looked: Vec<_> = all.iter().map(|m| m.space.look()).collect();
    audit_all(&looked.iter().map(|space| &**space).collect::<Vec<_>>())
}
