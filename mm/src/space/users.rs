//! Who has an address space, in two counts (Linux's `mm_users` and `mm_count`).
//!
//! ```text
//!   users    tasks that run in it. The last one gone: everything in it is unmapped (mmput, exit_mmap)
//!   holders  the users, together one, and whoever else needs the space itself to stay: a vCPU that still
//!            has its root, somebody who looks at it from outside. The last one gone: its root is freed
//!            (mmdrop)
//!
//!   SpaceUser ── share ──> SpaceUser     mmget       SpaceUser ── put ──> exit_mmap if it was the last
//!       │ hold                                           │
//!       v                                                v
//!   SpaceHolder ── user ──> SpaceUser?   mmget_not_zero  SpaceHolder ── put ──> free if it was the last
//! ```
//!
//! Giving up either can fail, as a flush can: so it is a call and not a drop. One that is merely dropped
//! leaves its memory in use.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::watched::Watched;
use super::{AddressSpace, SharedSpace};
use crate::error::Broken;

#[derive(Debug)]
struct Counted {
    space: SharedSpace,
    /// The space knows them as well: what is changed under several must be flushed with more care.
    users: Arc<AtomicU64>,
    watched: Option<Watched>,
}

/// One use of an address space: a task's.
#[derive(Debug)]
#[must_use = "a use that is not put keeps the space's memory"]
pub struct SpaceUser(Arc<Counted>);

/// One hold on an address space, which may have ended.
#[derive(Debug)]
#[must_use = "a hold that is not put keeps the space's root"]
pub struct SpaceHolder(Arc<Counted>);

/// Knows an address space as long as anybody holds it.
#[derive(Debug)]
pub(super) struct SpaceWatch(Weak<Counted>);

impl SpaceWatch {
    /// A hold on it, if it is still there.
    pub(super) fn holder(&self) -> Option<SpaceHolder> {
        self.0.upgrade().map(SpaceHolder)
    }
}

/// What came of giving up a use or a hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Others have it.
    Others,
    /// That was the last one.
    Nobody,
}

impl SpaceUser {
    /// The first use of a new space. If it is a child's, those are told that asked to hear of forks. The caller has no
    /// lock.
    pub fn new(mut space: AddressSpace) -> Self {
        let told = std::mem::take(&mut space.to_tell);
        let users = Arc::clone(&space.users);
        users.store(1, Ordering::Relaxed);
        let watched = Watched::new(&space.system, space.number);
        let counted = Arc::new(Counted { space: SharedSpace::new(space), users, watched });
        if let Some(watched) = &counted.watched {
            watched.begin(SpaceWatch(Arc::downgrade(&counted)));
        }
        let user = SpaceUser(counted);
        told.into_iter().for_each(|told| told.tell_of_child(&user));
        user
    }

    /// One more use of the same space: `CLONE_VM` (`mmget`).
    pub fn share(&self) -> Self {
        // This user is there meanwhile, so the count is not 0.
        self.0.users.fetch_add(1, Ordering::Relaxed);
        SpaceUser(Arc::clone(&self.0))
    }

    /// A hold on it (`mmgrab`).
    pub fn hold(&self) -> SpaceHolder {
        SpaceHolder(Arc::clone(&self.0))
    }

    /// How many users there are (`mm_users`).
    #[must_use]
    pub fn users(&self) -> u64 {
        self.0.users.load(Ordering::Relaxed)
    }

    /// Ends the use (`mmput`). The last one unmaps everything; if nobody holds the space either, it is
    /// freed.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub fn put(self) -> Result<Left, Broken> {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(Left::Others);
        }
        self.0.space.change().exit_mmap()?;
        self.0.space.serve_pagers()?;
        SpaceHolder(self.0).put()?;
        Ok(Left::Nobody)
    }
}

impl Deref for SpaceUser {
    type Target = SharedSpace;

    fn deref(&self) -> &SharedSpace {
        &self.0.space
    }
}

impl SpaceHolder {
    /// A use of the space, if it has not ended (`mmget_not_zero`).
    #[must_use]
    pub fn user(&self) -> Option<SpaceUser> {
        let one_more = |users: u64| (users > 0).then(|| users + 1);
        let got = self.0.users.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more);
        got.is_ok().then(|| SpaceUser(Arc::clone(&self.0)))
    }

    /// The space itself, in which nothing is mapped once its last user is gone.
    pub(crate) fn space(&self) -> &SharedSpace {
        &self.0.space
    }

    /// How many users there are (`mm_users`).
    #[must_use]
    pub fn users(&self) -> u64 {
        self.0.users.load(Ordering::Relaxed)
    }

    /// How many hold the space, its users counted as one (`mm_count`).
    #[must_use]
    pub fn holders(&self) -> u64 {
        let users = self.users();
        let all = Arc::strong_count(&self.0) as u64;
        all - users + users.min(1)
    }

    /// Gives up the hold (`mmdrop`).
    ///
    /// # Errors
    /// [`Broken`] when the flush fails.
    pub fn put(self) -> Result<Left, Broken> {
        match Arc::into_inner(self.0) {
            None => Ok(Left::Others),
            Some(counted) => {
                counted.space.into_inner().free()?;
                Ok(Left::Nobody)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PAGE_SIZE, VirtAddr};
    use crate::paging::KernelHalf;
    use crate::phys::{Frames, SoftwareMemory};
    use crate::replay::CountingSink;
    use crate::space::MapRequest;
    use crate::system::System;
    use crate::vma::limits::Limits;
    use crate::vma::{MapFlags, Prot};

    /// A space with two pages of which one has been written to, and its frames.
    fn space() -> (SpaceUser, Arc<Frames>) {
        let frames = Arc::new(Frames::new(Arc::new(SoftwareMemory::new(1024))));
        let sink = Box::new(Arc::new(CountingSink::default()));
        let system = Arc::new(System::new(Arc::clone(&frames), sink, KernelHalf::default()));
        let user = SpaceUser::new(AddressSpace::new(system, Limits::default()).unwrap());
        let (at, rw) = (VirtAddr::new(1 << 32), Prot::READ | Prot::WRITE);
        let request = MapRequest::anonymous(at, 2 * PAGE_SIZE, rw, MapFlags::FIXED);
        user.change().mmap(&request).unwrap();
        user.write(at, &[1]).unwrap();
        (user, frames)
    }

    fn in_use(frames: &Frames) -> u64 {
        frames.stats().pages + frames.stats().tables
    }

    #[test]
    fn the_last_user_unmaps_everything_and_the_last_holder_frees_the_root() {
        let (first, frames) = space();
        let holder = first.hold();
        let second = first.share();
        assert_eq!((first.users(), holder.holders()), (2, 2));
        let before = in_use(&frames);
        assert_eq!(first.put().unwrap(), Left::Others);
        assert_eq!((holder.users(), holder.holders(), in_use(&frames)), (1, 2, before));
        assert_eq!(second.put().unwrap(), Left::Nobody);
        // The root and nothing else; nothing is mapped or promised.
        holder.0.space.look().system().free_retired().unwrap();
        assert_eq!((holder.users(), holder.holders(), in_use(&frames)), (0, 1, 1));
        {
            let space = holder.0.space.look();
            assert!(space.vmas().is_empty());
            assert_eq!((space.account().total, space.system().committed()), (0, 0));
            crate::inspect::audit(&space).unwrap();
        }
        assert_eq!(holder.put().unwrap(), Left::Nobody);
        assert_eq!(in_use(&frames), 0);
    }

    #[test]
    fn a_space_that_nobody_else_holds_goes_with_its_last_user() {
        let (user, frames) = space();
        assert_eq!(user.put().unwrap(), Left::Nobody);
        assert_eq!(in_use(&frames), 0);
    }

    #[test]
    fn a_holder_becomes_a_user_only_while_there_is_one() {
        let (user, _) = space();
        let holder = user.hold();
        let again = holder.user().unwrap();
        assert_eq!(user.put().unwrap(), Left::Others);
        assert_eq!(again.put().unwrap(), Left::Nobody);
        assert!(holder.user().is_none());
        assert_eq!(holder.put().unwrap(), Left::Nobody);
    }
}
