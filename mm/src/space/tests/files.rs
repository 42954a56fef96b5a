//! Maps of files.

use std::io;

use super::*;
use crate::backing::{BackingName, FileBacking, FileSource};
use crate::vma::MapType;

#[derive(Debug)]
pub(super) struct Bytes(Vec<u8>);

impl FileSource for Bytes {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let from = self.0.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(into.len());
        into[..len].copy_from_slice(&from[..len]);
        into[len..].fill(0);
        Ok(len)
    }
}

pub(super) fn file_of(m: &SoftwareMachine) -> Arc<FileBacking<Bytes>> {
    bytes_of(m, 6000)
}

/// A file of so many bytes.
pub(super) fn bytes_of(m: &SoftwareMachine, len: usize) -> Arc<FileBacking<Bytes>> {
    let bytes: Vec<u8> = (0..len).map(|i| (i / 16) as u8).collect();
    let name = BackingName { path: "/bin/test".to_owned(), ..Default::default() };
    Arc::new(FileBacking::new(Arc::clone(&m.frames), Bytes(bytes), name))
}

#[test]
fn a_private_write_to_a_file_page_is_seen_by_nobody_else() {
    let m = machine();
    let file = file_of(&m);
    let map = |index| {
        m.space.change().mmap(&MapRequest {
            addr: page(index),
            len: 3 * PAGE_SIZE,
            prot: RW,
            flags: MapFlags::FIXED | MapType::Private.into(),
            file: Some(file.clone()),
            offset: 0,
        })
    };
    map(0).unwrap();
    map(10).unwrap();
    assert_eq!(m.load(page(0).offset(32)).unwrap(), 2);
    m.store(page(0).offset(32), 99).unwrap();
    assert_eq!(m.load(page(0).offset(32)).unwrap(), 99);
    assert_eq!(m.load(page(0).offset(64)).unwrap(), 4);
    assert_eq!(m.load(page(10).offset(32)).unwrap(), 2);
    // The rest of the last page is zeros; the page past it is SIGBUS.
    assert_eq!(m.load(page(1).offset(4000)).unwrap(), 0);
    assert_eq!(fault_of(m.load(page(2))), Fault::NoBacking(page(2)));
    audit(&m.space.look()).unwrap();
    m.space.exit().unwrap();
    drop(file);
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn a_second_read_of_a_file_page_needs_no_flush_and_breaking_cow_needs_one() {
    let m = machine();
    let file = file_of(&m);
    m.space
        .change()
        .mmap(&MapRequest {
            addr: page(0),
            len: PAGE_SIZE,
            prot: RW,
            flags: MapFlags::FIXED | MapType::Private.into(),
            file: Some(file),
            offset: 0,
        })
        .unwrap();
    m.load(page(0)).unwrap();
    assert_eq!(m.sink.flushes(), 0);
    m.store(page(0), 1).unwrap();
    assert_eq!(m.sink.flushes(), 1);
}

#[test]
fn a_read_past_the_end_of_a_file_brings_in_the_pages_around_it_and_is_a_sigbus() {
    let m = machine();
    let request = MapRequest {
        addr: page(0),
        len: 4 * PAGE_SIZE,
        prot: RW,
        flags: MapFlags::FIXED | MapType::Private.into(),
        file: Some(file_of(&m)),
        offset: 0,
    };
    let resident = || m.space.look().counters().resident.backed();
    m.space.change().mmap(&request).unwrap();
    assert_eq!(fault_of(m.store(page(3), 1)), Fault::NoBacking(page(3)));
    assert_eq!(resident(), 0, "a write looks at its own page alone");
    assert_eq!(fault_of(m.load(page(3))), Fault::NoBacking(page(3)));
    assert_eq!(resident(), 2);
}

#[test]
fn a_map_that_its_file_refuses_at_last_gives_its_promise_back_and_leaves_a_hole() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    let refused = m.space.change().mmap(&MapRequest {
        addr: page(0),
        len: 3 * PAGE_SIZE,
        prot: RW,
        flags: MapFlags::FIXED | MapFlags::SYNC | MapType::Private.into(),
        file: Some(file_of(&m)),
        offset: 0,
    });
    assert_eq!(errno_of(refused), Errno::EOPNOTSUPP);
    let space = m.space.look();
    assert_eq!((space.vmas().len(), space.system().committed()), (0, 0));
}
