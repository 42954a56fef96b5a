//! Who may do what with a file (Linux's `inode_permission`, `may_delete`, `setattr_prepare`), by the credentials of the
//! process that the calling thread runs. What is in /proc has rules of its own.

use bitflags::bitflags;
use mm::error::Errno;
use nix::libc;

use super::status::{FileKind, FileStatus};
use super::tree::Node;
use crate::credentials::{Capability, current, may};

bitflags! {
    /// What is wanted, as the bits of permissions have it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Access: u32 {
        /// To read it, or its names.
        const READ = 4;
        /// To write it, or change its names.
        const WRITE = 2;
        /// To execute it, or walk through it.
        const EXECUTE = 1;
    }
}

/// Asks for access.
///
/// # Errors
/// `EACCES`; what the host says of a file of its own.
pub fn check(node: &Node, wanted: Access) -> Result<(), Errno> {
    // Most are root, whom only a file stops that nobody may execute.
    let unasked = node.is_directory() || !wanted.contains(Access::EXECUTE);
    if wanted.is_empty()
        || matches!(node, Node::Made(_))
        || unasked && may(Capability::DAC_OVERRIDE)
    {
        return Ok(());
    }
    check_status(&node.status()?, wanted)
}

/// The same of what is known of a file (`generic_permission`).
///
/// # Errors
/// `EACCES`.
pub fn check_status(status: &FileStatus, wanted: Access) -> Result<(), Errno> {
    let who = current();
    let shift = match () {
        () if who.uids.files == status.uid => 6,
        () if who.is_in(status.gid) => 3,
        () => 0,
    };
    let given = Access::from_bits_truncate(status.permissions >> shift);
    let is_directory = status.kind == FileKind::Directory;
    let reads = match is_directory {
        true => !wanted.contains(Access::WRITE),
        false => wanted == Access::READ,
    };
    let runs = is_directory || !wanted.contains(Access::EXECUTE) || status.permissions & 0o111 != 0;
    let allowed = given.contains(wanted)
        || reads && who.may(Capability::DAC_READ_SEARCH)
        || runs && who.may(Capability::DAC_OVERRIDE);
    if allowed { Ok(()) } else { Err(Errno::EACCES) }
}

/// Asks whether a name of a directory may be taken from what has it: of one that is sticky only by an owner.
///
/// # Errors
/// In this order: `EACCES`; `EPERM`; what the host says.
pub fn check_removal(directory: &Node, node: &Node) -> Result<(), Errno> {
    check(directory, Access::WRITE | Access::EXECUTE)?;
    if may(Capability::FOWNER) || matches!(directory, Node::Made(_)) {
        return Ok(());
    }
    let (above, own) = (directory.status()?, current().uids.files);
    if above.permissions & libc::S_ISVTX == 0 || [node.status()?.uid, above.uid].contains(&own) {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// Asks whether it is the owner's, or may be treated so (`inode_owner_or_capable`).
///
/// # Errors
/// `EPERM`; what the host says.
pub fn check_owner(node: &Node) -> Result<(), Errno> {
    if may(Capability::FOWNER) || node.status()?.uid == current().uids.files {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// Asks whether it may get a further name: who does not own it has to be able to read and write it, and it must not
/// run as another (`may_linkat`, with `fs.protected_hardlinks`).
///
/// # Errors
/// `EPERM`; what the host says.
pub fn check_link(node: &Node) -> Result<(), Errno> {
    if check_owner(node).is_ok() {
        return Ok(());
    }
    let status = node.status()?;
    let runs_as_group = libc::S_ISGID | libc::S_IXGRP;
    let is_safe = status.kind == FileKind::Regular
        && status.permissions & libc::S_ISUID == 0
        && status.permissions & runs_as_group != runs_as_group
        && check_status(&status, Access::READ | Access::WRITE).is_ok();
    if is_safe { Ok(()) } else { Err(Errno::EPERM) }
}

/// Asks whether a file may become another owner's, or group's (`chown_ok`, `chgrp_ok`).
///
/// # Errors
/// `EPERM`; what the host says.
pub(super) fn check_new_owner(
    node: &Node,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), Errno> {
    if may(Capability::CHOWN) {
        return Ok(());
    }
    let (who, now) = (current(), node.status()?);
    let is_owner = who.uids.files == now.uid;
    let user_stays = uid.is_none_or(|uid| is_owner && uid == now.uid);
    let group_fits = gid.is_none_or(|gid| is_owner && (gid == now.gid || who.is_in(gid)));
    if user_stays && group_fits { Ok(()) } else { Err(Errno::EPERM) }
}

/// The permissions that a file gets that are set: who is not in its group cannot have it run as that.
///
/// # Errors
/// `EPERM` not the owner's; what the host says.
pub(super) fn permissions_to_set(node: &Node, permissions: u32) -> Result<u32, Errno> {
    check_owner(node)?;
    let keeps = permissions & libc::S_ISGID == 0
        || may(Capability::FSETID)
        || current().is_in(node.status()?.gid);
    Ok(if keeps { permissions } else { permissions & !libc::S_ISGID })
}
