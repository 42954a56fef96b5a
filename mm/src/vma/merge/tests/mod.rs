//! The merge rules. A drawing has a column a page; each pair of brackets is a VMA, the letter in it what
//! may be done with it.
//!
//! ```text
//!   [AAAA]....[BB]     a VMA of six pages (A: read and write), a hole of four, one of four (B: read)
//! ```

mod cases;
mod compatible;
mod identity;

use super::*;
use crate::addr::PAGE_SIZE;
use crate::vma::split::modify;

/// Where a drawing's first column is.
const BASE: u64 = 0x10_0000;

fn page(column: usize) -> VirtAddr {
    VirtAddr::new(BASE + column as u64 * PAGE_SIZE)
}

fn flags_of(letter: char) -> VmFlags {
    VmFlags::MAY
        | match letter {
            'A' => VmFlags::READ | VmFlags::WRITE,
            'B' => VmFlags::READ,
            'C' => VmFlags::empty(),
            _ => panic!("no VMA is drawn with {letter}"),
        }
}

/// The VMAs of a drawing, in order.
fn vmas(drawing: &str) -> Vec<Vma> {
    let starts = drawing.match_indices('[').map(|(at, _)| at);
    let ends = drawing.match_indices(']').map(|(at, _)| at + 1);
    starts
        .zip(ends)
        .map(|(start, end)| {
            let letter = drawing[start + 1..].chars().next().unwrap();
            Vma::anonymous(PageRange::new(page(start), page(end)).unwrap(), flags_of(letter))
        })
        .collect()
}

/// The one VMA of a drawing.
fn vma(drawing: &str) -> Vma {
    vmas(drawing).pop().unwrap()
}

fn tree(vmas: Vec<Vma>) -> Tree<Vma> {
    let mut tree = Tree::new();
    for vma in vmas {
        tree.insert(vma).unwrap();
    }
    tree.reserve(2).unwrap();
    tree
}

/// The drawing of a tree, `columns` wide.
fn drawn(tree: &Tree<Vma>, columns: usize) -> String {
    let mut drawing = vec!['.'; columns];
    for vma in tree.iter() {
        let column = |addr: VirtAddr| ((addr.get() - BASE) / PAGE_SIZE) as usize;
        let (start, end) = (column(vma.range().start()), column(vma.range().end()));
        let letter = "ABC".chars().find(|&letter| flags_of(letter) == vma.flags).unwrap_or('?');
        drawing[start..end].fill(letter);
        (drawing[start], drawing[end - 1]) = ('[', ']');
        assert_eq!(vma.pgoff, vma.range().start().get() / PAGE_SIZE, "{vma:?}");
    }
    tree.audit().unwrap();
    drawing.into_iter().collect()
}

/// What becomes of `before` when the VMA `new` is mapped into its hole.
#[track_caller]
fn mapping(before: &str, new: &str, after: &str) {
    let mut tree = tree(vmas(before));
    insert_merged(&mut tree, vma(new), Origin::New);
    assert_eq!(drawn(&tree, before.len()), after, "\n{before}\n{new}\n");
}

/// What becomes of `before` when the pages of `change` become what it draws.
#[track_caller]
fn changing(before: &str, change: &str, after: &str) {
    let mut tree = tree(vmas(before));
    let (end, _) = modify(&mut tree, vma(change), usize::MAX).unwrap();
    assert_eq!(drawn(&tree, before.len()), after, "\n{before}\n{change}\n");
    let changed = tree.find_exact(vma(change).range().start()).unwrap();
    assert_eq!(changed.range().end(), end, "modify says where the VMA ends");
}

/// Two neighbours, alike but for what `change` does to them.
fn neighbours(change: impl FnOnce(&mut Vma, &mut Vma)) -> (Vma, Vma) {
    let mut pair = vmas("[AAAA][AAAA]").into_iter();
    let (mut left, mut right) = (pair.next().unwrap(), pair.next().unwrap());
    change(&mut left, &mut right);
    (left, right)
}

/// Whether two neighbours become one, whichever of them was there first, and also if both were and one
/// has only now become like the other.
#[track_caller]
fn merge(change: impl FnOnce(&mut Vma, &mut Vma)) -> bool {
    let (left, right) = neighbours(change);
    let upwards = merge_new(&mut tree(vec![left.clone()]), &right, Origin::New).is_some();
    let downwards = merge_new(&mut tree(vec![right.clone()]), &left, Origin::New).is_some();
    let mut before = left.clone();
    before.flags ^= VmFlags::EXEC;
    let changed = merge_existing(&mut tree(vec![before, right]), &left).is_some();
    assert_eq!([upwards, downwards], [changed; 2], "the three ways to merge do not agree");
    changed
}
