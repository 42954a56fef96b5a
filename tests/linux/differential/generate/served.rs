//! What who serves a userfaultfd does.

use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::calls::{
    UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_MOVE, UFFDIO_POISON, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
};

use super::super::act::Deed;
use super::Generator;

/// `UFFDIO_REGISTER_MODE_WP`.
const MODE_WP: u64 = 2;

impl Generator {
    pub(super) fn served(&mut self) -> Option<Deed> {
        let process = usize::from(self.process);
        let Some((owner, fd)) = self.uffd else {
            return Some(Deed::ServedUserfault(self.next_fd[process]));
        };
        if owner != self.process {
            return None;
        }
        let (addr, len) = self.range();
        let (addr, few) = (addr.get(), len.min(PAGE * (1 + self.below(4))));
        let unaligned = if self.chance(3) { self.pick(&[1, PAGE - 1]) } else { 0 };
        let odd = |mode: u64, odd: u64| if unaligned == 1 { odd } else { mode };
        Some(match self.below(19) {
            0..=3 => Deed::Uffd(fd, addr, len, self.pick(&[1, 2, 3, 3, 3, 5, 7, 7, 4, 0])),
            4..=6 => {
                let mode = self.pick(&[0, 0, 0, 2, 1]);
                let from = self.mapped_page();
                // What the kernel's own pages hold is its affair.
                let reaches = from + unaligned + few > self.top;
                let (from, few) = if reaches { (from, PAGE) } else { (from + unaligned, few) };
                Deed::Serve(fd, UFFDIO_COPY, [addr, from, few, odd(mode, 4), 0])
            }
            7 => Deed::Serve(fd, UFFDIO_ZEROPAGE, [addr + unaligned, few, 0, 0, 0]),
            8 => Deed::Serve(fd, UFFDIO_ZEROPAGE, [addr, few, odd(1, 2), 0, 0]),
            9 | 10 => {
                let mode = self.pick(&[0, 0, 2]);
                let unmapped = self.model.unmapped(self.process);
                let (addr, few) = match self.chance(60) && !unmapped.is_empty() {
                    true => (self.pick(&unmapped), PAGE),
                    false => (addr, few),
                };
                Deed::Serve(fd, UFFDIO_CONTINUE, [addr, few, odd(mode, 4), 0, 0])
            }
            11 => Deed::Serve(fd, UFFDIO_POISON, [addr, PAGE, odd(0, 2), 0, 0]),
            12..=14 => {
                let mode = self.pick(&[0, 0, 2, 2, 1, 3]);
                let [missing, there] = self.model.to_move(self.process);
                let misses = missing.is_empty() || self.chance(15);
                let to = if misses { addr } else { self.pick(&missing) };
                let misses = there.is_empty() || self.chance(15);
                let from = if misses { self.mapped_page() } else { self.pick(&there) };
                Deed::Serve(fd, UFFDIO_MOVE, [to, from + unaligned, few, odd(mode, 4), 0])
            }
            15..=17 => Deed::Serve(fd, UFFDIO_WRITEPROTECT, [addr, len, odd(1, 3), 0, 0]),
            _ => Deed::Serve(fd, UFFDIO_WRITEPROTECT, [addr, len, self.pick(&[0, 2]), 0, 0]),
        })
    }

    /// Whether registering a range is other than Linux's: protected memory that is no longer to be, and pages of the pool.
    pub(super) fn unlike(&self, addr: u64, len: u64, mode: u64) -> bool {
        let forgets = mode != 0 && mode & MODE_WP == 0;
        forgets && self.model.is_range_protected(self.process, addr, len)
            || self.is_pooled(addr, len)
    }

    /// Whether a range has pages of the pool.
    pub(super) fn is_pooled(&self, addr: u64, len: u64) -> bool {
        let addr = VirtAddr::new(addr).page_floor().get();
        self.model.page_size(self.process, addr, len.max(1)) > PAGE
    }
}
