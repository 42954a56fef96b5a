//! Bytes between a program's memory and what is open: read(2), write(2), and their kin.

mod content;
mod pieces;
mod stream;

use mm::addr::{PAGE_BYTES, index};
use mm::backing::FileMode;
use mm::error::Errno;
use nix::libc;

use self::content::{move_pages, read_at, write_content};
use self::pieces::{Piece, single, total, vector};
use self::stream::{read_stream, write_stream, write_stream_at};
use super::{Context, Served, Stop, userfault};
use crate::files::tree::Device;
use crate::files::{Object, Open};

/// The offset of preadv2(2) and pwritev2(2) that stands for the position.
const POSITION: u64 = u64::MAX;

/// Where a transfer begins.
#[derive(Clone, Copy)]
enum Place {
    /// Where the last one ended, and so the next one begins.
    Position,
    /// At this byte.
    Offset(u64),
}

/// read(2).
pub(super) fn read(c: &mut Context<'_>) -> Served {
    check_read(c)?;
    transfer(c, Place::Position, single, read_pieces)
}

/// pread64(2).
pub(super) fn pread64(c: &mut Context<'_>) -> Served {
    let place = offset(c)?;
    check_read(c)?;
    transfer(c, place, single, read_pieces)
}

/// readv(2).
pub(super) fn readv(c: &mut Context<'_>) -> Served {
    check_read(c)?;
    transfer(c, Place::Position, vector, read_pieces)
}

/// write(2).
pub(super) fn write(c: &mut Context<'_>) -> Served {
    check_write(c)?;
    transfer(c, Place::Position, single, write_pieces)
}

/// pwrite64(2).
pub(super) fn pwrite64(c: &mut Context<'_>) -> Served {
    let place = offset(c)?;
    check_write(c)?;
    transfer(c, place, single, write_pieces)
}

/// writev(2).
pub(super) fn writev(c: &mut Context<'_>) -> Served {
    check_write(c)?;
    transfer(c, Place::Position, vector, write_pieces)
}

/// preadv(2).
pub(super) fn preadv(c: &mut Context<'_>) -> Served {
    let place = offset(c)?;
    check_read(c)?;
    transfer(c, place, vector, read_pieces)
}

/// pwritev(2).
pub(super) fn pwritev(c: &mut Context<'_>) -> Served {
    let place = offset(c)?;
    check_write(c)?;
    transfer(c, place, vector, write_pieces)
}

/// preadv2(2).
pub(super) fn preadv2(c: &mut Context<'_>) -> Served {
    let place = place_or_position(c)?;
    check_read(c)?;
    check_flags(c)?;
    transfer(c, place, vector, read_pieces)
}

/// pwritev2(2).
pub(super) fn pwritev2(c: &mut Context<'_>) -> Served {
    let place = place_or_position(c)?;
    check_write(c)?;
    check_flags(c)?;
    transfer(c, place, vector, write_pieces)
}

/// The offset at argument 3; -1 is the file's position.
fn place_or_position(c: &Context<'_>) -> Result<Place, Errno> {
    if c.args[3] == POSITION { Ok(Place::Position) } else { offset(c) }
}

/// `EOPNOTSUPP` for all flags but those that say how soon bytes are to last, and how busily to wait.
fn check_flags(c: &Context<'_>) -> Result<(), Errno> {
    let known = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC;
    if c.int(5) & !known == 0 { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

/// Moves bytes between what argument 0 stands for and the pieces that the other arguments describe.
fn transfer(
    c: &Context<'_>,
    place: Place,
    pieces: fn(&Context<'_>) -> Result<Vec<Piece>, Stop>,
    moved: fn(&Context<'_>, &Open, &[Piece], Place) -> Served,
) -> Served {
    let open = c.process.files.get(c.int(0))?;
    moved(c, &open, &pieces(c)?, place)
}

/// What is asked before the pieces are looked at (`vfs_read`, `vfs_readv`).
fn check_read(c: &Context<'_>) -> Result<(), Errno> {
    let open = c.process.files.get(c.int(0))?;
    match open.object() {
        Object::Directory => Err(Errno::EISDIR),
        Object::Memory(_)
        | Object::File(_)
        | Object::Device(_)
        | Object::Made(_)
        | Object::Place
            if !open.mode().contains(FileMode::READ) =>
        {
            Err(Errno::EBADF)
        }
        _ => Ok(()),
    }
}

/// The same of `vfs_write`, `vfs_writev`.
fn check_write(c: &Context<'_>) -> Result<(), Errno> {
    let open = c.process.files.get(c.int(0))?;
    match (open.content(), open.object()) {
        (_, Object::Stream(_)) => Ok(()),
        _ if !open.mode().contains(FileMode::WRITE) => Err(Errno::EBADF),
        (Some(content), _) => content.check_write(),
        (None, _) => Ok(()),
    }
}

/// The offset at argument 3.
fn offset(c: &Context<'_>) -> Result<Place, Errno> {
    u64::try_from(c.args[3].cast_signed()).map(Place::Offset).map_err(|_| Errno::EINVAL)
}

fn read_pieces(c: &Context<'_>, open: &Open, pieces: &[Piece], place: Place) -> Served {
    match (open.content(), open.object()) {
        (Some(content), _) => {
            read_at(c, open, pieces, place, |from, into| content.read(from, into))
        }
        (None, Object::Stream(stream)) if stream.has_bytes() => {
            read_stream(c, stream, pieces, place)
        }
        (None, Object::Userfault(file)) => match place {
            Place::Position => {
                let pieces: Vec<_> = pieces.iter().map(|piece| (piece.at, piece.len)).collect();
                userfault::read(c, open, file, &pieces)
            }
            Place::Offset(_) => Err(Errno::ESPIPE.into()),
        },
        (None, Object::Device(device)) => read_device(c, *device, pieces),
        (None, Object::Made(made)) => {
            read_at(c, open, pieces, place, |from, into| made.read(from, into))
        }
        (None, _) => Err(Errno::EINVAL.into()),
    }
}

fn write_pieces(c: &Context<'_>, open: &Open, pieces: &[Piece], place: Place) -> Served {
    match (open.content(), open.object(), place) {
        (Some(content), ..) => write_content(c, open, content, pieces, place),
        (None, Object::Stream(stream), _) if !stream.has_bytes() => Err(Errno::EINVAL.into()),
        (None, Object::Stream(stream), Place::Position) => write_stream(c, stream, pieces),
        (None, Object::Stream(stream), Place::Offset(at)) => write_stream_at(c, stream, pieces, at),
        (None, Object::Device(device), _) => Ok(device.write(index(total(pieces)))? as u64),
        (None, Object::Made(made), _) => move_pages(open, pieces, place, |at, wanted, to| {
            Ok(made.write(to, &c.read_bytes(at, wanted)?)?)
        }),
        (None, ..) => Err(Errno::EINVAL.into()),
    }
}

/// Page by page, so that what lies before the first bad one is filled and counts.
fn read_device(c: &Context<'_>, device: Device, pieces: &[Piece]) -> Served {
    let mut buffer = [0; PAGE_BYTES];
    let mut done = 0;
    for piece in pieces {
        let mut taken = 0;
        while taken < piece.len {
            let at = piece.at.offset(taken as u64);
            let count = device.read(&mut buffer[..at.left_in_page().min(piece.len - taken)])?;
            if count == 0 {
                return Ok(done);
            }
            match c.write_bytes(at, &buffer[..count]) {
                Ok(()) => (taken, done) = (taken + count, done + count as u64),
                Err(_) if done > 0 => return Ok(done),
                Err(stop) => return Err(stop),
            }
        }
    }
    Ok(done)
}
