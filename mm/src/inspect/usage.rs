//! How much memory is behind a range, and whose (Linux's `mem_size_stats` and `smap_gather_stats`,
//! `fs/proc/task_mmu.c`).

use std::fmt;
use std::ops::AddAssign;

use super::shown::{Shown, ShownPage};
use crate::addr::{PAGE_SIZE, PageRange};
use crate::phys::FrameKind;
use crate::space::{AddressSpace, PageClass};
use crate::vma::{VmFlags, Vma};

/// Fractions of a byte that shares are counted in, so that thirds add up.
const SHARE_SHIFT: u32 = 12;

/// A proportional share: of a page that `n` entries name, each has one nth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share(u64);

impl Share {
    fn of_page(maps: u32) -> Self {
        Share((PAGE_SIZE << SHARE_SHIFT) / u64::from(maps.max(1)))
    }

    /// In bytes, rounded down.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0 >> SHARE_SHIFT
    }
}

impl AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// The memory behind a range, in bytes. The fields are named as smaps' lines are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Resident. Neither zeros that were only read nor pages brought in ahead of a touch count.
    pub rss: u64,
    /// The proportional share of it.
    pub pss: Share,
    /// The share of what was written.
    pub pss_dirty: Share,
    /// The share of the processes' own pages.
    pub pss_anon: Share,
    /// The share of files' pages.
    pub pss_file: Share,
    /// The share of shared memory's pages.
    pub pss_shmem: Share,
    /// Named by several entries, not written through this one.
    pub shared_clean: u64,
    /// Named by several entries, written.
    pub shared_dirty: u64,
    /// Named by this entry alone, not written.
    pub private_clean: u64,
    /// Named by this entry alone, written.
    pub private_dirty: u64,
    /// Accessed, through this entry or otherwise (`PG_referenced`). Linux forgets the latter when it moves
    /// a page between its lists, so it may say less, but not less than `accessed`.
    pub referenced: u64,
    /// Accessed through this entry. Not in smaps.
    pub accessed: u64,
    /// The process's own, or its family's: of no backing.
    pub anonymous: u64,
    /// Given up by `MADV_FREE`, and not written since.
    pub lazy_free: u64,
    /// Merged with others (`KSM`).
    pub ksm: u64,
    /// In huge pages (`AnonHugePages`).
    pub anon_huge: u64,
    /// In huge pages of shared memory, mapped as such (`ShmemPmdMapped`).
    pub shmem_huge: u64,
    /// In huge pages of files, likewise (`FilePmdMapped`).
    pub file_huge: u64,
    /// In huge pages of the pool that several entries name. They count nowhere else.
    pub shared_hugetlb: u64,
    /// In such that this entry alone names.
    pub private_hugetlb: u64,
    /// In the swap area.
    pub swap: u64,
    /// The share of what is there: of a place that `n` entries name, each has one nth.
    pub swap_pss: Share,
    /// The share of locked memory.
    pub locked: Share,
}

impl Usage {
    /// The memory behind one VMA.
    pub(super) fn of(space: &AddressSpace, vma: &Vma) -> Self {
        let mut usage = Usage::default();
        space.notice_files(vma.range());
        let (frames, merged) = (space.system().frames(), Some(FrameKind::Merged));
        for leaf in space.table().look(vma.range()) {
            match Shown::of(space, leaf.entry) {
                Shown::Page(ShownPage { class: PageClass::Huge, maps: 0 | 1, .. }) => {
                    usage.private_hugetlb += PAGE_SIZE;
                }
                Shown::Page(ShownPage { class: PageClass::Huge, .. }) => {
                    usage.shared_hugetlb += PAGE_SIZE;
                }
                Shown::Page(page) => {
                    usage.count(page, vma.flags);
                    if leaf.entry.frame().and_then(|frame| frames.kind(frame)) == merged {
                        usage.ksm += PAGE_SIZE;
                    }
                    if leaf.entry.is_huge() {
                        *usage.huge_of(page.class) += PAGE_SIZE;
                    }
                }
                Shown::Swapped(slot) => {
                    let users = space.system().swap().map_or(1, |swap| swap.users(slot));
                    usage.swap += PAGE_SIZE;
                    usage.swap_pss += Share::of_page(users);
                }
                _ => {}
            }
        }
        usage.swap += PAGE_SIZE * swapped_of_object(space, vma);
        usage
    }

    /// What counts huge pages of a class.
    fn huge_of(&mut self, class: PageClass) -> &mut u64 {
        match class {
            PageClass::Shared => &mut self.shmem_huge,
            PageClass::File => &mut self.file_huge,
            PageClass::Own | PageClass::Huge => &mut self.anon_huge,
        }
    }

    /// One more page (`smaps_account`).
    fn count(&mut self, page: ShownPage, flags: VmFlags) {
        let share = Share::of_page(page.maps);
        self.rss += PAGE_SIZE;
        self.pss += share;
        match page.class {
            PageClass::Own => {
                self.anonymous += PAGE_SIZE;
                self.pss_anon += share;
            }
            PageClass::File => self.pss_file += share,
            PageClass::Shared | PageClass::Huge => self.pss_shmem += share,
        }
        if page.referenced {
            self.referenced += PAGE_SIZE;
        }
        if page.accessed {
            self.accessed += PAGE_SIZE;
        }
        if page.lazy {
            self.lazy_free += PAGE_SIZE;
        }
        if page.dirty {
            self.pss_dirty += share;
        }
        if flags.contains(VmFlags::LOCKED) {
            self.locked += share;
        }
        *match (page.maps, page.dirty) {
            (0 | 1, false) => &mut self.private_clean,
            (0 | 1, true) => &mut self.private_dirty,
            (_, false) => &mut self.shared_clean,
            (_, true) => &mut self.shared_dirty,
        } += PAGE_SIZE;
    }

    /// The lines that smaps and its roll-up have in common (`__show_smap`), `by_class` after `Pss_Dirty`.
    pub(super) fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        by_class: &[(&str, Share)],
    ) -> fmt::Result {
        write_line(f, "Rss", self.rss)?;
        write_line(f, "Pss", self.pss.bytes())?;
        write_line(f, "Pss_Dirty", self.pss_dirty.bytes())?;
        by_class.iter().try_for_each(|(name, share)| write_line(f, name, share.bytes()))?;
        let lines = [
            ("Shared_Clean", self.shared_clean),
            ("Shared_Dirty", self.shared_dirty),
            ("Private_Clean", self.private_clean),
            ("Private_Dirty", self.private_dirty),
            ("Referenced", self.referenced),
            ("Anonymous", self.anonymous),
            ("KSM", self.ksm),
            ("LazyFree", self.lazy_free),
            ("AnonHugePages", self.anon_huge),
            ("ShmemPmdMapped", self.shmem_huge),
            ("FilePmdMapped", self.file_huge),
            ("Shared_Hugetlb", self.shared_hugetlb),
            ("Private_Hugetlb", self.private_hugetlb),
            ("Swap", self.swap),
            ("SwapPss", self.swap_pss.bytes()),
            ("Locked", self.locked.bytes()),
        ];
        lines.iter().try_for_each(|(name, bytes)| write_line(f, name, *bytes))
    }
}

/// How many pages of an object that a VMA shows are in the swap area; of a private map that may be written, those of
/// which there is no copy (`smap_gather_stats`).
fn swapped_of_object(space: &AddressSpace, vma: &Vma) -> u64 {
    let Some(backing) = &vma.backing else { return 0 };
    let first = vma.page_index(vma.range().start());
    let swapped = backing.swapped(first..first.saturating_add(vma.range().pages()));
    let all = vma.flags.contains(VmFlags::SHARED) || !vma.flags.contains(VmFlags::WRITE);
    let shown = |page: &u64| {
        let addr = vma.range().start().offset((page - first) * PAGE_SIZE);
        let copy = || PageRange::from_len(addr, PAGE_SIZE).map(|at| space.table().look(at).count());
        all || copy() == Some(0)
    };
    swapped.iter().filter(|&page| shown(page)).count() as u64
}

/// A name, a colon, and in 24 columns with these a size in kB.
pub(super) fn write_line(f: &mut fmt::Formatter<'_>, name: &str, bytes: u64) -> fmt::Result {
    let kib = bytes >> 10;
    let width = 15_usize.saturating_sub(name.len());
    writeln!(f, "{name}:{:width$}{kib:8} kB", "")
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.rss += other.rss;
        self.pss += other.pss;
        self.pss_dirty += other.pss_dirty;
        self.pss_anon += other.pss_anon;
        self.pss_file += other.pss_file;
        self.pss_shmem += other.pss_shmem;
        self.shared_clean += other.shared_clean;
        self.shared_dirty += other.shared_dirty;
        self.private_clean += other.private_clean;
        self.private_dirty += other.private_dirty;
        self.referenced += other.referenced;
        self.accessed += other.accessed;
        self.lazy_free += other.lazy_free;
        self.anonymous += other.anonymous;
        self.anon_huge += other.anon_huge;
        self.shmem_huge += other.shmem_huge;
        self.file_huge += other.file_huge;
        self.ksm += other.ksm;
        self.shared_hugetlb += other.shared_hugetlb;
        self.private_hugetlb += other.private_hugetlb;
        self.swap += other.swap;
        self.swap_pss += other.swap_pss;
        self.locked += other.locked;
    }
}
