//! What one process may do with another by who both are.

use mm::space::Dumpable;

use super::{Capability, Credentials};

/// By which of its users and capabilities a process looks into another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The real ones (`PTRACE_MODE_REALCREDS`), and what it could have.
    Real,
    /// Those that go for files (`PTRACE_MODE_FSCREDS`), and what it has.
    Files,
}

impl Credentials {
    /// Whether all of the users and groups that another process has by turns are these.
    fn is_all(other: &Credentials, user: u32, group: u32) -> bool {
        let all = |ids: &super::Ids, id| [ids.real, ids.effective, ids.saved] == [id; 3];
        all(&other.uids, user) && all(&other.gids, group)
    }

    /// Whether it may look into another process, which has such memory, if it has any (`__ptrace_may_access`,
    /// `cap_ptrace_access_check`).
    #[must_use]
    pub fn may_look_into(&self, other: &Credentials, memory: Option<Dumpable>, by: By) -> bool {
        let ((user, group), capabilities) = match by {
            By::Real => ((self.uids.real, self.gids.real), self.capabilities.permitted),
            By::Files => ((self.uids.files, self.gids.files), self.capabilities.effective),
        };
        let has_more = other.capabilities.permitted & !capabilities != 0;
        let is_hidden = memory == Some(Dumpable::No);
        self.may(Capability::SYS_PTRACE)
            || Self::is_all(other, user, group) && !is_hidden && !has_more
    }

    /// Whether it may look at memory of anybody's, not changing any (`may_access_mm`).
    #[must_use]
    pub fn may_watch(&self) -> bool {
        self.may(Capability::PERFMON) || self.may(Capability::SYS_ADMIN)
    }

    /// Whether it may be told another process's limits, and set them (`check_prlimit_permission`).
    #[must_use]
    pub fn may_limit(&self, other: &Credentials) -> bool {
        Self::is_all(other, self.uids.real, self.gids.real) || self.may(Capability::SYS_RESOURCE)
    }

    /// Whether another process's user is its own, or need not be, for it to say how that is scheduled (`set_one_prio_perm`,
    /// `check_same_owner`).
    #[must_use]
    pub fn may_schedule(&self, other: &Credentials) -> bool {
        [other.uids.real, other.uids.effective].contains(&self.uids.effective)
            || self.may(Capability::SYS_NICE)
    }

    /// Whether it has all that another process may do, or need not (`cap_safe_nice`).
    #[must_use]
    pub fn is_safe_for(&self, other: &Credentials) -> bool {
        other.capabilities.permitted & !self.capabilities.permitted == 0
            || self.may(Capability::SYS_NICE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Fields, NewIds};

    fn user(id: u32) -> Credentials {
        let mut who = Credentials::default();
        who.set_own_groups(NewIds::One(id)).unwrap();
        who.set_users(NewIds::One(id)).unwrap();
        who
    }

    #[test]
    fn one_of_the_same_user_looks_unless_memory_is_hidden() {
        for by in [By::Real, By::Files] {
            assert!(user(5).may_look_into(&user(5), Some(Dumpable::Yes), by));
            assert!(user(5).may_look_into(&user(5), None, by));
            assert!(!user(5).may_look_into(&user(5), Some(Dumpable::No), by));
            assert!(!user(5).may_look_into(&user(6), Some(Dumpable::Yes), by));
            assert!(Credentials::default().may_look_into(&user(6), Some(Dumpable::No), by));
        }
    }

    #[test]
    fn who_may_do_more_is_not_looked_into_by_its_user() {
        let mut less = Credentials::default();
        let kill = Capability::KILL.bit();
        less.set_capabilities(Fields { effective: 0, permitted: kill, inheritable: 0 }).unwrap();
        let mut least = less.clone();
        least.set_capabilities(Fields { effective: 0, permitted: 0, inheritable: 0 }).unwrap();
        let yes = Some(Dumpable::Yes);
        assert!(less.may_look_into(&least, yes, By::Real));
        assert!(!least.may_look_into(&less, yes, By::Real));
        // What it could have counts for the real user alone.
        assert!(less.may_look_into(&less.clone(), yes, By::Real));
        assert!(!less.may_look_into(&less.clone(), yes, By::Files));
        assert!(least.may_limit(&less) && !least.is_safe_for(&less));
    }

    #[test]
    fn limits_are_for_who_is_all_of_its_users() {
        assert!(user(5).may_limit(&user(5)));
        assert!(!user(5).may_limit(&user(6)));
        // Root has no CAP_SYS_RESOURCE here.
        assert!(!Credentials::default().may_limit(&user(6)));
        assert!(user(5).may_schedule(&user(5)) && !user(5).may_schedule(&user(6)));
        assert!(Credentials::default().may_schedule(&user(6)));
    }
}
