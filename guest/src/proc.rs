//! Reading /proc: files by their lines, and what stands in the lines about VMAs.

#![allow(unsafe_code)]

use core::ffi::CStr;

use crate::call::{number, syscall};
use crate::errno::Errno;

const O_CLOEXEC: u64 = 0o2_000_000;
const F_DUPFD_CLOEXEC: u64 = 1030;
/// The first file descriptor of those that a payload opens for itself, out of the way of what it tries.
pub const OWN_FILES: u64 = 100;
/// Bytes of a file that are read at once.
pub const CHUNK: usize = 16 << 10;

/// Opens a file to read, with a descriptor from [`OWN_FILES`] on.
///
/// # Errors
/// open(2)'s.
pub fn open(path: &CStr) -> Result<u64, Errno> {
    // SAFETY: the call only reads the path.
    let low = unsafe { syscall(number::OPEN, [path.as_ptr() as u64, O_CLOEXEC]) }?;
    // SAFETY: the call touches no memory.
    let file = unsafe { syscall(number::FCNTL, [low, F_DUPFD_CLOEXEC, OWN_FILES]) };
    close(low);
    file
}

/// Closes a file that [`open`] has opened.
pub fn close(file: u64) {
    // SAFETY: the call touches no memory.
    let _ = unsafe { syscall(number::CLOSE, [file]) };
}

/// Calls `each` with every line of a file, cut at [`CHUNK`] bytes.
///
/// # Errors
/// open(2)'s and read(2)'s.
pub fn lines(path: &CStr, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
    let file = open(path)?;
    let mut buffer = [0_u8; CHUNK];
    let mut held = 0;
    let ended = loop {
        let space = buffer.get_mut(held..).unwrap_or(&mut []);
        let args = [file, space.as_mut_ptr() as u64, space.len() as u64];
        // SAFETY: the call writes to the space and no further.
        let read = match unsafe { syscall(number::READ, args) } {
            Ok(read) => usize::try_from(read).unwrap_or(0),
            Err(error) => break Err(error),
        };
        held += read;
        let text = buffer.get(..held).unwrap_or(&[]);
        if read == 0 {
            break Ok(());
        }
        let mut start = 0;
        while let Some(line) = text.get(start..).and_then(|rest| rest.split(|&b| b == b'\n').next())
            && start + line.len() < held
        {
            each(line);
            start += line.len() + 1;
        }
        if start == 0 && held == CHUNK {
            each(text);
            start = held;
        }
        buffer.copy_within(start..held, 0);
        held -= start;
    };
    close(file);
    ended
}

/// The size in a line of this name, `Rss:                   4 kB`, or a number without a unit.
#[must_use]
pub fn kib(line: &[u8], name: &str) -> Option<u64> {
    let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
    let value = value.strip_suffix(b" kB").unwrap_or(value);
    core::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// The range that the first line about a VMA begins with: `10000000000-10000002000 rw-p ...`.
#[must_use]
pub fn range(line: &[u8]) -> Option<(u64, u64)> {
    let text = core::str::from_utf8(line.split(|&b| b == b' ').next()?).ok()?;
    let (start, end) = text.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}
