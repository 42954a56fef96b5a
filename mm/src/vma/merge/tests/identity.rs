//! Which anonymous memory may be one VMA (Linux's `is_mergeable_anon_vma`).

use super::*;

fn own(number: u32) -> Option<AnonId> {
    AnonId::new(number, Lineage::Own)
}

fn inherited(number: u32) -> Option<AnonId> {
    AnonId::new(number, Lineage::Inherited)
}

#[test]
fn memory_written_apart_does_not_merge_and_all_else_does() {
    let with = |a, b| {
        merge(|left, right| {
            left.set_anon(a);
            right.set_anon(b);
        })
    };
    assert!(with(None, None));
    assert!(with(own(1), own(1)));
    assert!(!with(own(1), own(2)));
}

#[test]
fn what_was_written_lends_its_identity_to_what_was_not() {
    for (left, right) in [(own(1), None), (None, own(1))] {
        let (a, b) = neighbours(|a, b| {
            a.set_anon(left);
            b.set_anon(right);
        });
        let mut tree = tree(vec![a]);
        insert_merged(&mut tree, b, Origin::New);
        assert_eq!(tree.len(), 1);
        assert_eq!(tree.first().unwrap().anon(), own(1));
    }
}

#[test]
fn memory_that_came_by_fork_takes_in_nothing_new() {
    for origin in [Origin::New, Origin::Extension, Origin::Moved] {
        let (left, right) = neighbours(|left, _| left.set_anon(inherited(1)));
        assert!(merge_new(&mut tree(vec![left]), &right, origin).is_none(), "{origin:?}");
    }
    let (left, mut right) = neighbours(|left, _| left.set_anon(inherited(1)));
    right.flags ^= VmFlags::EXEC;
    let mut changed = right.clone();
    changed.flags = left.flags;
    assert!(merge_existing(&mut tree(vec![left, right]), &changed).is_none());
}

#[test]
fn memory_that_came_by_fork_joins_unwritten_memory_only_where_it_is_new() {
    for (origin, merges) in [(Origin::New, true), (Origin::Extension, true), (Origin::Moved, false)]
    {
        let (left, right) = neighbours(|_, right| right.set_anon(inherited(1)));
        let merged = merge_new(&mut tree(vec![left]), &right, origin).is_some();
        assert_eq!(merged, merges, "{origin:?}");
    }
    let (left, mut right) = neighbours(|_, right| right.set_anon(inherited(1)));
    let changed = right.clone();
    right.flags ^= VmFlags::EXEC;
    assert!(merge_existing(&mut tree(vec![left, right]), &changed).is_none());
}

#[test]
fn memory_of_one_branch_of_a_family_merges() {
    assert!(merge(|left, right| {
        left.set_anon(inherited(1));
        right.set_anon(inherited(1));
    }));
}

/// `[AA]....[AA]`, whose sides have these identities.
fn sides(left: Option<AnonId>, right: Option<AnonId>) -> Tree<Vma> {
    let mut two = vmas("[AA]....[AA]");
    two[0].set_anon(left);
    two[1].set_anon(right);
    tree(two)
}

#[test]
fn a_hole_between_two_written_apart_joins_the_one_before_it() {
    let mut tree = sides(own(1), own(2));
    merge_new(&mut tree, &vma("    [AA]    "), Origin::New).unwrap();
    assert_eq!(drawn(&tree, 12), "[AAAAAA][AA]");
}

#[test]
fn a_hole_filled_beside_a_written_one_gives_all_its_identity() {
    for (left, right) in [(own(1), None), (None, own(1)), (own(1), own(1))] {
        let mut tree = sides(left, right);
        merge_new(&mut tree, &vma("    [AA]    "), Origin::New).unwrap();
        assert_eq!(drawn(&tree, 12), "[AAAAAAAAAA]");
        assert_eq!(tree.first().unwrap().anon(), own(1));
    }
}

#[test]
fn a_vma_that_vanishes_between_two_leaves_its_identity() {
    let mut three = vmas("[AA][BB][AA]");
    three[1].set_anon(own(1));
    let mut tree = tree(three);
    merge_existing(&mut tree, &vma("    [AA]    ")).unwrap();
    assert_eq!(drawn(&tree, 12), "[AAAAAAAAAA]");
    assert_eq!(tree.first().unwrap().anon(), own(1));
}

#[test]
fn neighbours_share_an_identity_where_only_what_mprotect_changes_differs() {
    let share = |change: &dyn Fn(&mut Vma, &mut Vma)| {
        let (left, right) = neighbours(change);
        may_share(&left, &right)
    };
    let changeable = VmFlags::ACCESS | VmFlags::STICKY;
    assert!(share(&|left, _| left.flags ^= changeable));
    for flag in VmFlags::all().difference(changeable).iter() {
        assert!(!share(&|left, _| left.flags ^= flag), "{flag:?}");
    }
    assert!(!share(&|_, right| right.pgoff += 1));
    assert!(!share(&|_, right| right.resize(PageRange::new(page(7), page(12)).unwrap())));
}
