//! The frame table against its counts, and which blocks it takes from the host.

use super::*;
use super::pool::PAGES_ONE_BY_ONE;
use super::trim::most_idle;
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
