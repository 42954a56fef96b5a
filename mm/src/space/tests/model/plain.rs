//! The plain model: a map from page numbers to what is in the page, and each call as a loop over pages. It
//! knows no VMAs; where Linux's answer depends on where one ends, the model is told it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::*;

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Page {
    pub(super) prot: Prot,
    /// The byte of private memory; 0 until it is written.
    pub(super) byte: u8,
    /// The page of a shared object that it shows, if it does.
    pub(super) object: Option<(usize, u64)>,
    /// Of [`KEPT`].
    pub(super) flags: VmFlags,
    pub(super) guarded: bool,
}

/// The flags that the model keeps.
pub(super) const KEPT: VmFlags =
    VmFlags::LOCKED_MASK.union(VmFlags::DONTCOPY).union(VmFlags::WIPEONFORK).union(VmFlags::SEALED);

/// The pages of one process, and the shared objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain {
    pub(super) pages: BTreeMap<u64, Page>,
    /// The bytes of each shared object; as long as it is.
    pub(super) objects: Vec<Vec<u8>>,
    /// The heap's end.
    pub(super) brk: u64,
}

/// Where the heap begins.
pub(super) const HEAP: u64 = 100;

/// Whom a new map shows its bytes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sharing {
    Private,
    Shared,
}

type Answer = Result<(), Errno>;

impl Plain {
    pub(super) fn new() -> Self {
        Plain { brk: HEAP, ..Plain::default() }
    }

    /// What an access gets: the page, or a signal.
    pub(super) fn access(&self, at: u64, kind: AccessKind) -> Result<Page, Fault> {
        let addr = page(at);
        let found = *self.pages.get(&at).ok_or(Fault::NotMapped(addr))?;
        let needed = if kind == AccessKind::Write { Prot::WRITE } else { Prot::READ };
        // What may be written may be read, on this hardware.
        if !found.prot.contains(needed) {
            return Err(Fault::Denied(addr));
        }
        if found.guarded {
            return Err(Fault::NotMapped(addr));
        }
        match found.object {
            Some((object, index)) if index >= self.objects[object].len() as u64 => {
                Err(Fault::NoBacking(addr))
            }
            _ => Ok(found),
        }
    }

    pub(super) fn load(&self, at: u64) -> Result<u8, Fault> {
        let found = self.access(at, AccessKind::Read)?;
        Ok(found.object.map_or(found.byte, |(object, index)| self.objects[object][index as usize]))
    }

    pub(super) fn store(&mut self, at: u64, byte: u8) -> Result<(), Fault> {
        let found = self.access(at, AccessKind::Write)?;
        match (found.object, self.pages.get_mut(&at)) {
            (Some((object, index)), _) => self.objects[object][index as usize] = byte,
            (None, Some(page)) => page.byte = byte,
            (None, None) => {}
        }
        Ok(())
    }

    fn sealed(&self, mut pages: Range<u64>) -> bool {
        pages.any(|at| self.has(at, VmFlags::SEALED))
    }

    fn has(&self, at: u64, flag: VmFlags) -> bool {
        self.pages.get(&at).is_some_and(|page| page.flags.contains(flag))
    }

    pub(super) fn any(&self, mut pages: Range<u64>, flag: VmFlags) -> bool {
        pages.any(|at| self.has(at, flag))
    }

    pub(super) fn map(&mut self, pages: Range<u64>, prot: Prot, sharing: Sharing) -> Answer {
        if self.sealed(pages.clone()) {
            return Err(Errno::EPERM);
        }
        let object = self.objects.len();
        if sharing == Sharing::Shared {
            self.objects.push(vec![0; (pages.end - pages.start) as usize]);
        }
        for at in pages.clone() {
            let object = (sharing == Sharing::Shared).then_some((object, at - pages.start));
            let flags = VmFlags::empty();
            self.pages.insert(at, Page { prot, byte: 0, object, flags, guarded: false });
        }
        Ok(())
    }

    pub(super) fn unmap(&mut self, pages: Range<u64>) -> Answer {
        if self.sealed(pages.clone()) {
            return Err(Errno::EPERM);
        }
        self.pages.retain(|at, _| !pages.contains(at));
        Ok(())
    }

    /// Page by page, until a hole or a refusal.
    fn each(&mut self, pages: Range<u64>, mut visit: impl FnMut(&mut Page) -> Answer) -> Answer {
        for at in pages {
            visit(self.pages.get_mut(&at).ok_or(Errno::ENOMEM)?)?;
        }
        Ok(())
    }

    pub(super) fn protect(&mut self, pages: Range<u64>, prot: Prot) -> Answer {
        self.each(pages, |page| {
            if page.flags.contains(VmFlags::SEALED) {
                return Err(Errno::EPERM);
            }
            page.prot = prot;
            Ok(())
        })
    }

    pub(super) fn seal(&mut self, pages: Range<u64>) -> Answer {
        if pages.clone().any(|at| !self.pages.contains_key(&at)) {
            return Err(Errno::ENOMEM);
        }
        self.each(pages, |page| {
            page.flags |= VmFlags::SEALED;
            Ok(())
        })
    }

    fn set_locked(&mut self, pages: Range<u64>, lock: VmFlags) -> Answer {
        self.each(pages, |page| {
            page.flags = (page.flags - VmFlags::LOCKED_MASK) | lock;
            Ok(())
        })
    }

    /// mlock2(2): all are locked, and then each is touched, but for those that are locked on fault.
    pub(super) fn lock(&mut self, pages: Range<u64>, lock: VmFlags) -> Answer {
        self.set_locked(pages.clone(), lock)?;
        let on_fault = lock.contains(VmFlags::LOCKONFAULT);
        let untouchable = |&at: &u64| self.access(at, AccessKind::Read).is_err();
        if !on_fault && pages.clone().any(|at| untouchable(&at)) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    pub(super) fn unlock(&mut self, pages: Range<u64>) -> Answer {
        self.set_locked(pages, VmFlags::empty())
    }

    /// mlockall(2) and munlockall(2).
    pub(super) fn lock_all(&mut self, lock: VmFlags) {
        for page in self.pages.values_mut() {
            page.flags = (page.flags - VmFlags::LOCKED_MASK) | lock;
        }
    }

    /// madvise(2): goes on past holes, and then says `ENOMEM`.
    pub(super) fn advise(&mut self, pages: Range<u64>, advice: Advice) -> Answer {
        if matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            return self.populate(pages, advice);
        }
        let whole = pages.clone().all(|at| self.pages.contains_key(&at));
        for (_, page) in self.pages.range_mut(pages) {
            follow(page, advice)?;
        }
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    fn populate(&self, pages: Range<u64>, advice: Advice) -> Answer {
        let write = advice == Advice::PopulateWrite;
        let kind = if write { AccessKind::Write } else { AccessKind::Read };
        for at in pages {
            self.pages.get(&at).ok_or(Errno::ENOMEM)?;
            self.access(at, kind).map_err(|fault| match fault {
                Fault::Denied(_) => Errno::EINVAL,
                _ => Errno::EFAULT,
            })?;
        }
        Ok(())
    }

    /// brk(2): where the heap ends then.
    pub(super) fn brk(&mut self, end: u64) -> u64 {
        let old = self.brk;
        let moved = match () {
            () if end < HEAP => false,
            () if end < old => {
                self.pages.range(end..old).next().is_some() && self.unmap(end..old).is_ok()
            }
            () if end == old => true,
            // One page stays free.
            () => {
                self.pages.range(old..=end).next().is_none()
                    && self.map(old..end, RW, Sharing::Private).is_ok()
            }
        };
        if moved {
            self.brk = end;
        }
        self.brk
    }

    /// A move of `len` pages, all of whose mapped ones go; holes stay as they are at the target.
    pub(super) fn shift(&mut self, from: u64, to: u64, len: u64) {
        for i in 0..len {
            if let Some(page) = self.pages.remove(&(from + i)) {
                self.pages.insert(to + i, page);
            }
        }
    }

    /// The pages from `from` on, of one VMA, go on for `more` pages at `to`.
    pub(super) fn extend(&mut self, from: Page, to: u64, more: u64) {
        for i in 0..more {
            let object = from.object.map(|(object, index)| (object, index + 1 + i));
            self.pages.insert(to + i, Page { byte: 0, guarded: false, object, ..from });
        }
    }

    /// The child of fork(2). Shared objects stay the parent's.
    pub(super) fn child(&self) -> Self {
        let mut child = self.clone();
        child.pages.retain(|_, page| !page.flags.contains(VmFlags::DONTCOPY));
        for page in child.pages.values_mut() {
            page.flags -= VmFlags::LOCKED_MASK;
            if page.flags.contains(VmFlags::WIPEONFORK) {
                (page.byte, page.guarded) = (0, false);
            }
        }
        child
    }
}

/// What an advice makes of one page.
fn follow(page: &mut Page, advice: Advice) -> Answer {
    let (shared, locked) = (page.object.is_some(), page.flags.contains(VmFlags::LOCKED));
    let discards = matches!(
        advice,
        Advice::DontNeed
            | Advice::DontNeedLocked
            | Advice::Free
            | Advice::DontFork
            | Advice::WipeOnFork
            | Advice::GuardInstall
    );
    let read_only = !shared && !page.prot.contains(Prot::WRITE);
    if discards && read_only && page.flags.contains(VmFlags::SEALED) {
        return Err(Errno::EPERM);
    }
    match advice {
        Advice::DontNeed | Advice::Free | Advice::Cold | Advice::GuardInstall if locked => {
            return Err(Errno::EINVAL);
        }
        Advice::Free | Advice::WipeOnFork if shared => return Err(Errno::EINVAL),
        Advice::DontNeed | Advice::DontNeedLocked => page.byte = 0,
        Advice::GuardInstall => (page.byte, page.guarded) = (0, true),
        Advice::GuardRemove => page.guarded = false,
        Advice::DontFork => page.flags |= VmFlags::DONTCOPY,
        Advice::DoFork => page.flags -= VmFlags::DONTCOPY,
        Advice::WipeOnFork => page.flags |= VmFlags::WIPEONFORK,
        Advice::KeepOnFork => page.flags -= VmFlags::WIPEONFORK,
        _ => {}
    }
    Ok(())
}
