//! mbind(2), set_mempolicy(2), set_mempolicy_home_node(2), get_mempolicy(2): node masks in and out (Linux's `mm/mempolicy.c`,
//! `kernel_mbind` and its siblings).

use super::{Call, done};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::error::{CallResult, Errno};
use crate::numa;
use crate::paging::AccessKind;
use crate::userfault::Accessor;
use crate::vma::policy::{Mode, Policy};

/// The most nodes that a kernel of a distribution is built for (`MAX_NUMNODES`).
const MAX_NODES: u64 = 1024;
/// Bits of a word of a mask.
const WORD: u64 = 64;

/// `MPOL_F_NODE`.
const NODE: u64 = 1;
/// `MPOL_F_ADDR`.
const ADDR: u64 = 2;
/// `MPOL_F_MEMS_ALLOWED`.
const MEMS_ALLOWED: u64 = 4;

/// mbind(2).
pub(super) fn mbind(c: &Call<'_>) -> CallResult<u64> {
    let [_, len, mode, _, maxnode, _] = c.args;
    Policy::check_mode(mode)?;
    let nodes = nodes(c, c.address(3), maxnode)?;
    done(c.caller.space().change().mbind(c.address(0), len, mode, nodes, c.word(5)))
}

/// set_mempolicy(2).
pub(super) fn set_mempolicy(c: &Call<'_>) -> CallResult<u64> {
    Policy::check_mode(c.word(0))?;
    let nodes = nodes(c, c.address(1), c.args[2])?;
    let machine = c.caller.space().look().system().nodes();
    let policy = Policy::new(c.word(0), nodes, machine)?;
    c.caller.space().change().policy_changes()?;
    c.caller.set_policy(policy);
    numa::set_policy(policy);
    Ok(0)
}

/// set_mempolicy_home_node(2).
pub(super) fn set_mempolicy_home_node(c: &Call<'_>) -> CallResult<u64> {
    let [_, len, node, flags, ..] = c.args;
    done(c.caller.space().change().set_home_node(c.address(0), len, node, flags))
}

/// get_mempolicy(2).
pub(super) fn get_mempolicy(c: &Call<'_>) -> CallResult<u64> {
    let (mode_at, nodes_at, maxnode) = (c.address(0), c.address(1), c.args[2]);
    let machine = c.caller.space().look().system().nodes();
    let known = WORD - u64::from(machine.leading_zeros());
    if nodes_at != VirtAddr::ZERO && maxnode < known {
        return Err(Errno::EINVAL.into());
    }
    let (mode, nodes) = policy_asked_for(c, machine)?;
    if mode_at != VirtAddr::ZERO {
        c.write(mode_at, &mode.to_le_bytes()[..4])?;
    }
    if nodes_at != VirtAddr::ZERO {
        write_nodes(c, nodes_at, maxnode, nodes)?;
    }
    Ok(0)
}

/// The mode, or what is asked for instead of it, and the nodes (`do_get_mempolicy`).
fn policy_asked_for(c: &Call<'_>, machine: u64) -> CallResult<(u64, u64)> {
    let (addr, flags) = (c.address(3), c.args[4]);
    if flags & !(NODE | ADDR | MEMS_ALLOWED) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & MEMS_ALLOWED != 0 {
        if flags & (NODE | ADDR) != 0 {
            return Err(Errno::EINVAL.into());
        }
        return Ok((0, machine));
    }
    let own = c.caller.policy();
    let policy = if flags & ADDR != 0 {
        c.caller.space().look().policy_at(addr)?
    } else if addr != VirtAddr::ZERO {
        return Err(Errno::EINVAL.into());
    } else {
        own
    };
    let nodes = policy.map_or(0, |policy| policy.told());
    if flags & NODE == 0 {
        return Ok((policy.map_or(0, |policy| policy.mode.number() | policy.flags), nodes));
    }
    if flags & ADDR != 0 {
        if let Some(node) = c.caller.space().look().node_to_read(addr)? {
            return Ok((node.into(), nodes));
        }
        c.caller
            .space()
            .fault_for(addr, AccessKind::Read, Accessor::Call)
            .map_err(super::bad_address)?;
        return Ok((c.caller.space().look().node_behind(addr).into(), nodes));
    }
    match own.filter(|own| matches!(own.mode, Mode::Interleave | Mode::WeightedInterleave)) {
        Some(own) => Ok((numa::next_in_turn(&own).into(), nodes)),
        None => Err(Errno::EINVAL.into()),
    }
}

/// A mask of `maxnode - 1` bits (`get_nodes`). Nodes past the 64th, which no machine here has, count as
/// one more node that is not there.
pub(super) fn nodes(c: &Call<'_>, at: VirtAddr, maxnode: u64) -> CallResult<u64> {
    let bits = maxnode.wrapping_sub(1);
    if bits == 0 || at == VirtAddr::ZERO {
        return Ok(0);
    }
    if bits > PAGE_SIZE * 8 {
        return Err(Errno::EINVAL.into());
    }
    let mut mask = 0;
    // Downwards, as Linux does: bits that no kernel knows are refused before the others are read.
    for index in (0..bits.div_ceil(WORD)).rev() {
        let [word] = c.read_words(at.checked_add(index * 8).ok_or(Errno::EFAULT)?)?;
        if index * WORD >= MAX_NODES {
            // All of it, also bits past the end.
            if word != 0 {
                return Err(Errno::EINVAL.into());
            }
            continue;
        }
        let valid = bits - index * WORD;
        let word = if valid < WORD { word & ((1 << valid) - 1) } else { word };
        mask |= if index == 0 { word } else { u64::from(word != 0) << (WORD - 1) };
    }
    Ok(mask)
}

/// Writes a mask of `maxnode` bits, those past the machine's nodes as zeros (`copy_nodes_to_user`).
fn write_nodes(c: &Call<'_>, to: VirtAddr, maxnode: u64, nodes: u64) -> CallResult<()> {
    let words = maxnode.saturating_sub(1).div_ceil(WORD);
    if words * 8 > PAGE_SIZE {
        return Err(Errno::EINVAL.into());
    }
    let mut mask = vec![0; usize::try_from(words).unwrap_or(0)];
    if let Some(first) = mask.first_mut() {
        *first = nodes;
    }
    c.write_words(to, &mask)
}
