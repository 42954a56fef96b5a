//! NUMA nodes: of one that is there, and of many that are not.

use mm::addr::{PAGE_SIZE as PAGE, VirtAddr, index};
use mm::replay::calls::{MemoryCall as M, Pointee};

use super::super::model::Area;
use super::Generator;

/// `MPOL_F_STATIC_NODES`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_NUMA_BALANCING`.
const MODE_FLAGS: [u64; 8] =
    [1 << 15, 1 << 15, 1 << 14, 1 << 14, 1 << 13, 3 << 14, 5 << 13, 1 << 12];
/// More than all processes that Linux can have, and less than none.
const NOBODY: [i32; 3] = [-1, (1 << 22) + 1, i32::MAX];
/// Where nothing can be read.
const NOWHERE: VirtAddr = VirtAddr::new(1 << 63);
/// `CAP_SYS_NICE`.
const SYS_NICE: u64 = 1 << 23;
/// `MPOL_MF_STRICT`.
const STRICT: u64 = 1;

impl Generator {
    /// Policies, set and asked for.
    pub(super) fn nodes(&mut self, addr: VirtAddr, len: u64) -> M {
        match self.below(10) {
            0 => {
                // Nowhere in particular, where there are pages: each is on another node.
                let (mode, nodes) = (self.pick(&[1, 4]), Pointee::Null);
                let flags = if self.knows_pages(addr, len) { self.pick(&[1, 1, 3, 5]) } else { 0 };
                M::Mbind { addr, len, mode, nodes, maxnode: 0, flags }
            }
            1..=4 => {
                let (mode, maxnode) = (self.mode(), self.maxnode());
                let nodes = self.mask(maxnode);
                let flags = self.pick(&[0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1 << 32]);
                let flags = if self.knows_pages(addr, len) { flags } else { flags & !STRICT };
                M::Mbind { addr, len, mode, nodes, maxnode, flags }
            }
            5 | 6 => {
                let (mode, maxnode) = (self.mode(), self.maxnode());
                let nodes = self.mask(maxnode);
                M::SetMempolicy { mode, nodes, maxnode }
            }
            7 => {
                let node = self.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 63, 64, u64::MAX]);
                let bound = self.model.with_policy(self.process);
                let (addr, len) = if bound.is_empty() || self.chance(20) {
                    (addr, len)
                } else {
                    let range = self.pick_range(&bound);
                    (VirtAddr::new(range.start), range.end - range.start + self.pick(&[0, 0, PAGE]))
                };
                M::SetMempolicyHomeNode {
                    addr,
                    len,
                    node,
                    flags: self.pick(&[0, 0, 0, 0, 0, 0, 0, 1]),
                }
            }
            _ => {
                let flags = self.pick(&[0, 0, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8]);
                // A page that may not be read is on a node as long as it is in memory.
                let flags = if self.area != Area::None && flags == 3 { 2 } else { flags };
                let addr = if flags & 2 != 0 || self.chance(5) { addr } else { VirtAddr::ZERO };
                let addr = VirtAddr::new(addr.get().wrapping_add(self.pick(&[0, 0, 1, PAGE - 1])));
                let mode = self.asked(90);
                let nodes = self.asked(50);
                let maxnode = if nodes == Pointee::Null { 0 } else { self.maxnode() };
                M::GetMempolicy { mode, nodes, maxnode, addr, flags }
            }
        }
    }

    /// Whether it is known which pages of a range are there: what is swapped out on one side alone is on no node.
    fn knows_pages(&self, addr: VirtAddr, len: u64) -> bool {
        !self.swaps() && !self.model.maps_files(self.process, addr.get(), len)
    }

    /// Whether pages may be in a swap area on one side alone.
    pub(super) fn swaps(&self) -> bool {
        self.model.has_paged_out() || self.area != Area::None
    }

    /// Pages that go to another node, or are asked for theirs.
    pub(super) fn moves(&mut self, addr: VirtAddr) -> M {
        let pid = if self.chance(4) { self.pick(&NOBODY) } else { 0 };
        if self.chance(25) {
            let maxnode = self.maxnode();
            let (old, new) = (self.mask(maxnode), self.mask(maxnode));
            if self.dropped[usize::from(self.process)] & SYS_NICE != 0 && self.chance(50) {
                let new = Pointee::Shown(vec![3]);
                return M::MigratePages { pid: 0, maxnode: 64, old: new.clone(), new };
            }
            return M::MigratePages { pid, maxnode, old, new };
        }
        let count = if self.chance(10) { 15 + self.below(20) } else { self.below(7) };
        let pages: Vec<VirtAddr> = (0..count)
            .map(|at| {
                let page = match self.below(4) {
                    0 => addr.get().wrapping_add(at * PAGE),
                    1 => self.page(),
                    _ => self.mapped_page(),
                };
                let page = page.wrapping_add(self.pick(&[0, 0, 0, 1, PAGE - 1]));
                VirtAddr::new(self.odd(page))
            })
            .collect();
        let nodes = (0..count).map(|_| self.node()).collect();
        let nodes = if self.chance(40) { Pointee::Null } else { Pointee::Shown(nodes) };
        // Where nothing is mapped at 0, no array is.
        let nothing = !self.lines.iter().any(|line| line.range.contains(&0));
        let pages = if nothing && self.chance(2) { Pointee::Null } else { Pointee::Shown(pages) };
        let status = self.asked(if nothing { 96 } else { 100 });
        let flags = self.pick(&[0, 0, 2, 2, 2, 2, 4, 4, 6, 1, 8]);
        M::MovePages { pid, count, pages, nodes, status, flags }
    }

    /// A node for a page, mostly the one that there is.
    fn node(&mut self) -> i32 {
        if self.chance(94) { 0 } else { self.pick(&[1, -1, 63, 64, 1024, i32::MIN, i32::MAX]) }
    }

    fn mode(&mut self) -> u64 {
        let mode = self.pick(&[0, 1, 2, 2, 2, 3, 4, 5, 5, 5, 6, 7]);
        let flags = if self.chance(30) { self.pick(&MODE_FLAGS) } else { 0 };
        mode | flags | if self.chance(1) { 1 << 32 } else { 0 }
    }

    /// Where something is written, or nowhere.
    fn asked<T>(&mut self, of_hundred: u64) -> Pointee<T> {
        if self.chance(of_hundred) { Pointee::Unread(VirtAddr::ZERO) } else { Pointee::Null }
    }

    /// How many bits a mask is said to have, and one.
    fn maxnode(&mut self) -> u64 {
        if self.chance(70) {
            return 64;
        }
        self.pick(&[65, 0, 1, 2, 3, 63, 128, 1024, 1025, 32768, 32769, 32770])
    }

    /// A mask that is said to have so many bits, and one.
    fn mask(&mut self, maxnode: u64) -> Pointee<Vec<u64>> {
        match self.below(24) {
            0 | 1 => return Pointee::Null,
            2 => return Pointee::Unread(NOWHERE),
            _ => {}
        }
        let words = maxnode.saturating_sub(1).div_ceil(64).max(1);
        let mut mask = vec![0; index(words)];
        mask[0] = self.pick(&[0, 1, 1, 1, 1, 1, 2, 3, 1 << 62 | 1]);
        if words > 1 && self.chance(20) {
            let last = self.pick(&[1, mask.len() - 1]);
            mask[last] = self.pick(&[1, 1 << 63]);
        }
        Pointee::Shown(mask)
    }
}
