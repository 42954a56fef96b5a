//! What a userfaultfd is told besides faults, if it asked for that (Linux's `userfaultfd_unmap_prep` and its kin). It is
//! noted under the space's lock, and told, and waited for, when that is released; until it has been read, who serves faults
//! is refused.

use std::sync::Arc;

use crate::addr::{PageRange, VirtAddr};
use crate::error::Errno;
use crate::space::range::CallRange;
use crate::space::{AddressSpace, Advice, SharedSpace};
use crate::userfault::{Event, Features, ToTell, Userfault};
use crate::vma::{VmFlags, Vma};

impl SharedSpace {
    /// Changes the space, and then has userfaultfds told of it. The caller has no lock.
    pub(crate) fn change_and_tell<T>(&self, change: impl FnOnce(&mut AddressSpace) -> T) -> T {
        let mut space = self.change();
        let result = change(&mut space);
        let told = std::mem::take(&mut space.to_tell);
        drop(space);
        told.into_iter().for_each(ToTell::tell);
        result
    }

    /// Has userfaultfds told of the pages that advice will drop. The caller has no lock.
    pub(crate) fn tell_removed(&self, addr: VirtAddr, len: u64, advice: i32) {
        let told = {
            let space = self.look();
            if !space.has_userfaults {
                return;
            }
            space.removed_by(addr, len, advice)
        };
        told.into_iter().for_each(ToTell::tell);
    }
}

impl AddressSpace {
    /// A range is about to be unmapped: each userfaultfd is told once, of all of it.
    pub(in crate::space) fn note_unmapped(&mut self, range: PageRange) {
        if !self.has_userfaults {
            return;
        }
        let mut told: Vec<Arc<Userfault>> = Vec::new();
        for uffd in self.vmas.range(range).filter_map(|vma| told_of(vma, Features::EVENT_UNMAP)) {
            if !told.iter().any(|other| Arc::ptr_eq(other, uffd)) {
                told.push(Arc::clone(uffd));
            }
        }
        let told = told.iter().map(|uffd| ToTell::new(uffd, Event::Unmap(range)));
        self.to_tell.extend(told);
    }

    /// A VMA, whose copy at `merged` is part of what is there, is about to be moved. Who did not ask to hear of it is told
    /// nothing any more of the whole VMA that it is part of then (`mremap_userfaultfd_prep`). Says whether its pages are not
    /// protected any more.
    pub(in crate::space) fn note_moved(
        &mut self,
        merged: VirtAddr,
        (from, to, len): (VirtAddr, VirtAddr, u64),
    ) -> Moved {
        let Some(vma) = self.vmas.get(merged) else { return Moved::Alike };
        let protected = vma.flags.contains(VmFlags::UFFD_WP);
        match vma.userfault() {
            Some(uffd) if uffd.has(Features::EVENT_REMAP) => {
                let told = ToTell::new(uffd, Event::Remap(from, to, len));
                self.to_tell.push(told);
                Moved::Alike
            }
            Some(_) => {
                self.drop_userfault(merged);
                if protected { Moved::Unprotected } else { Moved::Alike }
            }
            None => Moved::Alike,
        }
    }

    /// A VMA's copy in a child is told of to a userfaultfd of its own, if the parent's asked for that (`dup_userfaultfd`).
    ///
    /// # Errors
    /// `ENOMEM` there can be no more.
    pub(in crate::space) fn inherit_userfault(
        &mut self,
        of: &Vma,
        copy: &mut Vma,
    ) -> Result<(), Errno> {
        let Some(uffd) = told_of(of, Features::EVENT_FORK) else { return Ok(()) };
        let known = self.to_tell.iter().find_map(|told| told.fork_of(uffd));
        let child = match known {
            Some(child) => child,
            None => {
                let child = Arc::new(uffd.of_child()?);
                self.to_tell.push(ToTell::new(uffd, Event::Fork(Arc::clone(&child))));
                child
            }
        };
        copy.flags |= of.flags & VmFlags::UFFD;
        copy.set_userfault(Some(child));
        self.has_userfaults = true;
        Ok(())
    }

    /// What advice will drop of memory whose userfaultfds are told of that.
    fn removed_by(&self, addr: VirtAddr, len: u64, advice: i32) -> Vec<ToTell> {
        let mut told = Vec::new();
        let drops = [Advice::DontNeed, Advice::DontNeedLocked, Advice::Free, Advice::Remove];
        let Some(advice) = drops.into_iter().find(|&known| known as i32 == advice) else {
            return told;
        };
        let range = CallRange::aligned(addr, len).ok().flatten();
        let Some(range) = range.and_then(CallRange::user_half) else { return told };
        for vma in self.vmas.range(range) {
            let unfit = match advice {
                Advice::DontNeedLocked => VmFlags::PFNMAP,
                _ => VmFlags::LOCKED | VmFlags::PFNMAP,
            };
            let shared = VmFlags::SHARED | VmFlags::MAYWRITE;
            let refused = vma.flags.intersects(unfit)
                || advice == Advice::Remove
                    && (vma.backing.is_none() || !vma.flags.contains(shared));
            if refused {
                break;
            }
            let part = vma.range().intersect(range);
            if let (Some(uffd), Some(part)) = (told_of(vma, Features::EVENT_REMOVE), part) {
                told.push(ToTell::new(uffd, Event::Remove(part)));
            }
        }
        told
    }
}

/// What becomes of the protection of pages that move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::space) enum Moved {
    /// It goes along.
    Alike,
    /// It ends.
    Unprotected,
}

/// The VMA's userfaultfd, if it is told of such events.
fn told_of(vma: &Vma, event: Features) -> Option<&Arc<Userfault>> {
    vma.userfault().filter(|uffd| uffd.has(event) && uffd.handler().is_some())
}
