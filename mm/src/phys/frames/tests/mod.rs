//! The frame table against its counts, and which blocks it takes from the host.

mod count;
mod model;

use super::pool::PAGES_ONE_BY_ONE;
use super::trim::most_idle;
use super::*;
use crate::addr::PAGE_SIZE;
use crate::phys::HostPages;
use crate::phys::SoftwareMemory;
use proptest::prelude::*;

fn frames(blocks: u64) -> Frames {
    Frames::new(Arc::new(SoftwareMemory::new(blocks * BLOCK_FRAMES)))
}

#[test]
fn frame_zero_is_never_handed_out() {
    let frames = frames(1);
    let mut seen = 0;
    while let Ok(run) = frames.alloc_run(FrameKind::Anonymous, Contents::Any, 64) {
        assert_ne!(run.start.number(), 0);
        seen += run.count;
    }
    assert_eq!(seen, BLOCK_FRAMES - 1);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn pages_taken_one_after_another_lie_side_by_side_with_tables_in_between() {
    let frames = frames(4);
    let first = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    frames.alloc(FrameKind::Table, Contents::Zeroed).unwrap();
    let second = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    assert_eq!(second, first.offset(1));
}

/// Counts the blocks that are made present.
#[derive(Debug)]
struct Populated(SoftwareMemory, AtomicU64);

impl PhysMemory for Populated {
    fn frames(&self) -> u64 {
        self.0.frames()
    }
    fn grow(&self) -> Result<u64, Broken> {
        self.0.grow()
    }
    fn words(&self, frame: Frame) -> &crate::phys::Words {
        self.0.words(frame)
    }
    fn read(&self, from: crate::addr::GuestPhysAddr, into: &mut [u8]) {
        self.0.read(from, into);
    }
    fn write(&self, to: crate::addr::GuestPhysAddr, bytes: &[u8]) {
        self.0.write(to, bytes);
    }
    fn zero(&self, frame: Frame) {
        self.0.zero(frame);
    }
    fn copy(&self, from: Frame, to: Frame) {
        self.0.copy(from, to);
    }
    fn populate(&self, run: FrameRun) {
        self.1.fetch_add(run.count / BLOCK_FRAMES, Ordering::Relaxed);
    }
    fn host_pages(&self) -> HostPages {
        self.0.host_pages()
    }
    fn release(&self, run: FrameRun) -> Result<(), Broken> {
        self.0.release(run)
    }
    fn release_parts(&self, block: FrameRun, parts: &[FrameRun]) -> Result<(), Broken> {
        self.0.release_parts(block, parts)
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn whole_blocks_are_made_present_once_a_program_is_no_longer_small() {
    // Tables, the first few pages, and two blocks of present pages.
    let memory = Arc::new(Populated(SoftwareMemory::new(4 * BLOCK_FRAMES), AtomicU64::new(0)));
    let frames = Frames::new(Arc::clone(&memory) as Arc<dyn PhysMemory>);
    let page = || frames.alloc(FrameKind::Anonymous, Contents::Any);
    frames.alloc(FrameKind::Table, Contents::Zeroed).unwrap();
    for _ in 0..PAGES_ONE_BY_ONE {
        page().unwrap();
    }
    assert_eq!(memory.1.load(Ordering::Relaxed), 0);
    for _ in 0..BLOCK_FRAMES {
        page().unwrap();
    }
    assert_eq!(memory.1.load(Ordering::Relaxed), 1);
    page().unwrap();
    assert_eq!(memory.1.load(Ordering::Relaxed), 2);
    // The rest of the first block is not lost.
    let mut more = 0;
    while page().is_ok() {
        more += 1;
    }
    assert_eq!(frames.stats().pages + frames.stats().tables, 4 * BLOCK_FRAMES - 1);
    assert!(more > BLOCK_FRAMES);
}

#[test]
fn a_reused_frame_is_zeroed_when_asked() {
    let frames = frames(1);
    let frame = frames.alloc(FrameKind::Anonymous, Contents::Zeroed).unwrap();
    frames.memory().write(frame.addr(), b"secret");
    frames.put(frame).unwrap();
    let again = frames.alloc(FrameKind::Anonymous, Contents::Zeroed).unwrap();
    assert_eq!(again, frame);
    let mut bytes = [1; 6];
    frames.memory().read(again.addr(), &mut bytes);
    assert_eq!(bytes, [0; 6]);
}

#[test]
fn a_frame_given_up_twice_is_an_error_and_not_a_panic() {
    let frames = frames(1);
    let frame = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    frames.put(frame).unwrap();
    assert!(frames.put(frame).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn empty_blocks_go_back_to_the_host_except_a_few() {
    let frames = frames(16);
    let mut runs = Vec::new();
    while let Ok(run) = frames.alloc_run(FrameKind::Anonymous, Contents::Any, 64) {
        runs.push(run);
    }
    for run in runs {
        frames.put_run(run).unwrap();
    }
    let stats = frames.stats();
    assert_eq!((stats.pages, stats.tables), (0, 0));
    let most = most_idle(HostPages::Small, 0);
    assert!((1..=most).contains(&stats.idle), "{stats:?}");
    assert!(stats.taken <= most + BLOCK_FRAMES, "{stats:?}");
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn tables_take_from_a_page_block_when_nothing_else_is_left() {
    let frames = frames(1);
    frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    frames.alloc(FrameKind::Table, Contents::Zeroed).unwrap();
    assert_eq!((frames.stats().pages, frames.stats().tables), (1, 1));
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn records_take_less_than_one_percent_of_the_memory_they_are_about() {
    let frames = frames(64);
    let before = frames.stats().record_bytes;
    while frames.alloc_run(FrameKind::Anonymous, Contents::Any, 512).is_ok() {}
    let bytes = frames.stats().record_bytes - before;
    let each = bytes / (64 * BLOCK_FRAMES);
    println!("{each} bytes of record a frame");
    assert!((1..=PAGE_SIZE / 100).contains(&each), "{each} bytes of record a frame");
    assert!(each <= 24, "{each} bytes of record a frame");
}

#[test]
fn maps_are_counted_apart_from_references() {
    let frames = frames(1);
    let frame = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    frames.map(frame);
    assert!(frames.is_exclusive(frame));
    frames.dup(frame);
    assert_eq!((frames.references(frame), frames.maps(frame)), (2, 2));
    assert!(!frames.is_exclusive(frame));
    frames.unmap(frame).unwrap();
    frames.put(frame).unwrap();
    assert!(frames.is_exclusive(frame));
    assert!(frames.put(frame).is_err(), "an entry still names it");
    frames.unmap(frame).unwrap();
    assert!(frames.unmap(frame).is_err());
    frames.put(frame).unwrap();
    assert_eq!((frames.references(frame), frames.kind(frame)), (0, None));
}

#[test]
fn a_frame_found_by_its_number_is_got_only_while_it_is_in_use() {
    let frames = frames(1);
    let frame = frames.alloc(FrameKind::Cached, Contents::Any).unwrap();
    assert!(frames.try_get(frame));
    frames.put(frame).unwrap();
    frames.put(frame).unwrap();
    assert!(!frames.try_get(frame));
    assert!(!frames.try_get(Frame::new(1 << 50)), "there is no such frame");
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn a_run_over_many_blocks_is_counted_frame_by_frame() {
    let frames = frames(8);
    let order = Order::new(11).unwrap();
    let run = frames.alloc_order(FrameKind::Anonymous, Contents::Zeroed, order).unwrap();
    // Not the ends, to begin and end within blocks.
    let inner = FrameRun { start: run.start.offset(100), count: run.count - 200 };
    frames.dup_run(inner);
    frames.get_run(inner);
    frames.map_run(inner);
    for i in 0..run.count {
        let more = 2 * u32::from((100..run.count - 100).contains(&i));
        let frame = run.start.offset(i);
        assert_eq!((frames.references(frame), frames.maps(frame)), (1 + more, more), "{i}");
    }
    frames.unmap_run(inner).unwrap();
    frames.put_run(inner).unwrap();
    frames.put_run(inner).unwrap();
    frames.put_run(inner).unwrap_err();
    frames.unmap_run(inner).unwrap();
    assert_eq!(frames.stats().pages, run.count);
    frames.put_run(run).unwrap();
    assert_eq!(frames.stats().pages, 0);
}

#[test]
fn an_owner_stays_with_its_frame_and_is_gone_with_it() {
    let frames = frames(1);
    let frame = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    assert_eq!(frames.owner(frame), None);
    for index in [0, (1 << 36) - 1, 1 << 51] {
        let owner = ReverseOwner { id: u32::MAX, index };
        frames.set_owner(frame, owner);
        assert_eq!(frames.owner(frame), Some(owner));
    }
    frames.put(frame).unwrap();
    assert_eq!(frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap(), frame);
    assert_eq!(frames.owner(frame), None);
}

#[test]
fn the_zero_frame_is_one_and_is_never_counted() {
    let frames = frames(1);
    let zero = frames.zero_frame().unwrap();
    assert_eq!(frames.zero_frame().unwrap(), zero);
    let before = (frames.references(zero), frames.maps(zero));
    frames.dup(zero);
    frames.unmap(zero).unwrap();
    frames.unmap(zero).unwrap();
    for _ in 0..3 {
        frames.put(zero).unwrap();
    }
    assert_eq!((frames.references(zero), frames.maps(zero)), before);
    assert_eq!(frames.kind(zero), Some(FrameKind::Zero));
    assert!(!frames.is_exclusive(zero));
    assert!(frames.try_get(zero));
    assert_eq!((frames.stats().pages, frames.stats().tables), (0, 0));
}

#[test]
fn a_refused_allocation_is_out_of_memory_and_the_next_one_is_not() {
    let frames = frames(1);
    frames.failures().refuse(std::num::NonZeroU64::new(1).unwrap());
    assert!(matches!(frames.zero_frame(), Err(AllocError::OutOfMemory)));
    assert!(frames.zero_frame().is_ok());
    let order = Order::new(2).unwrap();
    assert!(frames.alloc_order(FrameKind::Cached, Contents::Any, order).is_ok());
    assert_eq!(frames.failures().stop(), 3);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn every_order_is_aligned_and_fits_between_what_is_there() {
    let frames = frames(3 * 512);
    let page = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    let mut runs = vec![FrameRun { start: page, count: 1 }];
    for order in (0..=18).rev() {
        let order = Order::new(order).unwrap();
        let run = frames.alloc_order(FrameKind::Anonymous, Contents::Any, order).unwrap();
        assert_eq!((run.count, run.start.number() % run.count), (order.frames(), 0), "{order:?}");
        runs.push(run);
    }
    runs.sort_by_key(|run| run.start);
    for pair in runs.windows(2) {
        assert!(pair[0].start.offset(pair[0].count) <= pair[1].start, "{pair:?}");
    }
    assert_eq!(frames.stats().pages, 1 << 19);
    // Two more of 1 GiB would be needed than there are.
    assert!(frames.alloc_order(FrameKind::Anonymous, Contents::Any, Order::GIANT).is_err());
    for run in runs {
        frames.put_run(run).unwrap();
    }
    assert_eq!(frames.stats().pages, 0);
    assert_eq!(Order::new(19), None);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn a_large_page_of_used_frames_is_zeroed_when_asked() {
    let frames = frames(2);
    for _ in 0..2 {
        let run = frames.alloc_order(FrameKind::Anonymous, Contents::Zeroed, Order::HUGE).unwrap();
        for i in 0..run.count {
            let at = run.start.offset(i).addr();
            let mut bytes = [1; 4];
            frames.memory().read(at, &mut bytes);
            assert_eq!(bytes, [0; 4], "frame {i}");
            frames.memory().write(at, b"used");
        }
        frames.put_run(run).unwrap();
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of frames take minutes")]
fn memory_used_up_is_an_error_and_what_is_freed_can_be_taken_again() {
    let frames = frames(2);
    let mut held = Vec::new();
    while let Ok(frame) = frames.alloc(FrameKind::Anonymous, Contents::Any) {
        held.push(frame);
    }
    assert_eq!(held.len() as u64, 2 * BLOCK_FRAMES - 1);
    let table = || frames.alloc(FrameKind::Table, Contents::Zeroed);
    assert!(matches!(table(), Err(AllocError::OutOfMemory)));
    frames.put(held[700]).unwrap();
    assert_eq!(table().unwrap(), held[700]);
}

#[test]
#[cfg_attr(miri, ignore = "many turns of two threads")]
fn threads_that_count_and_free_the_same_frames_lose_none() {
    const TURNS: u64 = 20_000;
    let frames = frames(4);
    let shared = frames.alloc(FrameKind::Cached, Contents::Any).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..TURNS {
                    let own = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
                    // The other thread may find it at any time, but never loses it for its owner.
                    let other = if own.number().is_multiple_of(2) { own.offset(1) } else { own };
                    if frames.try_get(other) {
                        frames.put(other).unwrap();
                    }
                    frames.dup(shared);
                    frames.map(own);
                    frames.unmap(own).unwrap();
                    frames.unmap(shared).unwrap();
                    frames.put(shared).unwrap();
                    assert!(frames.references(own) >= 1);
                    frames.put(own).unwrap();
                }
            });
        }
    });
    assert_eq!((frames.stats().pages, frames.stats().tables), (1, 0));
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "thousands of frames take minutes")]
    fn no_frame_is_handed_out_twice_and_counts_hold(
        steps in proptest::collection::vec((0..3u8, 1..70u64, any::<proptest::sample::Index>()), 1..200),
    ) {
        let frames = frames(3);
        let mut held: Vec<Frame> = Vec::new();
        for (step, most, pick) in steps {
            if step < 2 {
                let kind = if step == 0 { FrameKind::Anonymous } else { FrameKind::Table };
                if let Ok(run) = frames.alloc_run(kind, Contents::Zeroed, most) {
                    for i in 0..run.count {
                        let frame = run.start.offset(i);
                        prop_assert!(!held.contains(&frame));
                        held.push(frame);
                    }
                }
            } else if !held.is_empty() {
                frames.put(held.swap_remove(pick.index(held.len()))).unwrap();
            }
            let stats = frames.stats();
            prop_assert_eq!(stats.pages + stats.tables, held.len() as u64);
            prop_assert!(held.iter().all(|&f| frames.references(f) == 1));
        }
    }
}
