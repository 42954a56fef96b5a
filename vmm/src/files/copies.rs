//! Programs that lie in the guest's memory and run: copies of what they were, on the host, as long as anybody has them.
//! They are not in the guest's memory, so there is a limit to them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mm::backing::Sought;
use mm::error::{CallError, CallResult, Errno};
use rustix::fs::{MemfdFlags, memfd_create};

use super::MemoryFile;
use super::content::Content;

/// How many bytes all of them may have, holes left out.
const MOST: u64 = 24 << 20;
/// How much is copied at once.
const CHUNK: usize = 64 << 10;

/// Those that there are.
#[derive(Debug, Default)]
pub struct Copies(Mutex<Vec<Copied>>);

#[derive(Debug)]
struct Copied {
    file: Weak<File>,
    bytes: u64,
}

impl Copies {
    /// A file's bytes as they are now.
    ///
    /// # Errors
    /// `ENOMEM` there are too many copies already, or the host's.
    pub fn add(&self, file: &MemoryFile) -> CallResult<Arc<File>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|copied| copied.file.strong_count() > 0);
        let room = MOST.saturating_sub(all.iter().map(|copied| copied.bytes).sum());
        let (copy, bytes) = copy(file, room)?;
        let copy = Arc::new(copy);
        all.push(Copied { file: Arc::downgrade(&copy), bytes });
        Ok(copy)
    }
}

/// A copy, and how many bytes it has, which are at most so many.
fn copy(file: &MemoryFile, room: u64) -> CallResult<(File, u64)> {
    let of_host = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
    let copy = File::from(memfd_create(c"program", MemfdFlags::CLOEXEC).map_err(of_host)?);
    copy.set_len(Content::length(file)?).map_err(|error| of_io(&error))?;
    let (mut buffer, mut at, mut bytes) = (vec![0; CHUNK], 0_i64, 0);
    loop {
        let from = match Content::seek(file, at, Sought::Data) {
            Ok(from) => from,
            Err(Errno::ENXIO) => return Ok((copy, bytes)),
            Err(errno) => return Err(errno.into()),
        };
        let count = Content::read(file, from, &mut buffer)?;
        if count == 0 {
            // It was cut meanwhile.
            return Ok((copy, bytes));
        }
        bytes += count as u64;
        if bytes > room {
            return Err(CallError::Errno(Errno::ENOMEM));
        }
        copy.write_all_at(&buffer[..count], from).map_err(|error| of_io(&error))?;
        let end = from + count as u64;
        at = i64::try_from(end).map_err(|_| Errno::EFBIG)?;
    }
}

fn of_io(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}
