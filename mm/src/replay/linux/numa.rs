//! set_mempolicy(2) and get_mempolicy(2): the policy of a task.

use super::dispatch::Written;
use super::{Linux, Task};
use crate::addr::VirtAddr;
use crate::error::{CallResult, Errno};
use crate::vma::policy::Policy;

/// `MPOL_F_NODE`.
const NODE: u64 = 1;
/// `MPOL_F_ADDR`.
const ADDR: u64 = 2;
/// `MPOL_F_MEMS_ALLOWED`.
const MEMS_ALLOWED: u64 = 4;

impl Linux {
    pub(super) fn set_policy(
        &mut self,
        task: Task,
        mode: u64,
        nodes: u64,
    ) -> CallResult<(u64, Written)> {
        let policy = Policy::new(mode, nodes, self.system.nodes())?;
        if let Some(process) = self.processes.get_mut(&task) {
            process.policy = policy;
        }
        Ok((0, Written::Nothing))
    }

    /// `wanted`: the mode, the nodes.
    pub(super) fn get_policy(
        &self,
        task: Task,
        wanted: (bool, bool),
        addr: VirtAddr,
        flags: u64,
    ) -> CallResult<Option<(u64, Written)>> {
        if flags & !(NODE | ADDR | MEMS_ALLOWED) != 0 {
            return Err(Errno::EINVAL.into());
        }
        if flags & MEMS_ALLOWED != 0 {
            if flags & (NODE | ADDR) != 0 {
                return Err(Errno::EINVAL.into());
            }
            let nodes = wanted.1.then(|| vec![self.system.nodes()]);
            return Ok(Some((0, Written::Policy(wanted.0.then_some(0), nodes))));
        }
        let policy = if flags & ADDR != 0 {
            self.space(task)?.look().policy_at(addr)?.or(self.process(task)?.policy)
        } else if addr != VirtAddr::ZERO {
            return Err(Errno::EINVAL.into());
        } else {
            self.process(task)?.policy
        };
        if flags & NODE != 0 {
            // Where a page is, or would be: not known before pages are placed on nodes.
            return Ok(None);
        }
        let mode = policy.map_or(0, |policy| policy.mode.number() | policy.flags);
        let nodes = policy.map_or(0, |policy| policy.nodes);
        let written = Written::Policy(wanted.0.then_some(mode), wanted.1.then(|| vec![nodes]));
        Ok(Some((0, written)))
    }
}
