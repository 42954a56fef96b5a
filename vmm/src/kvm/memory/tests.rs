//! What the host holds for the guest, as the host itself says it, beside what the guest uses.

use std::sync::Arc;

use mm::phys::{Contents, FrameKind, FrameStats, Frames};

use super::super::host_calls::HostCalls;
use super::*;

/// An allocator over memory of a machine that nothing runs on, and the frames taken from it.
struct Guest {
    memory: Arc<GuestMemory>,
    frames: Frames,
    pages: HostPages,
}

impl Guest {
    /// `None` where the environment says that there is no KVM.
    fn new(pages: HostPages, bytes: u64) -> Option<Guest> {
        if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
            eprintln!("skipped: MMVISOR_NO_KVM=1");
            return None;
        }
        let vm = kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap();
        let memory = Arc::new(
            GuestMemory::with_pages(Arc::new(HostCalls::new(Arc::new(vm))), bytes, pages).unwrap(),
        );
        let frames = Frames::new(Arc::clone(&memory) as Arc<dyn PhysMemory>);
        Some(Guest { memory, frames, pages })
    }

    /// Takes a page and touches it, as a program does.
    fn touch(&self) -> Frame {
        let frame = self.frames.alloc(FrameKind::Anonymous, Contents::Zeroed).unwrap();
        let mut bytes = [1; 8];
        self.memory.read(frame.addr(), &mut bytes);
        assert_eq!(bytes, [0; 8], "{frame:?} is not of zeros");
        self.memory.write(frame.addr(), &frame.number().to_le_bytes());
        frame
    }

    fn touch_many(&self, count: u64) -> Vec<Frame> {
        (0..count)
            .map(|done| {
                if done % 1024 == 0 {
                    self.check();
                }
                self.touch()
            })
            .collect()
    }

    fn free(&self, frames: impl IntoIterator<Item = Frame>) {
        for (done, frame) in frames.into_iter().enumerate() {
            self.frames.put(frame).unwrap();
            if done % 1024 == 0 {
                self.check();
            }
        }
        self.check();
    }

    /// What the host holds is what is used and what is counted as idle, and that is within the bound.
    fn check(&self) -> FrameStats {
        let stats = self.frames.stats();
        let used = stats.pages + stats.tables;
        let resident = self.resident();
        assert_eq!(resident, used + stats.idle, "{stats:?}");
        let (least, part) = match self.pages {
            HostPages::Small => (1024, 50),
            HostPages::Huge => (2048, 8),
        };
        assert!(resident - used <= least.max(used / part), "{resident} resident, {stats:?}");
        stats
    }

    /// Frames that the host holds memory for: `Rss` in `/proc/self/smaps`.
    fn resident(&self) -> u64 {
        // Advised as nothing beside it is, so no mapping of the host reaches past it.
        let first = self.memory.slice(Frame::new(0).addr(), PAGE_SIZE).ptr_guard().as_ptr() as u64;
        let region = first..first + self.memory.limit();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut kilobytes = 0;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let head = words.next().unwrap_or_default();
            if let Some((start, _)) = head.split_once('-') {
                inside = u64::from_str_radix(start, 16).is_ok_and(|start| region.contains(&start));
            } else if head == "Rss:" && inside {
                kilobytes += words.next().unwrap().parse::<u64>().unwrap();
            }
        }
        kilobytes * 1024 / PAGE_SIZE
    }
}

const MEMORY: u64 = 256 << 20;
/// Frames in 96 MiB.
const MANY: u64 = (96 << 20) / PAGE_SIZE;

fn both(test: impl Fn(Guest)) {
    for pages in [HostPages::Small, HostPages::Huge] {
        if let Some(guest) = Guest::new(pages, MEMORY) {
            test(guest);
        }
    }
}

#[test]
fn the_hosts_resident_size_follows_the_guests_as_it_grows_and_shrinks() {
    both(|guest| {
        for _ in 0..2 {
            let mut frames = guest.touch_many(MANY);
            let upper = frames.split_off(frames.len() / 2);
            guest.free(upper.into_iter().rev());
            guest.free(frames);
            assert_eq!(guest.frames.stats().pages, 0);
        }
    });
}

#[test]
fn every_second_page_freed_goes_back_to_the_host_and_the_others_keep_their_bytes() {
    both(|guest| {
        let frames = guest.touch_many(MANY);
        let (kept, freed): (Vec<_>, Vec<_>) =
            frames.into_iter().partition(|frame| frame.number().is_multiple_of(2));
        guest.free(freed);
        let before = guest.check();
        assert!(before.idle < before.pages / 4, "half of the memory is free: {before:?}");
        for frame in &kept {
            let mut bytes = [0; 8];
            guest.memory.read(frame.addr(), &mut bytes);
            assert_eq!(u64::from_le_bytes(bytes), frame.number());
        }
        // Touched again, also past what was there: holes are filled before the machine grows.
        let again = guest.touch_many(2 * MANY);
        guest.check();
        guest.free(again.into_iter().chain(kept));
    });
}

#[test]
fn pages_freed_in_no_order_go_back_to_the_host() {
    both(|guest| {
        let mut frames = guest.touch_many(MANY);
        let mut number = 0x9e37_79b9_7f4a_7c15_u64;
        for last in (1..frames.len()).rev() {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            frames.swap(last, to_usize(number) % (last + 1));
        }
        guest.free(frames);
    });
}
