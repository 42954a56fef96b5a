//! The counts of one frame, one step after the other.

use super::super::count::{Counts, Left, Miscounted};

#[test]
fn references_and_maps_are_counted_apart() {
    let counts = Counts::new();
    counts.take();
    counts.dup();
    counts.map();
    assert_eq!((counts.now().references(), counts.now().maps()), (2, 2));
    counts.unmap().unwrap();
    assert_eq!(counts.put(), Ok(Left::Some));
    assert_eq!(counts.put(), Err(Miscounted::StillMapped));
    counts.unmap().unwrap();
    assert_eq!(counts.unmap(), Err(Miscounted::NotMapped));
    assert_eq!(counts.put(), Ok(Left::None));
    assert_eq!(counts.put(), Err(Miscounted::Unused));
}

#[test]
fn a_free_frame_cannot_be_got() {
    let counts = Counts::new();
    assert!(!counts.try_get());
    counts.take();
    assert!(counts.try_get());
    assert_eq!(counts.now().references(), 2);
}

#[test]
fn a_count_that_runs_over_pins_the_frame_and_leaves_the_other_count_alone() {
    let counts = Counts::almost_pinned();
    (0..7).for_each(|_| counts.map());
    counts.get();
    assert_eq!(counts.now().references(), 1 << 31);
    counts.get();
    counts.map();
    assert_eq!(counts.put(), Ok(Left::Some));
    assert_eq!((counts.now().references(), counts.now().maps()), (1 << 31, 7));
}
