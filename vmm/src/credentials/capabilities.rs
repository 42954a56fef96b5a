//! Capabilities: what there is of root's rights, one by one (Linux's `security/commoncap.c`).

use bitflags::bitflags;
use mm::error::Errno;

use super::Ids;
use super::ids::Choice;

/// The highest capability of Linux 6.18 (`CAP_LAST_CAP`).
const LAST: u32 = 40;
/// All there are.
const VALID: u64 = (1 << (LAST + 1)) - 1;
/// Those that are about files, and go with the user of files (`CAP_FS_MASK`).
const OF_FILES: u64 = Capability::CHOWN.bit()
    | Capability::DAC_OVERRIDE.bit()
    | Capability::DAC_READ_SEARCH.bit()
    | Capability::FOWNER.bit()
    | Capability::FSETID.bit()
    | 1 << 9 // CAP_LINUX_IMMUTABLE
    | 1 << 27 // CAP_MKNOD
    | 1 << 32; // CAP_MAC_OVERRIDE

/// One capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability(u32);

#[allow(missing_docs, reason = "capabilities(7) describes each")]
impl Capability {
    pub const CHOWN: Self = Capability(0);
    pub const DAC_OVERRIDE: Self = Capability(1);
    pub const DAC_READ_SEARCH: Self = Capability(2);
    pub const FOWNER: Self = Capability(3);
    pub const FSETID: Self = Capability(4);
    pub const KILL: Self = Capability(5);
    pub const SETGID: Self = Capability(6);
    pub const SETUID: Self = Capability(7);
    pub const SETPCAP: Self = Capability(8);
    pub const IPC_LOCK: Self = Capability(14);
    pub const IPC_OWNER: Self = Capability(15);
    pub const SYS_RAWIO: Self = Capability(17);
    pub const SYS_PTRACE: Self = Capability(19);
    pub const SYS_ADMIN: Self = Capability(21);
    pub const SYS_NICE: Self = Capability(23);
    pub const SYS_RESOURCE: Self = Capability(24);
    pub const PERFMON: Self = Capability(38);
}

impl Capability {
    /// By its number; `None` if there is none of it.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        u32::try_from(number).ok().filter(|&number| number <= LAST).map(Capability)
    }

    /// Its bit in a set.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self.0
    }
}

bitflags! {
    /// securebits of capabilities(7). Each but the last has a lock, the bit after it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Secure: u32 {
        const NO_ROOT = 1;
        const NO_SETUID_FIXUP = 1 << 2;
        const KEEP_CAPS = 1 << 4;
        const KEEP_CAPS_LOCKED = 1 << 5;
        const NO_AMBIENT_RAISE = 1 << 6;
        const LOCKS = 0b1010_1010_1010;
        // Kept, and without a meaning here.
        const EXEC_RESTRICT_FILE = 1 << 8;
        const EXEC_DENY_INTERACTIVE = 1 << 10;
    }
}

impl Secure {
    /// Whether no lock is undone, and nothing locked changes.
    pub(super) fn may_become(self, new: Self) -> bool {
        let locks = (self & Secure::LOCKS).bits();
        let changed = (self ^ new).bits();
        (locks >> 1 | locks) & changed == 0
    }
}

/// The three sets that capset(2) sets, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "capabilities(7) describes each")]
pub struct Fields {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// What `PR_CAP_AMBIENT` is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "prctl(2) describes each")]
pub enum Ambient {
    IsSet(u64),
    Raise(u64),
    Lower(u64),
    ClearAll,
}

/// A process's sets of capabilities, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "capabilities(7) describes each")]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
}

impl CapabilitySets {
    /// Root's in a container: all but `CAP_SYS_RESOURCE`.
    pub(super) fn of_root() -> Self {
        let all = VALID & !Capability::SYS_RESOURCE.bit();
        CapabilitySets { effective: all, permitted: all, inheritable: 0, bounding: all, ambient: 0 }
    }

    /// capset(2) (`cap_capset`): what is inheritable is chosen from.
    ///
    /// # Errors
    /// `EPERM` what is inheritable is not one's own to choose, or not bounded; more is permitted than before; what
    /// is effective is not permitted.
    pub(super) fn set(&mut self, new: Fields, inheritable_from: Choice) -> Result<(), Errno> {
        let within = |set: u64, all: u64| set & !all == 0;
        let Fields { effective, permitted, inheritable } = new;
        let [effective, permitted, inheritable] =
            [effective & VALID, permitted & VALID, inheritable & VALID];
        let fits = (inheritable_from == Choice::All
            || within(inheritable, self.inheritable | self.permitted))
            && within(inheritable, self.inheritable | self.bounding)
            && within(permitted, self.permitted)
            && within(effective, permitted);
        if !fits {
            return Err(Errno::EPERM);
        }
        let ambient = self.ambient & permitted & inheritable;
        *self = CapabilitySets { effective, permitted, inheritable, ambient, ..*self };
        Ok(())
    }

    /// Its users have changed (`cap_emulate_setxuid`).
    pub(super) fn follow(&mut self, old: &Ids, new: &Ids, secure: Secure) {
        if old.has_root() && !new.has_root() {
            if !secure.contains(Secure::KEEP_CAPS) {
                self.permitted = 0;
                self.effective = 0;
            }
            self.ambient = 0;
        }
        if old.effective == 0 && new.effective != 0 {
            self.effective = 0;
        }
        if old.effective != 0 && new.effective == 0 {
            self.effective = self.permitted;
        }
    }

    /// Its user of files has changed alone.
    pub(super) fn follow_files(&mut self, old: u32, new: u32) {
        if old == 0 && new != 0 {
            self.effective &= !OF_FILES;
        }
        if old != 0 && new == 0 {
            self.effective |= self.permitted & OF_FILES;
        }
    }

    /// `PR_CAP_AMBIENT`.
    pub(super) fn ambient(&mut self, what: Ambient, secure: Secure) -> Result<u64, Errno> {
        let bit =
            |number| Capability::from_number(number).map(Capability::bit).ok_or(Errno::EINVAL);
        match what {
            Ambient::ClearAll => self.ambient = 0,
            Ambient::IsSet(number) => return Ok(u64::from(self.ambient & bit(number)? != 0)),
            Ambient::Raise(number) => {
                let bit = bit(number)?;
                if self.permitted & self.inheritable & bit == 0
                    || secure.contains(Secure::NO_AMBIENT_RAISE)
                {
                    return Err(Errno::EPERM);
                }
                self.ambient |= bit;
            }
            Ambient::Lower(number) => self.ambient &= !bit(number)?,
        }
        Ok(0)
    }

    /// Another program is executed, for root as root's (`handle_privileged_root`).
    pub(super) fn execute(&mut self, uids: &Ids, secure: Secure) {
        if !secure.contains(Secure::NO_ROOT) && (uids.effective == 0 || uids.real == 0) {
            self.permitted = self.bounding | self.inheritable;
            self.effective = if uids.effective == 0 { self.permitted } else { self.ambient };
        } else {
            self.permitted = self.ambient;
            self.effective = self.ambient;
        }
    }
}
