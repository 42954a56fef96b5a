//! Windows on files of the host: how many there may be, and what becomes of an access for which the host has no
//! mapping left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::*;
use crate::addr::{Frame, FrameRun, GuestPhysAddr, PAGE_BYTES};
use crate::backing::HostFile;
use crate::error::Broken;
use crate::failure::FailPoint;
use crate::phys::{
    BLOCK_FRAMES, FileAccess, FilePart, Frames, HostPages, PhysMemory, SoftwareMemory, Words,
};
use crate::vma::MapType;

/// Pages of a window.
const WINDOW: u64 = BLOCK_FRAMES;
/// Windows of the file.
const ALL: u64 = 20;
/// Windows that may be open.
const MOST: u64 = 8;

/// Memory that shows files: by a copy, which goes back to the file when it is shown no longer.
#[derive(Debug)]
struct Showing {
    memory: SoftwareMemory,
    shown: Mutex<BTreeMap<u64, (File, u64)>>,
    /// Maps of the host.
    maps: FailPoint,
}

impl Showing {
    fn open(&self) -> u64 {
        self.shown.lock().unwrap().len() as u64
    }
}

impl PhysMemory for Showing {
    fn frames(&self) -> u64 {
        self.memory.frames()
    }

    fn grow(&self) -> Result<u64, Broken> {
        self.memory.grow()
    }

    fn words(&self, frame: Frame) -> &Words {
        self.memory.words(frame)
    }

    fn read(&self, from: GuestPhysAddr, into: &mut [u8]) {
        self.memory.read(from, into);
    }

    fn write(&self, to: GuestPhysAddr, from: &[u8]) {
        self.memory.write(to, from);
    }

    fn zero(&self, frame: Frame) {
        self.memory.zero(frame);
    }

    fn copy(&self, from: Frame, to: Frame) {
        self.memory.copy(from, to);
    }

    fn populate(&self, run: FrameRun) {
        self.memory.populate(run);
    }

    fn host_pages(&self) -> HostPages {
        self.memory.host_pages()
    }

    fn release(&self, run: FrameRun) -> Result<(), Broken> {
        self.memory.release(run)
    }

    fn release_parts(&self, block: FrameRun, parts: &[FrameRun]) -> Result<(), Broken> {
        self.memory.release_parts(block, parts)
    }

    fn show(&self, block: FrameRun, part: FilePart<'_>) -> io::Result<()> {
        if self.maps.refuses() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let file = File::from(part.file.try_clone_to_owned()?);
        let mut page = [0; PAGE_BYTES];
        for i in 0..block.count {
            file.read_exact_at(&mut page, part.offset + i * PAGE_SIZE)?;
            let words = self.memory.words(block.start.offset(i));
            for (word, bytes) in words.iter().zip(page.as_chunks().0) {
                word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
            }
        }
        self.shown.lock().unwrap().insert(block.start.number(), (file, part.offset));
        Ok(())
    }

    fn hide(&self, block: FrameRun) -> Result<(), Broken> {
        let shown = self.shown.lock().unwrap().remove(&block.start.number());
        let (file, offset) = shown.expect("a window is closed that is not open");
        let mut page = [0; PAGE_BYTES];
        for i in 0..block.count {
            let words = self.memory.words(block.start.offset(i));
            for (word, bytes) in words.iter().zip(page.as_chunks_mut().0) {
                *bytes = word.load(Ordering::Relaxed).to_le_bytes();
            }
            file.write_all_at(&page, offset + i * PAGE_SIZE).unwrap();
        }
        self.memory.release(block)
    }
}

/// A machine with room for more windows than it may have, and a file of more than that, mapped from page 0 on.
struct Machine {
    m: SoftwareMachine,
    memory: Arc<Showing>,
    on_host: File,
    opened: Arc<HostFile>,
}

impl Machine {
    fn new() -> Self {
        let (shown, maps) = (Mutex::default(), FailPoint::default());
        let memory = Arc::new(Showing { memory: SoftwareMemory::new(32 * WINDOW), shown, maps });
        let frames = Frames::new(Arc::clone(&memory) as Arc<dyn PhysMemory>);
        let m = SoftwareMachine::on(frames, Limits::default(), |system| {
            system.set_most_windows(MOST);
        });
        let m = m.unwrap();
        let name = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::empty());
        let on_host = File::from(name.unwrap());
        on_host.set_len(ALL * WINDOW * PAGE_SIZE).unwrap();
        let system = Arc::clone(m.space.look().system());
        let file = on_host.try_clone().unwrap();
        let opened = system.open_file(file, FileAccess::ReadWrite, "/file".to_owned()).unwrap();
        map_file(&m, 0, ALL * WINDOW, MapType::Shared, &opened);
        Machine { m, memory, on_host, opened }
    }

    /// The first page of a window.
    fn write(&self, window: u64) -> Result<(), AccessError> {
        self.m.store(page(window * WINDOW), 100 + window as u8)?;
        assert!(self.memory.open() <= MOST);
        Ok(())
    }

    fn closed(&self) -> u64 {
        self.m.space.look().system().reclaimed().windows
    }

    /// All that was written is in the file, and nothing is left.
    fn end(self, written: u64) {
        let Machine { m, memory, on_host, opened } = self;
        audited(&[&m]);
        for window in 0..written {
            assert_eq!(m.load(page(window * WINDOW)).unwrap(), 100 + window as u8);
        }
        m.space.exit().unwrap();
        drop(opened);
        assert_eq!((m.frames.stats().pages, memory.open()), (0, 0));
        for window in 0..written {
            let mut byte = [0];
            on_host.read_exact_at(&mut byte, window * WINDOW * PAGE_SIZE).unwrap();
            assert_eq!(byte, [100 + window as u8], "window {window}");
        }
    }
}

#[test]
fn past_the_most_windows_the_oldest_are_closed_and_come_back_when_they_are_touched() {
    let m = Machine::new();
    for window in 0..MOST {
        m.write(window).unwrap();
    }
    assert_eq!((m.memory.open(), m.closed()), (MOST, 0));
    m.write(MOST).unwrap();
    assert_eq!((m.memory.open(), m.closed()), (MOST - 1, 2 * WINDOW), "an eighth, and one more");
    for window in MOST + 1..ALL {
        m.write(window).unwrap();
    }
    assert!(m.closed() >= (ALL - MOST) * WINDOW);
    m.end(ALL);
}

#[test]
fn an_access_for_which_the_host_has_no_mapping_closes_another_window_or_kills() {
    let touch_all = |m: &Machine| (0..MOST + 2).map(|window| m.write(window)).collect::<Vec<_>>();
    let m = Machine::new();
    m.memory.maps.watch();
    assert!(touch_all(&m).iter().all(Result::is_ok));
    let count = m.memory.maps.stop();
    assert_eq!(count, MOST + 2);
    m.end(MOST + 2);
    for nth in (1..=count).filter_map(NonZeroU64::new) {
        for alone in [true, false] {
            let m = Machine::new();
            let maps = &m.memory.maps;
            if alone {
                maps.refuse(nth);
            } else {
                maps.refuse_from(nth);
            }
            let touched = touch_all(&m);
            maps.stop();
            audited(&[&m.m]);
            for (window, touched) in (0..).zip(touched) {
                let told = touched.map_err(|error| fault_of(Err::<(), _>(error)));
                // The host is asked for a window in one piece first, and then for a page.
                let fails = !alone && window + 1 >= nth.get();
                let killed = Err(Fault::OutOfMemory(page(window * WINDOW)));
                assert_eq!(told, if fails { killed } else { Ok(()) }, "{nth} {alone}: {window}");
            }
            assert!(touch_all(&m).iter().all(Result::is_ok), "then there is one");
            m.end(MOST + 2);
        }
    }
}
