//! What all address spaces of one machine share: memory, frames, the flush sink and the hooks.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::addr::{Frame, PageRange};
use crate::backing::pager::Pagers;
use crate::backing::{HostFile, HugePool, WindowBudget};
use crate::error::{Broken, Errno};
use crate::failure::FailPoint;
use crate::hooks::{Guardian, Invalidation, Observer};
use crate::khugepaged::Khugepaged;
use crate::ksm::Ksm;
use crate::paging::{
    Entry, FlushBatch, FlushSink, ForkedPages, ForkedRoot, KernelHalf, TableChange,
};
use crate::phys::{FileAccess, Frames, Order, PhysMemory};
use crate::promise::{Committed, Promise};
use crate::reclaim::Reclaim;
use crate::rmap::AnonVmas;
use crate::rules::Rules;
use crate::segments::Segments;
use crate::space::{Counters, Spaces};
use crate::swap::{Swap, SwapStore};
use crate::sysctl::{Claimant, Sysctl};

/// How many frames of tables wait for a flush of everything at most: 4 MiB.
const RETIRED_MOST: u64 = 1024;

/// What all address spaces of one machine share.
#[derive(Debug)]
pub struct System {
    frames: Arc<Frames>,
    sink: Box<dyn FlushSink>,
    kernel: KernelHalf,
    observer: Option<Box<dyn Observer>>,
    guardian: Option<Box<dyn Guardian>>,
    /// The machine's settings.
    pub sysctl: Sysctl,
    /// Allocations of room for VMAs in an address space (Linux's `vm_area_cachep` and the maple tree's
    /// nodes). Each counts, also where the space has room to spare. Those of frames are at
    /// [`Frames::failures`].
    pub vma_failures: FailPoint,
    /// Linux's hidden rules: all of them, but in a test.
    pub rules: Rules,
    /// Tables that were given up and not flushed yet. A leaf lock: nothing is taken under it.
    retired: Mutex<FlushBatch>,
    committed: Committed,
    pub(crate) reclaim: Reclaim,
    pub(crate) pagers: Pagers,
    pub(crate) spaces: Spaces,
    pub(crate) khugepaged: Khugepaged,
    pub(crate) ksm: Ksm,
    swap: Option<Arc<Swap>>,
    anon: AnonVmas,
    /// Huge pages of 2 MiB, and of 1 GiB.
    huge: [Arc<HugePool>; 2],
    /// Files of the host that are open. A leaf lock.
    files: Mutex<Vec<Weak<HostFile>>>,
    windows: Arc<WindowBudget>,
    segments: Segments,
    next_inode: AtomicU64,
    next_space: AtomicU64,
}

impl System {
    /// A machine whose vCPUs are flushed by `sink` and whose address spaces all have `kernel` as their
    /// upper half.
    #[must_use]
    pub fn new(frames: Arc<Frames>, sink: Box<dyn FlushSink>, kernel: KernelHalf) -> Self {
        let huge = [Order::HUGE, Order::GIANT].map(|order| Arc::new(HugePool::new(&frames, order)));
        System {
            huge,
            frames,
            sink,
            kernel,
            observer: None,
            guardian: None,
            sysctl: Sysctl::default(),
            vma_failures: FailPoint::default(),
            rules: Rules::default(),
            retired: Mutex::default(),
            committed: Committed::default(),
            reclaim: Reclaim::default(),
            pagers: Pagers::default(),
            spaces: Spaces::default(),
            khugepaged: Khugepaged::default(),
            ksm: Ksm::default(),
            swap: None,
            anon: AnonVmas::default(),
            files: Mutex::default(),
            windows: Arc::default(),
            segments: Segments::default(),
            next_inode: AtomicU64::new(1),
            next_space: AtomicU64::new(1),
        }
    }

    /// Opens a file of the host for this machine's programs; `path` is what `/proc/PID/maps` calls it.
    ///
    /// # Errors
    /// If the host does not say how long it is.
    pub fn open_file(
        &self,
        file: File,
        access: FileAccess,
        path: String,
    ) -> io::Result<Arc<HostFile>> {
        let file = Arc::new(HostFile::new(
            Arc::clone(&self.frames),
            Arc::clone(&self.windows),
            file,
            access,
            path,
        )?);
        let mut files = self.files();
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(&file));
        Ok(file)
    }

    /// Looks whether somebody has made files of the host shorter, and takes away what is gone. Says whether
    /// there was anything: an access that the host refused is then to be made again.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub fn recheck_files(&self) -> Result<bool, Broken> {
        let open: Vec<Arc<HostFile>> = self.files().iter().filter_map(Weak::upgrade).collect();
        let mut changed = false;
        for file in open {
            changed |= file.recheck(self)?;
        }
        Ok(changed)
    }

    /// The host has refused an access although no file is shorter than it was: from now on it is asked before a
    /// page of a file is mapped, and the access that it refuses again is the program's `SIGBUS`.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub fn doubt_files(&self) -> Result<(), Broken> {
        let open: Vec<Arc<HostFile>> = self.files().iter().filter_map(Weak::upgrade).collect();
        open.iter().try_for_each(|file| file.doubt(self))
    }

    /// Closes windows of all files of the host, and says how many frames are free for it.
    ///
    /// # Errors
    /// [`Broken`] as of [`HostFile::close_windows`].
    pub(crate) fn close_windows(&self) -> Result<u64, Broken> {
        let open: Vec<Arc<HostFile>> = self.files().iter().filter_map(Weak::upgrade).collect();
        open.iter().try_fold(0, |freed, file| Ok(freed + file.close_windows(self)?))
    }

    fn files(&self) -> MutexGuard<'_, Vec<Weak<HostFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets who is told what happens to the machine's address spaces.
    pub fn set_observer(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Sets who may veto what programs ask for.
    pub fn set_guardian(&mut self, guardian: Box<dyn Guardian>) {
        self.guardian = Some(guardian);
    }

    /// Sets how many windows on files of the host, of 2 MiB, there may be at most, before any file is open; by default
    /// 16,384. Each is one of the host's own VMAs (`vm.max_map_count`).
    pub fn set_most_windows(&mut self, most: u64) {
        self.windows = Arc::new(WindowBudget::new(most));
    }

    /// Gives the machine a swap area, before it has any address space.
    pub fn set_swap(&mut self, store: Box<dyn SwapStore>) {
        self.sysctl.set_swap_pages(store.slots());
        self.swap = Some(Arc::new(Swap::new(store)));
    }

    /// The swap area, if there is one.
    #[must_use]
    pub fn swap(&self) -> Option<&Swap> {
        self.swap.as_deref()
    }

    pub(crate) fn swap_area(&self) -> Option<&Arc<Swap>> {
        self.swap.as_ref()
    }

    /// Who is told what happens, if anyone.
    pub(crate) fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }

    /// Asks whoever may veto.
    ///
    /// # Errors
    /// The veto.
    pub(crate) fn ask(
        &self,
        may: impl FnOnce(&dyn Guardian) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.guardian.as_deref().map_or(Ok(()), may)
    }

    /// The frame table.
    #[must_use]
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// The guest's physical memory.
    #[must_use]
    pub fn memory(&self) -> &dyn PhysMemory {
        self.frames.memory()
    }

    /// The upper half of every address space.
    #[must_use]
    pub fn kernel(&self) -> KernelHalf {
        self.kernel
    }

    /// What becomes of the root of a space with such pages that is forked.
    pub(crate) fn forked_root(&self, pages: ForkedPages) -> ForkedRoot {
        self.sink.forked_root(pages)
    }

    /// Flushes a batch and frees its frames; with it the retired tables, if it flushes those anyway. It waits until what
    /// is being swapped out is flushed, too.
    ///
    /// # Errors
    /// [`Broken`] when the sink cannot flush.
    pub fn finish(&self, batch: FlushBatch) -> Result<(), Broken> {
        self.reclaim.wait_for_flush();
        self.flush_now(batch)
    }

    /// The same without a wait for what is being swapped out, which calls have at their end.
    pub(crate) fn flush_now(&self, mut batch: FlushBatch) -> Result<(), Broken> {
        if batch.request().tables == TableChange::Unlinked {
            batch.absorb(std::mem::take(&mut *self.retired()));
        }
        let cached = batch.take_swap_cached();
        batch.finish(&*self.sink, &self.frames)?;
        self.drop_swap_cached(&cached)
    }

    /// Gives up the references of a batch without a flush: no vCPU can use the old translations any more.
    ///
    /// # Errors
    /// [`Broken`] as of [`FlushBatch::put_all`].
    pub(crate) fn put_all(&self, mut batch: FlushBatch) -> Result<(), Broken> {
        let cached = batch.take_swap_cached();
        batch.put_all(&self.frames)?;
        self.drop_swap_cached(&cached)
    }

    fn drop_swap_cached(&self, frames: &[Frame]) -> Result<(), Broken> {
        match &self.swap {
            Some(swap) if !frames.is_empty() => swap.drop_unneeded(&self.frames, frames).map(drop),
            _ => Ok(()),
        }
    }

    /// An entry is gone: if its page was in the swap area, one user less has it there.
    ///
    /// # Errors
    /// [`Broken`] if it was not.
    pub(crate) fn drop_swapped(&self, entry: Entry, counters: &Counters) -> Result<(), Broken> {
        let (Some(swap), Some(slot)) = (&self.swap, entry.swap_slot()) else { return Ok(()) };
        counters.swapped.fetch_sub(1, Ordering::Relaxed);
        swap.put(&self.frames, slot)
    }

    /// Takes the tables of a root that no vCPU will use again before it has been given another. They are
    /// not used anew before a flush of everything, since a vCPU's host may remember what such a frame meant
    /// as a table; but nothing can be reached through them, so the flush waits until it is worth it.
    ///
    /// # Errors
    /// [`Broken`] when it is, and the sink cannot flush.
    pub(crate) fn retire(&self, tables: FlushBatch) -> Result<(), Broken> {
        let most = RETIRED_MOST.min(self.memory().frames() / 64);
        let all = {
            let mut retired = self.retired();
            retired.absorb(tables);
            if retired.quarantined() <= most {
                return Ok(());
            }
            std::mem::take(&mut *retired)
        };
        all.finish(&*self.sink, &self.frames)
    }

    /// Flushes for the tables that wait for it, and frees them. Says how many there were.
    ///
    /// # Errors
    /// [`Broken`] when the sink cannot flush.
    pub fn free_retired(&self) -> Result<u64, Broken> {
        let all = std::mem::take(&mut *self.retired());
        let count = all.quarantined();
        all.finish(&*self.sink, &self.frames)?;
        Ok(count)
    }

    fn retired(&self) -> MutexGuard<'_, FlushBatch> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reverse map of anonymous memory.
    #[must_use]
    pub fn anon(&self) -> &AnonVmas {
        &self.anon
    }

    /// The pool of huge pages of so many bytes, if there is one of that size: it is empty at first.
    #[must_use]
    pub fn huge_pool(&self, page_size: u64) -> Option<&Arc<HugePool>> {
        self.huge.iter().find(|pool| pool.page_size() == page_size)
    }

    /// The pools of huge pages, the smaller ones first.
    #[must_use]
    pub fn huge_pools(&self) -> &[Arc<HugePool>] {
        &self.huge
    }

    /// System V shared memory.
    #[must_use]
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Promises `pages` more to a process (Linux's `security_vm_enough_memory_mm` and
    /// `__vm_enough_memory`).
    ///
    /// # Errors
    /// The guardian's veto; `ENOMEM` when the overcommit mode forbids it.
    pub(crate) fn commit(&self, pages: u64, claimant: Claimant) -> Result<(), Errno> {
        self.ask(|guardian| guardian.may_commit(pages))?;
        if self.sysctl.allows(self.committed.add(pages), pages, claimant) {
            return Ok(());
        }
        self.uncommit(pages);
        Err(Errno::ENOMEM)
    }

    /// Promises several numbers of pages, as [`commit`](Self::commit) does one after the other, but counts them at once:
    /// a child's VMAs.
    ///
    /// # Errors
    /// Of the first that is refused. All of them are promised even then, to be taken back together.
    pub(crate) fn commit_each(
        &self,
        each: impl Iterator<Item = u64> + Clone,
        claimant: Claimant,
    ) -> Result<(), Errno> {
        let all = each.clone().sum();
        let mut committed = self.committed.add(all).saturating_sub(all);
        for pages in each {
            self.ask(|guardian| guardian.may_commit(pages))?;
            committed = committed.saturating_add(pages);
            if !self.sysctl.allows(committed, pages, claimant) {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }

    /// Takes back a promise of `pages` (Linux's `vm_unacct_memory`).
    pub(crate) fn uncommit(&self, pages: u64) {
        self.committed.sub(pages);
    }

    /// Somebody to whom `pages` were committed.
    pub(crate) fn held(&self, pages: u64) -> Promise {
        self.committed.held(pages)
    }

    /// The promise of somebody who has been promised nothing so far: an object that pays page by page.
    #[must_use]
    pub fn no_promise(&self) -> Promise {
        self.held(0)
    }

    /// The machine's NUMA nodes, a bit each.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.frames.nodes().mask()
    }

    /// Pages promised to all address spaces and objects (`Committed_AS` of /proc/meminfo).
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed.pages()
    }

    /// The number of a new address space: later ones have higher ones.
    pub(crate) fn new_space(&self) -> u64 {
        self.next_space.fetch_add(1, Ordering::Relaxed)
    }

    /// Changes entries of a range so that translations become invalid, and tells so before and after.
    pub(crate) fn invalidate<T>(
        &self,
        range: PageRange,
        why: Invalidation,
        change: impl FnOnce() -> T,
    ) -> T {
        if let Some(observer) = self.observer() {
            observer.invalidating(range, why);
        }
        let changed = change();
        if let Some(observer) = self.observer() {
            observer.invalidated(range, why);
        }
        changed
    }

    /// A new inode number for a memory object.
    pub(crate) fn new_inode(&self) -> u64 {
        self.next_inode.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // The machine goes: nobody will use them anew.
        let retired = std::mem::take(&mut *self.retired());
        if let Err(broken) = retired.put_all(&self.frames) {
            log::error!("tables cannot be given up: {broken}");
        }
    }
}
