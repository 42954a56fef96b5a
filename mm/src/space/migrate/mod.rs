//! Pages move from node to node (Linux's `mm/migrate.c`, `queue_folios_pte_range` in `mm/mempolicy.c`): which of them, and
//! where to. How they do is in `pages`.
//!
//! ```text
//!   move_pages      page by page       ─┐ queue: a reference to      target frames,      moved, flushed
//!   migrate_pages   node by node        ├ each, no page twice   ──>  where it is    ──>  (pages)
//!   mbind, MOVE     what is misplaced  ─┘                            wished
//! ```
//!
//! All of it is under the space's lock held exclusively, which move_pages lets go of between the queue and the move. With one node nothing is ever queued: each page is where it should
//! be. A huge page is split first, and stays so.

mod pages;

use std::collections::BTreeSet;

use super::AddressSpace;
use super::huge::span_of;
use super::policy::MOVE_ALL;
use crate::addr::{Frame, PAGE_SIZE, PageRange, VirtAddr};
use crate::error::{Broken, Errno};
use crate::inspect::{Shown, ShownPage};
use crate::phys::{AllocError, Contents, FrameKind, Marks, Wish};
use crate::space::PageClass;
use crate::vma::VmFlags;

/// How many pages move together, with one flush: 2 MiB.
const BATCH: usize = 512;

/// Whether pages move that others have, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shared {
    /// They stay (`MPOL_MF_MOVE`).
    Stay,
    /// They move (`MPOL_MF_MOVE_ALL`).
    Move,
}

impl Shared {
    /// By the flags of a call.
    pub(crate) fn by_flags(flags: u64) -> Self {
        if flags & MOVE_ALL == 0 { Shared::Stay } else { Shared::Move }
    }
}

/// Where pages move to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// This node.
    Node(u8),
    /// Where the policy of their memory has them.
    ByPolicy,
}

/// Pages that are to move, each with a reference (Linux's list of isolated folios).
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pages: Vec<Queued>,
    frames: BTreeSet<Frame>,
    /// Pages that should have been queued, and cannot move.
    not_queued: u64,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    addr: VirtAddr,
    frame: Frame,
}

impl Queue {
    /// Whether nothing is to move.
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// How many pages should have been queued, and cannot move.
    pub(super) fn not_queued(&self) -> u64 {
        self.not_queued
    }
}

/// What became of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Migrated {
    /// All but so many pages have moved.
    All { but: u64 },
    /// There was no memory for so many.
    NoMemory { left: u64 },
}

impl Migrated {
    /// How many pages are where they were.
    pub(crate) fn left(self) -> u64 {
        match self {
            Migrated::All { but: left } | Migrated::NoMemory { left } => left,
        }
    }
}

/// Why a page is not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotQueued {
    /// It is there already.
    IsThere,
    /// The status that move_pages(2) has for it.
    Status(Errno),
}

impl AddressSpace {
    /// The node of a page, for move_pages(2).
    ///
    /// # Errors
    /// `EFAULT` nothing is mapped, or zeros were only read; `ENOENT` no page. Source: `do_pages_stat_array`.
    pub(crate) fn node_of(&self, addr: VirtAddr) -> Result<u8, Errno> {
        Ok(self.system.frames().nodes().of(self.page_to_move(addr.page_floor())?.frame))
    }

    /// The node of a page that can be read as it is, for get_mempolicy(2); none if it has to be brought in first.
    ///
    /// # Errors
    /// `EFAULT` nothing is mapped, or nothing is there and its VMA is not for reading, or a userfaultfd would be asked
    /// for it: whoever has the page can read it, as hardware does, whether its VMA says so or not. It counts as used
    /// then. Source: `lookup_node`, `gup_fast`.
    pub(crate) fn node_to_read(&self, addr: VirtAddr) -> Result<Option<u8>, Errno> {
        let vma = self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?;
        let flags = vma.flags;
        if flags.intersects(VmFlags::ACCESS)
            && let Ok(page) = self.page_to_move(addr.page_floor())
        {
            let frames = self.system.frames();
            frames.mark_folio(page.frame, Marks::REFERENCED);
            return Ok(Some(frames.nodes().of(page.frame)));
        }
        let asked_for = self.is_for_userfaultfd(vma, addr.page_floor());
        if flags.contains(VmFlags::READ) && !asked_for { Ok(None) } else { Err(Errno::EFAULT) }
    }

    /// The node of what is behind an address, zeros too: what get_mempolicy(2) says when it has brought the page in.
    pub(crate) fn node_behind(&self, addr: VirtAddr) -> u8 {
        let frames = self.system.frames();
        let Some(frame) = self.entry_at(addr.page_floor()).frame() else { return 0 };
        if frames.kind(frame) != Some(FrameKind::Zero) {
            frames.mark_folio(frame, Marks::REFERENCED);
        }
        frames.nodes().of(frame)
    }

    /// The page at an address, that the program knows of.
    fn page_to_move(&self, addr: VirtAddr) -> Result<ShownPage, Errno> {
        self.vmas.find_exact(addr).ok_or(Errno::EFAULT)?;
        let page = PageRange::from_len(addr, PAGE_SIZE).ok_or(Errno::EFAULT)?;
        self.notice_files(page);
        match Shown::of(self, self.entry_at(addr)) {
            Shown::Page(page) => Ok(page),
            Shown::Zeros(_) => Err(Errno::EFAULT),
            Shown::Nothing | Shown::Marker | Shown::Swapped(_) => Err(Errno::ENOENT),
        }
    }

    /// Queues the page at an address for a move to a node (`add_folio_for_migration`). Statuses if it is not:
    /// `EFAULT` nothing is mapped, or zeros; `ENOENT` no page; `EACCES` others have it, too; `EBUSY` it cannot
    /// move, or is queued already.
    ///
    /// # Errors
    /// Why it was not.
    pub(crate) fn queue_page(
        &self,
        queue: &mut Queue,
        addr: VirtAddr,
        node: u8,
        shared: Shared,
    ) -> Result<(), NotQueued> {
        let addr = addr.page_floor();
        let refused = |errno| Err(NotQueued::Status(errno));
        let page = self.page_to_move(addr).map_err(NotQueued::Status)?;
        if self.system.frames().nodes().of(page.frame) == node {
            return Err(NotQueued::IsThere);
        }
        if page.maps > 1 && shared == Shared::Stay {
            return refused(Errno::EACCES);
        }
        if queue.frames.contains(&page.frame) || !self.can_move(addr, page) {
            return refused(Errno::EBUSY);
        }
        let huge = self.table.large(addr).filter(|large| large.entry.is_huge());
        if let Some(huge) = huge.and_then(|large| large.entry.large_run()) {
            // It moves whole.
            let first = addr.table_floor();
            (0..huge.count).for_each(|i| {
                self.queue_one(queue, first.offset(i * PAGE_SIZE), huge.start.offset(i));
            });
        } else {
            self.queue_one(queue, addr, page.frame);
        }
        Ok(())
    }

    /// With a reference, if the page is still there.
    fn queue_one(&self, queue: &mut Queue, addr: VirtAddr, frame: Frame) {
        // Whoever comes by the reverse map or the object's maps takes it away before this, or finds a reference.
        let _still = self.table.hold_still();
        if self.entry_at(addr).frame() == Some(frame) && queue.frames.insert(frame) {
            self.system.frames().get(frame);
            queue.pages.push(Queued { addr, frame });
        }
    }

    /// Whether a page is one that can have another frame.
    fn can_move(&self, addr: VirtAddr, page: ShownPage) -> bool {
        let of_object = || {
            let backing = self.vmas.find_exact(addr)?.backing.as_ref()?;
            backing.policies()
        };
        // A merged page is where everybody has it.
        let merged = self.system.frames().kind(page.frame) == Some(FrameKind::Merged);
        !merged && (page.class == PageClass::Own || of_object().is_some())
    }

    /// Queues the pages of a range whose node is `misplaced`; those that others have, too, as it is `shared`
    /// (`queue_pages_range`).
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(super) fn queue_pages(
        &self,
        range: PageRange,
        misplaced: impl Fn(u8) -> bool,
        shared: Shared,
    ) -> Result<Queue, Broken> {
        let mut queue = Queue::default();
        let nodes = self.system.frames().nodes();
        if nodes.is_one() && !misplaced(0) {
            return Ok(queue);
        }
        self.notice_files(range);
        for seen in self.table.look(range) {
            let Shown::Page(page) = Shown::of(self, seen.entry) else { continue };
            if !misplaced(nodes.of(page.frame)) || page.maps > 1 && shared == Shared::Stay {
                continue;
            }
            // A page that is met a second time is off its list already, which Linux takes for one that cannot move.
            let again = if nodes.is_one() {
                page.maps > 1 && !queue.frames.insert(page.frame)
            } else {
                queue.frames.contains(&page.frame)
            };
            if again {
                queue.not_queued += 1;
            } else if nodes.is_one() {
                // Linux makes another page of it on the same node; that is all that can be seen of it.
                self.remember_written(page.frame, seen.entry);
                if page.maps > 1 && page.class == PageClass::Own {
                    self.remember_written_by_all(page.frame);
                }
            } else if self.can_move(seen.addr, page) {
                self.queue_one(&mut queue, seen.addr, page.frame);
            } else {
                queue.not_queued += 1;
            }
        }
        Ok(queue)
    }

    /// Moves the pages of one node to another (`migrate_to_node`). Says how many did not, or that there was no memory.
    /// Pages of the host's files are where it has them, and are not asked for.
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn migrate_node(
        &self,
        from: u8,
        to: u8,
        shared: Shared,
    ) -> Result<Migrated, Broken> {
        let Some(all) = PageRange::new(VirtAddr::ZERO, VirtAddr::TASK_END) else {
            return Ok(Migrated::All { but: 0 });
        };
        let mut queue = self.queue_pages(all, |node| node == from, shared)?;
        self.migrate(&mut queue, Target::Node(to))
    }

    /// Moves all pages of a queue, and empties it (`migrate_pages`).
    ///
    /// # Errors
    /// [`Broken`] when a flush fails.
    pub(crate) fn migrate(&self, queue: &mut Queue, to: Target) -> Result<Migrated, Broken> {
        let queue = std::mem::take(queue);
        self.make_small(&queue)?;
        let mut left = 0;
        let mut batches = queue.pages.chunks(BATCH);
        while let Some(batch) = batches.next() {
            let (moves, lack) = self.targets(batch, to)?;
            left += lack + self.move_all(moves)?;
            if lack > 0 {
                let mut others = 0;
                for &Queued { frame, .. } in batches.flatten() {
                    self.system.frames().put(frame)?;
                    others += 1;
                }
                return Ok(Migrated::NoMemory { left: left + others });
            }
        }
        Ok(Migrated::All { but: left })
    }

    /// Gives up a queue of which nothing is to move after all.
    ///
    /// # Errors
    /// [`Broken`] if a frame was not in use.
    pub(super) fn put_back(&self, queue: &Queue) -> Result<(), Broken> {
        queue.pages.iter().try_for_each(|page| self.system.frames().put(page.frame))
    }

    /// Makes entries what they seem, and splits the huge pages of a queue.
    fn make_small(&self, queue: &Queue) -> Result<(), Broken> {
        for &Queued { addr, .. } in &queue.pages {
            let Some(span) = span_of(addr) else { continue };
            self.settle(span)?;
            if self.table.has_large() {
                self.split_large(span)?;
            }
        }
        Ok(())
    }

    /// Takes frames for pages to move to; says for how many there was none. Those, and pages that are where they should
    /// be, are given up.
    fn targets(&self, batch: &[Queued], to: Target) -> Result<(Vec<Move>, u64), Broken> {
        let (frames, mut moves, mut lack) = (self.system.frames(), Vec::new(), 0);
        for &Queued { addr, frame } in batch {
            let wish = match to {
                Target::Node(node) => Wish::only(node),
                Target::ByPolicy => match self.vmas.find_exact(addr) {
                    Some(vma) => self.wish_for(vma, addr),
                    None => Wish::ANY,
                },
            };
            let kind = frames.kind(frame).filter(|_| lack == 0);
            let is_there = frames.nodes().order(wish).next() == Some(frames.nodes().of(frame));
            let (Some(kind), false) = (kind, is_there) else {
                lack += u64::from(lack > 0);
                frames.put(frame)?;
                continue;
            };
            let taken = || frames.alloc_on(kind, Contents::Any, wish);
            // Nothing is given up for a move to a node: it might go on as long as others bring in what they lose.
            let taken = match to {
                Target::Node(_) => taken(),
                Target::ByPolicy => self.system.or_reclaim(taken),
            };
            match taken {
                Ok(target) => moves.push(Move { addr, from: frame, to: target }),
                Err(AllocError::OutOfMemory) => {
                    lack += 1;
                    frames.put(frame)?;
                }
                Err(AllocError::Broken(broken)) => return Err(broken),
            }
        }
        Ok((moves, lack))
    }
}

/// A page that moves, with a reference of ours to each frame.
#[derive(Clone, Copy, Debug)]
struct Move {
    addr: VirtAddr,
    from: Frame,
    to: Frame,
}
