//! What is known of single processes, and set: what the table has, for calls and `/proc`.

use std::sync::Arc;

use mm::error::Errno;
use mm::space::PageClass;

use super::{Family, Target};
use crate::credentials::Credentials;
use crate::task::table::Member;
use crate::task::{Scheduling, Usage};

impl Family {
    /// How many processes there are, zombies included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lock().pids().count() as u64
    }

    /// A process's parent; 0 for the first one's.
    #[must_use]
    pub fn parent(&self, pid: i32) -> i32 {
        self.lock().get(pid).map_or(0, |member| member.parent)
    }

    /// A process's group; 0 where there is no such process, nor the zombie of one.
    #[must_use]
    pub fn group(&self, pid: i32) -> i32 {
        self.lock().get(pid).map_or(0, |member| member.group)
    }

    /// Whether there is such a process, or the zombie of one.
    #[must_use]
    pub fn has(&self, pid: i32) -> bool {
        self.lock().get(pid).is_some()
    }

    /// A process's session; likewise.
    #[must_use]
    pub fn session(&self, pid: i32) -> i32 {
        self.lock().get(pid).map_or(0, |member| member.session)
    }

    /// setpgid(2) on behalf of `caller`.
    ///
    /// # Errors
    /// In this order: `EINVAL`; `ESRCH` no such process; `EPERM` another session; `EACCES` it has run execve(2); `ESRCH` no
    /// child; `EPERM` it leads a session, or no such group.
    pub fn set_group(&self, caller: i32, pid: i32, group: i32) -> Result<(), Errno> {
        self.lock().set_group(caller, pid, group)
    }

    /// setsid(2).
    ///
    /// # Errors
    /// `EPERM` there is a group of its number.
    pub fn set_session(&self, pid: i32) -> Result<i32, Errno> {
        self.lock().set_session(pid)
    }

    /// Which CPU a process has; `None` where there is no such process.
    #[must_use]
    pub fn cpu(&self, pid: i32) -> Option<u32> {
        self.lock().get(pid).map(|member| member.cpu)
    }

    /// How nice the least nice of some processes is; `None` where there are none.
    #[must_use]
    pub fn nice(&self, target: Target, caller: i32) -> Option<i32> {
        let targets = self.targets(target, caller);
        let table = self.lock();
        targets.iter().filter_map(|&pid| table.get(pid)).map(|member| member.scheduling.nice).min()
    }

    /// How a process wants to be scheduled; `None` where there is no such process, nor the zombie of one.
    #[must_use]
    pub fn scheduling(&self, pid: i32) -> Option<Scheduling> {
        self.lock().get(pid).map(|member| member.scheduling)
    }

    /// Has a process be scheduled so.
    pub fn set_scheduling(&self, pid: i32, scheduling: Scheduling) {
        if let Some(member) = self.lock().get_mut(pid) {
            member.scheduling = scheduling;
        }
    }

    /// Has a process be so nice.
    pub fn set_nice(&self, pid: i32, nice: i32) {
        if let Some(member) = self.lock().get_mut(pid) {
            member.scheduling.nice = nice;
        }
    }

    /// Pages of each process that lives: its own, files', shared. What several share is counted for each.
    #[must_use]
    pub fn resident(&self) -> Vec<(i32, [u64; 3])> {
        let classes = [PageClass::Own, PageClass::File, PageClass::Shared];
        let table = self.lock();
        let of = |member: &Member| classes.map(|class| member.counters.resident.of(class));
        table.alive().map(|(pid, member)| (pid, of(member))).collect()
    }

    /// Who a process is and what it may do; `None` where there is no such process, nor the zombie of one.
    #[must_use]
    pub fn credentials(&self, pid: i32) -> Option<Arc<Credentials>> {
        self.lock().get(pid).map(|member| member.credentials.get())
    }

    /// What the children used that `pid` has waited for.
    #[must_use]
    pub fn children_usage(&self, pid: i32) -> Usage {
        self.lock().get(pid).map_or(Usage::default(), |member| member.reaped)
    }
}
