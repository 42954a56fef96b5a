//! The VMA set.
use crate::addr::{PageRange, VirtAddr};
use std::collections::BTreeMap;
/// A value with a place.
pub trait Span {
    /// where
    fn range(&self) -> PageRange;
}
/// Tree.
#[derive(Debug)]
pub struct Tree<V> {
    map: BTreeMap<u64, V>,
}
impl<V: Span> Default for Tree<V> {
    fn default() -> Self {
        Self::new()
    }
}
#[allow(missing_docs, clippy::missing_errors_doc)]
impl<V: Span> Tree<V> {
    pub fn new() -> Self {
        Tree { map: BTreeMap::new() }
    }
    pub fn len(&self) -> usize {
        self.map.len()
    }
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    pub fn find(&self, addr: VirtAddr) -> Option<&V> {
        if let Some((_, v)) = self.map.range(..=addr.get()).next_back()
            && v.range().end() > addr
        {
            return Some(v);
        }
        self.map.range(addr.get()..).next().map(|(_, v)| v)
    }
    pub fn find_exact(&self, addr: VirtAddr) -> Option<&V> {
        self.find(addr).filter(|v| v.range().contains(addr))
    }
    pub fn find_intersection(&self, range: PageRange) -> Option<&V> {
        self.find(range.start()).filter(|v| v.range().overlaps(range))
    }
    pub fn prev(&self, start: VirtAddr) -> Option<&V> {
        self.map.range(..start.get()).next_back().map(|(_, v)| v)
    }
    pub fn get(&self, start: VirtAddr) -> Option<&V> {
        self.map.get(&start.get())
    }
    pub fn update(&mut self, start: VirtAddr, f: impl FnOnce(&mut V)) -> bool {
        if let Some(v) = self.map.get_mut(&start.get()) {
            f(v);
            debug_assert!(v.range().start() == start);
            true
        } else {
            false
        }
    }
    pub fn insert(&mut self, v: V) -> Result<(), V> {
        if self.find_intersection(v.range()).is_some() {
            return Err(v);
        }
        self.map.insert(v.range().start().get(), v);
        Ok(())
    }
    pub fn remove(&mut self, start: VirtAddr) -> Option<V> {
        self.map.remove(&start.get())
    }
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.map.values()
    }
    pub fn range(&self, range: PageRange) -> impl Iterator<Item = &V> {
        let s =
            self.find_intersection(range).map_or(range.end().get(), |v| v.range().start().get());
        self.map.range(s..range.end().get().max(s)).map(|(_, v)| v)
    }
    pub fn highest_gap(&self, len: u64, low: VirtAddr, high: VirtAddr) -> Option<VirtAddr> {
        let mut top = high.get();
        for v in self.map.values().rev() {
            let r = v.range();
            if r.start().get() >= top {
                continue;
            }
            if r.end().get() < top {
                let bottom = r.end().get().max(low.get());
                if top >= bottom && top - bottom >= len {
                    return Some(VirtAddr::new(top - len));
                }
            }
            top = top.min(r.start().get());
            if top < low.get() {
                return None;
            }
        }
        (top >= low.get() && top - low.get() >= len).then(|| VirtAddr::new(top - len))
    }
    pub fn lowest_gap(&self, len: u64, low: VirtAddr, high: VirtAddr) -> Option<VirtAddr> {
        let mut at = low.get();
        for v in self.map.values() {
            let r = v.range();
            if r.end().get() <= at {
                continue;
            }
            if r.start().get() > at && r.start().get().min(high.get()).saturating_sub(at) >= len {
                return Some(VirtAddr::new(at));
            }
            at = r.end().get();
            if at >= high.get() {
                return None;
            }
        }
        (high.get() >= at && high.get() - at >= len).then(|| VirtAddr::new(at))
    }
    pub fn audit(&self) -> Result<(), String> {
        Ok(())
    }
}
