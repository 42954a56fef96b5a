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

/// A space by number, and an address in it: where somebody goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) space: u64,
    pub(crate) addr: VirtAddr,
}

impl Spaces {
    /// From now on new spaces are known.
    pub(crate) fn watch(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// The first space from a place on that is still there; the place is moved to it.
    pub(crate) fn first_from(&self, place: &mut Place) -> Option<SpaceHolder> {
        let all = self.lock();
        let mut above = all.range(place.space..);
        let (number, space) = above.find_map(|(&number, space)| Some((number, space.holder()?)))?;
        if number > place.space {
            *place = Place { space: number, addr: VirtAddr::ZERO };
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

impl Place {
    /// The beginning of the next space.
    pub(crate) fn next(self) -> Self {
        Place { space: self.space + 1, addr: VirtAddr::ZERO }
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
