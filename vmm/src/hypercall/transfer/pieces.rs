//! The pieces of the program's memory that a call moves bytes to or from.

use mm::addr::{VirtAddr, index};
use mm::error::Errno;

use super::super::{Context, Stop};

/// The most bytes that Linux moves in one call (`MAX_RW_COUNT`).
const MOST: u64 = 0x7fff_f000;
/// The most pieces of a vector (`IOV_MAX`).
const PIECES: u64 = 1024;

/// A piece of memory.
pub(super) struct Piece {
    pub(super) at: VirtAddr,
    /// In bytes.
    pub(super) len: usize,
}

/// The vector at argument 1, its length at argument 2.
pub(super) fn vector(c: &Context<'_>) -> Result<Vec<Piece>, Stop> {
    let count = c.args[2];
    if count > PIECES {
        return Err(Errno::EINVAL.into());
    }
    let mut left = MOST;
    let mut pieces = Vec::new();
    for number in 0..count {
        let at = c.address(1).checked_add(number * 16).ok_or(Errno::EFAULT)?;
        let [base, len] = c.read_words(at)?;
        if i64::try_from(len).is_err() {
            return Err(Errno::EINVAL.into());
        }
        c.check_user(VirtAddr::new(base), len)?;
        let len = len.min(left);
        left -= len;
        pieces.push(Piece { at: VirtAddr::new(base), len: index(len) });
    }
    Ok(pieces)
}

/// The buffer at argument 1, its length at argument 2.
pub(super) fn single(c: &Context<'_>) -> Result<Vec<Piece>, Stop> {
    c.check_user(c.address(1), c.args[2])?;
    Ok(vec![Piece { at: c.address(1), len: index(c.args[2].min(MOST)) }])
}

/// How many bytes pieces have together.
pub(super) fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.len as u64).sum()
}
