//! The spaces of a machine, for those who go through all of them in the background: khugepaged, ksmd. Each is known from
//! [`SpaceUser::new`](super::SpaceUser::new) until its last holder is gone, if there are such; who comes holds it
//! without using it, so a process ends without them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SpaceHolder;
use super::users::SpaceWatch;
use crate::addr::VirtAddr;
use crate::system::System;

/// All spaces that are watched.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    is_on: AtomicBool,
    /// By number. A leaf lock.
    all: Mutex<BTreeMap<u64, SpaceWatch>>,
}

/// Once through all spaces that were there when it began: where somebody goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tour {
    /// The space, by number, and the address in it.
    pub(crate) space: u64,
    pub(crate) addr: VirtAddr,
    /// What came after it began is for the next one; 0 before it begins.
    end: u64,
}

impl Spaces {
    /// From now on new spaces are known.
    pub(crate) fn watch(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// The space to go on with; none when the tour is at its end, and begins anew.
    pub(crate) fn go_on(&self, tour: &mut Tour) -> Option<SpaceHolder> {
        let all = self.lock();
        if tour.end == 0 {
            tour.end = all.last_key_value().map_or(0, |(&last, _)| last + 1);
        }
        let mut left = all.range(tour.space..tour.end.max(tour.space));
        let Some((number, space)) =
            left.find_map(|(&number, space)| Some((number, space.holder()?)))
        else {
            *tour = Tour::default();
            return None;
        };
        if number > tour.space {
            *tour = Tour { space: number, addr: VirtAddr::ZERO, ..*tour };
        }
        Some(space)
    }

    /// A use of one, if it has not ended.
    pub(crate) fn hold(&self, number: u64) -> Option<SpaceHolder> {
        self.lock().get(&number)?.holder()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, SpaceWatch>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tour {
    /// On to the next space.
    pub(crate) fn leave(&mut self) {
        *self = Tour { space: self.space + 1, addr: VirtAddr::ZERO, ..*self };
    }
}

/// A space is known as long as this is there.
#[derive(Debug)]
pub(super) struct Watched {
    system: Arc<System>,
    number: u64,
}

impl Watched {
    /// For a new space, if anybody is to look at it.
    pub(super) fn new(system: &Arc<System>, number: u64) -> Option<Self> {
        let is_on = system.spaces.is_on.load(Ordering::Relaxed);
        is_on.then(|| Watched { system: Arc::clone(system), number })
    }

    /// It can be looked at from now on.
    pub(super) fn begin(&self, space: SpaceWatch) {
        self.system.spaces.lock().insert(self.number, space);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.system.spaces.lock().remove(&self.number);
    }
}
