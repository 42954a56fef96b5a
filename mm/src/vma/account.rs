//! How much of what a process has mapped, in pages (Linux's `vm_stat_account`, `data_vm` and so on).

use super::area::Vma;
use super::flags::VmFlags;

/// Pages mapped, by what they are for. One page may count in several.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// All pages (`total_vm`): what `RLIMIT_AS` limits.
    pub total: u64,
    /// Executable, not writable, not stack (`exec_vm`).
    pub exec: u64,
    /// Growing down (`stack_vm`).
    pub stack: u64,
    /// Private and writable (`data_vm`): what `RLIMIT_DATA` limits.
    pub data: u64,
    /// Locked (`locked_vm`): what `RLIMIT_MEMLOCK` limits.
    pub locked: u64,
    /// The most that `total` has been.
    pub peak: u64,
}

/// Which accounts beside the total a VMA counts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Exec,
    Stack,
    Data,
    Other,
}

impl Class {
    fn of(flags: VmFlags) -> Self {
        let writable_private = flags.contains(VmFlags::WRITE)
            && !flags.intersects(VmFlags::SHARED | VmFlags::GROWSDOWN);
        if flags.contains(VmFlags::EXEC) && !flags.intersects(VmFlags::WRITE | VmFlags::GROWSDOWN) {
            Class::Exec
        } else if flags.contains(VmFlags::GROWSDOWN) {
            Class::Stack
        } else if writable_private {
            Class::Data
        } else {
            Class::Other
        }
    }
}

/// Whether `RLIMIT_DATA` counts a mapping with these flags (`is_data_mapping`).
#[must_use]
pub fn is_data(flags: VmFlags) -> bool {
    Class::of(flags) == Class::Data
}

impl Account {
    /// Counts `pages` more with these flags.
    pub fn add(&mut self, flags: VmFlags, pages: u64) {
        self.total += pages;
        if flags.contains(VmFlags::LOCKED) {
            self.locked += pages;
        }
        self.peak = self.peak.max(self.total);
        if let Some(class) = self.class(flags) {
            *class += pages;
        }
    }

    /// Counts `pages` fewer with these flags; they were counted before.
    pub fn remove(&mut self, flags: VmFlags, pages: u64) {
        self.total -= pages;
        if flags.contains(VmFlags::LOCKED) {
            self.locked -= pages;
        }
        if let Some(class) = self.class(flags) {
            *class -= pages;
        }
    }

    /// What the account must be for these VMAs.
    pub fn recount<'a>(vmas: impl Iterator<Item = &'a Vma>) -> Self {
        let mut account = Account::default();
        for vma in vmas {
            account.add(vma.flags, vma.range().pages());
        }
        account
    }

    fn class(&mut self, flags: VmFlags) -> Option<&mut u64> {
        match Class::of(flags) {
            Class::Exec => Some(&mut self.exec),
            Class::Stack => Some(&mut self.stack),
            Class::Data => Some(&mut self.data),
            Class::Other => None,
        }
    }
}
