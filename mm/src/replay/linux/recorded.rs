//! A recorded call made again: its registers, and memory of its own that holds what its pointers led to.
//!
//! ```text
//!   Pointee::Null          0
//!   Pointee::Unread        what is read there is EFAULT, what is written there is dropped
//!   Pointee::Shown, read   an address of ours: the bytes that the trace shows, then zeros
//!   written                an address of ours: what the call writes is kept
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;

use nix::libc;

use crate::addr::{PAGE_BYTES, VirtAddr};
use crate::error::{AccessError, Fault};
use crate::replay::calls::{MemoryCall, Pointee};

/// Where the bytes lie that calls read, far apart: none of these is this long.
const INPUTS: u64 = 1 << 40;
const INPUT_STRIDE: u64 = 1 << 36;
/// Where the bytes lie that calls write, far apart: none is this long.
const OUTPUTS: u64 = 0x4000_0000_0000;
const OUTPUT_STRIDE: u64 = 1 << 40;
/// Nothing can be read there.
const NOWHERE: u64 = u64::MAX;

/// The arguments that are pointers, by their place.
#[derive(Debug, Default)]
pub(super) struct RecordedMemory {
    inputs: BTreeMap<u64, Vec<u8>>,
    outputs: RefCell<BTreeMap<u64, Vec<u8>>>,
}

/// A call as the registers have it.
#[derive(Debug)]
pub(super) struct Registers {
    /// The call's number.
    pub(super) number: u64,
    /// Its arguments.
    pub(super) args: [u64; 6],
    /// What its pointers lead to.
    pub(super) memory: RecordedMemory,
}

impl RecordedMemory {
    /// Argument `index`, which the call reads.
    fn input<T>(&mut self, index: u64, pointee: &Pointee<T>, bytes: impl Fn(&T) -> Vec<u8>) -> u64 {
        match pointee {
            Pointee::Null => 0,
            Pointee::Unread(_) => NOWHERE,
            Pointee::Shown(content) => {
                let at = INPUTS + index * INPUT_STRIDE;
                self.inputs.insert(at, bytes(content));
                at
            }
        }
    }

    /// Argument `index`, which the call writes through. Where the trace shows nothing, the call failed, or
    /// would have if the pointer was bad: what we would write is then not compared.
    fn output<T>(index: u64, pointee: &Pointee<T>) -> u64 {
        match pointee {
            Pointee::Null => 0,
            Pointee::Unread(_) | Pointee::Shown(_) => OUTPUTS + index * OUTPUT_STRIDE,
        }
    }

    /// What the call has written through argument `index`; `None` if nothing.
    pub(super) fn written(&self, index: u64) -> Option<Vec<u8>> {
        self.outputs.borrow().get(&(OUTPUTS + index * OUTPUT_STRIDE)).cloned()
    }

    /// The call reads.
    pub(super) fn read(&self, from: VirtAddr, into: &mut [u8]) -> Result<(), AccessError> {
        let none = || AccessError::Fault(Fault::NotMapped(from));
        let (base, bytes) = self.inputs.range(..=from.get()).next_back().ok_or_else(none)?;
        let first = usize::try_from(from.get() - base).map_err(|_| none())?;
        if first + into.len() > PAGE_BYTES.max(bytes.len()) {
            return Err(none());
        }
        for (to, index) in into.iter_mut().zip(first..) {
            *to = bytes.get(index).copied().unwrap_or(0);
        }
        Ok(())
    }

    /// The call writes; what it leaves out is zeros.
    pub(super) fn write(&self, to: VirtAddr, bytes: &[u8]) -> Result<(), AccessError> {
        let none = || AccessError::Fault(Fault::NotMapped(to));
        let base = to.get() & !(OUTPUT_STRIDE - 1);
        if base < OUTPUTS {
            return Err(none());
        }
        let mut outputs = self.outputs.borrow_mut();
        let output = outputs.entry(base).or_default();
        let first = usize::try_from(to.get() - base).map_err(|_| none())?;
        let end = first + bytes.len();
        output.resize(output.len().max(end), 0);
        output[first..end].copy_from_slice(bytes);
        Ok(())
    }
}

/// The registers of a call; `None` for one that is not modelled.
pub(super) fn registers(call: &MemoryCall) -> Option<Registers> {
    use MemoryCall as M;
    let mut memory = RecordedMemory::default();
    let m = &mut memory;
    let (number, args) = match *call {
        M::Mmap { addr, len, prot, flags, fd, offset } => {
            (libc::SYS_mmap, [addr.get(), len, prot, flags, sign_extended(fd), offset])
        }
        M::Munmap { addr, len } => (libc::SYS_munmap, [addr.get(), len, 0, 0, 0, 0]),
        M::Mprotect { addr, len, prot } => (libc::SYS_mprotect, [addr.get(), len, prot, 0, 0, 0]),
        M::PkeyMprotect { addr, len, prot, pkey } => {
            (libc::SYS_pkey_mprotect, [addr.get(), len, prot, sign_extended(pkey), 0, 0])
        }
        M::Mremap { addr, old_len, new_len, flags, new_addr } => {
            (libc::SYS_mremap, [addr.get(), old_len, new_len, flags, new_addr.get(), 0])
        }
        M::Brk { addr } => (libc::SYS_brk, [addr.get(), 0, 0, 0, 0, 0]),
        M::RemapFilePages { addr, len, prot, pgoff, flags } => {
            (libc::SYS_remap_file_pages, [addr.get(), len, prot, pgoff, flags, 0])
        }
        M::Madvise { addr, len, advice } => (libc::SYS_madvise, [addr.get(), len, advice, 0, 0, 0]),
        M::ProcessMadvise { pidfd, ref ranges, count, advice, flags } => {
            let ranges = m.input(1, ranges, |ranges| {
                words(ranges.iter().flat_map(|range| [range.base.get(), range.len]))
            });
            (libc::SYS_process_madvise, [sign_extended(pidfd), ranges, count, advice, flags, 0])
        }
        M::Mlock { addr, len } => (libc::SYS_mlock, [addr.get(), len, 0, 0, 0, 0]),
        M::Mlock2 { addr, len, flags } => (libc::SYS_mlock2, [addr.get(), len, flags, 0, 0, 0]),
        M::Munlock { addr, len } => (libc::SYS_munlock, [addr.get(), len, 0, 0, 0, 0]),
        M::Mlockall { flags } => (libc::SYS_mlockall, [flags, 0, 0, 0, 0, 0]),
        M::Munlockall => (libc::SYS_munlockall, [0; 6]),
        M::Mseal { addr, len, flags } => (libc::SYS_mseal, [addr.get(), len, flags, 0, 0, 0]),
        M::Msync { addr, len, flags } => (libc::SYS_msync, [addr.get(), len, flags, 0, 0, 0]),
        M::Mincore { addr, len, ref vec } => {
            let vector = RecordedMemory::output(2, vec);
            (libc::SYS_mincore, [addr.get(), len, vector, 0, 0, 0])
        }
        M::Mbind { addr, len, mode, ref nodes, maxnode, flags } => {
            let nodes = m.input(3, nodes, |mask| words(mask.iter().copied()));
            (libc::SYS_mbind, [addr.get(), len, mode, nodes, maxnode, flags])
        }
        M::SetMempolicy { mode, ref nodes, maxnode } => {
            let nodes = m.input(1, nodes, |mask| words(mask.iter().copied()));
            (libc::SYS_set_mempolicy, [mode, nodes, maxnode, 0, 0, 0])
        }
        M::GetMempolicy { ref mode, ref nodes, maxnode, addr, flags } => {
            let mode = RecordedMemory::output(0, mode);
            let nodes = RecordedMemory::output(1, nodes);
            (libc::SYS_get_mempolicy, [mode, nodes, maxnode, addr.get(), flags, 0])
        }
        M::SetMempolicyHomeNode { addr, len, node, flags } => {
            (libc::SYS_set_mempolicy_home_node, [addr.get(), len, node, flags, 0, 0])
        }
        M::MovePages { pid, count, ref pages, ref nodes, ref status, flags } => {
            let pages = m.input(2, pages, |pages| words(pages.iter().map(|page| page.get())));
            let nodes = m.input(3, nodes, |nodes| {
                nodes.iter().flat_map(|node| node.to_le_bytes()).collect()
            });
            let status = RecordedMemory::output(4, status);
            (libc::SYS_move_pages, [sign_extended(pid), count, pages, nodes, status, flags])
        }
        M::MigratePages { pid, maxnode, ref old, ref new } => {
            let old = m.input(2, old, |mask| words(mask.iter().copied()));
            let new = m.input(3, new, |mask| words(mask.iter().copied()));
            (libc::SYS_migrate_pages, [sign_extended(pid), maxnode, old, new, 0, 0])
        }
        M::Prctl { option, args: [a, b, c, d], ref name } => {
            let name = name.as_ref().map(|name| {
                let text = Pointee::Shown(name);
                m.input(4, &text, |name| [&name.bytes[..], &[0]].concat())
            });
            (libc::SYS_prctl, [option, a, b, c, name.unwrap_or(d), 0])
        }
        M::Prlimit { pid, resource, ref new, ref old } => {
            let new = m.input(2, new, |limit| words([limit.current, limit.maximum]));
            let old = RecordedMemory::output(3, old);
            (libc::SYS_prlimit64, [sign_extended(pid), resource, new, old, 0, 0])
        }
        M::Setrlimit { resource, ref new } => {
            let new = m.input(1, new, |limit| words([limit.current, limit.maximum]));
            (libc::SYS_setrlimit, [resource, new, 0, 0, 0, 0])
        }
        M::Getrlimit { resource, ref old } => {
            (libc::SYS_getrlimit, [resource, RecordedMemory::output(1, old), 0, 0, 0, 0])
        }
        M::Personality { persona } => (libc::SYS_personality, [persona, 0, 0, 0, 0, 0]),
        M::Userfaultfd { flags } => (libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0]),
        M::Shmget { .. } | M::Shmat { .. } | M::Shmdt { .. } | M::Shmctl { .. } => return None,
    };
    Some(Registers { number: number.cast_unsigned(), args, memory })
}

fn sign_extended(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

fn words(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}
