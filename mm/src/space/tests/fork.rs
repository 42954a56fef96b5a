//! fork(2).

use std::num::NonZeroU64;

use super::*;

#[test]
fn a_fork_that_finds_no_frame_for_a_table_leaves_no_page_behind() {
    let m = machine();
    map_at(&m, 0, 1, RW).unwrap();
    m.store(page(0), 1).unwrap();
    // The child's root and the three tables below it.
    for nth in 1..=4 {
        m.frames.failures().refuse(NonZeroU64::new(nth).unwrap());
        assert_eq!(errno_of(m.space.change().fork(Vcpus::Running).map(drop)), Errno::ENOMEM);
        m.frames.failures().stop();
        assert_eq!(m.frames.stats().pages, 1, "allocation {nth}");
    }
}

#[test]
fn a_child_has_its_parents_modes_but_what_is_not_for_children() {
    let m = machine();
    {
        let mut space = m.space.change();
        space.set_mdwe(3, [0; 3]).unwrap();
        space.set_thp_disable(1, 0, [0; 2]).unwrap();
        space.mlockall(2).unwrap();
        let modes = space.modes_mut();
        modes.personality = ADDR_COMPAT_LAYOUT;
        modes.default_flags |= VmFlags::NOHUGEPAGE;
        modes.dumpable = Dumpable::No;
        modes.core_filter = 0x7f;
    }
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    let modes = child.modes();
    assert_eq!(modes.mdwe, Mdwe::Off, "PR_MDWE_NO_INHERIT");
    assert_eq!(modes.default_flags, VmFlags::NOHUGEPAGE, "MCL_FUTURE is not inherited");
    assert_eq!((modes.thp_disabled, modes.personality), (1, ADDR_COMPAT_LAYOUT));
    assert_eq!((modes.dumpable, modes.core_filter), (Dumpable::No, 0x7f));
    child.exit().unwrap();
    // A MDWE that is for children too stays.
    let m = machine();
    m.space.change().set_mdwe(1, [0; 3]).unwrap();
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    assert_eq!(child.modes().mdwe, Mdwe::RefuseExecGain);
    child.exit().unwrap();
}

#[test]
fn a_child_has_its_parents_layout_and_counts_of_its_own() {
    let m = machine();
    map_at(&m, 0, 4, RW).unwrap();
    m.store(page(0), 1).unwrap();
    unmap(&m, 2, 2).unwrap();
    {
        let mut space = m.space.change();
        space.set_code(page(0)..page(1));
        space.set_data(page(1)..page(2));
        space.set_strings(page(2)..page(3), page(3)..page(4));
        space.set_start_stack(page(5));
        space.set_brk(page(6), page(7));
        space.set_auxv(vec![6, 4096, 0, 0]);
        space.counters().pinned.store(3, Ordering::Relaxed);
    }
    let child = m.space.change().fork(Vcpus::Running).unwrap();
    let parent = m.space.look();
    assert_eq!(format!("{:?}", child.layout()), format!("{:?}", parent.layout()));
    assert_eq!(child.layout().auxv, [6, 4096, 0, 0]);
    assert_eq!((child.account().total, child.account().peak), (2, 2), "not its parent's peak");
    assert_eq!(child.counters().pinned.load(Ordering::Relaxed), 0);
    drop(parent);
    child.exit().unwrap();
}
