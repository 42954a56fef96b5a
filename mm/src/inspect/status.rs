//! The memory lines of `/proc/PID/status` (Linux's `task_mem`, `fs/proc/task_mmu.c`).

use std::fmt;
use std::sync::atomic::Ordering;

use crate::addr::PAGE_SIZE;
use crate::space::{AddressSpace, PageClass};

/// What the lines say, in bytes. The fields are named as the lines are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryStatus {
    /// The most that `vm_size` has been.
    pub vm_peak: u64,
    /// Mapped.
    pub vm_size: u64,
    /// Locked in memory.
    pub vm_lck: u64,
    /// Pinned for somebody outside the process.
    pub vm_pin: u64,
    /// The most that `vm_rss` has been.
    pub vm_hwm: u64,
    /// Resident: the next three together.
    pub vm_rss: u64,
    /// Resident, the process's own.
    pub rss_anon: u64,
    /// Resident, of files.
    pub rss_file: u64,
    /// Resident, of shared memory.
    pub rss_shmem: u64,
    /// Mapped private and writable.
    pub vm_data: u64,
    /// Mapped growing down.
    pub vm_stk: u64,
    /// Mapped executable, of the program itself.
    pub vm_exe: u64,
    /// Mapped executable, of anything else.
    pub vm_lib: u64,
    /// Page tables, without the root.
    pub vm_pte: u64,
    /// Swapped out.
    pub vm_swap: u64,
    /// In huge pages of the pool.
    pub hugetlb_pages: u64,
}

/// What the lines say of an address space.
#[must_use]
pub fn status(space: &AddressSpace) -> MemoryStatus {
    let bytes = |pages: u64| pages * PAGE_SIZE;
    let (account, counters) = (space.account(), space.counters());
    let resident = space.resident();
    let layout = space.layout();
    let code_end = layout.end_code.page_ceil().unwrap_or(layout.end_code);
    // All executable pages are the program's own up to as many as its code takes; the others are libraries'.
    let code = code_end.get().saturating_sub(layout.start_code.page_floor().get());
    let vm_exe = code.min(bytes(account.exec));
    MemoryStatus {
        vm_peak: bytes(account.peak.max(account.total)),
        vm_size: bytes(account.total),
        vm_lck: bytes(account.locked),
        vm_pin: bytes(counters.pinned.load(Ordering::Relaxed)),
        vm_hwm: bytes(resident.peak()),
        vm_rss: bytes(resident.total()),
        rss_anon: bytes(resident.of(PageClass::Own)),
        rss_file: bytes(resident.of(PageClass::File)),
        rss_shmem: bytes(resident.of(PageClass::Shared)),
        vm_data: bytes(account.data),
        vm_stk: bytes(account.stack),
        vm_exe,
        vm_lib: bytes(account.exec) - vm_exe,
        vm_pte: bytes(space.table().table_frames().saturating_sub(1)),
        hugetlb_pages: bytes(resident.of(PageClass::Huge)),
        vm_swap: bytes(counters.swapped.load(Ordering::Relaxed)),
    }
}

impl fmt::Display for MemoryStatus {
    /// The lines as the file has them, in kB.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("VmPeak", self.vm_peak),
            ("VmSize", self.vm_size),
            ("VmLck", self.vm_lck),
            ("VmPin", self.vm_pin),
            ("VmHWM", self.vm_hwm),
            ("VmRSS", self.vm_rss),
            ("RssAnon", self.rss_anon),
            ("RssFile", self.rss_file),
            ("RssShmem", self.rss_shmem),
            ("VmData", self.vm_data),
            ("VmStk", self.vm_stk),
            ("VmExe", self.vm_exe),
            ("VmLib", self.vm_lib),
            ("VmPTE", self.vm_pte),
            ("VmSwap", self.vm_swap),
            ("HugetlbPages", self.hugetlb_pages),
        ];
        lines.iter().try_for_each(|(name, bytes)| writeln!(f, "{name}:\t{:8} kB", bytes >> 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::VirtAddr;
    use crate::replay::SoftwareMachine;
    use crate::space::{MapRequest, RemapRequest};
    use crate::vma::limits::Limits;
    use crate::vma::{MapFlags, MapType, Prot};

    const BASE: u64 = 0x1_0000_0000;
    const RW: Prot = Prot::READ.union(Prot::WRITE);

    fn machine() -> SoftwareMachine {
        SoftwareMachine::new(4096, Limits::default()).unwrap()
    }

    fn at(page: u64) -> VirtAddr {
        VirtAddr::new(BASE + page * PAGE_SIZE)
    }

    fn map(m: &SoftwareMachine, page: u64, pages: u64, prot: Prot, flags: MapFlags) {
        let flags = flags | MapFlags::FIXED;
        let request = MapRequest::anonymous(at(page), pages * PAGE_SIZE, prot, flags);
        m.space.change().mmap(&request).unwrap();
    }

    fn map_shared(m: &SoftwareMachine, page: u64, pages: u64) {
        let flags = MapFlags::FIXED | MapFlags::ANONYMOUS | MapType::Shared.into();
        let mut request = MapRequest::anonymous(at(page), pages * PAGE_SIZE, RW, flags);
        request.flags = flags;
        m.space.change().mmap(&request).unwrap();
    }

    fn now(m: &SoftwareMachine) -> MemoryStatus {
        crate::inspect::audit(&m.space.look()).unwrap();
        status(&m.space.look())
    }

    #[test]
    fn an_empty_space_has_sixteen_lines_of_zeros() {
        let text = now(&machine()).to_string();
        assert_eq!(text.lines().count(), 16);
        assert!(
            text.starts_with("VmPeak:\t       0 kB\nVmSize:\t       0 kB\nVmLck:\t       0 kB\n")
        );
        assert!(text.ends_with("VmSwap:\t       0 kB\nHugetlbPages:\t       0 kB\n"));
    }

    #[test]
    fn a_mapping_counts_by_what_it_is_for() {
        let m = machine();
        map(&m, 0, 3, RW, MapFlags::empty());
        map(&m, 16, 5, Prot::READ | Prot::EXEC, MapFlags::empty());
        map(&m, 600, 7, RW, MapFlags::GROWSDOWN);
        map(&m, 32, 2, Prot::READ, MapFlags::LOCKED);
        let kib = |status: MemoryStatus| {
            [status.vm_size, status.vm_data, status.vm_stk, status.vm_lib, status.vm_lck]
                .map(|bytes| bytes >> 10)
        };
        assert_eq!(kib(now(&m)), [68, 12, 28, 20, 8]);
        m.space.change().munmap(at(0), 3 * PAGE_SIZE).unwrap();
        assert_eq!((now(&m).vm_size >> 10, now(&m).vm_peak >> 10), (56, 68));
    }

    #[test]
    fn executable_pages_are_the_programs_up_to_the_length_of_its_code() {
        let m = machine();
        map(&m, 0, 5, Prot::READ | Prot::EXEC, MapFlags::empty());
        let mut space = m.space.change();
        space.set_code(at(0).offset(8)..at(2).offset(8));
        drop(space);
        assert_eq!((now(&m).vm_exe >> 10, now(&m).vm_lib >> 10), (12, 8));
        // More than is mapped executable counts as no more than that.
        m.space.change().set_code(at(0)..at(100));
        assert_eq!((now(&m).vm_exe >> 10, now(&m).vm_lib >> 10), (20, 0));
    }

    #[test]
    fn resident_pages_count_by_whose_they_are_and_their_most_is_kept() {
        let m = machine();
        map(&m, 0, 8, RW, MapFlags::empty());
        map_shared(&m, 16, 8);
        for page in [0, 5, 7] {
            m.store(at(page), 1).unwrap();
        }
        m.store(at(16), 1).unwrap();
        m.store(at(23), 1).unwrap();
        let before = now(&m);
        assert!(before.rss_anon >= 3 * PAGE_SIZE && before.rss_shmem >= 2 * PAGE_SIZE);
        assert_eq!(before.vm_rss, before.rss_anon + before.rss_shmem);
        assert_eq!((before.rss_file, before.vm_hwm), (0, before.vm_rss));
        assert_eq!(before.vm_pte, 3 * PAGE_SIZE, "a table of each level below the root");
        m.space.change().munmap(at(0), 24 * PAGE_SIZE).unwrap();
        let after = now(&m);
        assert_eq!((after.vm_rss, after.vm_hwm), (0, before.vm_rss));
    }

    #[test]
    fn a_move_does_not_count_twice_at_its_peak() {
        let m = machine();
        map(&m, 0, 8, RW, MapFlags::empty());
        let request = RemapRequest {
            addr: at(0),
            old_len: 8 * PAGE_SIZE,
            new_len: 9 * PAGE_SIZE,
            flags: 3,
            new_addr: at(64),
        };
        m.space.change().mremap(&request).unwrap();
        assert_eq!((now(&m).vm_size, now(&m).vm_peak), (9 * PAGE_SIZE, 9 * PAGE_SIZE));
    }
}
