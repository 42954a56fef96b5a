//! What has bytes at offsets, and a length: memory with a descriptor, and the host's files.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use mm::backing::{HostFile, Length, Sought};
use mm::error::{CallResult, Errno};
use mm::promise::Payer;
use mm::system::System;
use nix::libc;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstat};

use super::status::FileStatus;
use super::stream::of_host;
use super::{Memory, MemoryFile, Stream};

/// Bytes at offsets, all of them in bytes.
pub trait Content {
    /// How many there are.
    ///
    /// # Errors
    /// What the host says.
    fn length(&self) -> Result<u64, Errno>;

    /// The first byte from `offset` on that is in data, or in a hole.
    ///
    /// # Errors
    /// `ENXIO` before the start, past the end, or no more data; of huge pages `EINVAL` before the start.
    fn seek(&self, offset: i64, sought: Sought) -> Result<u64, Errno>;

    /// Reads; says how many bytes there were before the end.
    ///
    /// # Errors
    /// What the host says.
    fn read(&self, offset: u64, into: &mut [u8]) -> CallResult<usize>;

    /// Asks whether there is a way to write, before anything is looked at that might be written (Linux's
    /// `FMODE_CAN_WRITE`).
    ///
    /// # Errors
    /// `EINVAL` if not: huge pages are written through maps.
    fn check_write(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Asks whether it may become so long, if it is not.
    ///
    /// # Errors
    /// `EPERM` a seal.
    fn check_length(&self, _len: u64) -> Result<(), Errno> {
        Ok(())
    }

    /// Writes, past the end too. Says how many bytes were written.
    ///
    /// # Errors
    /// As of [`SharedMemory::write_at`](mm::backing::SharedMemory::write_at); what the host says.
    fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<usize>;

    /// Writes at the end, wherever that is by then, so that two who do so have each a place of their own. Says where
    /// that was, and how many bytes were written.
    ///
    /// # Errors
    /// As of [`write`](Self::write).
    fn append(&self, bytes: &[u8], system: &System, payer: &dyn Payer) -> CallResult<(u64, usize)>;

    /// Changes the length.
    ///
    /// # Errors
    /// `EPERM` a seal; what the host says.
    fn truncate(&self, len: u64, system: &System) -> CallResult<()>;

    /// Makes room.
    ///
    /// # Errors
    /// As of [`SharedMemory::allocate`](mm::backing::SharedMemory::allocate); what the host says.
    fn allocate(
        &self,
        bytes: Range<u64>,
        length: Length,
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<()>;

    /// Makes a hole.
    ///
    /// # Errors
    /// `EPERM` a seal; what the host says.
    fn punch(&self, bytes: Range<u64>, system: &System) -> CallResult<()>;

    /// Writes what has changed to where it lasts.
    ///
    /// # Errors
    /// What the host says.
    fn sync(&self) -> Result<(), Errno>;

    /// What fstat(2) says.
    ///
    /// # Errors
    /// What the host says.
    fn status(&self) -> Result<FileStatus, Errno>;
}

impl Content for MemoryFile {
    fn length(&self) -> Result<u64, Errno> {
        Ok(match self.memory() {
            Memory::Small(memory) => memory.len(),
            Memory::Huge(memory) => memory.len(),
        })
    }

    fn seek(&self, offset: i64, sought: Sought) -> Result<u64, Errno> {
        match self.memory() {
            Memory::Small(memory) => memory.seek(from_start(offset)?, sought).ok_or(Errno::ENXIO),
            Memory::Huge(memory) => seek_in_one_piece(offset, memory.len(), sought),
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> CallResult<usize> {
        Ok(match self.memory() {
            Memory::Small(memory) => {
                self.attributes().read();
                memory.read_at(offset, into)?
            }
            Memory::Huge(memory) => memory.read_at(offset, into),
        })
    }

    fn check_write(&self) -> Result<(), Errno> {
        match self.memory() {
            Memory::Small(_) => Ok(()),
            Memory::Huge(_) => Err(Errno::EINVAL),
        }
    }

    fn check_length(&self, len: u64) -> Result<(), Errno> {
        match self.memory() {
            Memory::Small(memory) => memory.check_length(len),
            Memory::Huge(_) => Ok(()),
        }
    }

    fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<usize> {
        match self.memory() {
            Memory::Small(memory) => {
                let written = memory.write_at(offset, bytes, system, payer)?;
                self.attributes().written();
                Ok(written)
            }
            Memory::Huge(_) => Err(Errno::EINVAL.into()),
        }
    }

    fn append(&self, bytes: &[u8], system: &System, payer: &dyn Payer) -> CallResult<(u64, usize)> {
        match self.memory() {
            Memory::Small(memory) => {
                let written = memory.append(bytes, system, payer)?;
                self.attributes().written();
                Ok(written)
            }
            Memory::Huge(_) => Err(Errno::EINVAL.into()),
        }
    }

    fn truncate(&self, len: u64, system: &System) -> CallResult<()> {
        match self.memory() {
            Memory::Small(memory) => memory.truncate(len, system)?,
            Memory::Huge(memory) => memory.truncate(len, system)?,
        }
        self.attributes().written();
        Ok(())
    }

    fn allocate(
        &self,
        bytes: Range<u64>,
        length: Length,
        system: &System,
        payer: &dyn Payer,
    ) -> CallResult<()> {
        match self.memory() {
            Memory::Small(memory) => memory.allocate(bytes, length, system, payer),
            Memory::Huge(memory) => memory.allocate(bytes, length),
        }
    }

    fn punch(&self, bytes: Range<u64>, system: &System) -> CallResult<()> {
        match self.memory() {
            Memory::Small(memory) => memory.punch_bytes(bytes, system),
            Memory::Huge(memory) => memory.punch_bytes(bytes, system),
        }
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn status(&self) -> Result<FileStatus, Errno> {
        Ok(MemoryFile::status(self))
    }
}

/// Where data or holes are looked for from.
fn from_start(offset: i64) -> Result<u64, Errno> {
    u64::try_from(offset).map_err(|_| Errno::ENXIO)
}

/// What `default_llseek` finds: all is data up to the end, where the hole begins. Before the start is no hole
/// either, but a place to look for one.
fn seek_in_one_piece(offset: i64, len: u64, sought: Sought) -> Result<u64, Errno> {
    match u64::try_from(offset) {
        Ok(from) if from >= len => Err(Errno::ENXIO),
        Ok(from) if sought == Sought::Data => Ok(from),
        Err(_) if sought == Sought::Data => Err(Errno::EINVAL),
        Ok(_) | Err(_) => Ok(len),
    }
}

/// The host's page cache is what its maps show, so its own calls are the right ones.
impl Content for HostFile {
    fn length(&self) -> Result<u64, Errno> {
        fstat(self.file()).map(|stat| stat.st_size.cast_unsigned()).map_err(of_host)
    }

    fn seek(&self, offset: i64, sought: Sought) -> Result<u64, Errno> {
        let offset = from_start(offset)?;
        let from = match sought {
            Sought::Data => SeekFrom::Data(offset),
            Sought::Hole => SeekFrom::Hole(offset),
        };
        rustix::fs::seek(self.file(), from).map_err(of_host)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> CallResult<usize> {
        Ok(self.file().read_at(into, offset).map_err(|error| of_io(&error))?)
    }

    fn write(&self, offset: u64, bytes: &[u8], _: &System, _: &dyn Payer) -> CallResult<usize> {
        Ok(self.file().write_at(bytes, offset).map_err(|error| of_io(&error))?)
    }

    fn append(&self, bytes: &[u8], _: &System, _: &dyn Payer) -> CallResult<(u64, usize)> {
        Ok(HostFile::append(self, bytes)?)
    }

    fn truncate(&self, len: u64, system: &System) -> CallResult<()> {
        HostFile::truncate(self, len, system)
    }

    fn allocate(
        &self,
        bytes: Range<u64>,
        length: Length,
        _: &System,
        _: &dyn Payer,
    ) -> CallResult<()> {
        let flags = match length {
            Length::Grows => FallocateFlags::empty(),
            Length::Stays => FallocateFlags::KEEP_SIZE,
        };
        Ok(fallocate(self.file(), flags, bytes.start, bytes.end - bytes.start).map_err(of_host)?)
    }

    fn punch(&self, bytes: Range<u64>, _: &System) -> CallResult<()> {
        // What is mapped of it becomes zeros by itself.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(self.file(), flags, bytes.start, bytes.end - bytes.start).map_err(of_host)?)
    }

    fn sync(&self) -> Result<(), Errno> {
        self.write_out(0..u64::MAX)
    }

    fn status(&self) -> Result<FileStatus, Errno> {
        fstat(self.file()).map(|stat| FileStatus::from(&stat)).map_err(of_host)
    }
}

/// What fstat(2) says of one of the host's streams.
///
/// # Errors
/// What the host says.
pub fn status_of(stream: &Stream) -> Result<FileStatus, Errno> {
    fstat(stream.host()).map(|stat| FileStatus::from(&stat)).map_err(of_host)
}

fn of_io(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
