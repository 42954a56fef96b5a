//! The reverse map of anonymous memory: from a frame to the entries that name it, in all address spaces
//! (Linux's `anon_vma`, `anon_vma_chain`; `anon_vma_prepare`, `anon_vma_fork`, `rmap_walk_anon`).
//!
//! ```text
//!   frame's record: number, index
//!            │          │
//!            v          │     family, one lock
//!   AnonVmas[number] ───│──> [ node 1 ──> node 2 ──> node 3 ]      a fork's node below its parent's
//!                       │        │          │  └───┐
//!                       │        v          v      v
//!                       └──> chain of A, chain of B, chain of C    one for each space and identity
//!                                └ ranges by shift ──> addresses ──> the space's page table ──> entries
//! ```
//!
//! What is noted at a fork is a node and a chain for each VMA that was written to, nothing for a page; a
//! fault writes two words of the frame's record. A node's number is the VMA's identity
//! ([`AnonId`](crate::vma::AnonId)): what decides merging and what the reverse map knows are the same.
//!
//! - A page belongs to the node that was its VMA's own when it was made, by its index: the VMA's page
//!   offset and on. Neither changes while it is mapped, but that its last owner may take it over when he
//!   writes it again (`page_move_anon_rmap`): then it is not looked for in the others.
//! - A chain is linked to all nodes whose pages may be in its ranges: its parent's and its own.
//! - Cutting and merging VMAs of one identity changes no chain.
//!
//! ```text
//!   first write to a VMA      prepare     a family, or the chain of a neighbour grows
//!   mmap, brk, a stack, mremap, a merge
//!                             attach      the chain grows, before there are entries
//!   munmap, a move's source   detach      the chain shrinks, after the entries went; or is unlinked
//!   fork                      fork_into   a chain, before its first entry; a node, or one is reused
//!   exit                      clear       all chains, before the page table's root goes
//! ```

mod chain;
mod family;
mod ranges;
mod space;
mod sync;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use space::SpaceChains;
pub use table::{AnonVmas, Found};

use super::Mapper;

type AnonChain = chain::Chain<Mapper>;
type AnonFamily = family::Family<Mapper>;

/// What a space has of a family.
#[derive(Debug)]
struct Kept {
    family: Arc<AnonFamily>,
    chain: Arc<AnonChain>,
}
