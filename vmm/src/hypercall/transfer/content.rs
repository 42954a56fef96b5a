//! Bytes between memory and what has them at offsets.

use mm::addr::{PAGE_BYTES, PAGE_SIZE, VirtAddr, index};
use mm::backing::LONGEST;
use mm::error::{CallResult, Errno};
use mm::vma::limits::{Resource, UNLIMITED};
use nix::libc;

use super::super::signals::too_long;
use super::super::{Context, Served, Stop};
use super::Place;
use super::pieces::{Piece, total};
use crate::files::tree::Offsets;
use crate::files::{Content, Object, Open};

/// Moves bytes out of what `read` fills a buffer from, at an offset.
pub(super) fn read_at(
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

/// Moves bytes between the program's memory and a file, page by page of the former.
pub(super) fn move_pages(
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
                let wanted = at.left_in_page().min(piece.len - taken);
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

/// Moves bytes from a place on, with the file's position if it is that. `moved` says how many it has moved, and what
/// ended it. `EINVAL` past what an offset can say; where it can
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
    answer(done, ended)
}

/// Writes from a place on, or at the end where that is how the file is open, up to `RLIMIT_FSIZE`.
pub(super) fn write_content(
    c: &Context<'_>,
    open: &Open,
    content: &dyn Content,
    pieces: &[Piece],
    place: Place,
) -> Served {
    if open.status() & libc::O_APPEND != 0 {
        return append_content(c, open, content, pieces, place);
    }
    in_place(open, pieces, place, |first| {
        write_parts(c, pieces, first, |source, done, left| {
            let to = first + done;
            let len = (PAGE_SIZE - to % PAGE_SIZE).min(left);
            // Asked for all of them, also where memory has fewer.
            content.check_length(to + len)?;
            let bytes = source.take(index(len))?;
            let space = c.process.space.look();
            let written = content.write(to, &bytes, space.system(), &*space)?;
            Ok(written as u64)
        })
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
    if let Place::Offset(offset) = place
        && offset.checked_add(total(pieces)).is_none_or(|end| end > LONGEST)
    {
        return Err(Errno::EINVAL.into());
    }
    let mut position = matches!(place, Place::Position).then(|| open.position());
    let (done, ended) = write_parts(c, pieces, content.length()?, |source, _, left| {
        let bytes = source.take(index(left.min(AT_ONCE)))?;
        let space = c.process.space.look();
        let (start, count) = content.append(&bytes, space.system(), &*space)?;
        let written = count as u64;
        if let Some(position) = position.as_deref_mut() {
            *position = start + written;
        }
        Ok(written)
    });
    answer(done, ended)
}

/// Writes part after part of the pieces, up to what `RLIMIT_FSIZE` leaves from byte `from` of the file on. `write` takes a
/// part out of the source, is told how many bytes were written before it and how many are left, and says how many it has
/// written: one that is not written whole is the last. How many it were together, and what ended it.
fn write_parts(
    c: &Context<'_>,
    pieces: &[Piece],
    from: u64,
    mut write: impl FnMut(&mut Source<'_>, u64, u64) -> Served,
) -> (u64, Result<(), Stop>) {
    let most = match limited(c, from, total(pieces)) {
        Ok(most) => most,
        Err(stop) => return (0, Err(stop)),
    };
    let mut source = Source { c, pieces, in_piece: 0, taken: 0 };
    let mut done = 0;
    while done < most {
        match write(&mut source, done, most - done) {
            Ok(written) => done += written,
            Err(stop) => return (done, Err(stop)),
        }
        if done < source.taken {
            break;
        }
    }
    (done, Ok(()))
}

/// What a call answers that has moved bytes: an error counts only if nothing was moved before it.
fn answer(done: u64, ended: Result<(), Stop>) -> Served {
    match ended {
        Err(Stop::Broken(broken)) => Err(broken.into()),
        Err(stop) if done == 0 => Err(stop),
        _ => Ok(done),
    }
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
    /// Those that are left.
    pieces: &'a [Piece],
    /// Bytes taken of the first of them.
    in_piece: usize,
    /// Bytes taken of all.
    taken: u64,
}

impl Source<'_> {
    /// The next bytes, `len` of them at most; fewer where memory ends.
    fn take(&mut self, len: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = Vec::with_capacity(len);
        while let Some(piece) = self.pieces.first()
            && bytes.len() < len
        {
            let at = piece.at.offset(self.in_piece as u64);
            let part = at.left_in_page().min(piece.len - self.in_piece).min(len - bytes.len());
            match self.c.read_bytes(at, part) {
                Ok(more) => bytes.extend(more),
                Err(Stop::Errno(_)) if !bytes.is_empty() => break,
                Err(stop) => return Err(stop),
            }
            self.in_piece += part;
            if self.in_piece == piece.len {
                (self.pieces, self.in_piece) = (&self.pieces[1..], 0);
            }
        }
        self.taken += bytes.len() as u64;
        Ok(bytes)
    }
}
