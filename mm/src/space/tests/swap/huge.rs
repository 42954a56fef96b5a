//! Huge pages, which go there in small ones.

use super::*;

#[test]
fn a_huge_page_is_taken_apart_and_swapped_out_in_small_ones() {
    let m = swapping(2048, 600);
    m.space.look().system().sysctl.set_thp(Thp::Always);
    map_at(&m, 0, 512, RW).unwrap();
    m.store(page(3), 7).unwrap();
    assert!(m.space.look().table().large(page(0)).is_some());
    page_out(&m, 0, 512);
    assert_eq!((counts(&m), m.frames.stats().pages), ((0, 512), 0));
    assert_eq!(bytes(&m, 2..5), [0, 7, 0]);
    end(vec![m], vec![]);
}

#[test]
fn huge_pages_are_taken_apart_before_anybody_is_killed() {
    let m = swapping(2048, 4000);
    m.space.look().system().sysctl.set_thp(Thp::Always);
    map_at(&m, 0, 4096, RW).unwrap();
    for i in 0..4096 {
        m.store(page(i), (i % 200) as u8).unwrap();
    }
    audited(&[&m]);
    for i in 0..4096 {
        assert_eq!(m.load(page(i)).unwrap(), (i % 200) as u8, "{i}");
    }
    end(vec![m], vec![]);
}

#[test]
fn a_locked_huge_page_stays_also_in_small_ones() {
    let m = swapping(2048, 1200);
    m.space.look().system().sysctl.set_thp(Thp::Always);
    map_at(&m, 0, 1024, RW).unwrap();
    m.store(page(3), 7).unwrap();
    m.space.change().mlock2(page(0), 512 * PAGE_SIZE, 0).unwrap();
    // It is split.
    protect(&m, 0, 1, Prot::READ).unwrap();
    m.space.change().mlock2(page(512), 512 * PAGE_SIZE, 1).unwrap();
    m.store(page(600), 8).unwrap();
    unmap(&m, 1023, 1).unwrap();
    swap_out_all(&m);
    assert_eq!(counts(&m), (1023, 0));
    m.space.change().munlockall();
    swap_out_all(&m);
    assert_eq!((counts(&m), m.load(page(3)).unwrap()), ((0, 1023), 7));
    end(vec![m], vec![]);
}

#[test]
fn what_is_to_be_a_huge_page_comes_in_first() {
    let m = swapping(2048, 600);
    map_at(&m, 0, 512, RW).unwrap();
    fill(&m, 0..100);
    page_out(&m, 0, 100);
    advise(&m, 0, 512, Advice::Collapse);
    assert!(m.space.look().table().large(page(0)).is_some());
    assert_eq!((taken(&m), counts(&m)), ((0, 0), (512, 0)));
    assert_eq!(bytes(&m, 0..100), (100..200).collect::<Vec<u8>>());
    end(vec![m], vec![]);
}
