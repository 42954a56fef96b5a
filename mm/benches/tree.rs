//! What the VMA tree is worth: the same work by the tree and by the standard library's ordered map, at 10,
//! 1,000 and 65,530 spans (Linux's default `vm.max_map_count`). A map knows no gaps, so it has to look at
//! one after another.
//!
//! `cargo bench -p mmvisor-mm --bench tree`. Started otherwise it goes through everything once.

#[path = "../../vmm/benches/figures/rounds.rs"]
mod rounds;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::ExitCode;

use mm::addr::{PAGE_SIZE, PageRange, VirtAddr};
use mm::vma::tree::{Span, Tree};
use rounds::{Outcome, Spent, alternate};

const SPANS: [u64; 3] = [10, 1_000, 65_530];

/// A value as large as a VMA with everything in it.
#[derive(Clone, Copy)]
struct Area {
    range: PageRange,
    _rest: [u64; 10],
}

impl Span for Area {
    fn range(&self) -> PageRange {
        self.range
    }
}

fn area(start_page: u64, pages: u64) -> Area {
    let range = PageRange::from_len(VirtAddr::new(start_page * PAGE_SIZE), pages * PAGE_SIZE);
    Area { range: range.expect("the benchmark's addresses are in the user half"), _rest: [0; 10] }
}

/// Where span `index` starts, in pages: far enough up for a wide gap below all of them.
const fn place(index: u64) -> u64 {
    1_000 + 4 * index
}

/// Numbers that look drawn: an xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Addresses in a random order, more of them than a branch predictor remembers.
fn addresses(spans: u64) -> Vec<VirtAddr> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..1 << 16).map(|_| VirtAddr::new(place(random.below(spans)) * PAGE_SIZE + 8)).collect()
}

/// Two pages at every place: `[ 2 ] gap 2 [ 2 ] gap 2 ...`, put in in random order, as a process ends up
/// with them.
fn areas(spans: u64) -> Vec<Area> {
    let mut areas: Vec<_> = (0..spans).map(|index| area(place(index), 2)).collect();
    let mut random = Random(0x1234_5678_9abc_def1);
    for last in (1..areas.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(last);
        areas.swap(last, other);
    }
    areas
}

fn tree(spans: u64) -> Tree<Area> {
    let mut tree = Tree::new();
    for area in areas(spans) {
        assert!(tree.insert(area).is_ok(), "the benchmark's spans do not overlap");
    }
    tree
}

fn map(spans: u64) -> BTreeMap<VirtAddr, Area> {
    areas(spans).into_iter().map(|area| (area.range.end(), area)).collect()
}

fn main() -> ExitCode {
    rounds::end(Figures { rounds: rounds::wanted() }.print())
}

/// How the figures are taken.
struct Figures {
    rounds: u32,
}

impl Figures {
    fn print(&self) -> Outcome<()> {
        println!("the VMA tree beside BTreeMap; medians of {} rounds in turn;", self.rounds);
        println!("ratios are of processor time, BTreeMap's by the tree's");
        println!(
            "{:<36} {:>6} {:>10} {:>10} {:>22} {:>8}",
            "", "spans", "tree", "BTreeMap", "ratio (min-max)", "by wall"
        );
        for spans in SPANS {
            self.find(spans)?;
        }
        for spans in SPANS {
            self.highest_gap(spans)?;
        }
        for spans in SPANS {
            self.insert_remove(spans)?;
        }
        for spans in SPANS {
            self.build(spans)?;
        }
        Ok(())
    }

    /// Prints how long both take for one of `times`.
    fn row(
        &self,
        name: &str,
        spans: u64,
        times: u64,
        mut tree: impl FnMut(),
        mut map: impl FnMut(),
    ) -> Outcome<()> {
        let spent = |what: &mut dyn FnMut()| {
            Spent::on(|| {
                what();
                Ok(())
            })
        };
        let pair = alternate(self.rounds, || spent(&mut tree), || spent(&mut map))?;
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        let each = |seconds: f64| seconds * 1e9 / times as f64;
        let ratio = pair.processor;
        println!(
            "{name:<36} {spans:>6} {:>7.0} ns {:>7.0} ns {:>22} {:>8.1}",
            each(pair.floor.median),
            each(pair.subject.median),
            format!("{:.1} ({:.1}-{:.1})", ratio.median, ratio.least, ratio.most),
            pair.ratio.median,
        );
        Ok(())
    }

    fn find(&self, spans: u64) -> Outcome<()> {
        let (tree, map, addresses) = (tree(spans), map(spans), addresses(spans));
        self.row(
            "find at random",
            spans,
            addresses.len() as u64,
            || {
                for &addr in &addresses {
                    black_box(tree.find(addr).map(|area| area.range));
                }
            },
            || {
                for &addr in &addresses {
                    let above = map.range(addr.offset(1)..).next();
                    black_box(above.map(|(_, area)| area.range));
                }
            },
        )
    }

    /// Only the gap below everything is wide enough: what is fragmented is all passed over.
    fn highest_gap(&self, spans: u64) -> Outcome<()> {
        let (tree, map) = (tree(spans), map(spans));
        let high = tree.highest_end();
        let len = 100 * PAGE_SIZE;
        let times = 1_000_000 / (spans + 100);
        self.row(
            "highest gap, only the far end fits",
            spans,
            times,
            || {
                for _ in 0..times {
                    black_box(tree.highest_gap(black_box(len), VirtAddr::new(PAGE_SIZE), high));
                }
            },
            || {
                for _ in 0..times {
                    let mut top = high.get();
                    for area in map.values().rev() {
                        if top - area.range.end().get() >= black_box(len) {
                            break;
                        }
                        top = area.range.start().get();
                    }
                    black_box(VirtAddr::new(top - len));
                }
            },
        )
    }

    /// One page into a random gap, and out again.
    fn insert_remove(&self, spans: u64) -> Outcome<()> {
        let (mut tree, mut map, addresses) = (tree(spans), map(spans), addresses(spans));
        let new = |addr: &VirtAddr| area(addr.get() / PAGE_SIZE + 2, 1);
        self.row(
            "insert and remove at random",
            spans,
            addresses.len() as u64,
            || {
                for area in addresses.iter().map(new) {
                    black_box(tree.insert(area).is_ok());
                    black_box(tree.remove(area.range.start()));
                }
            },
            || {
                for area in addresses.iter().map(new) {
                    map.insert(area.range.end(), area);
                    black_box(map.remove(&area.range.end()));
                }
            },
        )
    }

    /// From nothing to all spans, downwards as mmap places them; time for one.
    fn build(&self, spans: u64) -> Outcome<()> {
        let again = (10_000 / spans).max(1);
        self.row(
            "build downwards, one",
            spans,
            again * spans,
            || {
                for _ in 0..again {
                    let mut tree = Tree::new();
                    for index in (0..spans).rev() {
                        black_box(tree.insert(area(place(index), 2)).is_ok());
                    }
                    black_box(tree);
                }
            },
            || {
                for _ in 0..again {
                    let mut map = BTreeMap::new();
                    for index in (0..spans).rev() {
                        let area = area(place(index), 2);
                        map.insert(area.range.end(), area);
                    }
                    black_box(map);
                }
            },
        )
    }
}
