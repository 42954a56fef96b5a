//! Which places of the swap area are used, by how many, and which frames hold their pages (Linux's `swap_map` and
//! swap cache). Pure bookkeeping.
//!
//! ```text
//!   vacant ──take──> users 0, cached ──use_more──> users n, cached <──forget_frame / cache──> users n
//!     ^                   │                                                                      │
//!     └── forget_frame ───┘<───────────────────────── use_less ──────────────────────────────────┘
//! ```

use std::collections::{BTreeSet, HashMap};

use crate::addr::{Frame, SwapSlot, index};
use crate::phys::ReverseOwner;

/// What is known of a place.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Entries and objects that name it, and those who are reading its page.
    users: u32,
    /// Whose page it is, if it is no object's.
    owner: Option<ReverseOwner>,
    /// The frame that holds its page.
    cached: Option<Cached>,
}

/// A frame that holds the page of a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cached {
    pub(super) frame: Frame,
    /// Whether the store has the same bytes.
    pub(super) stored: bool,
}

/// All places.
#[derive(Debug)]
pub(super) struct Area {
    total: u64,
    places: Vec<Option<Place>>,
    /// Those of `places` that are `None`.
    vacant: BTreeSet<SwapSlot>,
    /// Those whose page is in a frame, by that.
    slots: HashMap<Frame, SwapSlot>,
    /// Those whose page is in a frame, and that nobody uses.
    unneeded: BTreeSet<SwapSlot>,
}

impl Area {
    pub(super) fn new(total: u64) -> Self {
        Area {
            total,
            places: Vec::new(),
            vacant: BTreeSet::new(),
            slots: HashMap::new(),
            unneeded: BTreeSet::new(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn used(&self) -> u64 {
        self.places.len() as u64 - self.vacant.len() as u64
    }

    pub(super) fn cached_pages(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Takes a vacant place for the page of a frame, which holds it from now on.
    pub(super) fn take(&mut self, frame: Frame, owner: ReverseOwner) -> Option<SwapSlot> {
        let slot = self.take_vacant(Place { users: 0, owner: Some(owner), cached: None })?;
        self.cache(slot, Cached { frame, stored: false });
        Some(slot)
    }

    /// Takes a vacant place for the page of an object, which is its only user.
    pub(super) fn take_for_object(&mut self) -> Option<SwapSlot> {
        self.take_vacant(Place { users: 1, owner: None, cached: None })
    }

    fn take_vacant(&mut self, place: Place) -> Option<SwapSlot> {
        let slot = match self.vacant.pop_first() {
            Some(slot) => slot,
            None if self.used() < self.total => {
                self.places.push(None);
                SwapSlot::new(self.places.len() as u64 - 1)
            }
            None => return None,
        };
        self.places[index(slot.number())] = Some(place);
        Some(slot)
    }

    /// Notes a frame that holds the page of a place.
    pub(super) fn cache(&mut self, slot: SwapSlot, cached: Cached) {
        if let Some(place) = self.place_mut(slot) {
            place.cached = Some(cached);
            self.slots.insert(cached.frame, slot);
        }
        self.settle(slot);
    }

    pub(super) fn cached(&self, slot: SwapSlot) -> Option<Cached> {
        self.place(slot)?.cached
    }

    /// The place whose page a frame holds.
    pub(super) fn slot_of(&self, frame: Frame) -> Option<SwapSlot> {
        self.slots.get(&frame).copied()
    }

    /// Notes that the store has the page, too, that a frame holds.
    pub(super) fn set_stored(&mut self, slot: SwapSlot) {
        if let Some(cached) = self.place_mut(slot).and_then(|place| place.cached.as_mut()) {
            cached.stored = true;
        }
    }

    /// The frame holds the page no longer. The place is vacant if nobody uses it.
    pub(super) fn forget_frame(&mut self, slot: SwapSlot) {
        if let Some(cached) = self.place_mut(slot).and_then(|place| place.cached.take()) {
            self.slots.remove(&cached.frame);
        }
        self.settle(slot);
    }

    pub(super) fn users(&self, slot: SwapSlot) -> u32 {
        self.place(slot).map_or(0, |place| place.users)
    }

    pub(super) fn owner(&self, slot: SwapSlot) -> Option<ReverseOwner> {
        self.place(slot).and_then(|place| place.owner)
    }

    /// The page of a place is another's from now on.
    pub(super) fn set_owner(&mut self, slot: SwapSlot, owner: ReverseOwner) {
        let place = self.places.get_mut(index(slot.number())).and_then(Option::as_mut);
        if let Some(place) = place.filter(|place| place.owner.is_some()) {
            place.owner = Some(owner);
        }
    }

    /// One user more; says whether the place is used at all.
    pub(super) fn use_more(&mut self, slot: SwapSlot) -> bool {
        let used = self.place_mut(slot).map(|place| place.users += 1).is_some();
        self.unneeded.remove(&slot);
        used
    }

    /// One user less; says how many are left, if there was one. Without one, and no frame, the place is vacant.
    pub(super) fn use_less(&mut self, slot: SwapSlot) -> Option<u32> {
        let place = self.place_mut(slot)?;
        place.users = place.users.checked_sub(1)?;
        let left = place.users;
        self.settle(slot);
        Some(left)
    }

    /// A place whose page is in memory although nobody uses it, and the frame.
    pub(super) fn unneeded(&self) -> Option<(SwapSlot, Frame)> {
        let &slot = self.unneeded.first()?;
        Some((slot, self.cached(slot)?.frame))
    }

    /// Notes what a place is after a change.
    fn settle(&mut self, slot: SwapSlot) {
        self.unneeded.remove(&slot);
        let Some(place) = self.place(slot).filter(|place| place.users == 0) else { return };
        if place.cached.is_some() {
            self.unneeded.insert(slot);
        } else {
            self.places[index(slot.number())] = None;
            self.vacant.insert(slot);
        }
    }

    fn place(&self, slot: SwapSlot) -> Option<&Place> {
        self.places.get(index(slot.number()))?.as_ref()
    }

    fn place_mut(&mut self, slot: SwapSlot) -> Option<&mut Place> {
        self.places.get_mut(index(slot.number()))?.as_mut()
    }

    /// All places that are used, with their users.
    pub(super) fn all(&self) -> impl Iterator<Item = (SwapSlot, u32, Option<Cached>)> {
        (0..)
            .map(SwapSlot::new)
            .zip(&self.places)
            .filter_map(|(slot, place)| place.map(|place| (slot, place.users, place.cached)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: ReverseOwner = ReverseOwner { id: 1, index: 2 };

    #[test]
    fn a_place_is_vacant_when_nobody_uses_it_and_no_frame_holds_its_page() {
        let mut area = Area::new(2);
        let (one, two) = (Frame::new(11), Frame::new(12));
        let slot = area.take(one, OWNER).unwrap();
        assert!(area.use_more(slot) && area.use_more(slot));
        area.forget_frame(slot);
        assert_eq!((area.use_less(slot), area.used()), (Some(1), 1));
        area.cache(slot, Cached { frame: two, stored: true });
        assert_eq!((area.use_less(slot), area.used()), (Some(0), 1), "the frame has it");
        assert_eq!(area.slot_of(two), Some(slot));
        area.forget_frame(slot);
        assert_eq!((area.used(), area.slot_of(two), area.users(slot)), (0, None, 0));
        assert_eq!(area.use_less(slot), None);
        assert!(!area.use_more(slot));
    }

    #[test]
    fn there_are_as_many_places_as_the_store_has_and_the_lowest_is_taken_first() {
        let mut area = Area::new(2);
        let taken: Vec<_> = (1..4).map(|n| area.take(Frame::new(n), OWNER)).collect();
        assert_eq!(taken, [Some(SwapSlot::new(0)), Some(SwapSlot::new(1)), None]);
        area.forget_frame(SwapSlot::new(1));
        area.forget_frame(SwapSlot::new(0));
        assert_eq!(area.take(Frame::new(9), OWNER), Some(SwapSlot::new(0)));
        assert_eq!(area.used(), 1);
    }
}
