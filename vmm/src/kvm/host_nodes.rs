//! The host's NUMA nodes, and which of them has the memory of each of the guest's.
//!
//! ```text
//!   guest's nodes     0   1   2   3        host's nodes with memory, that we may use: 0 and 2
//!   on the host's     0   2   0   2
//! ```
//!
//! The host is asked to prefer that node (`MPOL_PREFERRED`), and not to be bound to it: `--mem` says how much memory
//! the guest may have, and where a node of the host is full, pages elsewhere cost time, while with `MPOL_BIND` the
//! host would kill mmvisor. A policy of our own also keeps the host's balancing (`numa_balancing`) from moving what a
//! vCPU of another node has touched.

use std::io;

use log::debug;
use vm_memory::VolatileSlice;

/// As many nodes as Linux can be built for (`MAX_NUMNODES`), in words of a mask.
const MASK_WORDS: usize = 1024 / 64;
/// What the kernel is told of a mask's length: it looks at one bit fewer.
const MAX_NODE: usize = MASK_WORDS * 64 + 1;
/// `MPOL_PREFERRED` of set_mempolicy(2).
const MPOL_PREFERRED: libc::c_int = 1;
/// `MPOL_F_MEMS_ALLOWED` of get_mempolicy(2).
const MPOL_F_MEMS_ALLOWED: libc::c_ulong = 4;

/// The host's nodes from which mmvisor may have memory, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostNodes(pub(super) Vec<usize>);

impl HostNodes {
    /// Asks the host. Nodes without memory, and those that a cpuset takes from us, are not among them; there are none
    /// where its kernel knows no NUMA.
    pub(crate) fn of_host() -> Self {
        let mut mask = [0_u64; MASK_WORDS];
        let (words, nothing) = (mask.as_mut_ptr(), std::ptr::null_mut::<libc::c_int>());
        // SAFETY: the call writes as many bits as the mask has, and looks at no address of ours.
        let status = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                nothing,
                words,
                MAX_NODE - 1,
                0_usize,
                MPOL_F_MEMS_ALLOWED,
            )
        };
        if status != 0 {
            debug!("the host has no NUMA nodes: {}", io::Error::last_os_error());
            mask = [0; MASK_WORDS];
        }
        HostNodes::of_mask(&mask)
    }

    /// Those whose bits are set.
    fn of_mask(mask: &[u64; MASK_WORDS]) -> Self {
        let is_set = |node: &usize| mask[node / 64] >> (node % 64) & 1 != 0;
        HostNodes((0..MASK_WORDS * 64).filter(is_set).collect())
    }

    /// Their numbers.
    pub(crate) fn numbers(&self) -> &[usize] {
        &self.0
    }

    /// The host's node for one of the guest's: they take turns. `None` where there is nothing to choose.
    pub(super) fn for_node(&self, node: u8) -> Option<usize> {
        let several = self.0.len() > 1;
        several.then(|| self.0[usize::from(node) % self.0.len()])
    }
}

/// Has the host take what memory there will be in this span from one of its nodes, as long as that has any. A host that
/// refuses takes it from where it likes.
pub(super) fn prefer(span: &VolatileSlice<'_>, host_node: usize) {
    let mut mask = [0_u64; MASK_WORDS];
    mask[host_node / 64] = 1 << (host_node % 64);
    // SAFETY: the span lies in a mapping of ours, whose bytes the call leaves as they are; it reads the mask.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            span.ptr_guard_mut().as_ptr(),
            span.len(),
            MPOL_PREFERRED,
            mask.as_ptr(),
            MAX_NODE,
            0_usize,
        )
    };
    if status != 0 {
        let error = io::Error::last_os_error();
        debug!("guest memory: {} bytes are on any node, not on {host_node}: {error}", span.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_nodes_take_turns_on_the_hosts_that_have_memory() {
        let mut mask = [0; MASK_WORDS];
        (mask[0], mask[1]) = (0b101, 1);
        let host = HostNodes::of_mask(&mask);
        assert_eq!(host.numbers(), [0, 2, 64]);
        assert_eq!([0, 1, 2, 3].map(|node| host.for_node(node)), [0, 2, 64, 0].map(Some));
    }

    #[test]
    fn where_the_host_has_one_node_or_none_nothing_is_asked_of_it() {
        assert_eq!(HostNodes(vec![1]).for_node(0), None);
        assert_eq!(HostNodes(Vec::new()).for_node(1), None);
    }

    #[test]
    fn this_hosts_nodes_are_those_that_sysfs_says_have_memory() {
        let Ok(listed) = std::fs::read_to_string("/sys/devices/system/node/has_memory") else {
            assert!(HostNodes::of_host().numbers().len() <= 1);
            return;
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<usize>().unwrap()..=last.parse().unwrap()
        };
        let nodes: Vec<usize> = listed.trim().split(',').flat_map(range).collect();
        // A cpuset may leave us fewer.
        let allowed = HostNodes::of_host();
        assert!(!allowed.numbers().is_empty(), "{listed}");
        assert!(allowed.numbers().iter().all(|node| nodes.contains(node)), "{allowed:?}, {listed}");
    }
}
