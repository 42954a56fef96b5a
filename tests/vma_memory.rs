//! What a VMA costs in memory, whatever made it: everything that the allocator gave out is counted, the
//! set's nodes and spare room too.

#![allow(clippy::unwrap_used, reason = "a test is a crate of its own")]

use std::sync::Arc;

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::backing::{Backing, SharedMemory};
use mm::replay::SoftwareMachine;
use mm::space::{AddressSpace, MapRequest};
use mm::vma::limits::Limits;
use mm::vma::{MapFlags, MapType, Prot};

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

/// Bytes that a VMA may take.
const MOST: usize = 160;
/// Bytes that a VMA may take that was written to, its node of the reverse map and its page's record included.
const MOST_WRITTEN: usize = 600;
/// Linux's default `vm.max_map_count`, and so the most VMAs there are.
const VMAS: u64 = 65_530;
/// From how many on it is counted: before that, first allocations weigh in.
const FROM: u64 = 500;
/// Where a window of addresses lies in which a case puts its VMAs.
const WINDOW: u64 = 0x1_0000_0000;

const WRITABLE: Prot = Prot::READ.union(Prot::WRITE);

fn map(space: &mut AddressSpace, page: u64, prot: Prot, file: Option<&Arc<dyn Backing>>) {
    let request = MapRequest {
        addr: VirtAddr::new(WINDOW + page * PAGE_SIZE),
        len: PAGE_SIZE,
        prot,
        flags: MapFlags::FIXED_NOREPLACE
            | if file.is_some() { MapType::Shared } else { MapType::Private }.into(),
        file: file.cloned(),
        offset: 0,
    };
    space.mmap(&request).unwrap();
}

/// Each of the numbers below `VMAS` once, far from the one before.
fn scattered(step: u64) -> u64 {
    step * 32_771 % VMAS
}

/// Makes VMAs one by one and counts what they took.
fn count(case: &str, mut step: impl FnMut(&mut AddressSpace, u64)) {
    let machine = SoftwareMachine::new(4096, Limits::default()).unwrap();
    let mut space = machine.space.change();
    let before = dhat::HeapStats::get().curr_bytes;
    for made in 0..VMAS {
        step(&mut space, made);
        let vmas = space.vmas().len();
        if made >= FROM && made % 97 == 0 || made + 1 == VMAS {
            let bytes = dhat::HeapStats::get().curr_bytes - before;
            let each = bytes.div_ceil(vmas);
            assert!(each <= MOST, "{case}: {bytes} bytes for {vmas} VMAs, {each} each");
        }
    }
    let vmas = space.vmas().len() as u64;
    assert!(vmas >= VMAS - 2, "{case}: {vmas} VMAs");
}

/// VMAs with holes between them, each written to: none can share a neighbour's node.
fn count_written() {
    let machine = SoftwareMachine::new(8192, Limits::default()).unwrap();
    let before = dhat::HeapStats::get().curr_bytes;
    for made in 0..4000 {
        map(&mut machine.space.change(), 2 * made, WRITABLE, None);
        machine.store(VirtAddr::new(WINDOW + 2 * made * PAGE_SIZE), 1).unwrap();
        let vmas = machine.space.look().vmas().len();
        let frames = machine.frames.stats();
        let guests = usize::try_from((frames.pages + frames.tables) * PAGE_SIZE).unwrap();
        let bytes = dhat::HeapStats::get().curr_bytes - before - guests;
        let each = bytes.div_ceil(vmas);
        let few = made < FROM;
        assert!(
            few || each <= MOST_WRITTEN,
            "written to: {bytes} bytes for {vmas} VMAs, {each} each"
        );
    }
}

#[test]
fn a_vma_takes_at_most_160_bytes_whatever_made_it_and_600_once_it_is_written_to() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let every_other = |number: u64| if number.is_multiple_of(2) { Prot::READ } else { WRITABLE };

    count("mapped downwards, touching", |space, made| {
        map(space, VMAS - made, every_other(made), None);
    });
    count("mapped upwards, with holes", |space, made| map(space, 2 * made, WRITABLE, None));
    count("mapped here and there", |space, made| map(space, 2 * scattered(made), WRITABLE, None));

    let frames = SoftwareMachine::new(512, Limits::default()).unwrap().frames;
    let file: Arc<dyn Backing> = Arc::new(SharedMemory::new(frames, 1, 1));
    count("of a file, here and there", |space, made| {
        map(space, 2 * scattered(made), WRITABLE, Some(&file));
    });

    count_written();

    // One VMA cut again and again: each call makes one more of it, or two.
    let mut next = 1;
    count("cut by mprotect", |space, made| {
        if made == 0 {
            let anywhere = VirtAddr::new(WINDOW);
            let all =
                MapRequest::anonymous(anywhere, 2 * VMAS * PAGE_SIZE, WRITABLE, MapFlags::FIXED);
            space.mmap(&all).unwrap();
        } else if space.vmas().len() as u64 + 2 <= VMAS {
            let page = VirtAddr::new(WINDOW + next * PAGE_SIZE);
            space.mprotect(page, PAGE_SIZE, Prot::READ).unwrap();
            next += 2;
        }
    });
}
