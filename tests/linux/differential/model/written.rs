//! What calls write beside their result, as the player's buffers have it.

use mm::addr::{PAGE_SIZE, index};
use mm::replay::calls::{MemoryCall as M, Pointee};
use mm::replay::linux::Written;

use super::Model;

/// Bytes of the buffers for what a call writes, in its arguments' order: those that it is given, and that are compared.
pub fn buffers(call: &M) -> Vec<usize> {
    match call {
        M::GetMempolicy { mode, nodes, maxnode, .. } => {
            // As far as any kernel goes.
            let of_mask = index(maxnode.saturating_sub(1).div_ceil(64).min(PAGE_SIZE / 8) * 8);
            let mode = (*mode != Pointee::Null).then_some(4);
            mode.into_iter().chain((*nodes != Pointee::Null).then_some(of_mask)).collect()
        }
        M::MovePages { status, count, .. } if *status != Pointee::Null => {
            vec![index((*count).min(PAGE_SIZE)) * 4]
        }
        _ => Vec::new(),
    }
}

/// These buffers after the call, which were zeros.
pub(super) fn filled(call: &M, written: Written) -> Vec<Vec<u8>> {
    let bytes_of = |words: Vec<u64>| words.into_iter().flat_map(u64::to_le_bytes).collect();
    let pieces: Vec<Vec<u8>> = match written {
        Written::Policy(mode, nodes) => {
            let mode = mode.map(|mode| mode.to_le_bytes()[..4].to_vec());
            // Of an empty mask nothing is written.
            let asked = matches!(call, M::GetMempolicy { nodes, .. } if *nodes != Pointee::Null);
            let nodes = asked.then(|| bytes_of(nodes.unwrap_or_default()));
            mode.into_iter().chain(nodes).collect()
        }
        Written::Statuses(statuses) => {
            vec![statuses.into_iter().flat_map(i32::to_le_bytes).collect()]
        }
        _ => Vec::new(),
    };
    let mut pieces = pieces.into_iter();
    let fill = |len| {
        let mut bytes = pieces.next().unwrap_or_default();
        bytes.resize(len, 0);
        bytes
    };
    buffers(call).into_iter().map(fill).collect()
}

impl Model {
    /// Whether what a call writes is up to the acts alone: where pages are that Linux may have given up or read ahead is
    /// not.
    pub(super) fn is_compared(&self, process: u8, call: &M) -> bool {
        match call {
            M::MovePages { pages, .. } => {
                !self.residency_is_open()
                    && pages.shown().into_iter().flatten().all(|page| {
                        let page = page.page_floor().get();
                        !self.maps_files(process, page, PAGE_SIZE)
                            && !self.shares_huge(process, page, PAGE_SIZE)
                    })
            }
            M::GetMempolicy { .. } => true,
            _ => false,
        }
    }
}
