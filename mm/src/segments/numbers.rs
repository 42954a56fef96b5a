//! The numbers of segments (Linux's `ipc_idr_alloc`): a place, and how often places have come round. Places are dealt out
//! one after the other, so that a number comes again late.

use super::MOST;

/// Bits of a place in a number (`IPCMNI_SHIFT`).
const PLACE_BITS: u32 = 15;
/// How many places are gone through at least before the first comes again (`ipc_min_cycle`).
const CYCLE: u32 = 64;
/// How often places come round before the sequence begins anew.
const SEQUENCES: u32 = i32::MAX as u32 >> PLACE_BITS;

/// The place of a number.
pub(super) fn place_of(id: i32) -> u32 {
    id.cast_unsigned() & ((1 << PLACE_BITS) - 1)
}

/// Its sequence.
pub(super) fn sequence_of(id: i32) -> u16 {
    // No number is negative, so it fits.
    u16::try_from(id >> PLACE_BITS).unwrap_or(0)
}

/// A number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Number {
    sequence: u32,
    pub(super) place: u32,
}

impl Number {
    pub(super) fn id(self) -> i32 {
        (self.sequence << PLACE_BITS | self.place).cast_signed()
    }
}

/// Which number is next.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    next: u32,
    last: Option<u32>,
    sequence: u32,
}

impl Numbers {
    /// The next number, where so many places are taken, and these; `None` where there can be no more.
    pub(super) fn next(&self, is_taken: impl Fn(u32) -> bool, taken: usize) -> Option<Number> {
        let taken = u32::try_from(taken).ok().filter(|&taken| taken < MOST)?;
        let end = (taken * 3 / 2).clamp(CYCLE, MOST);
        let place = (self.next..end).chain(0..end).find(|&place| !is_taken(place))?;
        let round = self.last.is_some_and(|last| place <= last);
        let sequence = (self.sequence + u32::from(round)) % SEQUENCES;
        Some(Number { sequence, place })
    }

    /// It is taken now.
    pub(super) fn take(&mut self, number: Number) {
        self.next = number.place + 1;
        self.last = Some(number.place);
        self.sequence = number.sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_again_when_all_places_have_had_their_turn() {
        let mut numbers = Numbers::default();
        let mut take = |free: u32| {
            let number = numbers.next(|place| place < free, free as usize).unwrap();
            numbers.take(number);
            number.id()
        };
        assert_eq!((0..64).map(|_| take(0)).collect::<Vec<_>>(), (0..64).collect::<Vec<_>>());
        assert_eq!([take(0), take(0), take(1)], [1 << 15, 1 << 15 | 1, 1 << 15 | 2]);
        assert_eq!(take(60), 1 << 15 | 60);
        // Where many are taken, more are gone through.
        assert_eq!([take(100), take(4095)], [1 << 15 | 100, 1 << 15 | 4095]);
        assert_eq!(take(0), 2 << 15);
        assert_eq!(numbers.next(|_| false, 4096), None);
        assert_eq!(place_of(7 << 15 | 5), 5);
    }
}
