//! What is seen of our side: what an act does not show, for the comparison, for two executors of ours, and
//! for the generator.

use std::ops::Range;

use libtest_mimic::Failed;
use mm::addr::{PAGE_BYTES, PAGE_SIZE, PageRange, VirtAddr};
use mm::inspect::{self, PagemapWord, Usage};
use mm::replay::engine::Task;
use mm::vma::merge::Merge;
use mm::vma::{VmFlags, Vma};

use super::{Line, Model};
use crate::differential::generate;
use crate::differential::pages::{LOOKED_AT, Pages};
use crate::differential::sizes::{Faults, Locks, Past, Sizes, is_file};

/// What is compared with the host's kernel.
impl Model {
    /// The VMAs of a process; none if there is no such process.
    pub fn lines(&self, process: u8) -> Vec<Line> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        inspect::maps(&space)
            .map(|line| Line {
                range: line.range.start().get()..line.range.end().get(),
                permissions: line.permissions().map(char::from).iter().collect(),
                offset: line.offset,
            })
            .collect()
    }

    /// smaps' VmFlags of each VMA, without `sd`.
    pub fn flags(&self, process: u8) -> Vec<(u64, String)> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        space
            .vmas()
            .iter()
            .map(|vma| {
                let names: Vec<_> = vma.flags.mnemonics().filter(|name| *name != "sd").collect();
                (vma.range().start().get(), names.join(" "))
            })
            .collect()
    }

    /// What smaps says of each VMA that acts may change; nothing where that is up to the host's swap.
    pub fn sizes(&self, process: u8) -> Vec<Sizes> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        let all =
            space.vmas().iter().zip(inspect::smaps(&space)).filter(|_| !self.residency_is_open());
        let past = self.past();
        all.map(|(vma, entry)| Sizes::of(&entry, vma.backing.as_deref(), past))
            .filter(|sizes| generate::is_changeable(&sizes.range, self.top))
            .collect()
    }

    fn past(&self) -> Past {
        Past { faults: self.faults(), locks: if self.locked { Locks::Some } else { Locks::None } }
    }

    /// What pagemap says of the VMAs that acts may change; nothing of regular files, or where it is up to
    /// the host's swap.
    pub fn pages(&self, process: u8) -> Vec<Pages> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        let of_file = |vma: &&Vma| vma.backing.as_deref().is_some_and(is_file);
        let all = space.vmas().iter().filter(|vma| !self.residency_is_open() && !of_file(vma));
        all.filter_map(|vma| {
            let start = vma.range().start();
            let pages = vma.range().pages().min(LOOKED_AT);
            let range = PageRange::from_len(start, pages * PAGE_SIZE)?;
            let bytes = start.get()..range.end().get();
            Some(Pages::of(bytes, inspect::pagemap(&space, range), self.past()))
        })
        .filter(|pages| generate::is_changeable(&pages.range, self.top))
        .collect()
    }

    fn faults(&self) -> Faults {
        match self.linux.system().sysctl.fault_ahead() {
            1 => Faults::One,
            _ => Faults::Several,
        }
    }

    /// VmSize, VmLck, VmData and VmStk of /proc/PID/status, in kB.
    pub fn accounts(&self, process: u8) -> Option<[u64; 4]> {
        let space = self.linux.space(Task(u32::from(process))).ok()?;
        let space = space.look();
        let account = space.account();
        let kib = |pages: u64| pages * PAGE_SIZE / 1024;
        Some([account.total, account.locked, account.data, account.stack].map(kib))
    }

    /// How often VMAs of a process were merged, by how.
    pub fn merges(&self, process: u8) -> [u64; Merge::ALL.len()] {
        match self.linux.space(Task(u32::from(process))) {
            Ok(space) => {
                let space = space.look();
                Merge::ALL.map(|merge| space.counters().merges.of(merge))
            }
            Err(_) => Default::default(),
        }
    }

    /// Checks every invariant of a process.
    pub fn audit(&self, process: u8) -> std::result::Result<(), Failed> {
        match self.linux.space(Task(u32::from(process))) {
            Ok(space) => Ok(inspect::audit(&space.look())?),
            Err(_) => Ok(()),
        }
    }

    /// Checks every invariant of all processes together.
    pub fn audit_all(&self) -> std::result::Result<(), Failed> {
        Ok(self.linux.audit()?)
    }
}

impl Model {
    /// Pages promised to all processes and objects.
    pub fn committed(&self) -> u64 {
        self.linux.system().committed()
    }

    /// How many may be at most where all are counted.
    pub fn commit_limit(&self) -> u64 {
        self.linux.system().sysctl.commit_limit()
    }

    /// Sets the most VMAs.
    pub fn set_max_map_count(&mut self, count: u64) {
        self.linux.system().sysctl.set_max_map_count(count);
    }
}

/// What two executors of ours are compared by, beside what an act shows.
impl Model {
    /// The VMAs of a process, none of them longer than so many pages: what is behind is cut off.
    pub fn beginnings(&self, process: u8, pages: u64) -> Vec<Range<u64>> {
        let cut = |range: Range<u64>| range.start..range.end.min(range.start + pages * PAGE_SIZE);
        self.lines(process).into_iter().map(|line| cut(line.range)).collect()
    }

    /// What mincore says of pages; none of pages that it does not tell about.
    pub fn resident(&self, process: u8, range: Range<u64>) -> Option<Vec<u8>> {
        let space = self.linux.space(Task(u32::from(process))).ok()?;
        let space = space.look();
        space.mincore(VirtAddr::new(range.start), range.end - range.start).ok()
    }
}

/// What of it is in the swap area, and how much of a space.
impl Model {
    /// What is behind each VMA of a process, by its start.
    pub fn usages(&self, process: u8) -> Vec<(u64, Usage)> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        inspect::smaps(&space).map(|entry| (entry.line.range.start().get(), entry.usage)).collect()
    }

    /// The VMAs of a process that have pages in the swap area.
    pub fn swapped_ranges(&self, process: u8) -> Vec<Range<u64>> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        let swapped = inspect::smaps(&space).filter(|entry| entry.usage.swap > 0);
        swapped.map(|e| e.line.range.start().get()..e.line.range.end().get()).collect()
    }

    /// How many pages of a process's range are in the swap area: its own, and those of shared memory in all VMAs
    /// that reach into it.
    pub fn swapped(&self, process: u8, range: &Range<u64>) -> [u64; 2] {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return [0; 2] };
        let space = space.look();
        let all = space.vmas().iter().zip(inspect::smaps(&space));
        all.fold([0; 2], |[own, shared], (vma, entry)| {
            let (start, end) = (vma.range().start().get(), vma.range().end().get());
            let part = start.max(range.start) & !(PAGE_SIZE - 1)..end.min(range.end);
            if part.is_empty() {
                return [own, shared];
            }
            if vma.backing.is_some() && vma.flags.contains(VmFlags::SHARED) {
                return [own, shared + entry.usage.swap / PAGE_SIZE];
            }
            let pages = PageRange::from_len(VirtAddr::new(part.start), part.end - part.start);
            let words = pages.map(|pages| inspect::pagemap(&space, pages));
            let swapped = words.into_iter().flatten().filter(|w| w.contains(PagemapWord::SWAPPED));
            [own + swapped.count() as u64, shared]
        })
    }
}

/// What the generator asks.
impl Model {
    /// Whether `MADV_PAGEOUT` was asked for.
    pub fn has_paged_out(&self) -> bool {
        self.paged_out
    }

    /// Where the heap ends.
    pub fn brk(&self, process: u8) -> Option<u64> {
        let space = self.linux.space(Task(u32::from(process))).ok()?;
        let brk = space.look().layout().brk.get();
        Some(brk)
    }

    /// The VMAs of a process that have a memory policy.
    pub fn with_policy(&self, process: u8) -> Vec<Range<u64>> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        let has_one = space.vmas().iter().filter(|vma| vma.policy().is_some());
        has_one.map(bytes_of).collect()
    }

    /// The VMAs of a process that are sealed so that what they hold cannot be thrown away.
    pub fn undiscardable(&self, process: u8) -> Vec<Range<u64>> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        let sealed = space.vmas().iter().filter(|vma| {
            let access = vma.flags & (VmFlags::SEALED | VmFlags::WRITE);
            access == VmFlags::SEALED && vma.is_anonymous()
        });
        sealed.map(bytes_of).collect()
    }

    /// Bytes of the largest pages that VMAs in a range are of.
    pub fn page_size(&self, process: u8, addr: u64, len: u64) -> u64 {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return PAGE_SIZE };
        let space = space.look();
        let vmas = space.vmas().iter().filter(|vma| meets(vma, addr, len));
        vmas.map(Vma::page_size).max().unwrap_or(PAGE_SIZE)
    }

    /// The private maps of a process that reach into a range and were promised huge pages.
    pub fn promised(&self, process: u8, addr: u64, len: u64) -> Vec<Range<u64>> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        let unpromised = VmFlags::NORESERVE | VmFlags::MAYSHARE;
        let vmas = space.vmas().iter().filter(|vma| {
            vma.flags.contains(VmFlags::HUGETLB) && !vma.flags.intersects(unpromised)
        });
        vmas.filter(|vma| meets(vma, addr, len)).map(bytes_of).collect()
    }

    /// Whether maps of huge pages of an object are in a range, where there are such: mincore asks the object where
    /// Linux has no tables above the entries, and it frees those sooner than we do.
    pub(super) fn shares_huge(&self, process: u8, addr: u64, len: u64) -> bool {
        self.pool > 0
            && self.page_size(process, addr, len) > PAGE_SIZE
            && self.has_objects(process, addr, len)
    }

    /// Whether regular files are mapped in a range: how far Linux reads ahead is not compared.
    pub fn maps_files(&self, process: u8, addr: u64, len: u64) -> bool {
        let is_of_file = |vma: &Vma| vma.backing.as_deref().is_some_and(is_file);
        self.maps_any(process, addr, len, is_of_file)
    }

    /// Whether a VMA that reaches into a range is such a one.
    fn maps_any(&self, process: u8, addr: u64, len: u64, is: impl Fn(&Vma) -> bool) -> bool {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return false };
        space.look().vmas().iter().any(|vma| meets(vma, addr, len) && is(vma))
    }

    /// Whether a fault at the address would wait for a userfaultfd.
    pub fn is_watched(&self, process: u8, addr: u64) -> bool {
        self.is_range_watched(process, addr, 1)
    }

    /// Whether a fault somewhere in the range would.
    pub fn is_range_watched(&self, process: u8, addr: u64, len: u64) -> bool {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return false };
        let space = space.look();
        let end = addr.saturating_add(len);
        space.vmas().iter().any(|vma| {
            let range = vma.range();
            // A touch below a stack makes it longer.
            let is_above = !vma.flags.contains(VmFlags::GROWSDOWN) && range.start().get() >= end;
            vma.userfault().is_some() && !is_above && range.end().get() > addr
        })
    }

    /// Pages of objects, near the starts of VMAs that are registered, that are there and not mapped.
    pub fn unmapped(&self, process: u8) -> Vec<u64> {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return Vec::new() };
        let space = space.look();
        let mut all = Vec::new();
        for vma in space.vmas().iter().filter(|vma| vma.userfault().is_some()) {
            let near = vma.range().len().min(LOOKED_AT * PAGE_SIZE);
            let Some(pages) = PageRange::from_len(vma.range().start(), near) else { continue };
            let Some(object) = vma.backing.as_deref().filter(|b| b.is_shared_memory()) else {
                continue;
            };
            let words = inspect::pagemap(&space, pages);
            for (at, word) in (pages.start().get()..).step_by(PAGE_BYTES).zip(words) {
                let index = vma.page_index(VirtAddr::new(at));
                if object.is_resident(index) && !word.contains(PagemapWord::PRESENT) {
                    all.push(at);
                }
            }
        }
        all
    }

    /// Pages of anonymous memory for a move: those that are missing where a userfaultfd is told of it, and those that are
    /// there.
    pub fn to_move(&self, process: u8) -> [Vec<u64>; 2] {
        let [mut missing, mut there] = [const { Vec::new() }; 2];
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return [missing, there] };
        let space = space.look();
        for vma in space.vmas().iter().filter(|vma| vma.is_private() && vma.backing.is_none()) {
            let near = vma.range().len().min(LOOKED_AT * PAGE_SIZE);
            let Some(pages) = PageRange::from_len(vma.range().start(), near) else { continue };
            let words = inspect::pagemap(&space, pages);
            for (at, word) in (pages.start().get()..).step_by(PAGE_BYTES).zip(words) {
                if word.intersects(PagemapWord::PRESENT | PagemapWord::SWAPPED) {
                    there.push(at);
                } else if vma.userfault().is_some() {
                    missing.push(at);
                }
            }
        }
        [missing, there]
    }

    /// Whether a range has pages that other processes may have had, and have not any more: which of those a process has had
    /// for itself since, Linux knows better.
    pub fn may_have_been_shared(&self, process: u8, addr: u64, len: u64) -> bool {
        let Ok(space) = self.linux.space(Task(u32::from(process))) else { return false };
        let from = VirtAddr::new(addr).page_floor();
        let len = len.min(LOOKED_AT * PAGE_SIZE).next_multiple_of(PAGE_SIZE);
        let Some(pages) = PageRange::from_len(from, len) else { return false };
        inspect::pagemap(&space.look(), pages)
            .into_iter()
            .any(|word| word.intersects(PagemapWord::EXCLUSIVE | PagemapWord::SWAPPED))
    }

    /// Whether a VMA in a range is registered for write protection.
    pub fn is_range_protected(&self, process: u8, addr: u64, len: u64) -> bool {
        self.maps_any(process, addr, len, |vma| vma.flags.contains(VmFlags::UFFD_WP))
    }

    /// Whether a range has memory that is an object's.
    pub fn has_objects(&self, process: u8, addr: u64, len: u64) -> bool {
        self.maps_any(process, addr, len, |vma| vma.backing.is_some())
    }

    /// Whether any fault would.
    pub fn is_watching(&self, process: u8) -> bool {
        self.is_range_watched(process, 0, u64::MAX)
    }
}

/// Where a VMA is.
fn bytes_of(vma: &Vma) -> Range<u64> {
    vma.range().start().get()..vma.range().end().get()
}

/// Whether a VMA reaches into a range.
fn meets(vma: &Vma, addr: u64, len: u64) -> bool {
    let range = bytes_of(vma);
    range.start < addr.saturating_add(len) && range.end > addr
}
