//! Pages of a pager leave and come back, and are taken where they are, while vCPUs write them: nobody uses a frame
//! that is free, and nothing that was written is lost.

use std::collections::BTreeMap;

use mm::backing::{PageBytes, PagedMemory, Pager};
use shuttle::sync::Mutex;

use super::*;

/// What is outside memory: pages that were taken, by offset; others are zeros.
type Store = Arc<Mutex<BTreeMap<u64, PageBytes>>>;

/// Memory of so many pages over a store, mapped from page 0 on.
fn paged(m: &Machine, pages: u64) -> (Store, PagedMemory) {
    let store = Store::default();
    let (filling, taking) = (Arc::clone(&store), Arc::clone(&store));
    let pager = Pager::new("pages", pages * PAGE_SIZE, move |offset, page| {
        if let Some(taken) = filling.lock().unwrap().get(&offset) {
            *page = *taken;
        }
        Ok(())
    });
    let pager = pager.taking(move |offset, page| {
        taking.lock().unwrap().insert(offset, *page);
        Ok(())
    });
    let memory = pager.open(&m.system);
    let shared = MapFlags::FIXED | MapType::Shared.into();
    memory.map(&m.user, page(0), RW, shared).unwrap();
    (store, memory)
}

/// The word at the start of a page that was taken.
fn taken(store: &Store, page: u64, at: usize) -> u64 {
    let store = store.lock().unwrap();
    let word = |page: &PageBytes| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
    store.get(&(page * PAGE_SIZE)).map_or(0, word)
}

/// Counts up in a word of the page, which nobody else writes.
fn counts(vcpu: &Vcpu, at: u64) {
    for n in 1..=3 {
        vcpu.store(page(0).offset(at), n).unwrap();
        assert_eq!(vcpu.load(page(0).offset(at)).unwrap(), n, "what was just written is lost");
    }
}

/// Two vCPUs count in one page, which is cached by both, beside something that the host does.
fn beside(host: fn(&Machine, &PagedMemory, &Store)) {
    let m = Machine::empty();
    let (store, memory) = paged(&m, 1);
    let vcpus = [m.vcpu(), m.vcpu()];
    vcpus.iter().for_each(|vcpu| vcpu.store(page(0).offset(16), 9).unwrap());
    m.tlbs.hurry();
    let [first, second] = vcpus;
    let running = [run(first, |vcpu| counts(vcpu, 0)), run(second, |vcpu| counts(vcpu, 8))];
    host(&m, &memory, &store);
    running.into_iter().for_each(Running::end);
    assert_eq!([0, 8, 16].map(|at| word(&m.user, page(0).offset(at))), [3, 3, 9]);
    memory.evict(1).unwrap();
    assert_eq!([0, 8, 16].map(|at| taken(&store, 0, at)), [3, 3, 9]);
    drop(memory);
    m.end(vec![]);
}

#[test]
fn a_page_leaves_beside_its_writers() {
    in_any_order(|| {
        beside(|_, memory, _| {
            for _ in 0..2 {
                memory.evict(1).unwrap();
            }
        });
    });
}

#[test]
fn a_page_is_taken_where_it_is_beside_its_writers() {
    in_any_order(|| {
        beside(|m, memory, store| {
            for _ in 0..2 {
                let before = word(&m.user, page(0));
                memory.sync().unwrap();
                let taken = taken(store, 0, 0);
                assert!(before <= taken, "{taken} was taken after {before} was there");
            }
        });
    });
}

#[test]
fn a_page_leaves_by_two_at_once() {
    in_any_order(|| {
        beside(|m, memory, _| {
            let system = Arc::clone(&m.system);
            let other = thread::spawn(move || system.reclaim().unwrap());
            memory.evict(1).unwrap();
            memory.sync().unwrap();
            other.join().unwrap();
        });
    });
}

/// A page is unmapped beside its writer and something that the host does with it.
fn unmapped_beside(host: fn(&PagedMemory)) {
    let m = Machine::empty();
    let (store, memory) = paged(&m, 1);
    let vcpu = m.vcpu();
    vcpu.store(page(0), 0).unwrap();
    let writer = run(vcpu, |vcpu| count(vcpu, |fault| matches!(fault, Fault::NotMapped(_))));
    let working = thread::spawn(move || {
        host(&memory);
        memory
    });
    m.user.change().munmap(page(0), PAGE_SIZE).unwrap();
    let refused = writer.end();
    let memory = working.join().unwrap();
    // By now the flush of munmap is over, after which nothing is written.
    memory.evict(1).unwrap();
    assert_eq!(taken(&store, 0, 0), refused - 1, "what was written last");
    drop(memory);
    m.end(vec![]);
}

#[test]
fn what_is_unmapped_while_it_leaves_is_taken_as_it_was_last() {
    in_any_order(|| unmapped_beside(|memory| _ = memory.evict(1).unwrap()));
}

#[test]
fn what_is_unmapped_while_it_is_taken_is_taken_again_as_it_was_last() {
    in_any_order(|| unmapped_beside(|memory| memory.sync().unwrap()));
}
