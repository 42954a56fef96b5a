//! Shared memory as a file: what is written at an offset is seen where it is mapped, and the other way round.

use std::sync::Arc;

use super::*;
use crate::addr::PAGE_BYTES;
use crate::backing::{Backing, LONGEST, Length, Seals, SharedMemory, Sought};
use crate::vma::MapType;

fn memfd(m: &SoftwareMachine) -> Arc<SharedMemory> {
    Arc::new(SharedMemory::memfd(m.space.look().system(), "test"))
}

fn map(m: &SoftwareMachine, file: &Arc<SharedMemory>, prot: Prot, kind: MapType) -> CallResult<()> {
    let request = MapRequest {
        addr: page(0),
        len: 4 * PAGE_SIZE,
        prot,
        flags: MapFlags::FIXED | kind.into(),
        file: Some(Arc::clone(file) as Arc<dyn Backing>),
        offset: 0,
    };
    m.space.change().mmap(&request).map(drop)
}

fn write(m: &SoftwareMachine, file: &SharedMemory, at: u64, bytes: &[u8]) -> CallResult<usize> {
    let space = m.space.look();
    file.write_at(at, bytes, space.system(), &*space)
}

fn allocate(
    m: &SoftwareMachine,
    file: &SharedMemory,
    bytes: std::ops::Range<u64>,
    length: Length,
) -> CallResult<()> {
    let space = m.space.look();
    file.allocate(bytes, length, space.system(), &*space)
}

fn read(file: &SharedMemory, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    let count = file.read_at(at, &mut bytes);
    bytes.truncate(count.unwrap());
    bytes
}

#[test]
fn bytes_written_at_an_offset_are_seen_in_maps_and_bytes_stored_there_are_read() {
    let m = machine();
    let file = memfd(&m);
    assert_eq!(write(&m, &file, PAGE_SIZE - 2, b"abcd").unwrap(), 4);
    assert_eq!(file.len(), PAGE_SIZE + 2);
    map(&m, &file, RW, MapType::Shared).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), b'c');
    m.store(page(1), b'C').unwrap();
    assert_eq!(read(&file, PAGE_SIZE - 2, 10), b"abCd");
    audit(&m.space.look()).unwrap();
}

#[test]
fn holes_read_as_zeros_and_do_not_come_into_being() {
    let m = machine();
    let file = memfd(&m);
    write(&m, &file, 5 * PAGE_SIZE, b"x").unwrap();
    assert_eq!(read(&file, 5 * PAGE_SIZE - 3, 9), b"\0\0\0x");
    assert_eq!(file.present_pages(), 1);
    assert_eq!(file.seek(0, Sought::Data), Some(5 * PAGE_SIZE));
    assert_eq!(file.seek(0, Sought::Hole), Some(0));
    assert_eq!(file.seek(5 * PAGE_SIZE, Sought::Hole), Some(5 * PAGE_SIZE + 1));
    assert_eq!(file.seek(5 * PAGE_SIZE + 1, Sought::Data), None);
}

#[test]
fn a_punched_hole_reads_as_zeros_in_maps_too_and_the_bytes_around_it_stay() {
    let m = machine();
    let file = memfd(&m);
    write(&m, &file, 0, &[7; 4 * PAGE_BYTES]).unwrap();
    map(&m, &file, RW, MapType::Shared).unwrap();
    for at in 0..4 {
        m.load(page(at)).unwrap();
    }
    let system = Arc::clone(m.space.look().system());
    file.punch_bytes(PAGE_SIZE - 10..3 * PAGE_SIZE + 10, &system).unwrap();
    assert_eq!(file.present_pages(), 2);
    let zeros = read(&file, 0, 4 * PAGE_BYTES).iter().filter(|&&byte| byte == 0).count();
    assert_eq!(zeros, 2 * PAGE_BYTES + 20);
    assert_eq!(m.load(page(2)).unwrap(), 0);
    assert_eq!(m.load(page(3).offset(10)).unwrap(), 7);
    file.punch_bytes(5..6, &system).unwrap();
    assert_eq!(read(&file, 4, 3), [7, 0, 7]);
}

#[test]
fn allocated_pages_are_there_and_the_length_follows_if_it_may() {
    let m = machine();
    let file = memfd(&m);
    allocate(&m, &file, 1..PAGE_SIZE + 1, Length::Stays).unwrap();
    assert_eq!((file.len(), file.present_pages()), (0, 2));
    file.add_seals(Seals::GROW).unwrap();
    let grown = allocate(&m, &file, 0..10, Length::Grows);
    assert_eq!(errno_of(grown), Errno::EPERM);
    let kept = allocate(&m, &file, 0..10, Length::Stays);
    assert_eq!(errno_of(kept), Errno::EPERM);
}

#[test]
fn an_allocation_that_finds_no_memory_leaves_nothing() {
    let m = machine();
    let file = memfd(&m);
    write(&m, &file, PAGE_SIZE, b"x").unwrap();
    let used = m.frames.stats().pages;
    let all = allocate(&m, &file, 0..1 << 40, Length::Grows);
    assert_eq!(errno_of(all), Errno::ENOMEM);
    assert_eq!((m.frames.stats().pages, file.present_pages()), (used, 1));
    assert_eq!(file.len(), PAGE_SIZE + 1);
}

#[test]
fn nothing_is_written_past_the_longest_file_or_a_seal() {
    let m = machine();
    let file = memfd(&m);
    assert_eq!(errno_of(write(&m, &file, LONGEST, b"x")), Errno::EFBIG);
    write(&m, &file, 0, &[1; 10]).unwrap();
    file.add_seals(Seals::GROW).unwrap();
    assert_eq!(errno_of(write(&m, &file, 5, b"123456")), Errno::EPERM);
    assert_eq!(write(&m, &file, 5, b"12345").unwrap(), 5);
    file.add_seals(Seals::WRITE).unwrap();
    assert_eq!(errno_of(write(&m, &file, 0, b"x")), Errno::EPERM);
}

#[test]
fn memory_that_may_write_keeps_the_object_from_being_sealed_against_it() {
    let m = machine();
    let file = memfd(&m);
    write(&m, &file, 0, &[1; 10]).unwrap();
    map(&m, &file, Prot::READ, MapType::Shared).unwrap();
    assert_eq!(file.add_seals(Seals::WRITE), Err(Errno::EBUSY));
    assert!(file.seals().is_empty());
    map(&m, &file, RW, MapType::Private).unwrap();
    assert_eq!(file.add_seals(Seals::WRITE), Ok(()));
    assert_eq!(errno_of(map(&m, &file, RW, MapType::Shared)), Errno::EPERM);
    map(&m, &file, Prot::READ, MapType::Shared).unwrap();
}
