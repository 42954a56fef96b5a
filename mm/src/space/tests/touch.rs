//! What a touch brings in, and when it goes again.

use super::*;

#[test]
fn memory_reads_as_zeros_until_it_is_written() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), 0);
    m.store(page(1), 7).unwrap();
    assert_eq!(m.load(page(1)).unwrap(), 7);
    audit(&m.space.look()).unwrap();
}

#[test]
fn memory_does_not_exist_until_it_is_touched() {
    let m = machine();
    map_at(&m, 0, 4096, RW).unwrap();
    assert_eq!(m.frames.stats().pages, 0);
    m.store(page(9), 1).unwrap();
    assert_eq!(m.frames.stats().pages, 1);
}

#[test]
fn touching_page_after_page_brings_in_more_and_more_at_once() {
    let m = machine();
    map_at(&m, 0, 256, RW).unwrap();
    for i in 0..256 {
        m.store(page(i), 1).unwrap();
    }
    let space = m.space.look();
    let faults = space.counters().faults.zero.load(std::sync::atomic::Ordering::Relaxed);
    assert!(faults < 20, "{faults} faults");
    assert_eq!(space.resident().own(), 256);
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of pages take minutes")]
fn without_memory_a_touch_is_out_of_memory_and_a_later_one_works_again() {
    let m = SoftwareMachine::new(512, Limits::default()).unwrap();
    map_at(&m, 0, 600, RW).unwrap();
    let full = (0..600).find(|&i| m.store(page(i), 1).is_err()).unwrap();
    assert_eq!(fault_of(m.store(page(full), 1)), Fault::OutOfMemory(page(full)));
    unmap(&m, 0, 8).unwrap();
    m.store(page(full), 1).unwrap();
    audit(&m.space.look()).unwrap();
}

#[test]
fn the_hosts_own_accesses_cross_pages_and_stop_at_a_hole() {
    let m = machine();
    map_at(&m, 0, 2, RW).unwrap();
    let at = page(1).checked_sub(3).unwrap();
    m.space.write(at, b"across").unwrap();
    let mut bytes = [0; 6];
    m.space.read(at, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    let end = page(2).checked_sub(2).unwrap();
    assert_eq!(fault_of(m.space.write(end, b"long")), Fault::NotMapped(page(2)));
    assert_eq!(
        fault_of(m.space.read(VirtAddr::new(u64::MAX), &mut bytes)),
        Fault::NotMapped(VirtAddr::new(u64::MAX))
    );
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of pages take minutes")]
fn emptied_tables_do_not_pile_up() {
    let m = machine();
    for i in 0..2000u64 {
        map_at(&m, i * 512, 1, RW).unwrap();
        m.store(page(i * 512), 1).unwrap();
        unmap(&m, i * 512, 1).unwrap();
    }
    assert!(m.space.look().table().table_frames() < 400);
    assert!(m.sink.table_flushes() < 20);
    audit(&m.space.look()).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of pages take minutes")]
fn nothing_is_in_use_after_exit() {
    let m = machine();
    map_at(&m, 0, 600, RW).unwrap();
    for i in (0..600).step_by(7) {
        m.store(page(i), 1).unwrap();
    }
    m.space.exit().unwrap();
    let stats = m.frames.stats();
    assert_eq!((stats.pages, stats.tables), (0, 0));
}
