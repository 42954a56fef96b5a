//! The locks of families and chains under loom: every order of two threads. Page tables are a few slots
//! here, changed as `space/relocate`, `space/fork` and `space/exit` do, and looked at as
//! [`entries_of`](crate::rmap::AnonVmas::entries_of) does.

// The code itself, with `super::sync` being this module's.
#[path = "../chain.rs"]
#[allow(clippy::duplicate_mod, reason = "once over each kind of locks")]
#[allow(dead_code, reason = "not all of it has to do with threads")]
mod chain;
#[path = "../family.rs"]
#[allow(clippy::duplicate_mod, reason = "once over each kind of locks")]
mod family;
#[path = "../ranges.rs"]
#[allow(clippy::duplicate_mod, reason = "once over each kind of locks")]
#[allow(dead_code, reason = "not all of it has to do with threads")]
mod ranges;

mod sync {
    pub(super) use loom::sync::{Mutex, RwLock};
}

use std::ops::ControlFlow;

use chain::{Chain, Entries};
use family::{Family, ROOT};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;
use ranges::Piece;

/// The number of the family's root, and the index of the page that is asked for.
const NUMBER: u32 = 1;
const INDEX: u64 = 7;
/// An entry that names the page.
const NAMED: u64 = 42;

/// A space's page table.
struct Table {
    structure: Mutex<()>,
    slots: [AtomicU64; 2],
    /// It was given up.
    gone: AtomicBool,
}

impl Table {
    fn new(first: u64) -> Arc<Table> {
        let slots = [AtomicU64::new(first), AtomicU64::new(0)];
        Arc::new(Table { structure: Mutex::new(()), slots, gone: AtomicBool::new(false) })
    }

    fn entry(&self, at: usize) -> u64 {
        self.slots[at].load(Ordering::Acquire)
    }
}

impl Entries for Arc<Table> {
    type Still<'a> = MutexGuard<'a, ()>;

    fn hold_still(&self) -> MutexGuard<'_, ()> {
        self.structure.lock().unwrap()
    }
}

type Shared = Arc<Family<Arc<Table>>>;

/// A process that has written the page, at its address 0.
fn written() -> (Shared, std::sync::Arc<Chain<Arc<Table>>>, Arc<Table>) {
    let (family, table) = (Arc::new(Family::new()), Table::new(NAMED));
    let chain = family.found(NUMBER, Arc::clone(&table));
    chain.add(at(0));
    (family, chain, table)
}

/// The page at this address.
fn at(address: u64) -> Piece {
    Piece::new(address, 1, INDEX)
}

/// Looks at every place where the page may be; says how many there name it.
fn ask(family: &Shared, mut then: impl FnMut(&AtomicU64)) -> usize {
    let mut found = 0;
    let all = family.each_chain(ROOT, NUMBER, usize::MAX, |chain| {
        chain.find(INDEX, |table, addresses| {
            for address in addresses {
                assert!(!table.gone.load(Ordering::Relaxed), "looked into a table that is gone");
                let slot = &table.slots[crate::addr::index(address)];
                if slot.load(Ordering::Acquire) == NAMED {
                    found += 1;
                    then(slot);
                }
            }
        });
        ControlFlow::<()>::Continue(())
    });
    assert!(all.is_continue());
    found
}

#[test]
fn a_page_on_the_move_is_found_once() {
    loom::model(|| {
        let (family, chain, table) = written();
        let asked = Arc::clone(&family);
        let asker = thread::spawn(move || ask(&asked, |_| ()));
        chain.add(at(1));
        {
            let _still = table.structure.lock().unwrap();
            let entry = table.slots[0].swap(0, Ordering::AcqRel);
            table.slots[1].store(entry, Ordering::Release);
        }
        chain.remove(at(0));
        assert_eq!(asker.join().unwrap(), 1);
    });
}

#[test]
fn who_takes_a_page_away_leaves_it_to_no_child_that_is_being_made() {
    loom::model(|| {
        let (family, chain, table) = written();
        let taken = Arc::clone(&family);
        let taker = thread::spawn(move || ask(&taken, |slot| slot.store(0, Ordering::Release)));
        let child = Table::new(0);
        let forked = family.fork(&chain, Arc::clone(&child), |_| Some(2)).unwrap();
        forked.add(at(0));
        {
            let _still = table.structure.lock().unwrap();
            child.slots[0].store(table.entry(0), Ordering::Release);
        }
        taker.join().unwrap();
        assert_eq!((table.entry(0), child.entry(0)), (0, 0));
    });
}

#[test]
fn nobody_looks_into_a_table_that_its_process_has_given_up() {
    loom::model(|| {
        let (family, chain, table) = written();
        let child = Table::new(NAMED);
        let forked = family.fork(&chain, Arc::clone(&child), |_| Some(2)).unwrap();
        forked.add(at(0));
        let asked = Arc::clone(&family);
        let asker = thread::spawn(move || ask(&asked, |_| ()));
        table.slots[0].swap(0, Ordering::AcqRel);
        family.unlink(&chain, |_| ());
        table.gone.store(true, Ordering::Relaxed);
        // The child's is found whatever becomes of the parent.
        assert!((1..=2).contains(&asker.join().unwrap()));
    });
}

#[test]
fn a_node_that_a_child_takes_over_is_found_through_all_that_are_linked_to_it() {
    loom::model(|| {
        let (family, first, _) = written();
        let of_second = Table::new(NAMED);
        let second = family.fork(&first, Arc::clone(&of_second), |_| Some(2)).unwrap();
        second.add(at(0));
        let of_third = Table::new(NAMED);
        let third = family.fork(&second, Arc::clone(&of_third), |_| Some(3)).unwrap();
        third.add(at(0));
        family.unlink(&second, |_| ());
        let asked = Arc::clone(&family);
        let asker = thread::spawn(move || ask(&asked, |_| ()));
        // The second's node has one child, and is nobody's own.
        let fourth = family.fork(&third, Table::new(0), |_| Some(4)).unwrap();
        assert_eq!(fourth.number, 2);
        fourth.add(at(0));
        family.audit().unwrap();
        assert_eq!(asker.join().unwrap(), 2);
    });
}
