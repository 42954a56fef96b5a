//! Files of the host, in memory that has copies of their pages.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::*;
use crate::backing::HostFile;
use crate::phys::FileAccess;
use crate::vma::MapType;

/// A file of so many bytes, each the low byte of its page's number plus one, which nobody else has.
fn file(len: usize) -> File {
    let file = tempfile().unwrap();
    let bytes: Vec<u8> = (0..len).map(|at| (at / 4096 + 1) as u8).collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    file
}

fn tempfile() -> std::io::Result<File> {
    let memory = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::empty())?;
    Ok(memory.into())
}

fn open(m: &SoftwareMachine, file: &File) -> Arc<HostFile> {
    let system = Arc::clone(m.space.look().system());
    system.open_file(file.try_clone().unwrap(), FileAccess::ReadWrite, "/file".to_owned()).unwrap()
}

fn contents(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_a_shared_map_writes_is_in_the_file_after_msync_and_at_the_end() {
    let m = machine();
    let on_host = file(3 * 4096);
    let opened = open(&m, &on_host);
    map_file(&m, 0, 3, MapType::Shared, &opened);
    m.store(page(0), 77).unwrap();
    m.space.msync(page(0), 3 * PAGE_SIZE, 4).unwrap();
    assert_eq!(contents(&on_host)[..2], [77, 1]);
    m.store(page(2), 78).unwrap();
    m.space.change().munmap(page(0), 3 * PAGE_SIZE).unwrap();
    drop(opened);
    let bytes = contents(&on_host);
    assert_eq!((bytes.len(), bytes[4096], bytes[8192]), (3 * 4096, 2, 78));
    assert_eq!(m.frames.stats().pages, 0);
}

#[test]
fn a_private_maps_writes_are_its_own() {
    let m = machine();
    let on_host = file(4096);
    let opened = open(&m, &on_host);
    map_file(&m, 0, 1, MapType::Private, &opened);
    m.store(page(0), 77).unwrap();
    assert_eq!(m.load(page(0)).unwrap(), 77);
    m.space.change().munmap(page(0), PAGE_SIZE).unwrap();
    drop(opened);
    assert_eq!(contents(&on_host)[0], 1);
}

#[test]
fn a_file_that_somebody_cuts_short_loses_its_pages_wherever_they_are() {
    let m = machine();
    let on_host = file(3 * 4096);
    let opened = open(&m, &on_host);
    map_file(&m, 0, 4, MapType::Shared, &opened);
    map_file(&m, 10, 4, MapType::Private, &opened);
    for at in [0, 1, 2, 10, 11, 12] {
        m.store(page(at), 9).unwrap();
    }
    assert_eq!(fault_of(m.load(page(3))), Fault::NoBacking(page(3)));
    let system = Arc::clone(m.space.look().system());
    assert!(!system.recheck_files().unwrap());
    on_host.set_len(4097).unwrap();
    assert!(system.recheck_files().unwrap());
    for at in [2, 12] {
        assert_eq!(fault_of(m.load(page(at))), Fault::NoBacking(page(at)));
    }
    assert_eq!(m.load(page(1).offset(1)).unwrap(), 0, "the rest of the last page");
    assert_eq!(m.load(page(11)).unwrap(), 9);
    on_host.set_len(3 * 4096).unwrap();
    assert_eq!(m.load(page(2)).unwrap(), 0);
    audit(&m.space.look()).unwrap();
}

#[test]
fn a_file_that_grows_has_its_new_pages_at_once() {
    let m = machine();
    let on_host = file(10);
    let opened = open(&m, &on_host);
    map_file(&m, 0, 2, MapType::Shared, &opened);
    assert_eq!(fault_of(m.load(page(1))), Fault::NoBacking(page(1)));
    on_host.set_len(8192).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), 0);
}

#[test]
fn a_hole_is_punched_into_the_file_itself() {
    let m = machine();
    let on_host = file(2 * 4096);
    let opened = open(&m, &on_host);
    map_file(&m, 0, 2, MapType::Shared, &opened);
    assert_eq!(m.load(page(1)).unwrap(), 2);
    let remove = Advice::Remove as i32;
    m.space.change().madvise(page(1), PAGE_SIZE, remove).unwrap();
    assert_eq!((m.load(page(1)).unwrap(), m.load(page(0)).unwrap()), (0, 1));
    assert_eq!(contents(&on_host)[4096], 0);
}

/// Reads four pages through a private map, writes them through a shared one, and has that written out. How many of
/// these failed, each as it should.
fn use_all(m: &SoftwareMachine) -> usize {
    let bus = |at, result: Result<(), AccessError>| match result {
        Ok(()) => false,
        Err(AccessError::Fault(fault)) => fault == Fault::NoBacking(page(at)),
        Err(error) => panic!("{error:?}"),
    };
    let reads = (10..14).filter(|&at| bus(at, m.load(page(at)).map(drop))).count();
    let writes = (0..4).filter(|&at| bus(at, m.store(page(at), 50 + at as u8))).count();
    let synced = match m.space.msync(page(0), 4 * PAGE_SIZE, 4) {
        Ok(()) => 0,
        Err(CallError::Errno(Errno::EIO)) => 1,
        Err(error) => panic!("{error:?}"),
    };
    reads + writes + synced
}

#[test]
fn no_read_or_write_that_the_host_refuses_loses_anything() {
    let mut told = 0;
    for nth in (1..).map_while(NonZeroU64::new) {
        let m = machine();
        let on_host = file(4 * 4096);
        let opened = open(&m, &on_host);
        map_file(&m, 0, 4, MapType::Shared, &opened);
        map_file(&m, 10, 4, MapType::Private, &opened);
        opened.failures.refuse(nth);
        let failed = use_all(&m);
        let asked = opened.failures.stop();
        audit(&m.space.look()).unwrap();
        if asked < nth.get() {
            assert_eq!(failed, 0);
            break;
        }
        // What is read ahead of a touch is read again for the touch.
        assert!(failed <= 1, "{nth} of {asked}: {failed}");
        told += failed;
        assert_eq!(use_all(&m), 0, "{nth}: then the host refuses nothing");
        let bytes = contents(&on_host);
        assert_eq!([0, 1, 2, 3].map(|at| bytes[at * 4096]), [50, 51, 52, 53], "{nth}");
    }
    assert!(told >= 5, "the first read and four writes, at least: {told}");
}

#[test]
fn who_appends_has_a_place_of_his_own_whoever_else_does_on_the_host() {
    const TIMES: usize = 3000;
    let m = machine();
    let on_host = file(0);
    let opened = open(&m, &on_host);
    let path = format!("/proc/self/fd/{}", on_host.as_raw_fd());
    let mut other = File::options().append(true).open(path).unwrap();
    let mut places = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..TIMES).for_each(|_| other.write_all(b"o").unwrap()));
        places.extend((0..TIMES).map(|_| opened.append(b"me").unwrap()));
    });
    let bytes = contents(&on_host);
    assert_eq!(bytes.len(), 3 * TIMES);
    assert!(places.iter().all(|&(at, count)| bytes[at as usize..][..count] == *b"me"));
}
