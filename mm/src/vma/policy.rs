//! Memory policies of VMAs and processes (Linux's `struct mempolicy`): from which NUMA nodes pages are
//! to come.

use crate::error::Errno;

/// The nodes that a policy can name.
pub const MAX_NODES: u64 = 64;

/// How a policy chooses among its nodes (`MPOL_*` of set_mempolicy(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// From the node first, then from any (`MPOL_PREFERRED`).
    Preferred,
    /// From these nodes only (`MPOL_BIND`).
    Bind,
    /// Page by page in turn (`MPOL_INTERLEAVE`).
    Interleave,
    /// From where the task runs (`MPOL_LOCAL`).
    Local,
    /// From these nodes first, then from any (`MPOL_PREFERRED_MANY`).
    PreferredMany,
    /// In turn, by weight (`MPOL_WEIGHTED_INTERLEAVE`).
    WeightedInterleave,
}

impl Mode {
    /// The number in calls.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Mode::Preferred => 1,
            Mode::Bind => 2,
            Mode::Interleave => 3,
            Mode::Local => 4,
            Mode::PreferredMany => 5,
            Mode::WeightedInterleave => 6,
        }
    }

    /// What `/proc/PID/numa_maps` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Preferred => "prefer",
            Mode::Bind => "bind",
            Mode::Interleave => "interleave",
            Mode::Local => "local",
            Mode::PreferredMany => "prefer (many)",
            Mode::WeightedInterleave => "weighted interleave",
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        [
            Mode::Preferred,
            Mode::Bind,
            Mode::Interleave,
            Mode::Local,
            Mode::PreferredMany,
            Mode::WeightedInterleave,
        ]
        .into_iter()
        .find(|mode| mode.number() == number)
    }
}

/// `MPOL_F_STATIC_NODES`.
pub const STATIC_NODES: u64 = 1 << 15;
/// `MPOL_F_RELATIVE_NODES`.
pub const RELATIVE_NODES: u64 = 1 << 14;
/// `MPOL_F_NUMA_BALANCING`.
pub const NUMA_BALANCING: u64 = 1 << 13;
const MODE_FLAGS: u64 = STATIC_NODES | RELATIVE_NODES | NUMA_BALANCING;

/// A policy. Two VMAs merge only if theirs are equal (Linux's `mpol_equal`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// How to choose.
    pub mode: Mode,
    /// `MPOL_F_*`.
    pub flags: u64,
    /// Among which nodes, a bit each, after the machine's have been taken into account.
    pub nodes: u64,
    /// As the program gave them; kept with any of the flags.
    pub asked: u64,
    /// The node to begin with instead of the task's own (set_mempolicy_home_node(2)).
    pub home: Option<u8>,
}

impl Policy {
    /// Splits a mode from its flags (Linux's `sanitize_mpol_flags`).
    ///
    /// # Errors
    /// `EINVAL`: unknown mode or flags, or flags that exclude each other.
    pub fn check_mode(mode: u64) -> Result<(u64, u64), Errno> {
        // The argument is an int.
        let mode = mode & 0xffff_ffff;
        let (flags, number) = (mode & MODE_FLAGS, mode & !MODE_FLAGS);
        let both = STATIC_NODES | RELATIVE_NODES;
        let balancing = flags & NUMA_BALANCING != 0 && !matches!(number, 2 | 5);
        if number > 6 || flags & both == both || balancing {
            return Err(Errno::EINVAL);
        }
        Ok((flags, number))
    }

    /// What set_mempolicy(2) and mbind(2) are given, checked: a mode with its flags, the nodes (a bit
    /// each), and the nodes that the machine has. `None` is the default policy.
    ///
    /// # Errors
    /// `EINVAL`: unknown mode or flags, nodes where none may be or none where some must be.
    /// Source: set_mempolicy(2), Linux's `sanitize_mpol_flags`, `mpol_new`, `mpol_set_nodemask`.
    pub fn new(mode: u64, nodes: u64, machine: u64) -> Result<Option<Self>, Errno> {
        let (flags, number) = Policy::check_mode(mode)?;
        let Some(mode) = Mode::from_number(number) else {
            // MPOL_DEFAULT.
            return if nodes == 0 { Ok(None) } else { Err(Errno::EINVAL) };
        };
        match mode {
            Mode::Preferred if nodes == 0 => {
                if flags & (STATIC_NODES | RELATIVE_NODES) != 0 {
                    return Err(Errno::EINVAL);
                }
                return Ok(Some(Policy {
                    mode: Mode::Local,
                    flags,
                    nodes: 0,
                    asked: 0,
                    home: None,
                }));
            }
            Mode::Local => {
                if nodes != 0 || flags & (STATIC_NODES | RELATIVE_NODES) != 0 {
                    return Err(Errno::EINVAL);
                }
                return Ok(Some(Policy { mode, flags, nodes: 0, asked: 0, home: None }));
            }
            _ if nodes == 0 => return Err(Errno::EINVAL),
            _ => {}
        }
        let allowed =
            if flags & RELATIVE_NODES != 0 { relative(nodes, machine) } else { nodes & machine };
        let chosen = if mode == Mode::Preferred {
            // Only the first of them counts.
            allowed & allowed.wrapping_neg()
        } else {
            allowed
        };
        if chosen == 0 {
            return Err(Errno::EINVAL);
        }
        let asked = if flags == 0 { machine } else { nodes };
        Ok(Some(Policy { mode, flags, nodes: chosen, asked, home: None }))
    }

    /// What `/proc/PID/numa_maps` calls its flags.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        let names =
            [(STATIC_NODES, "static"), (RELATIVE_NODES, "relative"), (NUMA_BALANCING, "balancing")];
        let flags = self.flags;
        names.into_iter().filter(move |(flag, _)| flags & flag != 0).map(|(_, name)| name)
    }

    /// The nodes that get_mempolicy(2) tells of: the program's own where they are kept (`mpol_store_user_nodemask`).
    #[must_use]
    pub fn told(&self) -> u64 {
        if self.flags == 0 { self.nodes } else { self.asked }
    }
}

/// The n-th node asked for is the n-th that the machine has, in turn (`mpol_relative_nodemask`).
fn relative(nodes: u64, machine: u64) -> u64 {
    let count = machine.count_ones().max(1);
    let folded = (0..64).filter(|bit| nodes >> bit & 1 != 0).map(|bit| bit % count);
    folded.fold(0, |mask, nth| {
        let node = (0..64).filter(|bit| machine >> bit & 1 != 0).nth(nth as usize);
        node.map_or(mask, |node| mask | 1 << node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_nodes_is_local_or_refused() {
        assert_eq!(Policy::new(0, 0, 1), Ok(None));
        assert_eq!(Policy::new(0, 1, 1), Err(Errno::EINVAL));
        assert_eq!(Policy::new(1, 0, 1).map(|p| p.map(|p| p.mode)), Ok(Some(Mode::Local)));
        assert_eq!(Policy::new(2, 0, 1), Err(Errno::EINVAL));
        assert_eq!(Policy::new(2, 2, 1), Err(Errno::EINVAL), "no such node");
    }

    #[test]
    fn relative_nodes_fold_into_those_that_are_there() {
        assert_eq!(relative(0b1_0001, 0b1010), 0b0010);
        assert_eq!(relative(0b0010, 0b1010), 0b1000);
    }
}
