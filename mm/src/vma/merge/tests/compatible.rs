//! What two neighbours must have in common to be one VMA (Linux's `is_mergeable_vma`).

use super::*;
use crate::addr::Frame;
use crate::backing::{BackingError, BackingName};
use crate::promise::Payer;
use crate::userfault::Userfault;
use crate::vma::policy::Policy;

/// An open file.
#[derive(Debug)]
struct File {
    /// Wants to hear of the end of each map.
    hooked: Hook,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hook {
    None,
    Close,
}

impl Backing for File {
    fn page(&self, _: u64, _: &dyn Payer) -> Result<Frame, BackingError> {
        Err(BackingError::NoPage)
    }

    fn name(&self) -> BackingName {
        BackingName::default()
    }

    fn has_close_hook(&self) -> bool {
        self.hooked == Hook::Close
    }
}

fn file(hooked: Hook) -> Arc<dyn Backing> {
    Arc::new(File { hooked })
}

#[test]
fn equal_neighbours_merge() {
    assert!(merge(|_, _| ()));
}

#[test]
fn each_flag_that_differs_keeps_neighbours_apart() {
    let ignored = VmFlags::STICKY | VmFlags::SPECIAL;
    for flag in VmFlags::all().difference(ignored).iter() {
        assert!(!merge(|left, _| left.flags ^= flag), "{flag:?}");
    }
}

#[test]
fn what_is_soft_dirty_or_guarded_merges_with_what_is_not_and_what_comes_of_it_is() {
    for flag in [VmFlags::SOFTDIRTY, VmFlags::MAYBE_GUARD] {
        assert!(merge(|left, _| left.flags |= flag), "{flag:?}");
        for (left, right) in [(flag, VmFlags::empty()), (VmFlags::empty(), flag)] {
            let (left, right) =
                neighbours(|a, b| (a.flags, b.flags) = (a.flags | left, b.flags | right));
            let mut tree = tree(vec![left]);
            insert_merged(&mut tree, right, Origin::New);
            assert!(tree.first().unwrap().flags.contains(flag), "{flag:?}");
        }
    }
}

#[test]
fn what_a_vma_vanishes_in_keeps_its_guards() {
    let mut three = vmas("[AA][BB][AA]");
    three[2].flags |= VmFlags::MAYBE_GUARD;
    let mut tree = tree(three);
    merge_existing(&mut tree, &vma("    [AA]    ")).unwrap();
    assert_eq!(tree.len(), 1);
    assert!(tree.first().unwrap().flags.contains(VmFlags::MAYBE_GUARD));
}

#[test]
fn special_memory_never_merges() {
    for flag in VmFlags::SPECIAL.iter() {
        let both = |left: &mut Vma, right: &mut Vma| {
            left.flags |= flag;
            right.flags |= flag;
        };
        assert!(!merge(both), "{flag:?}");
    }
}

#[test]
fn maps_of_one_open_file_merge_where_the_pages_go_on() {
    let map = |distance: u64| {
        move |left: &mut Vma, right: &mut Vma| {
            let file = file(Hook::None);
            (left.pgoff, right.pgoff) = (7, 7 + distance);
            (left.backing, right.backing) = (Some(Arc::clone(&file)), Some(file));
        }
    };
    assert!(merge(map(6)));
    assert!(!merge(map(5)) && !merge(map(7)) && !merge(map(0)));
}

#[test]
fn maps_of_one_open_file_with_a_hole_between_do_not_merge() {
    let mut three = hooked("[AA]....[AA]", Hook::None);
    three[1].pgoff = three[0].pgoff + three[0].range().pages();
    let (right, left) = (three.remove(1), three.remove(0));
    assert!(!continues(&left, &right) && !may_share(&left, &right));
}

#[test]
fn maps_of_two_opens_do_not_merge() {
    assert!(!merge(|left, right| {
        (left.backing, right.backing) = (Some(file(Hook::None)), Some(file(Hook::None)));
    }));
    assert!(!merge(|left, _| left.backing = Some(file(Hook::None))));
    assert!(!merge(|_, right| right.backing = Some(file(Hook::None))));
}

#[test]
fn anonymous_memory_that_came_from_elsewhere_does_not_merge() {
    assert!(!merge(|_, right| right.pgoff += 1));
    assert!(!merge(|left, _| left.pgoff -= 1));
}

#[test]
fn policies_that_are_equal_merge() {
    let policy = |mode, nodes| Policy::new(mode, nodes, 3).unwrap();
    let with = |a, b| {
        merge(|left, right| {
            left.set_policy(a);
            right.set_policy(b);
        })
    };
    const PREFERRED: u64 = 1;
    const BIND: u64 = 2;
    assert!(with(policy(BIND, 1), policy(BIND, 1)));
    assert!(!with(policy(BIND, 1), policy(BIND, 2)));
    assert!(!with(policy(BIND, 1), policy(PREFERRED, 1)));
    assert!(!with(policy(BIND, 1), None));
    assert!(!with(None, policy(BIND, 1)));
}

#[test]
fn names_that_are_equal_merge() {
    let name = |text: &str| Some(Arc::from(text));
    let with = |a, b| {
        merge(|left, right| {
            left.set_name(a);
            right.set_name(b);
        })
    };
    assert!(with(name("heap"), name("heap")));
    assert!(!with(name("heap"), name("heaps")));
    assert!(!with(name("heap"), None));
    assert!(!with(None, name("heap")));
}

#[test]
fn only_one_userfaultfd_s_memory_merges() {
    let with = |a, b| {
        merge(|left, right| {
            left.set_userfault(a);
            right.set_userfault(b);
        })
    };
    let (one, other) = (Arc::new(Userfault::default()), Arc::new(Userfault::default()));
    assert!(with(Some(Arc::clone(&one)), Some(Arc::clone(&one))));
    assert!(!with(Some(Arc::clone(&one)), Some(other)));
    assert!(!with(Some(Arc::clone(&one)), None));
    assert!(!with(None, Some(one)));
}

/// A drawing's VMAs as maps of one file.
fn hooked(drawing: &str, hook: Hook) -> Vec<Vma> {
    let file = file(hook);
    let mut three = vmas(drawing);
    three.iter_mut().for_each(|vma| vma.backing = Some(Arc::clone(&file)));
    three
}

/// The second as it is to be: like the first.
fn like(three: &[Vma]) -> Vma {
    let mut changed = three[1].clone();
    changed.flags = three[0].flags;
    changed
}

#[test]
fn a_map_whose_end_its_file_wants_to_hear_of_does_not_vanish_in_a_neighbour() {
    for (hook, merges) in [(Hook::None, true), (Hook::Close, false)] {
        let three = hooked("[AA][BB][AA]", hook);
        let changed = like(&three);
        assert_eq!(merge_existing(&mut tree(three), &changed).is_some(), merges, "{hook:?}");
    }
}

#[test]
fn a_map_with_such_a_file_still_gives_up_a_part() {
    let three = hooked("[AA][BBBB][AA]", Hook::Close);
    let part = PageRange::new(page(4), page(7)).unwrap();
    let changed = like(&three).part(part);
    let mut tree = tree(three);
    merge_existing(&mut tree, &changed).unwrap();
    assert_eq!(drawn(&tree, 14), "[AAAAA][B][AA]");
}

#[test]
fn a_hole_between_two_such_maps_joins_the_one_before_it_only() {
    for (hook, after) in [(Hook::None, "[AAAAAAAAAA]"), (Hook::Close, "[AAAAAA][AA]")] {
        let three = hooked("[AA][BB][AA]", hook);
        let new = like(&three);
        let mut tree = tree(vec![three[0].clone(), three[2].clone()]);
        merge_new(&mut tree, &new, Origin::New).unwrap();
        assert_eq!(drawn(&tree, 12), after, "{hook:?}");
    }
}
