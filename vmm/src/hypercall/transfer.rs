//! Bytes between a program's memory and the host's streams: read(2), write(2), and their vectors.

use mm::addr::VirtAddr;
use mm::error::Errno;
use nix::poll::{PollFd, PollFlags};
use rustix::io::Errno as HostErrno;

use super::signals::{broken_pipe, interrupted};
use super::streams::Stream;
use super::{Context, Served, Stop};
use crate::task::rest;

/// The most bytes that one call moves at once.
const CHUNK: usize = 1 << 20;
/// The most bytes that Linux moves in one call (`MAX_RW_COUNT`).
const MOST: u64 = 0x7fff_f000;
/// The most pieces of a vector (`IOV_MAX`).
const PIECES: u64 = 1024;

fn length(len: u64) -> usize {
    usize::try_from(len.min(MOST)).unwrap_or(0)
}

/// read(2).
pub(super) fn read(c: &mut Context<'_>) -> Served {
    let stream = c.process.streams.get(c.int(0))?;
    c.check_user(c.address(1), c.args[2])?;
    let mut buffer = vec![0; length(c.args[2]).min(CHUNK)];
    let count = read_host(c, stream, &mut buffer)?;
    c.write_bytes(c.address(1), &buffer[..count])?;
    Ok(count as u64)
}

/// Reads from the host, waiting as long as it takes, or until the process is killed.
fn read_host(c: &Context<'_>, stream: Stream, buffer: &mut [u8]) -> Result<usize, Stop> {
    loop {
        let flags = rustix::fs::fcntl_getfl(stream.host())?;
        if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
            let mut fds = [PollFd::new(stream.host(), PollFlags::POLLIN)];
            rest(c.process, &mut fds, None).map_err(Stop::Signal)??;
        }
        // Another process may have been quicker: then this waits, too, and can be interrupted.
        match rustix::io::read(stream.host(), &mut *buffer) {
            Err(HostErrno::INTR) => match interrupted(c) {
                Some(by) => return Err(Stop::Signal(by)),
                None => continue,
            },
            answer => return Ok(answer?),
        }
    }
}

/// write(2).
pub(super) fn write(c: &mut Context<'_>) -> Served {
    let stream = c.process.streams.get(c.int(0))?;
    c.check_user(c.address(1), c.args[2])?;
    let piece = Piece { at: c.address(1), len: length(c.args[2]) };
    write_pieces(c, stream, &[piece])
}

/// A piece of a vector.
struct Piece {
    at: VirtAddr,
    len: usize,
}

/// The vector at argument 1, its length at argument 2.
fn vector(c: &Context<'_>) -> Result<Vec<Piece>, Stop> {
    let count = c.args[2];
    if count > PIECES {
        return Err(Errno::EINVAL.into());
    }
    let mut left = MOST;
    let mut pieces = Vec::new();
    for index in 0..count {
        let at = c.address(1).checked_add(index * 16).ok_or(Errno::EFAULT)?;
        let [base, len] = c.read_words(at)?;
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL.into());
        }
        c.check_user(VirtAddr::new(base), len)?;
        let len = len.min(left);
        left -= len;
        pieces.push(Piece { at: VirtAddr::new(base), len: length(len) });
    }
    Ok(pieces)
}

/// readv(2).
pub(super) fn readv(c: &mut Context<'_>) -> Served {
    let stream = c.process.streams.get(c.int(0))?;
    let pieces = vector(c)?;
    let wanted: usize = pieces.iter().map(|piece| piece.len).sum();
    let mut buffer = vec![0; wanted.min(CHUNK)];
    let count = read_host(c, stream, &mut buffer)?;
    let mut rest = &buffer[..count];
    for piece in pieces {
        let (now, later) = rest.split_at(piece.len.min(rest.len()));
        c.write_bytes(piece.at, now)?;
        rest = later;
    }
    Ok(count as u64)
}

/// writev(2).
pub(super) fn writev(c: &mut Context<'_>) -> Served {
    let stream = c.process.streams.get(c.int(0))?;
    let pieces = vector(c)?;
    write_pieces(c, stream, &pieces)
}

/// Writes until all is written, or an error, which counts only if nothing was written before it.
fn write_pieces(c: &Context<'_>, stream: Stream, pieces: &[Piece]) -> Served {
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
fn write_all(c: &Context<'_>, stream: Stream, bytes: &[u8], before: u64) -> Served {
    let mut done = 0;
    loop {
        match rustix::io::write(stream.host(), &bytes[done..]) {
            Ok(count) => {
                done += count;
                if done == bytes.len() || count == 0 {
                    return Ok(before + done as u64);
                }
            }
            Err(HostErrno::INTR) => {
                if let Some(by) = interrupted(c) {
                    return Err(Stop::Signal(by));
                }
            }
            Err(_) if before > 0 || done > 0 => return Ok(before + done as u64),
            Err(HostErrno::PIPE) => return Err(broken_pipe(c)),
            Err(errno) => return Err(errno.into()),
        }
    }
}
