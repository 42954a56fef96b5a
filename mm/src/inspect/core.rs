//! What of a space a core file has (Linux's `vma_dump_size`, `dump_vma_snapshot` in `fs/coredump.c`; core(5)).

use bitflags::bitflags;

use super::maps::{MapsLine, line};
use crate::addr::{PAGE_SIZE, PageRange, VirtAddr};
use crate::space::AddressSpace;
use crate::vma::{VmFlags, Vma};

bitflags! {
    /// Which memory a core file has (`/proc/PID/coredump_filter`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CoreFilter: u32 {
        /// Private memory that was written.
        const ANON_PRIVATE = 1;
        /// Shared memory without a name.
        const ANON_SHARED = 2;
        /// Private maps of files.
        const MAPPED_PRIVATE = 4;
        /// Shared maps of files.
        const MAPPED_SHARED = 8;
        /// The first page of what begins with an ELF header.
        const ELF_HEADERS = 0x10;
        /// Private memory in huge pages of the pool.
        const HUGETLB_PRIVATE = 0x20;
        /// The same shared.
        const HUGETLB_SHARED = 0x40;
    }
}

/// A VMA in a core file.
#[derive(Clone, Debug)]
pub struct CoreSegment {
    /// What it is.
    pub line: MapsLine,
    /// Whether it is of a file, which is told by name.
    pub is_file: bool,
    /// How much of it the file has, from its start, in bytes.
    pub dumped: u64,
    /// Its bytes for whom the page table has none.
    pub backing: Option<std::sync::Arc<dyn crate::backing::Backing>>,
    /// The first of these, in pages.
    pub first_page: u64,
}

/// All VMAs, in order.
#[must_use]
pub fn core_segments(space: &AddressSpace) -> Vec<CoreSegment> {
    let filter = CoreFilter::from_bits_truncate(space.modes().core_filter);
    let segment = |vma: &Vma| CoreSegment {
        line: line(space, vma),
        is_file: vma.backing.is_some(),
        dumped: dumped(vma, filter),
        backing: vma.backing.clone(),
        first_page: vma.pgoff,
    };
    space.vmas().iter().map(segment).collect()
}

/// The pages of a part of the space that it has something in, as runs.
#[must_use]
pub fn core_pages(space: &AddressSpace, range: PageRange) -> Vec<PageRange> {
    space.notice_files(range);
    let mut runs: Vec<PageRange> = Vec::new();
    for seen in space.table().look(range).filter(|seen| !seen.entry.is_guard()) {
        let Some(page) = PageRange::from_len(seen.addr, PAGE_SIZE) else { continue };
        match runs.last_mut().filter(|last| last.end() == page.start()) {
            Some(last) => *last = PageRange::new(last.start(), page.end()).unwrap_or(*last),
            None => runs.push(page),
        }
    }
    runs
}

fn dumped(vma: &Vma, filter: CoreFilter) -> u64 {
    let whole_if = |part| if filter.contains(part) { vma.range().len() } else { 0 };
    let has = |flag| vma.flags.contains(flag);
    if has(VmFlags::DONTDUMP) {
        return 0;
    }
    if has(VmFlags::HUGETLB) {
        let shared = has(VmFlags::SHARED);
        let part = if shared { CoreFilter::HUGETLB_SHARED } else { CoreFilter::HUGETLB_PRIVATE };
        return whole_if(part);
    }
    if has(VmFlags::IO) {
        return 0;
    }
    match &vma.backing {
        Some(backing) if has(VmFlags::SHARED) => {
            let nameless = backing.name().path.ends_with(" (deleted)");
            whole_if(if nameless { CoreFilter::ANON_SHARED } else { CoreFilter::MAPPED_SHARED })
        }
        _ if vma.anon().is_some() && filter.contains(CoreFilter::ANON_PRIVATE) => vma.range().len(),
        None => 0,
        Some(_) if filter.contains(CoreFilter::MAPPED_PRIVATE) => vma.range().len(),
        Some(backing) => {
            let mut magic = [0; 4];
            let begins = filter.contains(CoreFilter::ELF_HEADERS) && vma.pgoff == 0;
            let readable = begins && has(VmFlags::READ);
            let elf = readable && backing.read_file(0, &mut magic) == 4 && magic == *b"\x7fELF";
            if elf { PAGE_SIZE } else { 0 }
        }
    }
}

impl CoreSegment {
    /// Its first address.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        self.line.range.start()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::SoftwareMachine;
    use crate::space::MapRequest;
    use crate::vma::limits::Limits;
    use crate::vma::{MapFlags, MapType, Prot};

    const BASE: u64 = 0x1_0000_0000;
    const DONTDUMP: i32 = 16;
    const GUARD_INSTALL: i32 = 102;

    fn at(page: u64) -> VirtAddr {
        VirtAddr::new(BASE + page * PAGE_SIZE)
    }

    /// Four pages each: private ones, written, untouched and not to be dumped, and shared ones.
    fn machine() -> SoftwareMachine {
        let machine = SoftwareMachine::new(4096, Limits::default()).unwrap();
        let kinds = [MapType::Private, MapType::Private, MapType::Private, MapType::Shared];
        for (page, kind) in (0..).step_by(8).zip(kinds) {
            let (access, len) = (Prot::READ | Prot::WRITE, 4 * PAGE_SIZE);
            let mut request = MapRequest::anonymous(at(page), len, access, MapFlags::empty());
            request.flags = MapFlags::from(kind) | MapFlags::FIXED | MapFlags::ANONYMOUS;
            machine.space.change().mmap(&request).unwrap();
        }
        for page in [0, 1, 3, 16] {
            machine.store(at(page), 1).unwrap();
        }
        machine.space.change().madvise(at(16), 4 * PAGE_SIZE, DONTDUMP).unwrap();
        machine
    }

    #[test]
    fn what_is_dumped_is_as_the_filter_has_it() {
        let machine = machine();
        for (filter, wanted) in
            [(0, [0; 4]), (1, [4, 0, 0, 0]), (2, [0, 0, 0, 4]), (0x33, [4, 0, 0, 4])]
        {
            machine.space.change().modes_mut().core_filter = filter;
            let segments = core_segments(&machine.space.look());
            let pages = segments.iter().map(|segment| segment.dumped / PAGE_SIZE);
            assert!(pages.eq(wanted), "{filter:#x}: {segments:?}");
        }
    }

    #[test]
    fn pages_are_told_in_runs_without_guards() {
        let machine = machine();
        machine.space.change().madvise(at(1), 2 * PAGE_SIZE, GUARD_INSTALL).unwrap();
        let runs = |from, to| {
            let range = PageRange::new(at(from), at(to)).unwrap();
            core_pages(&machine.space.look(), range)
        };
        let of = |from, to| PageRange::new(at(from), at(to)).unwrap();
        assert_eq!(runs(0, 4), [of(0, 1), of(3, 4)]);
        assert_eq!(runs(8, 12), []);
    }
}
