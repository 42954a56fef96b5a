//! Who may do what with a segment (Linux's `ipcperms`, `ipcctl_obtain_check`).

use super::Status;
use crate::vma::limits::Capabilities;

/// Who asks for a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asker {
    /// The user whose rights it has.
    pub user: u32,
    /// The group that a new segment gets.
    pub group: u32,
    /// All groups that it is in as files have it.
    pub groups: Vec<u32>,
    /// What it may do whoever it is.
    pub capabilities: Capabilities,
}

impl Asker {
    /// Root, with these capabilities.
    #[must_use]
    pub fn root(capabilities: Capabilities) -> Self {
        Asker { user: 0, group: 0, groups: vec![0], capabilities }
    }

    /// Whether it made a segment, or has it.
    #[must_use]
    pub fn has(&self, status: &Status) -> bool {
        [status.made_by, status.owner].contains(&self.user)
    }

    /// Whether it may remove a segment, or set whose it is.
    #[must_use]
    pub fn may_set(&self, status: &Status) -> bool {
        self.has(status) || self.capabilities.contains(Capabilities::SYS_ADMIN)
    }

    /// Whether it may do with a segment what the bits of a mode ask for, whosever they are there.
    #[must_use]
    pub fn may(&self, status: &Status, mode: u32) -> bool {
        let asked = mode >> 6 | mode >> 3 | mode;
        let of_group = [status.made_by_group, status.group];
        let granted = if self.has(status) {
            status.mode >> 6
        } else if of_group.iter().any(|group| self.groups.contains(group)) {
            status.mode >> 3
        } else {
            status.mode
        };
        asked & !granted & 0o7 == 0 || self.capabilities.contains(Capabilities::IPC_OWNER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(user: u32, groups: &[u32]) -> Asker {
        let capabilities = Capabilities::empty();
        Asker { user, group: 9, groups: groups.to_vec(), capabilities }
    }

    #[test]
    fn the_first_class_that_one_is_of_counts_and_no_other() {
        let status = Status {
            mode: 0o416,
            owner: 1,
            group: 2,
            made_by: 3,
            made_by_group: 4,
            ..Status::default()
        };
        let may = |asker: &Asker| [0o400, 0o200, 0o100].map(|mode| asker.may(&status, mode));
        for owner in [1, 3] {
            assert_eq!(may(&asker(owner, &[2])), [true, false, false]);
        }
        for group in [2, 4] {
            assert_eq!(may(&asker(7, &[5, group])), [false, false, true]);
        }
        assert_eq!(may(&asker(7, &[5])), [true, true, false]);
        let capabilities = Capabilities::IPC_OWNER;
        assert_eq!(may(&Asker { capabilities, ..asker(7, &[]) }), [true, true, true]);
    }

    #[test]
    fn who_asks_for_two_things_must_have_both() {
        let status = Status { mode: 0o640, ..Status::default() };
        assert!(asker(0, &[]).may(&status, 0o600));
        assert!(!asker(7, &[0]).may(&status, 0o006));
        assert!(asker(7, &[0]).may(&status, 0o004));
    }

    #[test]
    fn an_owner_or_a_maker_or_an_administrator_sets() {
        let status = Status { owner: 1, made_by: 3, ..Status::default() };
        assert_eq!([1, 3, 4].map(|user| asker(user, &[]).may_set(&status)), [true, true, false]);
        let capabilities = Capabilities::SYS_ADMIN;
        assert!(Asker { capabilities, ..asker(4, &[]) }.may_set(&status));
    }
}
