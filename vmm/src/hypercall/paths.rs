//! Calls on paths. A program has no files: every path is unknown to it, except `/proc/self/exe` as a link.

use mm::addr::VirtAddr;
use mm::error::Errno;

use super::{Context, Served};

/// Calls on a path in the first argument.
pub(super) fn no_such_path(c: &mut Context<'_>) -> Served {
    c.read_path(c.address(0))?;
    Err(Errno::ENOENT.into())
}

/// Calls on a path in the second argument.
pub(super) fn no_such_path_at(c: &mut Context<'_>) -> Served {
    c.read_path(c.address(1))?;
    Err(Errno::ENOENT.into())
}

/// readlink(2).
pub(super) fn readlink(c: &mut Context<'_>) -> Served {
    let [path, buffer, len, ..] = c.args;
    link(c, path, buffer, len)
}

/// readlinkat(2).
pub(super) fn readlinkat(c: &mut Context<'_>) -> Served {
    let [_, path, buffer, len, ..] = c.args;
    link(c, path, buffer, len)
}

fn link(c: &Context<'_>, path: u64, buffer: u64, len: u64) -> Served {
    #[allow(clippy::cast_possible_truncation, reason = "the length is a C int")]
    let len = len as u32 as i32;
    let len = usize::try_from(len).ok().filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
    if c.read_path(VirtAddr::new(path))? != b"/proc/self/exe" {
        return Err(Errno::ENOENT.into());
    }
    let target = c.process.identity.executable.as_bytes();
    let target = &target[..target.len().min(len)];
    c.write_bytes(VirtAddr::new(buffer), target)?;
    Ok(target.len() as u64)
}
