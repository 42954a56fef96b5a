//! The calls that matter most: mmap, mremap, madvise and locks.

use std::ops::Range;

use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::replay::calls::MemoryCall as M;

use super::super::act::Deed;
use super::super::model::Area;
use super::{Generator, HUGE, HUGETLB, NORESERVE, PAGES};

impl Generator {
    pub(super) fn mmap(&mut self) -> M {
        let pages = match self.below(12) {
            0..=6 => 1 + self.below(3),
            7..=9 => 1 + self.below(8),
            10 => 1 + self.below(PAGES),
            _ => self.pick(&[512, 512, 513, 1024, 300]),
        };
        if pages >= 512 && self.chance(40) {
            return self.room_for_huge_pages(pages);
        }
        let mut len = pages * PAGE;
        if self.chance(6) {
            len -= self.below(PAGE);
        }
        let (mut addr, mut flags) = match self.below(10) {
            0..=5 => (self.page(), 0x10),
            6 => (self.page(), 0x10_0000),
            7 | 8 => (self.page() + if self.chance(20) { self.below(PAGE) } else { 0 }, 0),
            _ => (0, 0),
        };
        flags |= match self.below(20) {
            // Shared memory comes back in another way.
            0..=6 if self.area != Area::None => 1,
            0..=15 => 2,
            16..=18 => 1,
            _ => self.pick(&[3, 8, 0, 4]),
        };
        for (flag, chance) in [
            (0x100, 3),
            (0x2000, 3),
            (0x4000, 5),
            (0x8000, 4),
            (0x1_0000, 2),
            (0x2_0000, 3),
            (0x40, 1),
            (0x80, 1),
            (0x8_0000, 1),
            (0x4_0000, 1),
            (0x800, 1),
        ] {
            if self.chance(chance) {
                flags |= flag;
            }
        }
        let files = self.files[usize::from(self.process)].clone();
        let (mut fd, mut offset) = (-1, 0);
        if !files.is_empty() && self.chance(25) {
            fd = self.pick(&files);
            offset = self.below(6) * PAGE;
            match self.below(100) {
                0 => offset = self.odd(offset),
                1 => offset = (1 << 63) - self.below(40) * PAGE,
                2 => offset = u64::MAX - 4095,
                _ => {}
            }
        } else {
            flags |= 0x20;
        }
        if self.chance(1) {
            fd = self.pick(&[77, 0, 2]);
            flags &= !0x20;
        }
        if self.is_huge_file(fd) && self.chance(90) {
            // A hole would take what private copies were promised.
            let shared = flags & 15 != 2;
            if !(self.pool > 0 && shared && self.chance(50)) {
                flags |= NORESERVE;
            }
            (addr, len, offset) = self.huge_map(addr);
        } else if self.chance(5) {
            flags |= self.huge_flags();
            if self.chance(35) {
                flags = flags & !3 | 1;
            }
            (addr, len, offset) = self.huge_map(addr);
        }
        addr = self.odd(addr);
        len = self.odd(len);
        let prot = self.random.prot();
        M::Mmap { addr: VirtAddr::new(addr), len, prot, flags, fd, offset }
    }

    /// Private memory where huge pages begin.
    fn room_for_huge_pages(&mut self, pages: u64) -> M {
        let addr = VirtAddr::new(self.huge_page());
        M::Mmap { addr, len: pages * PAGE, prot: 3, flags: 0x32, fd: -1, offset: 0 }
    }

    /// Of huge pages, mostly without a promise where there are none to be promised.
    fn huge_flags(&mut self) -> u64 {
        let shift = libc::MAP_HUGE_SHIFT;
        let size = self.pick(&[0, 0, 0, 0, 21, 21, 21, 30, 30, 20]) << shift;
        let promised = if self.pool > 0 { 50 } else { 5 };
        let reserved = if self.chance(promised) { 0 } else { NORESERVE };
        HUGETLB | reserved | size
    }

    /// Where they may lie, how many bytes, and from which offset on.
    fn huge_map(&mut self, addr: u64) -> (u64, u64, u64) {
        let addr = if addr != 0 && self.chance(90) { self.huge_page() } else { addr };
        let len = match self.below(4) {
            0 => (1 + self.below(1200)) * PAGE,
            _ => (1 + self.below(3)) * HUGE,
        };
        (addr, len, self.pick(&[0, 0, 0, 0, HUGE, 2 * HUGE, 1 << 30, PAGE]))
    }

    pub(super) fn mremap(&mut self) -> M {
        let (addr, old_len) = self.odd_range();
        let new_len = self.random.new_len(old_len);
        let flags = self.random.mremap_flags();
        let huge = self.model.page_size(self.process, addr.get(), PAGE) > PAGE;
        let target = if huge && self.chance(80) { self.huge_page() } else { self.page() };
        let new_addr = VirtAddr::new(self.odd(target));
        let old_len = if self.chance(2) { 0 } else { old_len };
        // Where it came to lie beside others of its kind, Linux would forget of these that they are registered, and leave
        // the marks in their entries.
        let is_protected = self.model.is_range_protected(self.process, addr.get(), old_len.max(1));
        let flags = if is_protected { 0 } else { flags };
        M::Mremap { addr, old_len, new_len: self.odd(new_len), flags, new_addr }
    }

    pub(super) fn madvise(&mut self) -> Deed {
        let sealed = self.model.undiscardable(self.process);
        if !sealed.is_empty() && self.chance(40) {
            let Range { start, end } = self.pick_range(&sealed);
            let advice = self.pick(&[4, 4, 4, 8, 10, 17, 18, 24, 102]);
            return Deed::Call(M::Madvise { addr: VirtAddr::new(start), len: end - start, advice });
        }
        let (addr, len) = self.odd_range();
        let advice = self.pick(&[
            0, 1, 2, 2, 3, 4, 4, 8, 9, 10, 10, 11, 11, 12, 13, 14, 15, 16, 17, 18, 18, 19, 20, 21,
            22, 23, 23, 24, 102, 102, 103, 103, 25, 5, 99,
        ]);
        let advice = match (HUGE..16 * HUGE).contains(&len) {
            true if self.chance(40) => 14,
            true if self.chance(30) => 25,
            _ => advice,
        };
        if matches!(advice, 22 | 23) && self.model.is_range_watched(self.process, addr.get(), len) {
            return Deed::Call(M::Madvise { addr, len, advice: 0 });
        }
        // Linux would try for ever: what it takes out of an object's map to make room leaves a mark that it is protected.
        if advice == 102
            && self.model.is_range_protected(self.process, addr.get(), len)
            && self.model.has_objects(self.process, addr.get(), len)
        {
            return Deed::Call(M::Madvise { addr, len, advice: 103 });
        }
        Deed::Call(M::Madvise { addr, len, advice })
    }

    pub(super) fn lock(&mut self) -> M {
        let (addr, len) = self.odd_range();
        if self.model.is_range_watched(self.process, addr.get(), len) {
            return M::Munlock { addr, len };
        }
        match self.below(10) {
            0..=3 => M::Mlock { addr, len },
            4 => M::Mlock2 { addr, len, flags: self.pick(&[0, 1, 1, 2]) },
            5..=8 => M::Munlock { addr, len },
            _ if self.model.is_watching(self.process) => M::Munlockall,
            _ if self.chance(50) => M::Munlockall,
            // Locking everything at once would bring in the player's own memory, all of it.
            // Or what comes, or each page once it is touched.
            _ => M::Mlockall { flags: self.pick(&[2, 2, 6, 4, 0, 8, 5, 7]) },
        }
    }
}
