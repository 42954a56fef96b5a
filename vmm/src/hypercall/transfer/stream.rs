//! Bytes between memory and the host's streams.

use mm::addr::index;
use mm::error::Errno;
use nix::poll::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno as HostErrno, ReadWriteFlags};

use super::super::signals::broken_pipe;
use super::super::{Context, Served, Stop};
use super::pieces::{Piece, total};
use super::{POSITION, Place};
use crate::files::Stream;
use crate::task::rest;

/// The most bytes that are copied at once.
const CHUNK: usize = 1 << 20;

pub(super) fn read_stream(
    c: &Context<'_>,
    stream: &Stream,
    pieces: &[Piece],
    place: Place,
) -> Served {
    let mut buffer = vec![0; index(total(pieces)).min(CHUNK)];
    let count = match place {
        Place::Position => read_host(c, stream, &mut buffer)?,
        Place::Offset(offset) => rustix::io::pread(stream.host(), &mut *buffer, offset)?,
    };
    let mut rest = &buffer[..count];
    for piece in pieces {
        let (now, later) = rest.split_at(piece.len.min(rest.len()));
        c.write_bytes(piece.at, now)?;
        rest = later;
    }
    Ok(count as u64)
}

pub(super) fn write_stream_at(
    c: &Context<'_>,
    stream: &Stream,
    pieces: &[Piece],
    offset: u64,
) -> Served {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend(c.read_bytes(piece.at, piece.len.min(CHUNK))?);
    }
    Ok(rustix::io::pwrite(stream.host(), &bytes, offset)? as u64)
}

/// Writes until all is written, or an error, which counts only if nothing was written before it.
pub(super) fn write_stream(c: &Context<'_>, stream: &Stream, pieces: &[Piece]) -> Served {
    let mut done = 0;
    let mut buffer = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let mut taken = 0;
        while taken < piece.len {
            let part = (piece.len - taken).min(CHUNK - buffer.len());
            let at = piece.at.checked_add(taken as u64).ok_or(Errno::EFAULT)?;
            match c.read_bytes(at, part) {
                Ok(bytes) => buffer.extend_from_slice(&bytes),
                Err(Stop::Errno(_)) if done > 0 || !buffer.is_empty() => {
                    return write_all(c, stream, &buffer, done);
                }
                Err(stop) => return Err(stop),
            }
            taken += part;
            let last = index + 1 == pieces.len() && taken == piece.len;
            if buffer.len() == CHUNK && !last {
                let before = done;
                done = write_all(c, stream, &buffer, done)?;
                if done - before < buffer.len() as u64 {
                    return Ok(done);
                }
                buffer.clear();
            }
        }
    }
    write_all(c, stream, &buffer, done)
}

/// Writes a buffer to the host; says how many bytes there are now, `before` included.
fn write_all(c: &Context<'_>, stream: &Stream, bytes: &[u8], before: u64) -> Served {
    let mut done = 0;
    loop {
        match write_host(c, stream, &bytes[done..]) {
            Ok(count) => {
                done += count;
                if done == bytes.len() || count == 0 {
                    return Ok(before + done as u64);
                }
            }
            Err(Stop::Broken(broken)) => return Err(broken.into()),
            Err(_) if before > 0 || done > 0 => return Ok(before + done as u64),
            Err(Stop::Errno(Errno::EPIPE)) => return Err(broken_pipe(c)),
            Err(stop) => return Err(stop),
        }
    }
}
/// Reads from the host, waiting as long as it takes, or until a signal comes.
fn read_host(c: &Context<'_>, stream: &Stream, buffer: &mut [u8]) -> Result<usize, Stop> {
    wait_for(c, stream, PollFlags::POLLIN, |how| match how {
        How::AtOnce => {
            let mut pieces = [std::io::IoSliceMut::new(buffer)];
            rustix::io::preadv2(stream.host(), &mut pieces, POSITION, ReadWriteFlags::NOWAIT)
        }
        How::Plainly => rustix::io::read(stream.host(), &mut *buffer),
    })
}

/// Writes some bytes to the host, waiting as long as it takes, or until a signal comes.
fn write_host(c: &Context<'_>, stream: &Stream, bytes: &[u8]) -> Result<usize, Stop> {
    wait_for(c, stream, PollFlags::POLLOUT, |how| match how {
        How::AtOnce => {
            let pieces = [std::io::IoSlice::new(bytes)];
            rustix::io::pwritev2(stream.host(), &pieces, POSITION, ReadWriteFlags::NOWAIT)
        }
        How::Plainly => rustix::io::write(stream.host(), bytes),
    })
}

/// How the host is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// To do what it can without waiting.
    AtOnce,
    /// Whether it waits or not.
    Plainly,
}

/// Moves bytes once the stream is ready. Another process may be quicker, and a kick that comes just before a
/// call that waits is lost: so, where the host can be asked not to wait, it is. It cannot for terminals, nor, of
/// pipes, before Linux 6.4; of files it would say that it has to, though they never wait long.
fn wait_for(
    c: &Context<'_>,
    stream: &Stream,
    ready: PollFlags,
    mut moved: impl FnMut(How) -> Result<usize, HostErrno>,
) -> Result<usize, Stop> {
    let waits = !rustix::fs::fcntl_getfl(stream.host())?.contains(OFlags::NONBLOCK);
    let kind = FileType::from_raw_mode(rustix::fs::fstat(stream.host())?.st_mode);
    let mut how = match kind {
        // What has no kind is an eventfd.
        FileType::Fifo | FileType::Socket | FileType::Unknown if waits => How::AtOnce,
        _ => How::Plainly,
    };
    loop {
        if how == How::Plainly && waits && kind != FileType::RegularFile {
            rest(c.process, &mut [PollFd::new(stream.host(), ready)], None)??;
        }
        match moved(how) {
            Err(HostErrno::INTR) => {}
            Err(HostErrno::AGAIN) if how == How::AtOnce => {
                rest(c.process, &mut [PollFd::new(stream.host(), ready)], None)??;
            }
            Err(HostErrno::OPNOTSUPP | HostErrno::NOSYS) if how == How::AtOnce => {
                how = How::Plainly;
            }
            answer => return Ok(answer?),
        }
    }
}
