//! Pages that come back with those after them, read together.

use super::failure::{FIRST, Faulty};
use super::shared::map_shared;
use super::*;

const PAGES: u64 = 40;

/// A machine whose faults bring in several pages, with pages that hold 100 and their number, all swapped out side by side.
fn all_side_by_side(map: impl FnOnce(&SoftwareMachine)) -> (SoftwareMachine, Arc<Faulty>) {
    let store = Faulty::new();
    let m = stored(1024, Box::new(Arc::clone(&store)));
    map(&m);
    fill(&m, 0..PAGES);
    page_out(&m, 0, PAGES);
    // It has gone on page by page so far; now it jumps about.
    map_at(&m, 100, 50, RW).unwrap();
    [148, 110, 130, 120].into_iter().for_each(|i| m.store(page(i), 1).unwrap());
    unmap(&m, 100, 50).unwrap();
    m.space.look().system().sysctl.set_fault_ahead(64);
    (m, store)
}

fn own() -> (SoftwareMachine, Arc<Faulty>) {
    all_side_by_side(|m| _ = map_at(m, 0, PAGES, RW).unwrap())
}

fn shared() -> (SoftwareMachine, Arc<Faulty>) {
    all_side_by_side(|m| map_shared(m, 0, PAGES))
}

/// How many pages were read at a time.
fn reads(store: &Faulty) -> Vec<usize> {
    store.read_runs.lock().unwrap().clone()
}

#[test]
fn who_goes_on_page_by_page_has_more_read_each_time() {
    for (m, store) in [own(), shared()] {
        assert_eq!(bytes(&m, 0..PAGES), (100..140).collect::<Vec<u8>>());
        assert_eq!((reads(&store), moved(&m)), (vec![1, 2, 4, 8, 16, 9], (40, 40)));
        assert_eq!(m.frames.stats().pages, 40);
        end(vec![m], vec![]);
    }
}

#[test]
fn so_has_who_goes_downwards() {
    for (m, store) in [own(), shared()] {
        let down: Vec<u8> = (0..PAGES).rev().map(|i| m.load(page(i)).unwrap()).collect();
        assert_eq!(down, (100..140).rev().collect::<Vec<u8>>());
        assert_eq!((reads(&store), moved(&m)), (vec![1, 2, 4, 8, 16, 9], (40, 40)));
        end(vec![m], vec![]);
    }
}

#[test]
fn who_jumps_about_has_one_read() {
    for (m, store) in [own(), shared()] {
        for i in [30, 10, 20, 5] {
            assert_eq!(m.load(page(i)).unwrap(), 100 + i as u8);
        }
        assert_eq!((reads(&store), m.frames.stats().pages), (vec![1; 4], 4));
        end(vec![m], vec![]);
    }
}

#[test]
fn what_came_along_counts_as_accessed() {
    let (m, _) = own();
    assert_eq!(bytes(&m, 0..2), [100, 101]);
    assert_eq!((counts(&m), usage(&m).referenced), ((3, 37), 3 * PAGE_SIZE));
    end(vec![m], vec![]);
}

#[test]
fn pages_that_cannot_be_read_together_are_read_one_by_one() {
    for (m, store) in [own(), shared()] {
        m.load(page(0)).unwrap();
        store.reads.refuse(FIRST);
        assert_eq!(bytes(&m, 1..3), [101, 102]);
        assert_eq!((store.reads.stop() > 0, reads(&store)), (true, vec![1, 1, 1]));
        assert_eq!(bytes(&m, 0..PAGES), (100..140).collect::<Vec<u8>>());
        end(vec![m], vec![]);
    }
}

#[test]
fn advice_reads_them_together() {
    for (m, store) in [own(), shared()] {
        advise(&m, 0, PAGES, Advice::WillNeed);
        assert_eq!((reads(&store), m.frames.stats().pages), (vec![16, 16, 8], 40));
        assert_eq!(mincore(&m, PAGES), vec![1; 40]);
        assert_eq!(bytes(&m, 0..PAGES), (100..140).collect::<Vec<u8>>());
        assert_eq!(reads(&store), [16, 16, 8]);
        end(vec![m], vec![]);
    }
}
