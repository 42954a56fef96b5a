//! From which nodes a page is to come: what policies mean when there is more than one node (Linux's `policy_nodemask`,
//! `interleave_nid`, `get_vma_policy` in `mm/mempolicy.c`), and what that depends on besides the VMA, the running task.
//!
//! ```text
//!   an object's policy for the page     else the VMA's     else the task's     else none
//!                                                                                │
//!   local, none        the task's node, then the next ...                        v
//!   preferred          its node, then the next ...
//!   preferred-many     its nodes, then the others
//!   bind               its nodes, and no others
//!   interleave         the page's index in the VMA's object, or address, says which of its nodes; then the next ...
//! ```
//!
//! A task's node is its CPU's, and a task has one CPU for as long as it lives: the machine's say ([`enter`]). All weights
//! of weighted interleaving are 1, Linux's default; so it is interleaving.
//!
//! Like Linux's `current`, the task is the thread's. With one node nobody asks for it.

use std::cell::Cell;

use crate::phys::{Beyond, Nodes, Wish};
use crate::vma::policy::{Mode, Policy};

/// What is known of the task that a thread runs.
#[derive(Clone, Copy, Debug)]
struct Task {
    policy: Option<Policy>,
    node: u8,
    /// The node that the last page came from which interleaving in turn has placed (Linux's `il_prev`).
    turn: Option<u8>,
}

thread_local! {
    static CURRENT: Cell<Task> = const { Cell::new(Task { policy: None, node: 0, turn: None }) };
}

/// The calling thread runs a task from now on that has this policy, `None` for the default one, and a CPU of this
/// node. Whoever runs several tasks on a thread says so each time.
pub fn enter(policy: Option<Policy>, node: u8) {
    CURRENT.set(Task { policy, node, turn: None });
}

/// The running task's policy is another from now on.
pub fn set_policy(policy: Option<Policy>) {
    CURRENT.set(Task { policy, turn: None, ..CURRENT.get() });
}

/// The node of the running task's CPU.
#[must_use]
pub fn node() -> u8 {
    CURRENT.get().node
}

/// The node whose turn it is next if the running task's pages are interleaved in turn (what get_mempolicy(2) says with
/// `MPOL_F_NODE`).
#[must_use]
pub(crate) fn next_in_turn(policy: &Policy) -> u8 {
    next_of(policy.nodes, CURRENT.get().turn)
}

/// Which page is asked for, as far as interleaving goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// The page of this index.
    Index(u64),
    /// The next one that anybody asks for (`NO_INTERLEAVE_INDEX`).
    Next,
}

/// From where a page is to come by a policy, or by the running task's if there is none.
pub(crate) fn wish(nodes: &Nodes, policy: Option<&Policy>, which: Which) -> Wish {
    if nodes.is_one() {
        return Wish::ANY;
    }
    let task = CURRENT.get();
    let local = Wish { first: task.node, ..Wish::ANY };
    let Some(policy) = policy.copied().or(task.policy) else { return local };
    let home = Wish { first: policy.home.unwrap_or(task.node), among: policy.nodes, ..Wish::ANY };
    match policy.mode {
        Mode::Local => local,
        Mode::Preferred => Wish { first: next_of(policy.nodes, None), ..Wish::ANY },
        Mode::PreferredMany => home,
        Mode::Bind => Wish { beyond: Beyond::Never, ..home },
        Mode::Interleave | Mode::WeightedInterleave => {
            let first = match which {
                Which::Index(index) => interleaved(policy.nodes, index),
                Which::Next => {
                    let turn = next_of(policy.nodes, task.turn);
                    CURRENT.set(Task { turn: Some(turn), ..task });
                    turn
                }
            };
            Wish { first, ..Wish::ANY }
        }
    }
}

/// From where a page of a file is to come: no VMA has a say (`filemap_alloc_folio`).
pub(crate) fn wish_of_file(nodes: &Nodes) -> Wish {
    wish(nodes, None, Which::Next)
}

/// Whether pages that lie side by side come from different nodes.
pub(crate) fn interleaves(nodes: &Nodes, policy: Option<&Policy>) -> bool {
    let mode = || policy.copied().or(CURRENT.get().policy).map(|policy| policy.mode);
    !nodes.is_one() && matches!(mode(), Some(Mode::Interleave | Mode::WeightedInterleave))
}

/// The node of the page with this index (`interleave_nid`).
fn interleaved(nodes: u64, index: u64) -> u8 {
    let nth = index % u64::from(nodes.count_ones().max(1));
    (0..nth).fold(next_of(nodes, None), |node, _| next_of(nodes, Some(node)))
}

/// The node after another one, or the first (`next_node_in`).
fn next_of(nodes: u64, after: Option<u8>) -> u8 {
    let passed =
        after.map_or(0, |node| 2_u64.checked_shl(u32::from(node)).unwrap_or(0).wrapping_sub(1));
    let left = if nodes & !passed == 0 { nodes } else { nodes & !passed };
    // No machine has more nodes than bits of a byte say.
    u8::try_from(left.trailing_zeros() % 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phys::BLOCK_FRAMES;

    fn order(policy: Option<Policy>, which: Which) -> Vec<u8> {
        let nodes = Nodes::new(4, 64 * BLOCK_FRAMES);
        nodes.order(wish(&nodes, policy.as_ref(), which)).collect()
    }

    fn policy(mode: u64, nodes: u64) -> Option<Policy> {
        Policy::new(mode, nodes, 0xf).unwrap()
    }

    #[test]
    fn each_policy_begins_with_its_node_and_only_bind_ends_with_its_nodes() {
        enter(None, 1);
        let any = Which::Index(0);
        assert_eq!(order(None, any), [1, 2, 3, 0]);
        assert_eq!(order(policy(4, 0), any), [1, 2, 3, 0], "local");
        assert_eq!(order(policy(1, 0b1100), any), [2, 3, 0, 1], "preferred");
        assert_eq!(order(policy(2, 0b1101), any), [2, 3, 0], "bind");
        assert_eq!(order(policy(5, 0b1001), any), [3, 0, 1, 2], "preferred-many");
        let home = policy(2, 0b1101).map(|policy| Policy { home: Some(3), ..policy });
        assert_eq!(order(home, any), [3, 0, 2], "bind with a home");
    }

    #[test]
    fn interleaving_goes_by_the_index_or_in_turn() {
        enter(policy(3, 0b1011), 2);
        let by_index = |index| order(None, Which::Index(index))[0];
        assert_eq!([0, 1, 2, 3, 10].map(by_index), [0, 1, 3, 0, 1]);
        let own = policy(3, 0b1011).unwrap();
        assert_eq!(next_in_turn(&own), 0);
        assert_eq!([(); 5].map(|()| order(None, Which::Next)[0]), [0, 1, 3, 0, 1]);
        assert_eq!(next_in_turn(&own), 3);
        set_policy(policy(6, 0b1100));
        assert_eq!([(); 3].map(|()| order(None, Which::Next)[0]), [2, 3, 2]);
    }

    #[test]
    fn the_node_after_the_highest_is_the_first() {
        assert_eq!([None, Some(0), Some(63)].map(|after| next_of(1 << 63 | 2, after)), [1, 1, 1]);
        assert_eq!(next_of(1 << 63 | 2, Some(1)), 63);
    }
}
