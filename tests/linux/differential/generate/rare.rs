//! What happens now and then: files, policies, limits, userfaultfds, prctl.

use mm::addr::{PAGE_SIZE as PAGE, VirtAddr};
use mm::replay::calls::{IoVec, Limit, MemoryCall as M, Pointee};

use super::super::act::{Deed, Open};
use super::super::model::Serving;
use super::{Generator, HUGE};

impl Generator {
    /// A file shorter or longer, mostly around what may be mapped of it; now and then within a page.
    pub(super) fn truncate(&mut self) -> Option<Deed> {
        let files = self.files[usize::from(self.process)].clone();
        if files.is_empty() {
            return None;
        }
        let fd = if self.chance(2) { self.pick(&[77, 0, 2]) } else { self.pick(&files) };
        let len = self.below(9) * PAGE + if self.chance(25) { self.below(PAGE) } else { 0 };
        let len = if self.chance(8) { self.below(3) * HUGE } else { len };
        let len = if self.chance(2) { self.pick(&[u64::MAX, 1 << 63, 600 * PAGE]) } else { len };
        Some(Deed::Truncate(fd, len))
    }

    pub(super) fn rare(&mut self) -> Option<Deed> {
        let (addr, len) = self.odd_range();
        let process = usize::from(self.process);
        Some(match self.below(26) {
            0..=3 => {
                let fd = self.next_fd[process];
                if fd > 12 {
                    return None;
                }
                let files = self.files[process].clone();
                let open = match self.below(11) {
                    0..=2 => Open::Memfd(self.below(8)),
                    3 | 4 => Open::File(self.below(8)),
                    5 if self.chance(50) => Open::Directory,
                    5 => Open::HugeMemfd(self.pick(&[21, 21, 21, 30])),
                    _ if !files.is_empty() => {
                        let of = self.pick(&files);
                        Open::Again(of, self.pick(&[0, 0, 2, 1]))
                    }
                    _ => Open::Memfd(1 + self.below(600)),
                };
                Deed::Open(fd, open)
            }
            4 if self.chance(25) => Deed::Call(M::Mseal { addr, len, flags: 0 }),
            4..=6 => {
                Deed::Call(M::Msync { addr, len, flags: self.pick(&[1, 2, 4, 6, 0, 3, 5, 8]) })
            }
            7 | 8 => {
                let vec = Pointee::Unread(VirtAddr::ZERO);
                Deed::Call(M::Mincore { addr, len: len.min(64 * PAGE), vec })
            }
            9..=13 => Deed::Call(self.nodes(addr, len)),
            14 => {
                let (option, args) = match self.below(8) {
                    0 => (65, [self.pick(&[1, 3, 0, 2, 4]), 0, 0, 0]),
                    1 => (66, [0; 4]),
                    2 | 3 => (41, [self.below(2), self.pick(&[0, 0, 1, 2]), 0, 0]),
                    4 => (42, [0; 4]),
                    6 | 7 => (67, [self.pick(&[1, 1, 0, 2]), self.pick(&[0, 0, 0, 1]), 0, 0]),
                    8 => (68, [self.pick(&[0, 0, 1]), 0, 0, 0]),
                    5 => (35, [self.below(12), addr.get(), 0, 0]),
                    _ => (66, [1, 0, 0, 0]),
                };
                if option == 65 && self.chance(70) {
                    return None;
                }
                Deed::Call(M::Prctl { option, args, name: None })
            }
            15 if self.chance(60) => {
                let resource = self.pick(&[2, 3, 8, 8, 8, 9, 99]);
                let current = match resource {
                    3 => 1 + self.below(64),
                    8 => self.pick(&[0, 0, 1, 2, 8, 30]),
                    _ => 1 + self.below(200),
                } * PAGE;
                let current = if resource == 9 { current + (9 << 20) } else { current };
                let maximum = if resource == 8 { 8 << 20 } else { u64::MAX };
                let (current, maximum) = match self.below(12) {
                    0 => (maximum, current),
                    1 if resource == 8 => (current, u64::MAX),
                    _ => (current, maximum),
                };
                let new = Pointee::Shown(Limit { current, maximum });
                Deed::Call(M::Prlimit { pid: 0, resource, new, old: Pointee::Unread(addr) })
            }
            16 if self.chance(20) => {
                let persona = self.pick(&[0x004_0000, 0x044_0000, 0xffff_ffff]);
                Deed::Call(M::Personality { persona })
            }
            17 | 18 => {
                let pgoff = self.below(6);
                let prot = if self.chance(4) { 1 } else { 0 };
                Deed::Call(M::RemapFilePages { addr, len, prot, pgoff, flags: 0 })
            }
            19..=21 => match self.uffd {
                None if self.serving == Serving::Yes => return self.served(),
                None => Deed::Userfault(self.next_fd[process]),
                Some((owner, fd)) if owner == self.process => {
                    let mode = self.pick(&[0, 0, 1, 1, 2, 4, 3, 8]);
                    Deed::Uffd(fd, addr.get(), len, mode)
                }
                Some(_) => return None,
            },
            22 if self.chance(60) => Deed::DropCapabilities(
                self.dropped[process] | 1 << self.pick(&[14, 14, 14, 17, 23]),
            ),
            // Where a page is said to be is not alike where it is swapped out on one side.
            23 | 24 if !self.swaps() => Deed::Call(self.moves(addr)),
            23 | 24 => Deed::Call(self.nodes(addr, len)),
            25 => {
                let ranges = Pointee::Shown(vec![IoVec { base: addr, len }]);
                let advice = self.pick(&[4, 10, 2, 99]);
                Deed::Call(M::ProcessMadvise {
                    pidfd: self.pick(&[-10000, -10000, 55]),
                    ranges,
                    count: 1,
                    advice,
                    flags: 0,
                })
            }
            _ => return None,
        })
    }
}
