//! Calls about who a process is and what it may do (credentials(7), capabilities(7)).

use std::sync::Arc;

use mm::addr::{VirtAddr, low_half};
use mm::error::Errno;
use mm::space::Dumpable;
use nix::libc;

use super::{Context, Served, Stop};
use crate::credentials::{Ambient, Capability, Credentials, Fields, Ids, MOST_GROUPS, NewIds};

impl Context<'_> {
    /// Changes the process's credentials, and what depends on them (Linux's `commit_creds`).
    fn change_credentials<T>(
        &self,
        change: impl FnOnce(&mut Credentials) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let old = self.process.credentials.get();
        let mut new = Credentials::clone(&old);
        let result = change(&mut new)?;
        if new != *old {
            let is_as_open = old.is_as_open(&new);
            self.process.credentials.set(Arc::new(new));
            self.process.apply_credentials();
            if !is_as_open {
                self.process.space.change().modes_mut().dumpable = Dumpable::No;
            }
        }
        Ok(result)
    }

    /// Argument `index` as a `uid_t`, or a `gid_t`.
    fn id(&self, index: usize) -> u32 {
        low_half(self.args[index])
    }
}

/// getuid(2).
pub(super) fn getuid(c: &mut Context<'_>) -> Served {
    Ok(c.process.credentials.get().uids.real.into())
}

/// geteuid(2).
pub(super) fn geteuid(c: &mut Context<'_>) -> Served {
    Ok(c.process.credentials.get().uids.effective.into())
}

/// getgid(2).
pub(super) fn getgid(c: &mut Context<'_>) -> Served {
    Ok(c.process.credentials.get().gids.real.into())
}

/// getegid(2).
pub(super) fn getegid(c: &mut Context<'_>) -> Served {
    Ok(c.process.credentials.get().gids.effective.into())
}

/// getresuid(2).
pub(super) fn getresuid(c: &mut Context<'_>) -> Served {
    write_ids(c, &c.process.credentials.get().uids)
}

/// getresgid(2).
pub(super) fn getresgid(c: &mut Context<'_>) -> Served {
    write_ids(c, &c.process.credentials.get().gids)
}

fn write_ids(c: &Context<'_>, ids: &Ids) -> Served {
    for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
        c.write_bytes(c.address(index), &id.to_le_bytes())?;
    }
    Ok(0)
}

/// Changes credentials, which is all that is answered.
fn change(c: &Context<'_>, change: impl FnOnce(&mut Credentials) -> Result<(), Errno>) -> Served {
    c.change_credentials(change)?;
    Ok(0)
}

/// Changes the ids of the user, or those of the group.
fn change_ids(
    c: &Context<'_>,
    set: fn(&mut Credentials, NewIds) -> Result<(), Errno>,
    new: NewIds,
) -> Served {
    change(c, |credentials| set(credentials, new))
}

/// setuid(2).
pub(super) fn setuid(c: &mut Context<'_>) -> Served {
    change_ids(c, Credentials::set_users, NewIds::One(c.id(0)))
}

/// setreuid(2).
pub(super) fn setreuid(c: &mut Context<'_>) -> Served {
    change_ids(c, Credentials::set_users, NewIds::Two(c.id(0), c.id(1)))
}

/// setresuid(2).
pub(super) fn setresuid(c: &mut Context<'_>) -> Served {
    change_ids(c, Credentials::set_users, NewIds::Three(c.id(0), c.id(1), c.id(2)))
}

/// setgid(2).
pub(super) fn setgid(c: &mut Context<'_>) -> Served {
    change_ids(c, Credentials::set_own_groups, NewIds::One(c.id(0)))
}

/// setregid(2).
pub(super) fn setregid(c: &mut Context<'_>) -> Served {
    change_ids(c, Credentials::set_own_groups, NewIds::Two(c.id(0), c.id(1)))
}

/// setresgid(2).
pub(super) fn setresgid(c: &mut Context<'_>) -> Served {
    change_ids(c, Credentials::set_own_groups, NewIds::Three(c.id(0), c.id(1), c.id(2)))
}

/// setfsuid(2).
pub(super) fn setfsuid(c: &mut Context<'_>) -> Served {
    let user = c.id(0);
    Ok(c.change_credentials(|credentials| Ok(credentials.set_file_user(user)))?.into())
}

/// setfsgid(2).
pub(super) fn setfsgid(c: &mut Context<'_>) -> Served {
    let group = c.id(0);
    Ok(c.change_credentials(|credentials| Ok(credentials.set_file_group(group)))?.into())
}

/// getgroups(2): with room for none, how many there are.
pub(super) fn getgroups(c: &mut Context<'_>) -> Served {
    let room = usize::try_from(c.int(0)).map_err(|_| Errno::EINVAL)?;
    let credentials = c.process.credentials.get();
    let groups = credentials.groups();
    if room != 0 {
        if groups.len() > room {
            return Err(Errno::EINVAL.into());
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        c.write_bytes(c.address(1), &bytes)?;
    }
    Ok(groups.len() as u64)
}

/// setgroups(2). In this order: `EPERM`; `EINVAL` too many; `EFAULT`; `EINVAL` one that is none.
pub(super) fn setgroups(c: &mut Context<'_>) -> Served {
    c.process.credentials.get().require(Capability::SETGID)?;
    let count = usize::try_from(low_half(c.args[0])).unwrap_or(usize::MAX);
    if count > MOST_GROUPS {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(c.address(1), count * 4)?;
    let groups: Vec<u32> =
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    if groups.contains(&u32::MAX) {
        return Err(Errno::EINVAL.into());
    }
    change(c, |credentials| credentials.set_groups(groups))
}

/// The versions of capget's and capset's header, and how many words of each set follow (linux/capability.h).
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

/// The words of a set, and whose it is, as a header says; `None` for a version that there is not, for which the newest
/// has been written there (`cap_validate_magic`).
fn header(c: &Context<'_>) -> Result<Option<usize>, Stop> {
    let bytes = c.read_bytes(c.address(0), 4)?;
    let version = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    match VERSIONS.iter().find(|known| known.0 == version) {
        Some(&(_, words)) => Ok(Some(words)),
        None => {
            c.write_bytes(c.address(0), &VERSIONS[2].0.to_le_bytes())?;
            Ok(None)
        }
    }
}

/// Whose sets a header is about; 0 for the caller's.
fn header_pid(c: &Context<'_>) -> Result<i32, Stop> {
    let bytes = c.read_bytes(c.address(0).checked_add(4).ok_or(Errno::EFAULT)?, 4)?;
    Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// capget(2). In this order: `EFAULT`, `EINVAL` the version, unless that is all that is asked; `EINVAL` a negative pid,
/// `ESRCH`; `EFAULT`.
pub(super) fn capget(c: &mut Context<'_>) -> Served {
    let nothing_asked = c.address(1) == VirtAddr::ZERO;
    let words = match header(c)? {
        _ if nothing_asked => return Ok(0),
        Some(words) => words,
        None => return Err(Errno::EINVAL.into()),
    };
    let credentials = match header_pid(c)? {
        pid if pid < 0 => return Err(Errno::EINVAL.into()),
        0 => c.process.credentials.get(),
        pid => c.process.family.credentials(pid).ok_or(Errno::ESRCH)?,
    };
    let sets = credentials.capabilities();
    let sets = [sets.effective, sets.permitted, sets.inheritable];
    let bytes: Vec<u8> = (0..words)
        .flat_map(|word| sets.map(|set| low_half(set >> (32 * word))))
        .flat_map(u32::to_le_bytes)
        .collect();
    c.write_bytes(c.address(1), &bytes)?;
    Ok(0)
}

/// capset(2). In this order: `EFAULT`, `EINVAL` the version; `EPERM` another process; `EFAULT`; `EPERM`.
pub(super) fn capset(c: &mut Context<'_>) -> Served {
    let words = header(c)?.ok_or(Errno::EINVAL)?;
    let pid = header_pid(c)?;
    if pid != 0 && pid != c.process.pid {
        return Err(Errno::EPERM.into());
    }
    let bytes = c.read_bytes(c.address(1), words * 12)?;
    let mut sets = [0_u64; 3];
    for (index, word) in bytes.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        sets[index % 3] |= u64::from(word) << (32 * (index / 3));
    }
    let [effective, permitted, inheritable] = sets;
    let fields = Fields { effective, permitted, inheritable };
    change(c, |credentials| credentials.set_capabilities(fields))
}

/// prctl(2): the options about credentials; `None` for others.
pub(super) fn prctl(c: &Context<'_>) -> Option<Served> {
    let [_, a, b, d, e, _] = c.args;
    let now = c.process.credentials.get();
    Some(match c.int(0) {
        libc::PR_GET_KEEPCAPS => Ok(now.keeps().into()),
        libc::PR_SET_KEEPCAPS => change(c, |new| new.set_keeps(a)),
        libc::PR_GET_SECUREBITS => Ok(now.secure_bits()),
        libc::PR_SET_SECUREBITS => change(c, |new| new.set_secure_bits(a)),
        libc::PR_CAPBSET_READ => match Capability::from_number(a) {
            Some(capability) => Ok(u64::from(now.capabilities().bounding & capability.bit() != 0)),
            None => Err(Errno::EINVAL.into()),
        },
        libc::PR_CAPBSET_DROP => change(c, |new| new.drop_from_bounds(a)),
        libc::PR_CAP_AMBIENT => ambient(c),
        libc::PR_SET_NO_NEW_PRIVS if [a, b, d, e] == [1, 0, 0, 0] => change(c, |new| {
            new.no_new_privileges = true;
            Ok(())
        }),
        libc::PR_GET_NO_NEW_PRIVS if [a, b, d, e] == [0; 4] => Ok(now.no_new_privileges.into()),
        libc::PR_SET_NO_NEW_PRIVS | libc::PR_GET_NO_NEW_PRIVS => Err(Errno::EINVAL.into()),
        _ => return None,
    })
}

/// `PR_CAP_AMBIENT`.
fn ambient(c: &Context<'_>) -> Served {
    const IS_SET: u64 = libc::PR_CAP_AMBIENT_IS_SET as u64;
    const RAISE: u64 = libc::PR_CAP_AMBIENT_RAISE as u64;
    const LOWER: u64 = libc::PR_CAP_AMBIENT_LOWER as u64;
    const CLEAR_ALL: u64 = libc::PR_CAP_AMBIENT_CLEAR_ALL as u64;
    let [_, what, number, d, e, _] = c.args;
    let what = match (what, number, d, e) {
        (IS_SET, number, 0, 0) => Ambient::IsSet(number),
        (RAISE, number, 0, 0) => Ambient::Raise(number),
        (LOWER, number, 0, 0) => Ambient::Lower(number),
        (CLEAR_ALL, 0, 0, 0) => Ambient::ClearAll,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(c.change_credentials(|credentials| credentials.ambient(what))?)
}
