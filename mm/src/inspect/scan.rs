//! The pages of a range by what they are (the ioctl `PAGEMAP_SCAN` of `/proc/PID/pagemap`; Linux's `do_pagemap_scan`,
//! `fs/proc/task_mmu.c`; `Documentation/admin-guide/mm/pagemap.rst`).

use bitflags::bitflags;

use super::shown::{Shown, ShownPage};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::error::Errno;
use crate::paging::{Entry, Owner};
use crate::space::AddressSpace;
use crate::userfault::Features;
use crate::vma::{VmFlags, Vma};

/// Bytes that a table of large entries maps.
const DIRECTORY: u64 = 1 << 30;

bitflags! {
    /// What a page is (include/uapi/linux/fs.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Categories: u64 {
        /// Its VMA lets writes to it be noted without asking anybody (`UFFD_FEATURE_WP_ASYNC`).
        const WPALLOWED = 1;
        /// Not protected against writes so: all that an entry could be of, but for what is.
        const WRITTEN = 2;
        /// A file's, or shared memory's.
        const FILE = 4;
        /// There.
        const PRESENT = 8;
        /// Not there, but an entry says something.
        const SWAPPED = 0x10;
        /// Zeros that were only read.
        const PFNZERO = 0x20;
        /// Of a huge page, or of memory in huge pages.
        const HUGE = 0x40;
        /// As in [`PagemapWord`](super::PagemapWord).
        const SOFT_DIRTY = 0x80;
        /// Of a guard region.
        const GUARD = 0x100;
    }
}

bitflags! {
    /// What is to be done besides.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ScanFlags: u64 {
        /// What is found is to be protected against writes (by who asks for the scan); VMAs that do not allow it are left
        /// out.
        const WP_MATCHING = 1;
        /// A VMA that does not allow it is `EPERM`.
        const CHECK_WPASYNC = 2;
    }
}

/// Which pages are wanted, and what is to be told of them.
#[derive(Clone, Copy, Debug)]
pub struct ScanRequest {
    /// What to do besides.
    pub flags: ScanFlags,
    /// Of these the opposite counts.
    pub inverted: Categories,
    /// A page has all of these.
    pub all: Categories,
    /// And, unless it is empty, some of these.
    pub any: Categories,
    /// Of what it is, this is told.
    pub told: Categories,
}

impl ScanRequest {
    fn wants(&self, categories: Categories) -> bool {
        let counted = categories ^ self.inverted;
        counted.contains(self.all) && (self.any.is_empty() || counted.intersects(self.any))
    }

    /// Whether a page of a VMA could be wanted.
    fn wants_some(&self, of_vma: Categories) -> bool {
        let needed = self.all & Categories::WPALLOWED;
        (of_vma ^ self.inverted).contains(needed)
    }
}

/// Pages that lie side by side and are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRegion {
    /// The pages.
    pub range: PageRange,
    /// What was to be told of them.
    pub told: Categories,
}

/// What a scan has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scanned {
    /// The end of the range.
    All,
    /// Here, where the next page is of which there is no room, or which is one too many.
    UpTo(VirtAddr),
}

/// What of a scan is told: so many regions, and pages in all.
#[derive(Debug)]
pub struct ScanRoom {
    regions: Vec<PageRegion>,
    most: usize,
    pages: u64,
}

impl ScanRoom {
    /// Room for `most` regions, of so many pages altogether. Without any region nothing is counted.
    #[must_use]
    pub fn new(most: usize, pages: u64) -> Self {
        ScanRoom { regions: Vec::new(), most, pages }
    }

    /// The regions so far, which are forgotten.
    pub fn take(&mut self) -> Vec<PageRegion> {
        std::mem::take(&mut self.regions)
    }

    /// From now on there is room for `most` regions.
    pub fn allow(&mut self, most: usize) {
        self.most = most;
    }

    /// How many pages are wanted still.
    #[must_use]
    pub fn pages_left(&self) -> u64 {
        self.pages
    }

    /// Takes as much of a range as there is room for; says where that ends, if early.
    fn add(&mut self, range: PageRange, told: Categories) -> Result<(), VirtAddr> {
        if self.most == 0 {
            return Ok(());
        }
        let pages = (range.len() / PAGE_SIZE).min(self.pages);
        let end = range.start().offset(pages * PAGE_SIZE);
        let Some(part) = PageRange::new(range.start(), end) else {
            return Err(range.start());
        };
        let full = self.regions.len() == self.most;
        match self.regions.last_mut() {
            Some(last) if last.told == told && last.range.end() == part.start() => {
                let all = PageRange::new(last.range.start(), part.end());
                last.range = all.unwrap_or(last.range);
            }
            _ if full => return Err(range.start()),
            _ => self.regions.push(PageRegion { range: part, told }),
        }
        self.pages -= pages;
        if end < range.end() { Err(end) } else { Ok(()) }
    }
}

/// Looks at the pages of a range until it ends, or there is no room.
///
/// # Errors
/// `EPERM` a VMA that does not allow what is asked ([`ScanFlags::CHECK_WPASYNC`]); what came before it is in `room`.
pub fn scan(
    space: &AddressSpace,
    range: PageRange,
    request: &ScanRequest,
    room: &mut ScanRoom,
) -> Result<Scanned, Errno> {
    for vma in space.vmas().range(range) {
        let of_vma = match of_vma(vma, request)? {
            Some(of_vma) if request.wants_some(of_vma) => of_vma,
            _ => continue,
        };
        let Some(part) = vma.range().intersect(range) else { continue };
        let mut scan = Scan { space, vma, of_vma, request, room };
        if let Err(at) = scan.part(part) {
            return Ok(Scanned::UpTo(at));
        }
    }
    Ok(Scanned::All)
}

/// What all pages of a VMA are; `None` where they are left out (`pagemap_scan_test_walk`).
fn of_vma(vma: &Vma, request: &ScanRequest) -> Result<Option<Categories>, Errno> {
    let allowed = vma.flags.contains(VmFlags::UFFD_WP)
        && vma.userfault().is_some_and(|uffd| uffd.has(Features::WP_ASYNC));
    if !allowed && request.flags.contains(ScanFlags::CHECK_WPASYNC) {
        return Err(Errno::EPERM);
    }
    if !allowed && request.flags.contains(ScanFlags::WP_MATCHING) {
        return Ok(None);
    }
    let mut categories = Categories::empty();
    categories.set(Categories::WPALLOWED, allowed);
    categories.set(Categories::SOFT_DIRTY, vma.flags.contains(VmFlags::SOFTDIRTY));
    Ok(Some(categories))
}

struct Scan<'a> {
    space: &'a AddressSpace,
    vma: &'a Vma,
    of_vma: Categories,
    request: &'a ScanRequest,
    room: &'a mut ScanRoom,
}

impl Scan<'_> {
    /// The pages of a part of the VMA. Says where there was no more room.
    fn part(&mut self, part: PageRange) -> Result<(), VirtAddr> {
        self.space.notice_files(part);
        let mut at = part.start();
        for linked in self.space.table().linked(part) {
            self.hole(at, linked.start())?;
            self.linked(linked)?;
            at = linked.end();
        }
        self.hole(at, part.end())
    }

    /// Pages that no table has entries for: nothing is known of them. In memory in huge pages it is the table above that
    /// has (`walk_hugetlb_range`).
    fn hole(&mut self, from: VirtAddr, to: VirtAddr) -> Result<(), VirtAddr> {
        if self.vma.page_size() == PAGE_SIZE {
            return self.same(from, to, Categories::empty());
        }
        let mut at = from;
        while at < to {
            let end = VirtAddr::new((at.get() & !(DIRECTORY - 1)) + DIRECTORY).min(to);
            let is = if self.space.table().has_directory(at) {
                self.of_empty()
            } else {
                Categories::empty()
            };
            self.same(at, end, is)?;
            at = end;
        }
        Ok(())
    }

    /// Pages that a table has entries for. One that says nothing counts as written (Linux's `pagemap_page_category`).
    fn linked(&mut self, part: PageRange) -> Result<(), VirtAddr> {
        let empty = self.of_empty();
        let mut at = part.start();
        for seen in self.space.table().look(part) {
            self.same(at, seen.addr, empty)?;
            at = seen.addr.offset(PAGE_SIZE);
            let is = self.of_entry(seen.entry).unwrap_or(empty);
            self.same(seen.addr, at, is)?;
        }
        self.same(at, part.end(), empty)
    }

    /// What a page is whose entry says nothing.
    fn of_empty(&self) -> Categories {
        if self.vma.page_size() > PAGE_SIZE { Categories::HUGE } else { Categories::WRITTEN }
    }

    /// What a page is; `None` if nobody can know that there is something.
    fn of_entry(&self, entry: Entry) -> Option<Categories> {
        let mut is = match Shown::of(self.space, entry) {
            Shown::Nothing => return None,
            Shown::Swapped(_) => Categories::SWAPPED,
            Shown::Marker if entry.is_guard() => Categories::SWAPPED | Categories::GUARD,
            Shown::Marker => Categories::SWAPPED,
            Shown::Zeros(_) => Categories::PRESENT | Categories::PFNZERO,
            Shown::Page(ShownPage { .. }) => {
                let mut is = Categories::PRESENT;
                is.set(Categories::FILE, entry.owner() == Owner::Backing);
                is
            }
        };
        is.set(Categories::HUGE, entry.is_large() && !entry.is_promoted());
        is.set(Categories::WRITTEN, !entry.is_protected());
        Some(is)
    }

    /// Pages that are all alike.
    fn same(&mut self, from: VirtAddr, to: VirtAddr, is: Categories) -> Result<(), VirtAddr> {
        let categories = is | self.of_vma;
        match PageRange::new(from, to) {
            Some(range) if self.request.wants(categories) => {
                self.room.add(range, categories & self.request.told)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::replay::SoftwareMachine;
    use crate::space::MapRequest;
    use crate::userfault::Userfault;
    use crate::vma::limits::Limits;
    use crate::vma::{MapFlags, MapType, Prot};

    const BASE: u64 = 0x1_0000_0000;
    const MODE_WP: u64 = 2;

    fn at(page: u64) -> VirtAddr {
        VirtAddr::new(BASE + page * PAGE_SIZE)
    }

    /// Sixteen pages, of which 1 and 2 were written, and 4 to 7 have their writes noted.
    fn machine() -> SoftwareMachine {
        let machine = SoftwareMachine::new(4096, Limits::default()).unwrap();
        let mut request = MapRequest::anonymous(
            at(0),
            16 * PAGE_SIZE,
            Prot::READ | Prot::WRITE,
            MapFlags::empty(),
        );
        request.flags = MapFlags::from(MapType::Private) | MapFlags::FIXED | MapFlags::ANONYMOUS;
        machine.space.change().mmap(&request).unwrap();
        machine.store(at(1), 1).unwrap();
        machine.store(at(2), 1).unwrap();
        let uffd = Arc::new(Userfault::default());
        uffd.initialize(Features::WP_ASYNC).unwrap();
        let len = 4 * PAGE_SIZE;
        machine.space.change().userfault_register(&uffd, at(4), len, MODE_WP).unwrap();
        machine
    }

    fn all() -> ScanRequest {
        ScanRequest {
            flags: ScanFlags::empty(),
            inverted: Categories::empty(),
            all: Categories::empty(),
            any: Categories::empty(),
            told: Categories::all() - Categories::SOFT_DIRTY,
        }
    }

    /// First page, end, categories.
    type Told = (u64, u64, u64);

    /// What is found of the sixteen pages, in pages, and how the scan ended.
    fn found(request: &ScanRequest, room: &mut ScanRoom) -> (Vec<Told>, Result<Scanned, Errno>) {
        let machine = machine();
        let range = PageRange::new(at(0), at(16)).unwrap();
        let ended = scan(&machine.space.look(), range, request, room);
        let page = |addr: VirtAddr| addr.bytes_from(at(0)) / PAGE_SIZE;
        let told = |region: PageRegion| {
            (page(region.range.start()), page(region.range.end()), region.told.bits())
        };
        (room.take().into_iter().map(told).collect(), ended)
    }

    #[test]
    fn pages_that_are_alike_are_one_region() {
        let (regions, ended) = found(&all(), &mut ScanRoom::new(9, u64::MAX));
        assert_eq!(regions, [(0, 1, 2), (1, 3, 10), (3, 4, 2), (4, 8, 3), (8, 16, 2)]);
        assert_eq!(ended, Ok(Scanned::All));
    }

    #[test]
    fn who_asks_for_noted_writes_is_told_of_others() {
        let request = ScanRequest { flags: ScanFlags::WP_MATCHING, ..all() };
        let (regions, ended) = found(&request, &mut ScanRoom::new(9, u64::MAX));
        assert_eq!((regions.as_slice(), ended), (&[(4, 8, 3)][..], Ok(Scanned::All)));
        let request = ScanRequest { flags: ScanFlags::CHECK_WPASYNC, ..all() };
        let (regions, ended) = found(&request, &mut ScanRoom::new(9, u64::MAX));
        assert_eq!((regions.as_slice(), ended), (&[][..], Err(Errno::EPERM)));
    }

    #[test]
    fn it_ends_where_there_is_no_room() {
        let mut room = ScanRoom::new(2, u64::MAX);
        let (regions, ended) = found(&all(), &mut room);
        assert_eq!((regions.len(), ended), (2, Ok(Scanned::UpTo(at(3)))));
        let mut room = ScanRoom::new(9, 2);
        let (regions, ended) = found(&all(), &mut room);
        assert_eq!(regions, [(0, 1, 2), (1, 2, 10)]);
        assert_eq!((ended, room.pages_left()), (Ok(Scanned::UpTo(at(2))), 0));
        // Without any room nothing is counted.
        let mut room = ScanRoom::new(0, 2);
        assert_eq!(found(&all(), &mut room), (vec![], Ok(Scanned::All)));
        assert_eq!(room.pages_left(), 2);
    }
}
