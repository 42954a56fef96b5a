//! As many spans as Linux allows a process by default (`vm.max_map_count`).

use super::{comb, page, pages};
use crate::addr::PAGE_SIZE;
use crate::vma::tree::Tree;

const MAX_MAP_COUNT: u64 = if cfg!(miri) { 300 } else { 65_530 };

/// Every number below `count` once, in an order that looks drawn: a step that has no factor in common
/// with `count` visits all.
fn shuffled(count: u64) -> impl Iterator<Item = u64> {
    let step = (count / 2..).find(|step| gcd(*step, count) == 1).unwrap_or(1) * 7 % count;
    let step = (step..).find(|step| gcd(*step, count) == 1).unwrap_or(1);
    (0..count).map(move |index| index * step % count)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[test]
fn a_process_with_all_the_vmas_allowed_grows_answers_and_shrinks() {
    let mut tree = Tree::new();
    for (done, index) in shuffled(MAX_MAP_COUNT).enumerate() {
        tree.insert(pages(2 * index + 1, 2 * index + 2)).unwrap();
        if done % 20_000 == 0 {
            tree.audit().unwrap();
        }
    }
    tree.audit().unwrap();
    assert_eq!(tree.len() as u64, MAX_MAP_COUNT);
    assert!(tree.height <= 2, "{} levels", tree.height);

    for index in 0..MAX_MAP_COUNT {
        let span = pages(2 * index + 1, 2 * index + 2);
        assert_eq!(tree.find(page(2 * index)), Some(&span));
        assert_eq!(tree.find_exact(page(2 * index)), None);
        assert_eq!(tree.find_exact(page(2 * index + 1)), Some(&span));
        assert_eq!(tree.insert(span), Err(span));
        assert_eq!(
            tree.highest_gap(PAGE_SIZE, page(0), page(2 * index + 2)),
            Some(page(2 * index))
        );
        assert_eq!(
            tree.lowest_gap(PAGE_SIZE, page(2 * index), tree.highest_end()),
            Some(page(2 * index))
        );
    }
    assert_eq!(tree.highest_gap(2 * PAGE_SIZE, page(0), tree.highest_end()), None);
    assert_eq!(tree.iter().count() as u64, MAX_MAP_COUNT);
    assert!(tree.iter().rev().is_sorted_by(|a, b| a.start() > b.start()));

    for (done, index) in shuffled(MAX_MAP_COUNT).enumerate() {
        assert_eq!(tree.remove(page(2 * index + 1)), Some(pages(2 * index + 1, 2 * index + 2)));
        if done % 20_000 == 0 {
            tree.audit().unwrap();
        }
    }
    tree.audit().unwrap();
    assert_eq!((tree.leaves.in_use(), tree.inners.in_use()), (0, 0));
}

#[test]
fn bounds_and_nodes_take_less_than_sixty_bytes_a_span() {
    let bytes_besides =
        |tree: &Tree<_>| (tree.leaves.bytes() + tree.inners.bytes()) as u64 / MAX_MAP_COUNT;
    let mut random = Tree::new();
    shuffled(MAX_MAP_COUNT)
        .for_each(|index| random.insert(pages(2 * index + 1, 2 * index + 2)).unwrap());
    for tree in [comb(MAX_MAP_COUNT), random] {
        assert!(bytes_besides(&tree) < 60, "{}", bytes_besides(&tree));
    }
}
