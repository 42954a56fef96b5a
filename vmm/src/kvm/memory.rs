//! The guest's physical memory: one host mapping, of which KVM is shown ever more.
//!
//! ```text
//!   host     [ 2 MiB-aligned reservation of the maximal size, PROT_READ|WRITE, no swap reserved    ]
//!   KVM      [ slot 0: 16 MiB ][ slot 1: 16 ][ slot 2: 32 ][ 3: 64 ] ... up to 1 GiB each
//!   guest    frame 0 ──────────────────────────────> frames()          (address = offset)
//! ```
//!
//! With several NUMA nodes the reservation is as many parts, each on a node of the host where that has several
//! ([`HostNodes`]); the slots do not care.
//!
//! A slot costs in proportion to its size under shadow paging (64 MiB 0.1 ms, 1 GiB 0.5 ms, 64 GiB
//! 27 ms), so slots are added as the memory grows.
//!
//! The backing is anonymous memory with transparent huge pages. Measured on software KVM, first touch
//! of a page by the guest:
//!
//! | host memory | guest maps 2 MiB | guest maps 4 KiB |
//! |---|---|---|
//! | memfd, made present before | 0.9 us | 0.9 us |
//! | anonymous, huge, made present before | 0.02 us | 0.63 us (A and D preset; 2.1 us with them clear) |
//! | either, not made present | 6 to 8 us | 6 to 7 us |
//!
//! Making 2 MiB present as one huge page costs 0.17 us a page. Where the host has no huge pages, a block
//! is made present all the same. A block of which a part is given back is in small pages from then on, or
//! `khugepaged` would fill it up again (its `max_ptes_none`). What anonymous memory lacks is an alias
//! and a `MADV_DONTNEED` that keeps the bytes; nothing here needs either.

mod pagemap;

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use log::debug;
use mm::addr::{Frame, FrameRun, GuestPhysAddr, PAGE_BYTES, PAGE_SHIFT, PAGE_SIZE};
use mm::error::Broken;
use mm::paging::AccessKind;
use mm::phys::{BLOCK_FRAMES, FileAccess, FilePart, Gone, HostPages, Nodes, PhysMemory, Words};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use pagemap::Pagemap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::KvmError;
use super::host_calls::HostCalls;
use super::host_nodes::{self, HostNodes};
use super::memory_slot::MemorySlot;

/// Bytes of a host huge page: the alignment of the reservation and of its size.
const HUGE_PAGE: u64 = BLOCK_FRAMES * PAGE_SIZE;
/// Bytes of the first slot.
const FIRST_SLOT: u64 = 16 << 20;
/// Bytes of the largest slot.
const LARGEST_SLOT: u64 = 1 << 30;

/// The guest's physical memory. Guest-physical address 0 is its first byte.
#[derive(Debug)]
pub struct GuestMemory {
    host: Arc<HostCalls>,
    region: MmapRegion,
    /// Bytes from the region's start to the first huge page boundary.
    skew: usize,
    /// Bytes it may grow to.
    limit: u64,
    /// Bytes that KVM has slots for. Grows under the lock of `slots`, read by everyone.
    size: AtomicU64,
    slots: Mutex<Vec<MemorySlot>>,
    /// How it is divided among the guest's NUMA nodes.
    nodes: Nodes,
    host_nodes: HostNodes,
    pages: HostPages,
    shown: Shown,
    pagemap: Pagemap,
}

/// The most spans that one call takes (`UIO_MAXIOV`).
const MOST_PARTS: usize = 1024;
/// This process, where a descriptor of a process is asked for (Linux's `include/uapi/linux/pidfd.h`).
const PIDFD_SELF: libc::c_int = -10000;

/// A child process must not make the pages copy-on-write under KVM, and a core dump is no place for them. Huge
/// pages only block by block (`populate`): a small program needs few pages, and they come sooner one by one
/// than with the whole block around them.
const ADVICE: [i32; 3] = [libc::MADV_DONTFORK, libc::MADV_DONTDUMP, libc::MADV_NOHUGEPAGE];
/// The same where a file is shown: its pages are in pieces as large as the host has read or written them.
const FILE_ADVICE: [i32; 2] = [libc::MADV_DONTFORK, libc::MADV_DONTDUMP];

/// What the host says about transparent huge pages (`Documentation/admin-guide/mm/transhuge.rst`).
const HUGE_PAGES_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// In which pages this host holds memory that is advised to be huge.
fn host_pages() -> HostPages {
    match std::fs::read_to_string(HUGE_PAGES_ENABLED) {
        Ok(enabled) if !enabled.contains("[never]") => HostPages::Huge,
        Ok(_) | Err(_) => HostPages::Small,
    }
}

impl GuestMemory {
    /// Reserves `limit` bytes of host addresses, rounded up to 2 MiB, divides them among so many NUMA nodes, and shows
    /// KVM the first of them.
    ///
    /// # Errors
    /// [`KvmError::MemorySize`] if the size is zero, overflows or cannot be reserved;
    /// [`KvmError::Broken`] if KVM refuses the first slot.
    pub(super) fn new(host: Arc<HostCalls>, limit: u64, nodes: u8) -> Result<Self, KvmError> {
        GuestMemory::on(host, limit, host_pages(), (nodes, HostNodes::of_host()))
    }

    /// The same on a host with such pages and nodes.
    fn on(
        host: Arc<HostCalls>,
        limit: u64,
        pages: HostPages,
        (nodes, host_nodes): (u8, HostNodes),
    ) -> Result<Self, KvmError> {
        let size_error = |why: String| KvmError::MemorySize { bytes: limit, why };
        let rounded = limit
            .checked_next_multiple_of(HUGE_PAGE)
            .filter(|bytes| *bytes != 0)
            .ok_or_else(|| size_error("it must be more than zero and fit in 64 bits".to_owned()))?;
        let reserved = rounded
            .checked_add(HUGE_PAGE)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| size_error("it does not fit in the host's addresses".to_owned()))?;
        let region = MmapRegionBuilder::new(reserved)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            .build()
            .map_err(|error| size_error(error.to_string()))?;
        let skew = region.as_ptr().align_offset(to_usize(HUGE_PAGE));
        let memory = GuestMemory {
            host,
            region,
            skew,
            limit: rounded,
            size: AtomicU64::new(0),
            slots: Mutex::default(),
            nodes: Nodes::new(nodes, rounded / PAGE_SIZE),
            host_nodes,
            pages,
            shown: Shown::none(rounded / HUGE_PAGE),
            pagemap: Pagemap::new(),
        };
        memory.advise_if_possible(0, rounded, &ADVICE);
        memory.place(0..rounded / PAGE_SIZE);
        memory.grow()?;
        Ok(memory)
    }

    /// Bytes it may grow to.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How its frames are divided among the guest's NUMA nodes.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        self.nodes
    }

    /// Has the host take what memory these frames will have from its nodes for theirs, where it has several.
    fn place(&self, frames: Range<u64>) {
        if self.nodes.is_one() {
            return;
        }
        for node in 0..self.nodes.count() {
            let Some(host_node) = self.host_nodes.for_node(node) else { return };
            let of_node = self.nodes.frames(node);
            let (first, end) = (of_node.start.max(frames.start), of_node.end.min(frames.end));
            if first >= end {
                continue;
            }
            let (at, bytes) = (first << PAGE_SHIFT, (end - first) << PAGE_SHIFT);
            // It lies in the reservation, or the frames would not be ours.
            if let Ok(span) = self.region.get_slice(self.skew + to_usize(at), to_usize(bytes)) {
                host_nodes::prefer(&span, host_node);
            }
        }
    }

    /// How the host is asked to take translations from vCPUs.
    pub(super) fn host(&self) -> &Arc<HostCalls> {
        &self.host
    }

    /// Changes the host's protection of a run of frames; the flush sink's tool.
    pub(super) fn protect(&self, run: FrameRun, protection: i32) -> io::Result<()> {
        self.host.ask()?;
        let slice = self.slice(run.start.addr(), run.count << PAGE_SHIFT);
        // SAFETY: the span lies in our own mapping (`slice` checked it), and every protection that the
        // sink asks for leaves it readable and writable, so no access of ours can be caught by it.
        let status = unsafe {
            libc::mprotect(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), protection)
        };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes from all vCPUs the permission to write these frames, and whatever else lies in the same slots, by
    /// any translation that they have: they ask the page table again. See [`MemorySlot`].
    pub(super) fn write_protect(&self, runs: &[FrameRun]) -> Result<(), Broken> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |slot: &&mut MemorySlot| runs.iter().any(|run| slot.has_of(*run));
        slots.iter_mut().filter(named).try_for_each(|slot| slot.write_protect(&self.host))
    }

    /// Gives the host advice on a span that may reach past the slots.
    fn advise(&self, offset: u64, bytes: u64, advice: i32) -> io::Result<()> {
        let slice = self
            .region
            .get_slice(self.skew + to_usize(offset), to_usize(bytes))
            .map_err(io::Error::other)?;
        // SAFETY: the span lies in our own mapping. Advice may replace its bytes by zeros
        // (MADV_DONTNEED), which is a write like any other to memory that is only read volatile.
        let status =
            unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), advice) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The same of advice without which it also works.
    fn advise_if_possible(&self, offset: u64, bytes: u64, advice: &[i32]) {
        for &advice in advice {
            if let Err(error) = self.advise(offset, bytes, advice) {
                debug!("guest memory: advice {advice} on {bytes} bytes refused: {error}");
            }
        }
    }

    /// Drops the bytes of these runs in one call, about twice as fast as one by one. Says whether the host
    /// did all of it: it can from Linux 6.13 on.
    fn drop_at_once(&self, parts: &[FrameRun]) -> bool {
        let bytes: u64 = parts.iter().map(|part| self.span(*part).1).sum();
        let spans: Vec<libc::iovec> = parts
            .iter()
            .map(|part| self.slice(part.start.addr(), part.count << PAGE_SHIFT))
            .map(|slice| libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            })
            .collect();
        let (all, none) = (spans.as_ptr(), 0_u32);
        // SAFETY: the spans lie in our own mapping, whose bytes may become zeros at any time as by any
        // other write; the array of them outlives the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                PIDFD_SELF,
                all,
                spans.len(),
                libc::MADV_DONTNEED,
                none,
            )
        };
        u64::try_from(done) == Ok(bytes)
    }

    /// Maps something else over a block: pages of `file` from its offset on, or none.
    fn map_over(
        &self,
        block: FrameRun,
        protection: i32,
        flags: i32,
        (file, offset): (i32, i64),
    ) -> io::Result<()> {
        let slice = self.slice(block.start.addr(), block.count << PAGE_SHIFT);
        let at = slice.ptr_guard_mut().as_ptr().cast();
        let flags = flags | libc::MAP_FIXED;
        // SAFETY: the span lies in our own mapping, and stays mapped: only what its bytes are changes, which
        // they may at any time. Where they become a file's, nothing reads or writes them but the guest and
        // `try_read`, `try_write`, which ask the kernel to, so that no access of ours can be caught by
        // the file's end.
        let mapped = unsafe { libc::mmap(at, slice.len(), protection, flags, file, offset) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let advice: &[i32] = if file < 0 { &ADVICE } else { &FILE_ADVICE };
        self.advise_if_possible(block.start.addr().get(), slice.len() as u64, advice);
        Ok(())
    }

    /// A span within the slots as the kernel is asked about it.
    fn remote(&self, at: GuestPhysAddr, len: usize) -> RemoteIoVec {
        let slice = self.slice(at, len as u64);
        RemoteIoVec { base: slice.ptr_guard_mut().as_ptr() as usize, len }
    }

    /// Where a run is, from the first frame on, and how long, in bytes. It lies within the slots.
    fn span(&self, run: FrameRun) -> (u64, u64) {
        let slice = self.slice(run.start.addr(), run.count << PAGE_SHIFT);
        (run.start.addr().get(), slice.len() as u64)
    }

    /// The bytes of a span within the slots.
    ///
    /// # Panics
    /// If it reaches past them: a bug of the caller ([`PhysMemory`]).
    fn slice(&self, from: GuestPhysAddr, bytes: u64) -> VolatileSlice<'_> {
        let end = from.get().checked_add(bytes);
        let size = self.size.load(Ordering::Acquire);
        assert!(end.is_some_and(|end| end <= size), "{bytes} bytes at {from:?} are past the end");
        match self.region.get_slice(self.skew + to_usize(from.get()), to_usize(bytes)) {
            Ok(slice) => slice,
            Err(error) => panic!("guest memory is smaller than its slots: {error}"),
        }
    }
}

impl PhysMemory for GuestMemory {
    fn frames(&self) -> u64 {
        self.size.load(Ordering::Acquire) >> PAGE_SHIFT
    }

    fn grow(&self) -> Result<u64, Broken> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let size = self.size.load(Ordering::Acquire);
        let added = size.clamp(FIRST_SLOT, LARGEST_SLOT).min(self.limit - size);
        if added == 0 {
            return Ok(size >> PAGE_SHIFT);
        }
        let host = self
            .region
            .get_slice(self.skew + to_usize(size), to_usize(added))
            .map_err(|error| Broken::Invariant(error.to_string()))?;
        let slot = u32::try_from(slots.len())
            .map_err(|_| Broken::Invariant("out of memory slot numbers".to_owned()))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: size,
            memory_size: added,
            userspace_addr: host.ptr_guard_mut().as_ptr() as u64,
        };
        // SAFETY: the span is in our own mapping, is in no other slot, and outlives the machine's
        // vCPUs: each of them holds this memory.
        slots.push(unsafe { MemorySlot::add(&self.host, region) }?);
        self.size.store(size + added, Ordering::Release);
        Ok((size + added) >> PAGE_SHIFT)
    }

    fn words(&self, frame: Frame) -> &Words {
        let slice = self.slice(frame.addr(), PAGE_SIZE);
        let words: *const Words = slice.ptr_guard_mut().as_ptr().cast();
        // SAFETY: a frame is 4096 bytes, page-aligned and mapped as long as `self` lives. Atomics may be
        // written by anyone at any time, so vCPUs, the hardware and other threads do no harm.
        unsafe { &*words }
    }

    fn read(&self, from: GuestPhysAddr, into: &mut [u8]) {
        self.slice(from, into.len() as u64).copy_to(into);
    }

    fn write(&self, to: GuestPhysAddr, bytes: &[u8]) {
        self.slice(to, bytes.len() as u64).copy_from(bytes);
    }

    fn zero(&self, frame: Frame) {
        const ZEROS: [u8; 4096] = [0; 4096];
        self.slice(frame.addr(), PAGE_SIZE).copy_from(&ZEROS);
    }

    fn copy(&self, from: Frame, to: Frame) {
        let source = self.slice(from.addr(), PAGE_SIZE);
        source.copy_to_volatile_slice(self.slice(to.addr(), PAGE_SIZE));
    }

    fn show(&self, block: FrameRun, part: FilePart<'_>) -> io::Result<()> {
        let write = match part.access {
            FileAccess::Read => 0,
            FileAccess::ReadWrite => libc::PROT_WRITE,
        };
        let offset = i64::try_from(part.offset).map_err(io::Error::other)?;
        let file = part.file.as_raw_fd();
        // Before: what is read meanwhile is read the way that survives.
        self.shown.set(block, Place::File);
        let mapped =
            self.map_over(block, libc::PROT_READ | write, libc::MAP_SHARED, (file, offset));
        if mapped.is_err() {
            self.shown.set(block, Place::Memory);
        }
        mapped
    }

    fn cached(&self, run: FrameRun) -> Vec<bool> {
        let slice = self.slice(run.start.addr(), run.count << PAGE_SHIFT);
        let mut pages = vec![0_u8; to_usize(run.count)];
        let at = slice.ptr_guard_mut().as_ptr().cast();
        // SAFETY: the span lies in our own mapping, which the call does not change; it writes a byte for each of
        // its pages.
        let status = unsafe { libc::mincore(at, slice.len(), pages.as_mut_ptr()) };
        if status != 0 {
            return Vec::new();
        }
        let cached: Vec<bool> = pages.into_iter().map(|page| page & 1 != 0).collect();
        if cached.iter().all(|&page| page) {
            // Or the host would take a fault for each 64 KiB. Where the file is being cut, it refuses the rest.
            let (start, bytes) = self.span(run);
            self.advise_if_possible(start, bytes, &[libc::MADV_POPULATE_READ]);
        }
        cached
    }

    fn is_one_piece(&self, block: FrameRun) -> bool {
        let slice = self.slice(block.start.addr(), block.count << PAGE_SHIFT);
        let start = slice.ptr_guard().as_ptr() as u64;
        self.pagemap.is_huge(start..start + slice.len() as u64)
    }

    fn page_cache(&self, file: BorrowedFd<'_>, pages: Range<u64>) -> Option<Vec<bool>> {
        let offset = i64::try_from(pages.start.checked_mul(PAGE_SIZE)?).ok()?;
        let count = usize::try_from(pages.end.checked_sub(pages.start)?).ok()?;
        let (bytes, nowhere) = (count.checked_mul(PAGE_BYTES)?, std::ptr::null_mut());
        let (prot, shared, file) = (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd());
        // SAFETY: a new mapping, where the kernel likes.
        let at = unsafe { libc::mmap(nowhere, bytes, prot, shared, file, offset) };
        if at == libc::MAP_FAILED {
            return None;
        }
        let mut cached = vec![0_u8; count];
        // SAFETY: the call writes a byte for each page of the mapping just made.
        let status = unsafe { libc::mincore(at, bytes, cached.as_mut_ptr()) };
        // SAFETY: the mapping just made, which nobody else knows of.
        let _ = unsafe { libc::munmap(at, bytes) };
        (status == 0).then(|| cached.into_iter().map(|page| page & 1 != 0).collect())
    }

    fn try_access(&self, frame: Frame, kind: AccessKind) -> Result<(), Gone> {
        let advice = match kind {
            AccessKind::Write => libc::MADV_POPULATE_WRITE,
            AccessKind::Read | AccessKind::Execute => libc::MADV_POPULATE_READ,
        };
        match self.advise(frame.addr().get(), PAGE_SIZE, advice) {
            // What would have been SIGBUS. Anything else is the host's trouble of the moment.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Err(Gone),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn hide(&self, block: FrameRun) -> Result<(), Broken> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.map_over(block, libc::PROT_READ | libc::PROT_WRITE, flags, (-1, 0))
            .map_err(|source| Broken::Host { what: "take a file out of guest memory", source })?;
        // What was mapped anew has forgotten it.
        self.place(block.start.number()..block.start.offset(block.count).number());
        self.shown.set(block, Place::Memory);
        Ok(())
    }

    fn try_read(&self, from: GuestPhysAddr, into: &mut [u8]) -> Result<(), Gone> {
        if !self.shown.has(from) {
            self.read(from, into);
            return Ok(());
        }
        let here = self.remote(from, into.len());
        let wanted = into.len();
        let moved = process_vm_readv(Pid::this(), &mut [IoSliceMut::new(into)], &[here]);
        if moved == Ok(wanted) { Ok(()) } else { Err(Gone) }
    }

    fn try_write(&self, to: GuestPhysAddr, bytes: &[u8]) -> Result<(), Gone> {
        if !self.shown.has(to) {
            self.write(to, bytes);
            return Ok(());
        }
        let here = self.remote(to, bytes.len());
        let moved = process_vm_writev(Pid::this(), &[IoSlice::new(bytes)], &[here]);
        if moved == Ok(bytes.len()) { Ok(()) } else { Err(Gone) }
    }

    fn try_copy(&self, from: Frame, to: Frame) -> Result<(), Gone> {
        if !self.shown.has(from.addr()) {
            self.copy(from, to);
            return Ok(());
        }
        let mut bytes = [0; PAGE_BYTES];
        self.try_read(from.addr(), &mut bytes)?;
        self.write(to.addr(), &bytes);
        Ok(())
    }

    fn populate(&self, run: FrameRun) {
        let (start, bytes) = self.span(run);
        if self.pages == HostPages::Huge && bytes.is_multiple_of(HUGE_PAGE) {
            self.advise_if_possible(start, bytes, &[libc::MADV_HUGEPAGE]);
        }
        self.advise_if_possible(start, bytes, &[libc::MADV_POPULATE_WRITE]);
    }

    fn host_pages(&self) -> HostPages {
        self.pages
    }

    fn release(&self, run: FrameRun) -> Result<(), Broken> {
        self.release_parts(run, &[run])
    }

    fn release_parts(&self, block: FrameRun, parts: &[FrameRun]) -> Result<(), Broken> {
        if self.pages == HostPages::Huge {
            let (start, bytes) = self.span(block);
            self.advise_if_possible(start, bytes, &[libc::MADV_NOHUGEPAGE]);
        }
        for some in parts.chunks(MOST_PARTS) {
            if some.len() > 1 && self.drop_at_once(some) {
                continue;
            }
            for &part in some {
                let (start, bytes) = self.span(part);
                self.advise(start, bytes, libc::MADV_DONTNEED)
                    .map_err(|source| Broken::Host { what: "take guest memory back", source })?;
            }
        }
        Ok(())
    }
}

/// What is in the place of a block's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Memory,
    File,
}

/// Which blocks show a file of the host, whose bytes can be gone when they are touched.
#[derive(Debug)]
struct Shown(Box<[AtomicBool]>);

impl Shown {
    /// None of so many.
    fn none(blocks: u64) -> Self {
        Shown((0..blocks).map(|_| AtomicBool::new(false)).collect())
    }

    fn has(&self, at: GuestPhysAddr) -> bool {
        self.0.get(to_usize(at.get() / HUGE_PAGE)).is_some_and(|one| one.load(Ordering::Acquire))
    }

    fn set(&self, block: FrameRun, place: Place) {
        if let Some(one) = self.0.get(to_usize(block.start.addr().get() / HUGE_PAGE)) {
            one.store(place == Place::File, Ordering::Release);
        }
    }
}

/// A byte count as an index. The machine is 64-bit, so nothing is lost.
const fn to_usize(bytes: u64) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "x86-64 only")]
    {
        bytes as usize
    }
}

#[cfg(test)]
mod tests;
