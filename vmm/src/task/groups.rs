//! Process groups and sessions: the part of the process table that job control is about (Linux's `setpgid`, `setsid`, and
//! the orphaned groups of `kernel/exit.c`).
//!
//! A group is orphaned where nobody in it has a parent in another group of the same session: then there is nobody who could
//! continue those that stop in it. The first process stands for what is outside, where it is a parent only because the
//! real one has ended; its own parent is outside, too, so that its group never is orphaned.

use mm::error::Errno;

use super::table::{FIRST, Member, Table};
use super::{Info, Signal, To};

impl Table {
    /// setpgid(2): puts a process into a group, on behalf of `caller`; 0 is the caller, and a group of the process's own.
    ///
    /// # Errors
    /// In this order: `EINVAL` a negative group; `ESRCH` no such process; of a child `EPERM` in another session, `EACCES`
    /// it has run execve(2); `ESRCH` neither the caller nor a child of it; `EPERM` it leads a session, or no such group in
    /// the caller's.
    pub(super) fn set_group(&mut self, caller: i32, pid: i32, group: i32) -> Result<(), Errno> {
        let pid = if pid == 0 { caller } else { pid };
        let group = if group == 0 { pid } else { group };
        if group < 0 {
            return Err(Errno::EINVAL);
        }
        let member = self.get(pid).ok_or(Errno::ESRCH)?;
        let session = self.get(caller).ok_or(Errno::ESRCH)?.session;
        if member.parent == caller {
            if member.session != session {
                return Err(Errno::EPERM);
            }
            if member.has_executed {
                return Err(Errno::EACCES);
            }
        } else if pid != caller {
            return Err(Errno::ESRCH);
        }
        let is_there =
            || self.members().any(|(_, other)| other.group == group && other.session == session);
        if member.session == pid || group != pid && !is_there() {
            return Err(Errno::EPERM);
        }
        if let Some(member) = self.get_mut(pid) {
            member.group = group;
        }
        Ok(())
    }

    /// setsid(2): a session of a process's own, and a group in it.
    ///
    /// # Errors
    /// `EPERM` there is a group of its number.
    pub(super) fn set_session(&mut self, pid: i32) -> Result<i32, Errno> {
        if self.members().any(|(_, other)| other.group == pid) {
            return Err(Errno::EPERM);
        }
        let member = self.get_mut(pid).ok_or(Errno::ESRCH)?;
        (member.group, member.session) = (pid, pid);
        Ok(pid)
    }

    /// Whether a number is a group's or a session's, which no new process may have.
    pub(super) fn is_shared_number(&self, number: i32) -> bool {
        self.members().any(|(_, member)| member.group == number || member.session == number)
    }

    /// Whether the group of a process is orphaned (`is_current_pgrp_orphaned`).
    pub(super) fn is_orphaned(&self, pid: i32) -> bool {
        self.get(pid).is_some_and(|member| self.has_no_way_out(member.group, None))
    }

    /// Whether nobody in a group, but for one, has a parent in another group of the session (`will_become_orphaned_pgrp`).
    fn has_no_way_out(&self, group: i32, but_for: Option<i32>) -> bool {
        !self.members().any(|(pid, member)| {
            let counts = member.group == group && Some(pid) != but_for && member.is_alive();
            counts && self.leads_out(pid, member)
        })
    }

    /// Whether a process's parent is in another group of its session.
    fn leads_out(&self, pid: i32, member: &Member) -> bool {
        if pid == FIRST {
            return true;
        }
        let parent = self.get(member.parent).filter(|_| !member.is_adopted);
        parent
            .is_some_and(|parent| parent.group != member.group && parent.session == member.session)
    }

    /// `pid` ends, or has lost its parent, which was in this group and session: where that orphans its group, and somebody
    /// in it has stopped, all in it are told and continued (`kill_orphaned_pgrp`).
    pub(super) fn orphan(&self, pid: i32, (group, session): (i32, i32), but_for: Option<i32>) {
        let Some(member) = self.get(pid) else { return };
        if group == member.group || session != member.session {
            return;
        }
        let of_group = || self.members().filter(|(_, other)| other.group == member.group);
        let has_stopped =
            of_group().any(|(_, other)| other.is_alive() && other.signals.is_stopped());
        if !has_stopped || !self.has_no_way_out(member.group, but_for) {
            return;
        }
        for (_, other) in of_group() {
            for signal in [Signal::HUP, Signal::CONT] {
                other.signals.post_from_kernel(Info::from_kernel(signal), To::Process);
            }
            other.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::table::tests::{CHILD, born};
    use super::super::{Status, Usage};
    use super::*;

    /// The first, which leads a session; a shell, a child of that, and one of the child's.
    fn family() -> (Table, [i32; 3]) {
        let mut table = Table::default();
        let first = born(&mut table, 0, CHILD);
        let shell = born(&mut table, first, CHILD);
        let child = born(&mut table, shell, CHILD);
        let grandchild = born(&mut table, child, CHILD);
        (table, [shell, child, grandchild])
    }

    fn end(table: &mut Table, pid: i32) {
        table.end(pid, Status::Exited(0), Usage::default());
    }

    #[test]
    fn only_who_leads_no_session_goes_to_a_group_of_its_own_session() {
        let (mut table, [shell, child, grandchild]) = family();
        assert_eq!(table.set_group(FIRST, 0, 0), Err(Errno::EPERM));
        assert_eq!(table.set_group(FIRST, 99, -1), Err(Errno::EINVAL));
        assert_eq!(table.set_group(FIRST, 99, 1), Err(Errno::ESRCH));
        assert_eq!(table.set_group(FIRST, grandchild, 1), Err(Errno::ESRCH));
        assert_eq!(table.set_group(shell, child, 77), Err(Errno::EPERM));
        table.set_group(shell, child, child).unwrap();
        table.set_group(grandchild, 0, child).unwrap();
        assert_eq!(table.set_session(child), Err(Errno::EPERM));
        assert_eq!(table.set_session(grandchild), Ok(grandchild));
        assert_eq!(table.set_group(child, grandchild, child), Err(Errno::EPERM));
        table.get_mut(child).unwrap().has_executed = true;
        assert_eq!(table.set_group(shell, child, shell), Err(Errno::EACCES));
    }

    #[test]
    fn a_number_is_free_when_its_group_is() {
        let (mut table, [_, child, grandchild]) = family();
        table.set_group(child, 0, 0).unwrap();
        table.set_group(grandchild, 0, child).unwrap();
        end(&mut table, child);
        table.remove(child);
        assert!(table.is_shared_number(child) && !table.is_shared_number(grandchild));
        table.set_group(grandchild, 0, 0).unwrap();
        assert!(!table.is_shared_number(child));
    }

    #[test]
    fn a_group_is_orphaned_when_the_last_one_with_a_parent_outside_has_ended() {
        let (mut table, [shell, child, grandchild]) = family();
        table.set_group(shell, 0, 0).unwrap();
        table.set_group(child, 0, 0).unwrap();
        table.set_group(grandchild, 0, child).unwrap();
        assert!(!table.is_orphaned(FIRST) && !table.is_orphaned(grandchild));
        let signals = Arc::clone(&table.get(grandchild).unwrap().signals);
        signals.set_blocked(Signal::HUP.into());
        signals.post_from_kernel(Info::from_kernel(Signal::STOP), To::Process);
        let _ = signals.due();
        assert!(signals.is_stopped());
        end(&mut table, child);
        assert!(table.is_orphaned(grandchild) && !signals.is_stopped());
        assert_eq!(signals.waiting(), Signal::HUP.into());
    }
}
