//! How fast the VMA tree is beside the standard library's ordered map: lookups, gap searches and
//! edits at 10, 1,000 and 65,530 spans (Linux's default `vm.max_map_count`).
//!
//! `cargo bench -p mmvisor-mm --bench tree`

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mm::addr::{PAGE_SIZE, PageRange, VirtAddr};
use mm::vma::tree::{Span, Tree};

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

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("find at random");
    for spans in SPANS {
        let (tree, map, addresses) = (tree(spans), map(spans), addresses(spans));
        let mut next = addresses.iter().cycle();
        group.bench_function(BenchmarkId::new("tree", spans), |b| {
            b.iter(|| next.next().and_then(|&addr| tree.find(addr)).map(|area| area.range));
        });
        let mut next = addresses.iter().cycle();
        group.bench_function(BenchmarkId::new("BTreeMap", spans), |b| {
            b.iter(|| {
                let above = |&addr: &VirtAddr| map.range(addr.offset(1)..).next();
                next.next().and_then(above).map(|(_, area)| area.range)
            });
        });
    }
}

/// Only the gap below everything is wide enough: what is fragmented is all passed over.
fn highest_gap(c: &mut Criterion) {
    let mut group = c.benchmark_group("highest gap, only the far end fits");
    for spans in SPANS {
        let (tree, map) = (tree(spans), map(spans));
        let high = tree.highest_end();
        let len = 100 * PAGE_SIZE;
        group.bench_function(BenchmarkId::new("tree", spans), |b| {
            b.iter(|| tree.highest_gap(black_box(len), VirtAddr::new(PAGE_SIZE), high));
        });
        group.bench_function(BenchmarkId::new("BTreeMap", spans), |b| {
            b.iter(|| {
                let mut top = high.get();
                for area in map.values().rev() {
                    if top - area.range.end().get() >= black_box(len) {
                        break;
                    }
                    top = area.range.start().get();
                }
                VirtAddr::new(top - len)
            });
        });
    }
}

/// One page into a random gap, and out again.
fn insert_remove(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert and remove at random");
    for spans in SPANS {
        let (mut tree, mut map, addresses) = (tree(spans), map(spans), addresses(spans));
        let new = |addr: &VirtAddr| area(addr.get() / PAGE_SIZE + 2, 1);
        let mut next = addresses.iter().cycle().map(new);
        group.bench_function(BenchmarkId::new("tree", spans), |b| {
            b.iter(|| {
                let area = next.next()?;
                tree.insert(area).ok()?;
                tree.remove(area.range.start())
            });
        });
        let mut next = addresses.iter().cycle().map(new);
        group.bench_function(BenchmarkId::new("BTreeMap", spans), |b| {
            b.iter(|| {
                let area = next.next()?;
                map.insert(area.range.end(), area);
                map.remove(&area.range.end())
            });
        });
    }
}

/// From nothing to all spans, downwards as mmap places them; time for one.
fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build downwards");
    for spans in SPANS {
        group.throughput(criterion::Throughput::Elements(spans));
        group.bench_function(BenchmarkId::new("tree", spans), |b| {
            b.iter(|| {
                let mut tree = Tree::new();
                (0..spans).rev().for_each(|index| {
                    black_box(tree.insert(area(place(index), 2)).is_ok());
                });
                tree
            });
        });
        group.bench_function(BenchmarkId::new("BTreeMap", spans), |b| {
            b.iter(|| {
                let areas = (0..spans).rev().map(|index| area(place(index), 2));
                let mut map = BTreeMap::new();
                map.extend(areas.map(|area| (area.range.end(), area)));
                map
            });
        });
    }
}

criterion_group!(benches, find, highest_gap, insert_remove, build);
criterion_main!(benches);
