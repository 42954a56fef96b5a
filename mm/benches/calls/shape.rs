//! What is measured: the shape of the address spaces, the calls, and where in the shape each of them
//! works. Host and ours get the same, so only the numbers are here.
//!
//! ```text
//!     NULL hint          VMA 0                    VMA 1                    VMA 2 ...
//!   [ LARGE here ]  ├███ ███ ███│···│ R │···├███ ███ ███│···│   │···├███ ███ ███│···
//!                   base    └ mprotect    └ mmap, munmap
//!                           └ find, msync
//! ```
//!
//! VMAs of three pages, readable and writable, private, anonymous, never touched; then a hole of three
//! pages. What is mapped is one page in the middle of a hole, with another permission: it merges with
//! nothing. [`LARGE`] fits in no hole, so its place is found only after all of them were passed over.

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes of each VMA.
pub(crate) const VMA: u64 = 3 * PAGE;
/// Bytes from one VMA to the next.
const STRIDE: u64 = 6 * PAGE;
/// Bytes of what is placed by the kernel. Larger than a hole, also than those between libraries.
pub(crate) const LARGE: u64 = 64 * PAGE;
/// How many VMAs: few, some, and the most that Linux allows by default.
pub(crate) const SIZES: [u64; 3] = [10, 1_000, 65_530];

/// Where the VMAs are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// The first byte.
    pub(crate) base: u64,
    /// How many VMAs.
    pub(crate) vmas: u64,
}

impl Shape {
    /// Bytes that this many VMAs take, with their holes. An odd number of pages: Linux aligns multiples
    /// of 2 MiB, and would leave free space above them.
    pub(crate) const fn bytes(vmas: u64) -> u64 {
        vmas * STRIDE + PAGE
    }

    /// The first byte of each VMA.
    pub(crate) fn starts(self) -> impl Iterator<Item = u64> {
        (0..self.vmas).map(move |index| self.base + index * STRIDE)
    }
}

/// VMAs in an order that no branch predictor foresees, the same for the same shape: an xorshift
/// generator.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    shape: Shape,
    state: u64,
}

impl Places {
    /// From the beginning.
    pub(crate) fn of(shape: Shape) -> Places {
        Places { shape, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The middle page of the next VMA.
    pub(crate) fn inside(&mut self) -> u64 {
        self.start() + PAGE
    }

    /// The middle page of the hole after the next VMA.
    pub(crate) fn hole(&mut self) -> u64 {
        self.start() + VMA + PAGE
    }

    fn start(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        // The high half of the product, not a remainder: a division would take a good part of a call's time.
        let index = (u128::from(self.state) * u128::from(self.shape.vmas)) >> 64;
        self.shape.base + index as u64 * STRIDE
    }
}

/// Calls in a round: with many VMAs four for each, so that what the other side's round has driven out of the
/// caches is fetched again in the smaller part of them.
fn many(vmas: u64) -> u64 {
    (4 * vmas).max(5_000)
}

macro_rules! figures {
    ($($(#[$doc:meta])+ $figure:ident = $name:literal, $calls:expr;)+) => {
        /// What is done over and over.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Figure { $($(#[$doc])+ $figure,)+ }

        impl Figure {
            /// As it is named on command lines.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Figure::$figure => $name,)+ }
            }

            /// The figure of that name.
            pub(crate) fn named(name: &str) -> Option<Figure> {
                match name { $($name => Some(Figure::$figure),)+ _ => None }
            }

            /// How often it is done in a round, with so many VMAs.
            pub(crate) fn calls(self, vmas: u64) -> u64 {
                let calls: fn(u64) -> u64 = match self { $(Figure::$figure => $calls,)+ };
                calls(vmas)
            }
        }
    };
}

figures! {
    /// A system call that does nothing: what every call of the kernel's pays for being one.
    Empty = "getppid", |_| 5_000;
    /// One page into a random hole and out again.
    Map = "mmap+munmap", many;
    /// A random VMA's middle page read-only, which cuts it in three, and writable again, which makes
    /// it one.
    Protect = "mprotect", many;
    /// `msync(MS_ASYNC)` of a random page, on both sides: of all calls the one that is nearest to find_vma
    /// alone. It checks its arguments, takes the lock shared, looks the VMA up, and is done. (mincore(2) walks
    /// page tables and allocates; PROCMAP_QUERY copies names.)
    Sync = "msync", |vmas| 4 * many(vmas);
    /// The lookup alone, under a lock that is held, and a look into the VMA itself, as a page fault has it.
    /// The kernel has no call for it, and does msync.
    Find = "find", |vmas| 4 * many(vmas);
    /// Memory without a hint, and away again.
    Place = "place", |_| 5_000;
    /// The heap one page larger, and smaller again.
    Heap = "brk", |_| 5_000;
    /// A child with a copy of the address space, which ends at once.
    Fork = "fork", |vmas| (100_000 / (vmas + 100)).clamp(1, 100);
    /// A child that borrows the address space, and ends at once: what a process costs without a copy.
    Borrow = "clone", |_| 50;
    /// The search for free space alone, below a random VMA.
    Gap = "gap", |_| 20_000;
}
