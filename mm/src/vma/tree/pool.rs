//! The arena the tree's nodes and values live in: one growing array and a free list threaded through
//! its vacant slots, so that an index is four bytes, nothing is `unsafe`, and giving a slot back never
//! allocates.
//!
//! ```text
//!     slots   [ A ][ ──┐][ B ][ C ][ nil ][ D ]
//!     vacant ───^──────└──────────────^          two slots are vacant
//! ```

use std::collections::TryReserveError;
use std::mem;

/// The index that names nothing.
pub(super) const NIL: u32 = u32::MAX;

/// What can be stored in a [`Pool`]: something that, while unused, can carry the free list.
pub(super) trait Vacant {
    /// An unused slot; `next` is the one after it on the free list.
    fn vacant(next: u32) -> Self;

    /// The next slot on the free list. Asked of vacant slots only.
    fn next_vacant(&self) -> u32;
}

/// A growing array of `T` with a free list.
pub(super) struct Pool<T> {
    slots: Vec<T>,
    vacant: u32,
    vacancies: usize,
}

impl<T: Vacant> Pool<T> {
    pub(super) const fn new() -> Self {
        Pool { slots: Vec::new(), vacant: NIL, vacancies: 0 }
    }

    /// How many slots are in use.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.vacancies
    }

    /// How many more fit without an allocation.
    pub(super) fn spare(&self) -> usize {
        self.slots.capacity() - self.slots.len() + self.vacancies
    }

    /// Bytes taken from the allocator.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<T>()
    }

    /// By how many bytes [`reserve`](Self::reserve) would grow the array.
    pub(super) fn bytes_to_reserve(&self, additional: usize) -> usize {
        self.growth_for(additional).saturating_mul(size_of::<T>())
    }

    /// After it, `additional` calls of [`put`](Self::put) do not allocate.
    pub(super) fn reserve(&mut self, additional: usize) -> Result<(), TryReserveError> {
        match self.growth_for(additional) {
            0 => Ok(()),
            growth => {
                self.slots.try_reserve_exact(self.slots.capacity() - self.slots.len() + growth)
            }
        }
    }

    /// Slots by which the array must grow so that `additional` more fit. At least a quarter of what
    /// there is, so that growing stays amortized constant; a doubling would waste up to half of the
    /// memory, which counts at a hundred bytes a VMA. At least a kibibyte, so that small sets do not
    /// grow at each step.
    fn growth_for(&self, additional: usize) -> usize {
        match additional.saturating_sub(self.spare()) {
            0 => 0,
            short => short.max(self.slots.capacity() / 4).max(1024 / size_of::<T>().max(1)),
        }
    }

    /// Stores an item and says where.
    ///
    /// The caller keeps the number of items below `NIL`.
    pub(super) fn put(&mut self, item: T) -> u32 {
        let index = self.vacant;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            self.vacant = slot.next_vacant();
            self.vacancies -= 1;
            *slot = item;
            return index;
        }
        if self.slots.len() == self.slots.capacity() {
            self.grow();
        }
        self.slots.push(item);
        #[expect(clippy::cast_possible_truncation, reason = "the tree refuses more than MAX_SPANS")]
        let index = (self.slots.len() - 1) as u32;
        index
    }

    /// Takes memory for one more item, which nobody has reserved.
    #[cold]
    fn grow(&mut self) {
        self.slots.reserve_exact(self.growth_for(1));
    }

    /// Takes an item out. Its slot goes to the head of the free list.
    pub(super) fn take(&mut self, index: u32) -> T {
        let vacated = T::vacant(self.vacant);
        let item = mem::replace(&mut self[index], vacated);
        self.vacant = index;
        self.vacancies += 1;
        item
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)
    }

    /// Two different items at once.
    pub(super) fn pair_mut(&mut self, first: u32, second: u32) -> (&mut T, &mut T) {
        let (low, high) = (first.min(second) as usize, first.max(second) as usize);
        let (head, tail) = self.slots.split_at_mut(high);
        let (low, high) = (&mut head[low], &mut tail[0]);
        if first < second { (low, high) } else { (high, low) }
    }

    /// Walks the free list and checks that it is as long as it is counted.
    pub(super) fn audit(&self) -> Result<(), String> {
        let mut index = self.vacant;
        for _ in 0..self.vacancies {
            let slot = self
                .get(index)
                .ok_or_else(|| format!("the free list leads to {index}, which is no slot"))?;
            index = slot.next_vacant();
        }
        if index == NIL {
            Ok(())
        } else {
            Err(format!("the free list is longer than {}", self.vacancies))
        }
    }
}

impl<T> std::ops::Index<u32> for Pool<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.slots[index as usize]
    }
}

impl<T> std::ops::IndexMut<u32> for Pool<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.slots[index as usize]
    }
}

/// A value's place: values have no room for the free list of their own.
pub(super) enum Slot<V> {
    Taken(V),
    Vacant(u32),
}

impl<V> Slot<V> {
    pub(super) fn value(&self) -> Option<&V> {
        match self {
            Slot::Taken(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }

    pub(super) fn value_mut(&mut self) -> Option<&mut V> {
        match self {
            Slot::Taken(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }

    pub(super) fn into_value(self) -> Option<V> {
        match self {
            Slot::Taken(value) => Some(value),
            Slot::Vacant(_) => None,
        }
    }
}

impl<V> Vacant for Slot<V> {
    fn vacant(next: u32) -> Self {
        Slot::Vacant(next)
    }

    fn next_vacant(&self) -> u32 {
        match self {
            Slot::Vacant(next) => *next,
            Slot::Taken(_) => NIL,
        }
    }
}
