//! Who a process is and what it may do (Linux's `cred`; credentials(7), capabilities(7)). Pure rules; the calls are in
//! `hypercall/credentials`.

mod access;
mod capabilities;
mod current;
mod ids;

pub use access::By;
pub use capabilities::{Ambient, Capability, CapabilitySets, Fields};
pub use current::{SharedCredentials, as_real_user, current, enter, may};
pub use ids::{Ids, NewIds};

use capabilities::Secure;
use ids::Choice;
use mm::error::Errno;
use mm::vma::limits::Capabilities;

/// The most groups beside its own that a process can be in (`NGROUPS_MAX`).
pub const MOST_GROUPS: usize = 65_536;

/// Who a process is and what it may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Its users.
    pub uids: Ids,
    /// Its groups.
    pub gids: Ids,
    groups: Vec<u32>,
    capabilities: CapabilitySets,
    secure: Secure,
    /// Whether executing a file can give it nothing (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

impl Default for Credentials {
    /// Root, but for `CAP_SYS_RESOURCE`.
    fn default() -> Self {
        Credentials {
            uids: Ids::all(0),
            gids: Ids::all(0),
            groups: Vec::new(),
            capabilities: CapabilitySets::of_root(),
            secure: Secure::empty(),
            no_new_privileges: false,
        }
    }
}

impl Credentials {
    /// Whether it has a capability.
    #[must_use]
    pub fn may(&self, capability: Capability) -> bool {
        self.capabilities.effective & capability.bit() != 0
    }

    /// `EPERM` if it has not.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn require(&self, capability: Capability) -> Result<(), Errno> {
        if self.may(capability) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// What it may choose from where a capability lets one choose freely.
    fn choice(&self, capability: Capability) -> Choice {
        if self.may(capability) { Choice::All } else { Choice::Own }
    }

    /// The capabilities that memory calls ask for.
    #[must_use]
    pub fn of_memory(&self) -> Capabilities {
        [
            (Capability::IPC_LOCK, Capabilities::IPC_LOCK),
            (Capability::SYS_RAWIO, Capabilities::SYS_RAWIO),
            (Capability::SYS_RESOURCE, Capabilities::SYS_RESOURCE),
            (Capability::SYS_NICE, Capabilities::SYS_NICE),
            (Capability::SYS_ADMIN, Capabilities::SYS_ADMIN),
            (Capability::SYS_PTRACE, Capabilities::SYS_PTRACE),
            (Capability::IPC_OWNER, Capabilities::IPC_OWNER),
        ]
        .into_iter()
        .filter(|&(capability, _)| self.may(capability))
        .fold(Capabilities::empty(), |all, (_, one)| all | one)
    }

    /// Its capabilities.
    #[must_use]
    pub fn capabilities(&self) -> &CapabilitySets {
        &self.capabilities
    }

    /// The groups beside its own.
    #[must_use]
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// setgroups(2).
    ///
    /// # Errors
    /// `EPERM` without `CAP_SETGID`; `EINVAL` too many.
    pub fn set_groups(&mut self, mut groups: Vec<u32>) -> Result<(), Errno> {
        self.require(Capability::SETGID)?;
        if groups.len() > MOST_GROUPS {
            return Err(Errno::EINVAL);
        }
        groups.sort_unstable();
        self.groups = groups;
        Ok(())
    }

    /// Whether it is in a group as files have it.
    #[must_use]
    pub fn is_in(&self, group: u32) -> bool {
        self.gids.files == group || self.groups.binary_search(&group).is_ok()
    }

    /// Its users become others (setuid(2) and its kin), and its capabilities follow (`cap_emulate_setxuid`).
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn set_users(&mut self, new: NewIds) -> Result<(), Errno> {
        let uids = self.uids.changed(new, self.choice(Capability::SETUID))?;
        let old = std::mem::replace(&mut self.uids, uids);
        if !self.secure.contains(Secure::NO_SETUID_FIXUP) {
            self.capabilities.follow(&old, &uids, self.secure);
        }
        Ok(())
    }

    /// Its groups become others (setgid(2) and its kin).
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn set_own_groups(&mut self, new: NewIds) -> Result<(), Errno> {
        self.gids = self.gids.changed(new, self.choice(Capability::SETGID))?;
        Ok(())
    }

    /// setfsuid(2): what it was before. Who may not, changes nothing.
    pub fn set_file_user(&mut self, user: u32) -> u32 {
        let old = self.uids;
        self.uids.set_files(user, self.choice(Capability::SETUID));
        if !self.secure.contains(Secure::NO_SETUID_FIXUP) {
            self.capabilities.follow_files(old.files, self.uids.files);
        }
        old.files
    }

    /// setfsgid(2): likewise.
    pub fn set_file_group(&mut self, group: u32) -> u32 {
        let old = self.gids.files;
        self.gids.set_files(group, self.choice(Capability::SETGID));
        old
    }

    /// capset(2).
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_capabilities(&mut self, new: Fields) -> Result<(), Errno> {
        let inheritable_from = self.choice(Capability::SETPCAP);
        self.capabilities.set(new, inheritable_from)
    }

    /// `PR_CAPBSET_DROP`.
    ///
    /// # Errors
    /// In this order: `EPERM` without `CAP_SETPCAP`; `EINVAL` no such capability.
    pub fn drop_from_bounds(&mut self, capability: u64) -> Result<(), Errno> {
        self.require(Capability::SETPCAP)?;
        let capability = Capability::from_number(capability).ok_or(Errno::EINVAL)?;
        self.capabilities.bounding &= !capability.bit();
        Ok(())
    }

    /// `PR_CAP_AMBIENT`.
    ///
    /// # Errors
    /// `EINVAL` no such capability; `EPERM` it is not permitted and inheritable, or none may be raised.
    pub fn ambient(&mut self, what: Ambient) -> Result<u64, Errno> {
        self.capabilities.ambient(what, self.secure)
    }

    /// `PR_GET_SECUREBITS`.
    #[must_use]
    pub fn secure_bits(&self) -> u64 {
        self.secure.bits().into()
    }

    /// `PR_SET_SECUREBITS`.
    ///
    /// # Errors
    /// `EPERM` an unknown bit, a locked one changed or unlocked, or no `CAP_SETPCAP`.
    pub fn set_secure_bits(&mut self, bits: u64) -> Result<(), Errno> {
        let new = u32::try_from(bits).ok().and_then(Secure::from_bits).ok_or(Errno::EPERM)?;
        if !self.secure.may_become(new) {
            return Err(Errno::EPERM);
        }
        self.require(Capability::SETPCAP)?;
        self.secure = new;
        Ok(())
    }

    /// `PR_GET_KEEPCAPS`.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.secure.contains(Secure::KEEP_CAPS)
    }

    /// `PR_SET_KEEPCAPS`.
    ///
    /// # Errors
    /// `EINVAL` neither 0 nor 1; `EPERM` it is locked.
    pub fn set_keeps(&mut self, keeps: u64) -> Result<(), Errno> {
        if keeps > 1 {
            return Err(Errno::EINVAL);
        }
        if self.secure.contains(Secure::KEEP_CAPS_LOCKED) {
            return Err(Errno::EPERM);
        }
        self.secure.set(Secure::KEEP_CAPS, keeps == 1);
        Ok(())
    }

    /// As another program has them that is executed (`cap_bprm_creds_from_file`), whose file gives nothing.
    #[must_use]
    pub fn executed(&self) -> Self {
        let mut new = self.clone();
        new.capabilities.execute(&self.uids, self.secure);
        for ids in [&mut new.uids, &mut new.gids] {
            ids.saved = ids.effective;
            ids.files = ids.effective;
        }
        new.secure.remove(Secure::KEEP_CAPS);
        new
    }

    /// Whether the rights that it has are another user's or group's, so that nobody may look into its new program
    /// (`begin_new_exec`).
    #[must_use]
    pub fn has_others_rights(&self) -> bool {
        [self.uids, self.gids].iter().any(|ids| ids.effective != ids.real)
    }

    /// As access(2) goes by: files are its real user's, and capabilities those that root has, or nobody else.
    #[must_use]
    pub fn of_real_user(&self) -> Self {
        let mut new = self.clone();
        new.uids.files = new.uids.real;
        new.gids.files = new.gids.real;
        if !self.secure.contains(Secure::NO_SETUID_FIXUP) {
            let is_root = new.uids.real == 0;
            new.capabilities.effective = if is_root { new.capabilities.permitted } else { 0 };
        }
        new
    }

    /// Whether another process may look into its memory as before, once `new` is what it has (`commit_creds`).
    #[must_use]
    pub fn is_as_open(&self, new: &Self) -> bool {
        let same = |old: &Ids, new: &Ids| (old.effective, old.files) == (new.effective, new.files);
        same(&self.uids, &new.uids)
            && same(&self.gids, &new.gids)
            && new.capabilities.permitted & !self.capabilities.permitted == 0
    }

    /// Whether it may send signals to who has these (`kill_ok_by_cred`).
    #[must_use]
    pub fn may_signal(&self, other: &Credentials) -> bool {
        let one_of = [other.uids.saved, other.uids.real];
        one_of.contains(&self.uids.effective)
            || one_of.contains(&self.uids.real)
            || self.may(Capability::KILL)
    }
}

#[cfg(test)]
mod tests;
