//! Repeatable random numbers for payloads that try many things: a run is its seed.

/// Sebastiano Vigna's SplitMix64 (public domain, 2015): 64 bits of state, passes BigCrush, and any
/// seed is as good as another.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound` - 1 (0 for a bound of 0), by the high half of a product: no
    /// division, and a bias below `bound` / 2^64.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.bits() as u128 * bound as u128) >> 64) as u64
    }

    /// True `of_hundred` times in a hundred.
    pub const fn chance(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }
}
