//! Bytes between a program's memory and what is open: read(2), write(2), and their kin.

use mm::addr::{PAGE_BYTES, PAGE_SIZE, VirtAddr};
use mm::backing::{FileMode, LONGEST};
use mm::error::{CallError, CallResult, Errno};
use mm::vma::limits::{Resource, UNLIMITED};
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno as HostErrno, ReadWriteFlags};

use super::signals::{broken_pipe, too_long};
use super::{Context, Served, Stop, userfault};
use crate::files::tree::{Device, Offsets};
use crate::files::{Content, Object, Open, Stream};
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

/// The buffer at argument 1, its length at argument 2.
fn single(c: &Context<'_>) -> Result<Vec<Piece>, Stop> {
    c.check_user(c.address(1), c.args[2])?;
    Ok(vec![Piece { at: c.address(1), len: length(c.args[2]) }])
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
        (None, Object::Device(device), _) => {
            let wanted = pieces.iter().map(|piece| piece.len).sum();
            Ok(device.write(wanted)? as u64)
        }
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
            let in_page = usize::try_from(PAGE_SIZE - at.page_offset()).unwrap_or(1);
            let count = device.read(&mut buffer[..in_page.min(piece.len - taken)])?;
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

fn read_stream(c: &Context<'_>, stream: &Stream, pieces: &[Piece], place: Place) -> Served {
    let wanted: usize = pieces.iter().map(|piece| piece.len).sum();
    let mut buffer = vec![0; wanted.min(CHUNK)];
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

fn write_stream_at(c: &Context<'_>, stream: &Stream, pieces: &[Piece], offset: u64) -> Served {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend(c.read_bytes(piece.at, piece.len.min(CHUNK))?);
    }
    Ok(rustix::io::pwrite(stream.host(), &bytes, offset)? as u64)
}

/// Moves bytes between the program's memory and a file, page by page of the former.
fn move_pages(
    open: &Open,
    pieces: &[Piece],
    place: Place,
    mut page: impl FnMut(VirtAddr, usize, u64) -> Result<usize, Stop>,
) -> Served {
    in_place(open, pieces, place, |first| {
        let mut done = 0;
        for piece in pieces {
            let mut taken = 0;
            while taken < piece.len {
                let at = piece.at.offset(taken as u64);
                let in_page = usize::try_from(PAGE_SIZE - at.page_offset()).unwrap_or(1);
                let wanted = in_page.min(piece.len - taken);
                match page(at, wanted, first + done) {
                    Ok(moved) => {
                        (taken, done) = (taken + moved, done + moved as u64);
                        if moved < wanted {
                            return (done, Ok(()));
                        }
                    }
                    Err(stop) => return (done, Err(stop)),
                }
            }
        }
        (done, Ok(()))
    })
}

/// How many bytes pieces have together.
fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.len as u64).sum()
}

/// Moves bytes from a place on, with the file's position if it is that. `moved` says how many it has moved, and what
/// ended it: an error counts only if nothing was moved before it. `EINVAL` past what an offset can say; where it can
/// say all, `EOVERFLOW` past that (`rw_verify_area`).
fn in_place(
    open: &Open,
    pieces: &[Piece],
    place: Place,
    moved: impl FnOnce(u64) -> (u64, Result<(), Stop>),
) -> Served {
    let mut position = matches!(place, Place::Position).then(|| open.position());
    let first = match (&position, place) {
        (Some(position), _) => **position,
        (None, Place::Offset(offset)) => offset,
        (None, Place::Position) => 0,
    };
    let end = first.checked_add(total(pieces));
    let offsets = match open.object() {
        Object::Made(made) => made.offsets(),
        _ => Offsets::Signed,
    };
    match (end, offsets) {
        (None, Offsets::All) => return Err(Errno::EOVERFLOW.into()),
        (Some(_), Offsets::All) => {}
        (Some(end), _) if end <= LONGEST => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let (done, ended) = moved(first);
    // `mem_rw` forgets what it has moved.
    if offsets == Offsets::All && matches!(ended, Err(Stop::Errno(Errno::EFAULT))) {
        return Err(Errno::EFAULT.into());
    }
    if let Some(position) = position.as_deref_mut() {
        *position = first + done;
    }
    match ended {
        Err(Stop::Broken(broken)) => Err(broken.into()),
        Err(stop) if done == 0 => Err(stop),
        _ => Ok(done),
    }
}

/// Moves bytes out of what `read` fills a buffer from, at an offset.
fn read_at(
    c: &Context<'_>,
    open: &Open,
    pieces: &[Piece],
    place: Place,
    read: impl Fn(u64, &mut [u8]) -> CallResult<usize>,
) -> Served {
    let mut buffer = [0; PAGE_BYTES];
    move_pages(open, pieces, place, |at, wanted, from| {
        let count = read(from, &mut buffer[..wanted])?;
        c.write_bytes(at, &buffer[..count])?;
        Ok(count)
    })
}

fn write_content(
    c: &Context<'_>,
    open: &Open,
    content: &dyn Content,
    pieces: &[Piece],
    place: Place,
) -> Served {
    if open.status() & libc::O_APPEND != 0 {
        return append_content(c, open, content, pieces, place);
    }
    let wanted = total(pieces);
    let mut source = Source { c, pieces, taken: 0 };
    in_place(open, pieces, place, |first| {
        let mut done = 0;
        let most = match limited(c, first, wanted) {
            Ok(most) => most,
            Err(stop) => return (0, Err(stop)),
        };
        while done < most {
            let to = first + done;
            let part = (PAGE_SIZE - to % PAGE_SIZE).min(most - done);
            match write_part(c, content, &mut source, to, part) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(stop) => return (done, Err(stop)),
            }
        }
        (done, Ok(()))
    })
}

/// Writes at the end, so much at once that what is usual is in one piece; whatever offset is asked for.
fn append_content(
    c: &Context<'_>,
    open: &Open,
    content: &dyn Content,
    pieces: &[Piece],
    place: Place,
) -> Served {
    /// Bytes that are written at once at the most.
    const AT_ONCE: u64 = 1 << 20;
    let wanted = total(pieces);
    if let Place::Offset(offset) = place
        && offset.checked_add(wanted).is_none_or(|end| end > LONGEST)
    {
        return Err(Errno::EINVAL.into());
    }
    let mut position = matches!(place, Place::Position).then(|| open.position());
    let most = limited(c, content.length()?, wanted)?;
    let mut source = Source { c, pieces, taken: 0 };
    let mut done = 0;
    while done < most {
        let bytes = match source.take(length(AT_ONCE.min(most - done))) {
            // What lies before it is written, and counts.
            Err(Stop::Errno(_)) if done > 0 => break,
            taken => taken?,
        };
        let space = c.process.space.look();
        match content.append(&bytes, space.system(), &*space) {
            Ok((start, count)) => {
                done += count as u64;
                if let Some(position) = position.as_deref_mut() {
                    *position = start + count as u64;
                }
                if count < bytes.len() || count == 0 {
                    break;
                }
            }
            Err(CallError::Errno(_)) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Writes what there is of the next bytes, which go into one page of a file: whether that may become so long is asked
/// for all of them.
fn write_part(
    c: &Context<'_>,
    content: &dyn Content,
    source: &mut Source<'_>,
    to: u64,
    len: u64,
) -> Served {
    content.check_length(to + len)?;
    let bytes = source.take(length(len))?;
    let space = c.process.space.look();
    let written = content.write(to, &bytes, space.system(), &*space)?;
    Ok(written as u64)
}

/// How much of a write may be done (`generic_write_check_limits`): up to `RLIMIT_FSIZE`, at which there is `SIGXFSZ`.
fn limited(c: &Context<'_>, from: u64, len: u64) -> Result<u64, Stop> {
    let limit = c.process.space.look().limits().get(Resource::FileSize).soft;
    if limit != UNLIMITED && len > 0 && from >= limit {
        return Err(too_long(c));
    }
    Ok(len.min(limit.saturating_sub(from)))
}

/// Bytes of the program's memory, one after the other.
struct Source<'a> {
    c: &'a Context<'a>,
    pieces: &'a [Piece],
    /// Of the first piece.
    taken: usize,
}

impl Source<'_> {
    /// The next bytes, `len` of them at most; fewer where memory ends.
    fn take(&mut self, len: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = Vec::with_capacity(len);
        while let Some(piece) = self.pieces.first()
            && bytes.len() < len
        {
            let at = piece.at.offset(self.taken as u64);
            let in_page = usize::try_from(PAGE_SIZE - at.page_offset()).unwrap_or(1);
            let part = in_page.min(piece.len - self.taken).min(len - bytes.len());
            match self.c.read_bytes(at, part) {
                Ok(more) => bytes.extend(more),
                Err(Stop::Errno(_)) if !bytes.is_empty() => break,
                Err(stop) => return Err(stop),
            }
            self.taken += part;
            if self.taken == piece.len {
                (self.pieces, self.taken) = (&self.pieces[1..], 0);
            }
        }
        Ok(bytes)
    }
}

/// The offset of preadv2(2) and pwritev2(2) that stands for a stream's own position.
const POSITION: u64 = u64::MAX;

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

/// Writes until all is written, or an error, which counts only if nothing was written before it.
fn write_stream(c: &Context<'_>, stream: &Stream, pieces: &[Piece]) -> Served {
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
