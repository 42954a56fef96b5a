//! When anonymous memory comes in more than a page at a time (/sys/kernel/mm/transparent_hugepage): for all sizes
//! together, and for each size of its own (`hugepages-<size>kB/enabled`, Linux's multi-size THP).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::addr::PAGE_SIZE;
use crate::phys::Order;
use crate::vma::VmFlags;

/// When anonymous memory is given in huge pages (/sys/kernel/mm/transparent_hugepage/enabled).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Thp {
    /// Where `MADV_HUGEPAGE` asks for it.
    Madvise,
    /// Wherever one fits.
    Always,
    /// Nowhere.
    Never,
}

/// When anonymous memory is given in one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeThp {
    /// Wherever it fits.
    Always,
    /// Where `MADV_HUGEPAGE` asks for it.
    Madvise,
    /// As [`Thp`] says.
    Inherit,
    /// Nowhere.
    Never,
}

/// The words of the file, and what they mean.
const WORDS: [(&str, SizeThp); 4] = [
    ("always", SizeThp::Always),
    ("madvise", SizeThp::Madvise),
    ("inherit", SizeThp::Inherit),
    ("never", SizeThp::Never),
];

/// When memory is given in a size: `64k:always`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OfSize {
    /// The size, between [`SMALLEST`](Self::SMALLEST) and [`Order::HUGE`].
    size: Order,
    /// When.
    when: SizeThp,
}

impl OfSize {
    /// 16 KiB.
    pub const SMALLEST: Order = Order::FOUR;

    /// `None` for a size that anonymous memory is never given in.
    #[must_use]
    pub fn new(size: Order, when: SizeThp) -> Option<Self> {
        (Self::SMALLEST..=Order::HUGE).contains(&size).then_some(OfSize { size, when })
    }

    /// The size.
    #[must_use]
    pub fn size(&self) -> Order {
        self.size
    }

    /// When memory is given in it.
    #[must_use]
    pub fn when(&self) -> SizeThp {
        self.when
    }

    /// All sizes that there are.
    pub fn sizes() -> impl Iterator<Item = Order> {
        Orders::ALL.descending()
    }
}

impl FromStr for OfSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected a size from 16k to 2m, a colon, and always, madvise, inherit or never, as in 64k:always"
                .to_owned()
        };
        let (size, when) = text.split_once(':').ok_or_else(expected)?;
        let size = size_named(size);
        let when = WORDS.iter().find(|(word, _)| *word == when).map(|&(_, when)| when);
        size.zip(when).and_then(|(size, when)| OfSize::new(size, when)).ok_or_else(expected)
    }
}

impl fmt::Display for OfSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = WORDS.iter().find(|&&(_, when)| when == self.when).map_or("", |(word, _)| word);
        write!(f, "{}:{word}", name(self.size))
    }
}

/// The size of that name: `1m`, or `1024k`.
fn size_named(text: &str) -> Option<Order> {
    let lower = text.to_ascii_lowercase();
    let kib = |order: Order| (order.frames() * PAGE_SIZE) >> 10;
    OfSize::sizes().find(|&order| name(order) == lower || format!("{}k", kib(order)) == lower)
}

/// `64k`, `1m`.
fn name(order: Order) -> String {
    match (order.frames() * PAGE_SIZE) >> 10 {
        kib @ ..1024 => format!("{kib}k"),
        kib => format!("{}m", kib >> 10),
    }
}

/// A set of sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Orders(u16);

impl Orders {
    /// All that anonymous memory may be given in (`THP_ORDERS_ALL_ANON`).
    pub(crate) const ALL: Orders = Orders(0b11_1111_1100);

    const fn of(order: Order) -> Self {
        Orders(1 << order.exponent())
    }

    /// Whether a size is among them.
    #[inline]
    pub(crate) fn has(self, order: Order) -> bool {
        self.0 & Self::of(order).0 != 0
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those below 2 MiB.
    #[inline]
    pub(crate) fn small(self) -> Self {
        Orders(self.0 & !Self::of(Order::HUGE).0)
    }

    /// The largest first.
    pub(crate) fn descending(self) -> impl Iterator<Item = Order> {
        let all = (0..u16::BITS).rev().filter(move |bit| self.0 >> bit & 1 != 0);
        all.filter_map(Order::new)
    }
}

/// What is set for each size: three sets in a word, as a fault asks for all at once.
#[derive(Debug)]
pub(super) struct Sizes(AtomicU64);

const ALWAYS: u32 = 0;
const MADVISE: u32 = 16;
const INHERIT: u32 = 32;

impl Default for Sizes {
    /// 2 MiB as [`Thp`] says, else none.
    fn default() -> Self {
        Sizes(AtomicU64::new(u64::from(Orders::of(Order::HUGE).0) << INHERIT))
    }
}

impl Sizes {
    pub(super) fn set(&self, OfSize { size, when }: OfSize) {
        let bit = u64::from(Orders::of(size).0);
        let all = bit << ALWAYS | bit << MADVISE | bit << INHERIT;
        let set = match when {
            SizeThp::Always => bit << ALWAYS,
            SizeThp::Madvise => bit << MADVISE,
            SizeThp::Inherit => bit << INHERIT,
            SizeThp::Never => 0,
        };
        // The closure never refuses.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sizes| Some(sizes & !all | set));
    }

    /// The sizes for memory with these flags, where for all together it is `thp`.
    #[inline]
    pub(super) fn of(&self, thp: Thp, flags: VmFlags) -> Orders {
        let sizes = self.0.load(Ordering::Relaxed);
        let advised = flags.contains(VmFlags::HUGEPAGE);
        let mut orders = sizes >> ALWAYS;
        if advised {
            orders |= sizes >> MADVISE;
        }
        if thp == Thp::Always || thp == Thp::Madvise && advised {
            orders |= sizes >> INHERIT;
        }
        Orders(u16::try_from(orders & 0xffff).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_size(text: &str) -> OfSize {
        text.parse().unwrap()
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for text in ["16k:always", "64k:madvise", "512k:never", "1m:inherit", "2m:never"] {
            assert_eq!(of_size(text).to_string(), text);
        }
        assert_eq!(of_size("64K:always"), of_size("64k:always"));
        for wrong in ["", "64k", "8k:always", "4m:always", "64k:sometimes", "64:always", "64k:"] {
            assert!(wrong.parse::<OfSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn by_default_only_2_mib_are_given_where_that_is_wanted() {
        let sizes = Sizes::default();
        let advised = VmFlags::HUGEPAGE;
        let huge = |thp, flags| sizes.of(thp, flags) == Orders::of(Order::HUGE);
        assert!(huge(Thp::Always, VmFlags::empty()) && huge(Thp::Madvise, advised));
        assert!(sizes.of(Thp::Madvise, VmFlags::empty()).is_empty());
        assert!(sizes.of(Thp::Never, advised).is_empty());
    }

    #[test]
    fn each_size_has_its_own_word_and_the_last_one_counts() {
        let sizes = Sizes::default();
        let all =
            ["16k:always", "64k:madvise", "1m:inherit", "2m:never", "32k:always", "32k:never"];
        all.into_iter().for_each(|text| sizes.set(of_size(text)));
        let orders = |thp, flags| {
            let orders: Vec<_> = sizes.of(thp, flags).descending().map(name).collect();
            orders.join(" ")
        };
        let (plain, advised) = (VmFlags::empty(), VmFlags::HUGEPAGE);
        assert_eq!(orders(Thp::Never, plain), "16k");
        assert_eq!(orders(Thp::Never, advised), "64k 16k");
        assert_eq!(orders(Thp::Madvise, plain), "16k");
        assert_eq!(orders(Thp::Madvise, advised), "1m 64k 16k");
        assert_eq!(orders(Thp::Always, plain), "1m 16k");
        assert!(!sizes.of(Thp::Always, advised).has(Order::HUGE));
    }
}
