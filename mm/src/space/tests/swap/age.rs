//! Which pages count as used of late.

use super::*;
use crate::paging::ForkedRoot;

/// After a fork that gives the parent a fresh root its accessed bits are clear, and remembered otherwise.
#[test]
fn what_was_used_before_a_fork_is_looked_at_as_used_whatever_becomes_of_the_root() {
    const ONFAULT: u64 = 1;
    let left = [ForkedRoot::Kept, ForkedRoot::Fresh].map(|root| {
        let m = swapping(1024, 100);
        m.sink.set_forked_root(root);
        map_at(&m, 0, 1, RW).unwrap();
        fill(&m, 0..1);
        let child = stopped_child_of(&m);
        child.space.change().mlock2(page(0), PAGE_SIZE, ONFAULT).unwrap();
        assert_eq!(usage(&m).referenced, PAGE_SIZE);
        swap_out_all(&m);
        let referenced = usage(&m).referenced;
        end(vec![m, child], vec![]);
        referenced
    });
    assert_eq!(left, [0; 2], "the child has it locked, but both are looked at");
}
