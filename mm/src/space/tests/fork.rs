//! fork(2).

use std::num::NonZeroU64;

use super::*;

#[test]
fn a_fork_that_finds_no_frame_for_a_table_leaves_no_page_behind() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 1).unwrap();
    // The child's root, the three tables below it, and the copy of the page.
    for nth in 1..=5 {
        m.frames.failures().refuse(NonZeroU64::new(nth).unwrap());
        assert_eq!(errno_of(m.space.change().fork().map(drop)), Errno::ENOMEM);
        m.frames.failures().stop();
        assert_eq!(m.frames.stats().pages, 1, "allocation {nth}");
    }
}
