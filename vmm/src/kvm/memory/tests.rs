//! What the host holds for the guest, as the host itself says it, beside what the guest uses.

use std::os::fd::AsFd;
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
        let memory = Arc::new(memory(pages, bytes, (1, HostNodes::of_host()))?);
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

/// Memory of a machine; `None` where the environment says that there is no KVM.
fn memory(pages: HostPages, bytes: u64, nodes: (u8, HostNodes)) -> Option<GuestMemory> {
    if std::env::var_os("MMVISOR_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: MMVISOR_NO_KVM=1");
        return None;
    }
    let vm = kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap();
    let host = Arc::new(HostCalls::new(Arc::new(vm)));
    Some(GuestMemory::on(host, bytes, pages, nodes).unwrap())
}

/// The policies that the host has for these frames' memory, in order, each once in a row: `/proc/self/numa_maps`.
fn policies(memory: &GuestMemory, frames: Range<u64>) -> Vec<String> {
    let address = |frame: u64| {
        let first = memory.slice(Frame::new(0).addr(), PAGE_SIZE).ptr_guard().as_ptr() as u64;
        first + (frame << PAGE_SHIFT)
    };
    let all = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
    let parsed = |line: &str| {
        let mut words = line.split(' ');
        let start = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
        (start, words.next().unwrap().to_owned())
    };
    let all: Vec<(u64, String)> = all.lines().map(parsed).collect();
    let first = all.iter().rposition(|(start, _)| *start <= address(frames.start)).unwrap();
    let inside = all[first..].iter().take_while(|(start, _)| *start < address(frames.end));
    let mut policies: Vec<String> = inside.map(|(_, policy)| policy.clone()).collect();
    policies.dedup();
    policies
}

/// Node 0 twice: all that each host has.
fn two_nodes() -> HostNodes {
    HostNodes(vec![0, 0])
}

#[test]
fn each_node_of_the_guest_prefers_one_of_the_hosts_also_where_a_file_was_shown() {
    let Some(memory) = memory(HostPages::Small, 16 << 20, (2, two_nodes())) else { return };
    let all = 0..memory.frames();
    assert_eq!(policies(&memory, all.clone()), ["prefer:0"]);
    let file = nix::sys::memfd::memfd_create(c"shown", nix::sys::memfd::MFdFlags::empty()).unwrap();
    nix::unistd::ftruncate(&file, 2 << 20).unwrap();
    let block = FrameRun { start: Frame::new(1024), count: BLOCK_FRAMES };
    let part = FilePart { file: file.as_fd(), offset: 0, access: FileAccess::Read };
    memory.show(block, part).unwrap();
    assert_eq!(policies(&memory, all.clone()), ["prefer:0", "default", "prefer:0"]);
    memory.hide(block).unwrap();
    assert_eq!(policies(&memory, all), ["prefer:0"]);
}

#[test]
fn a_host_that_refuses_its_nodes_gives_memory_all_the_same() {
    let Some(memory) = memory(HostPages::Small, 16 << 20, (2, HostNodes(vec![1000, 1001]))) else {
        return;
    };
    assert_eq!(policies(&memory, 0..memory.frames()), ["default"]);
    memory.write(Frame::new(2048).addr(), &[7; 8]);
    let mut bytes = [0; 8];
    memory.read(Frame::new(2048).addr(), &mut bytes);
    assert_eq!(bytes, [7; 8]);
}

#[test]
fn a_guest_with_one_node_has_its_memory_where_the_host_likes() {
    let Some(memory) = memory(HostPages::Small, 16 << 20, (1, two_nodes())) else { return };
    assert_eq!(policies(&memory, 0..memory.frames()), ["default"]);
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
