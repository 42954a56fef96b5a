//! The cache alone: who gets which frame for a place.

use std::sync::Arc;

use super::*;
use crate::phys::{ReverseOwner, SoftwareMemory};

const OWNER: ReverseOwner = ReverseOwner { id: 1, index: 2 };

fn made(places: u64) -> (Frames, Swap) {
    let frames = Frames::new(Arc::new(SoftwareMemory::new(512)));
    (frames, Swap::new(Box::new(MemoryStore::new(places))))
}

/// A page that is swapped out, with one user.
fn out(frames: &Frames, swap: &Swap, byte: u8) -> SwapSlot {
    let frame = frames.alloc(FrameKind::Anonymous, Contents::Any).unwrap();
    frames.set_owner(frame, OWNER);
    let slot = swap.add(frames, frame).unwrap();
    swap.dup(slot);
    swap.write(slot, &[byte; PAGE_BYTES]).unwrap();
    swap.put(frames, slot).unwrap();
    frames.put(frame).unwrap();
    assert_eq!(swap.drop_unneeded(frames, &[frame]).unwrap(), 1);
    slot
}

fn byte(frames: &Frames, frame: Frame) -> u8 {
    let mut byte = [0];
    frames.memory().read(frame.addr(), &mut byte);
    byte[0]
}

fn take(frames: &Frames, swap: &Swap, slot: SwapSlot, frame: Frame, keep: Keep) -> Option<Sharing> {
    let mut told = None;
    frames.map(frame);
    let taken = swap.take(frames, slot, frame, keep, |sharing| {
        told = Some(sharing);
        true
    });
    assert_eq!(taken.unwrap(), told.is_some());
    told
}

#[test]
fn who_comes_second_gets_the_same_frame_and_the_last_alone() {
    let (frames, swap) = made(4);
    let slot = out(&frames, &swap, 7);
    swap.dup(slot);
    let (one, two) = (
        swap.page(&frames, slot, || Wish::ANY).unwrap(),
        swap.page(&frames, slot, || Wish::ANY).unwrap(),
    );
    assert_eq!((one, byte(&frames, one), frames.owner(one)), (two, 7, Some(OWNER)));
    assert_eq!(take(&frames, &swap, slot, one, Keep::No), Some(Sharing::Shared));
    assert_eq!(take(&frames, &swap, slot, two, Keep::No), Some(Sharing::Shared), "two name it now");
    assert_eq!((swap.stats().used, swap.stats().read), (1, 1));
    frames.unmap(two).unwrap();
    frames.put(two).unwrap();
    swap.release(&frames, one).unwrap();
    assert!(swap.stats().used == 0 && frames.is_exclusive(one));
}

#[test]
fn a_frame_that_is_the_places_no_longer_is_not_taken_for_its_page() {
    let (frames, swap) = made(1);
    let slot = out(&frames, &swap, 7);
    let old = swap.page(&frames, slot, || Wish::ANY).unwrap();
    // Meanwhile another one takes it, writes it, and the place is another page's.
    let other = swap.page(&frames, slot, || Wish::ANY).unwrap();
    assert_eq!(take(&frames, &swap, slot, other, Keep::No), Some(Sharing::Shared));
    frames.unmap(other).unwrap();
    frames.put(other).unwrap();
    swap.release(&frames, old).unwrap();
    assert_eq!(out(&frames, &swap, 9), slot);
    assert_eq!(take(&frames, &swap, slot, old, Keep::No), None);
    let now = swap.page(&frames, slot, || Wish::ANY).unwrap();
    assert_eq!((byte(&frames, old), byte(&frames, now)), (7, 9));
    assert_eq!(take(&frames, &swap, slot, old, Keep::No), None);
    assert_eq!(take(&frames, &swap, slot, now, Keep::No), Some(Sharing::Alone));
}

#[test]
fn what_is_only_read_keeps_its_place_while_half_of_them_are_vacant() {
    let (frames, swap) = made(4);
    let slots = [1, 2, 3].map(|byte| out(&frames, &swap, byte));
    let page = |slot| swap.page(&frames, slot, || Wish::ANY).unwrap();
    assert_eq!(take(&frames, &swap, slots[0], page(slots[0]), Keep::IfRoom), Some(Sharing::Alone));
    assert_eq!(take(&frames, &swap, slots[1], page(slots[1]), Keep::IfRoom), Some(Sharing::Shared));
    assert_eq!((swap.stats().used, swap.stats().cached), (2, 1));
}

#[test]
fn a_place_that_is_given_up_twice_is_an_error_and_not_a_panic() {
    let (frames, swap) = made(4);
    let slot = out(&frames, &swap, 1);
    swap.put(&frames, slot).unwrap();
    assert!(matches!(swap.put(&frames, slot), Err(Broken::Invariant(_))));
    assert!(matches!(swap.page(&frames, slot, || Wish::ANY), Err(Unswappable::Lost)));
}
