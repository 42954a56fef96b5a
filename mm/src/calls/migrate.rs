//! move_pages(2), migrate_pages(2): pages that go to another node (Linux's `kernel_move_pages` in `mm/migrate.c`,
//! `kernel_migrate_pages` in `mm/mempolicy.c`).

use super::numa::nodes;
use super::{Call, Reach, done};
use crate::addr::VirtAddr;
use crate::error::{CallError, CallResult, Errno};
use crate::space::SharedSpace;
use crate::space::migrate::{Migrated, NotQueued, Queue, Shared, Target};
use crate::space::policy::{MOVE, MOVE_ALL};
use crate::vma::limits::Capabilities;

/// The most nodes that a kernel of a distribution is built for (`MAX_NUMNODES`).
const MAX_NODES: i32 = 1024;
/// How many pages are looked at before it is written what was seen (`DO_PAGES_STAT_CHUNK_NR`).
const CHUNK: u64 = 16;

fn may_move_all(c: &Call<'_>) -> bool {
    c.caller.space().look().limits().may(Capabilities::SYS_NICE)
}

/// move_pages(2).
///
/// # Errors
/// In this order: `EINVAL` flags; `EPERM` all without `CAP_SYS_NICE`; `ESRCH` no such process; `EPERM` another's; `EINVAL` it has ended; then page by page
/// `EFAULT` an array, `ENODEV` no such node, `ENOMEM` no memory there. What was done before is done, and said in the
/// statuses.
pub(super) fn move_pages(c: &Call<'_>) -> CallResult<u64> {
    let flags = c.int(5);
    let flags = u64::from(flags.cast_unsigned());
    if flags & !(MOVE | MOVE_ALL) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & MOVE_ALL != 0 && !may_move_all(c) {
        return Err(Errno::EPERM.into());
    }
    c.with_space(c.int(0), Reach::Place, |space| {
        if c.address(3) == VirtAddr::ZERO {
            return done(tell_nodes(c, space));
        }
        let shared = Shared::by_flags(flags);
        Mover { c, space, shared, queue: Queue::default(), first: 0 }.move_all()
    })
}

/// Says on which nodes pages are (`do_pages_stat`).
fn tell_nodes(c: &Call<'_>, space: &SharedSpace) -> CallResult<()> {
    let (count, mut at) = (c.args[1], 0);
    while at < count {
        let chunk = CHUNK.min(count - at);
        // All of a chunk is read before any of it is looked at.
        let pages = (at..at + chunk).map(|i| page(c, i)).collect::<CallResult<Vec<_>>>()?;
        let seen: Vec<i32> = {
            let space = space.look();
            pages
                .iter()
                .map(|&page| space.node_of(page).map_or_else(status_of, i32::from))
                .collect()
        };
        let bytes: Vec<u8> = seen.iter().flat_map(|status| status.to_le_bytes()).collect();
        c.write(element(c.address(4), at, 4)?, &bytes)?;
        at += chunk;
    }
    Ok(())
}

/// An errno as a status.
fn status_of(errno: Errno) -> i32 {
    -(errno as i32)
}

/// Where element `i` of an array is.
fn element(array: VirtAddr, i: u64, size: u64) -> Result<VirtAddr, Errno> {
    i.checked_mul(size).and_then(|at| array.checked_add(at)).ok_or(Errno::EFAULT)
}

/// The page that move_pages(2) is about in its `i`th place.
fn page(c: &Call<'_>, i: u64) -> CallResult<VirtAddr> {
    let [page] = c.read_words(element(c.address(2), i, 8)?)?;
    Ok(VirtAddr::new(page))
}

/// What move_pages(2) is doing (`do_pages_move`).
struct Mover<'a> {
    c: &'a Call<'a>,
    space: &'a SharedSpace,
    shared: Shared,
    /// Pages for one node.
    queue: Queue,
    /// The place of the first that was queued.
    first: u64,
}

/// Why no more pages are moved.
enum Stop {
    /// So many pages, of those that were queued, have not moved.
    Left(u64),
    Error(CallError),
}

impl<E: Into<CallError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(error.into())
    }
}

impl Mover<'_> {
    /// What the call answers: 0, or how many pages have not moved, with those that were not looked at any more.
    fn move_all(mut self) -> CallResult<u64> {
        let count = self.c.args[1];
        let mut node = None;
        let mut at = 0;
        let stopped = loop {
            if at == count {
                break None;
            }
            match self.one(at, &mut node) {
                Ok(()) => at += 1,
                Err(Stopped::Before(stop)) => break Some(stop),
                // What was queued has been dealt with.
                Err(Stopped::After(Stop::Left(left))) => return Ok(left),
                Err(Stopped::After(Stop::Error(error))) => return Err(error),
            }
        };
        let moved = self.flush(node, at, count);
        match (stopped, moved) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(0),
            (None, Err(Stop::Left(left))) => Ok(left),
            (None, Err(Stop::Error(error))) => Err(error),
        }
    }

    fn one(&mut self, at: u64, node: &mut Option<u8>) -> Result<(), Stopped> {
        let count = self.c.args[1];
        let (page, wanted) = self.element(at).map_err(Stopped::Before)?;
        match *node {
            None => (*node, self.first) = (Some(wanted), at),
            Some(of) if of != wanted => {
                self.flush(Some(of), at, count).map_err(Stopped::After)?;
                (*node, self.first) = (Some(wanted), at);
            }
            Some(_) => {}
        }
        let queued = self.space.change().queue_page(&mut self.queue, page, wanted, self.shared);
        let status = match queued {
            Ok(()) => return Ok(()),
            Err(NotQueued::IsThere) => i32::from(wanted),
            Err(NotQueued::Status(errno)) => status_of(errno),
        };
        self.store(at..at + 1, status).map_err(Stopped::Before)?;
        self.flush(Some(wanted), at, count).map_err(|stop| match stop {
            // This one is done with.
            Stop::Left(left) => Stopped::After(Stop::Left(left - 1)),
            error => Stopped::After(error),
        })?;
        *node = None;
        Ok(())
    }

    /// A page and the node that it is for.
    fn element(&self, at: u64) -> CallResult<(VirtAddr, u8)> {
        let page = page(self.c, at)?;
        let mut node = [0; 4];
        self.c.read(element(self.c.address(3), at, 4)?, &mut node)?;
        let node = i32::from_le_bytes(node);
        let known = self.c.caller.space().look().system().nodes();
        // All that there are are allowed: no cpuset forbids any.
        let node = u8::try_from(node).ok().filter(|_| node < MAX_NODES);
        let node = node.filter(|&node| node < 64 && known >> node & 1 != 0);
        Ok((page, node.ok_or(Errno::ENODEV)?))
    }

    fn store(&self, places: std::ops::Range<u64>, status: i32) -> CallResult<()> {
        for at in places {
            self.c.write(element(self.c.address(4), at, 4)?, &status.to_le_bytes())?;
        }
        Ok(())
    }

    /// Moves what is queued, which are the places from `first` to `at`, and says so in their statuses
    /// (`move_pages_and_store_status`).
    fn flush(&mut self, node: Option<u8>, at: u64, count: u64) -> Result<(), Stop> {
        let Some(node) = node.filter(|_| !self.queue.is_empty()) else { return Ok(()) };
        // The statuses are written without the lock: that may fault.
        let migrated = self.space.change().migrate(&mut self.queue, Target::Node(node))?;
        match migrated {
            Migrated::NoMemory { .. } => Err(Errno::ENOMEM.into()),
            Migrated::All { but: 0 } => Ok(self.store(self.first..at, i32::from(node))?),
            Migrated::All { but } => Err(Stop::Left(but + count - at)),
        }
    }
}

/// Where a call stops.
enum Stopped {
    /// What is queued is to be moved.
    Before(CallError),
    /// It was.
    After(Stop),
}

/// migrate_pages(2).
///
/// # Errors
/// In this order: `EINVAL`, `EFAULT` the masks; `ESRCH` no such process; `EPERM` another's; `EINVAL` it has ended; `EPERM` nodes that are not there, without
/// `CAP_SYS_NICE`; `EINVAL` no node that is; `ENOMEM` no memory there.
pub(super) fn migrate_pages(c: &Call<'_>) -> CallResult<u64> {
    let old = nodes(c, c.address(2), c.args[1])?;
    let new = nodes(c, c.address(3), c.args[1])?;
    c.with_space(c.int(0), Reach::Place, |space| migrate(c, space, old, new))
}

fn migrate(c: &Call<'_>, space: &SharedSpace, old: u64, new: u64) -> CallResult<u64> {
    let machine = c.caller.space().look().system().nodes();
    let privileged = may_move_all(c);
    if new & !machine != 0 && !privileged {
        return Err(Errno::EPERM.into());
    }
    let new = new & machine;
    if new == 0 {
        return Err(Errno::EINVAL.into());
    }
    let shared = if privileged { Shared::Move } else { Shared::Stay };
    let mut failed = 0;
    for (from, to) in steps(old, new) {
        let migrated = space.change().migrate_node(from, to, shared)?;
        match migrated {
            Migrated::All { but } => failed += but,
            Migrated::NoMemory { .. } => return Err(Errno::ENOMEM.into()),
        }
    }
    Ok(failed.min(i32::MAX.unsigned_abs().into()))
}

/// From which node to which pages go, in an order in which none goes twice if that can be (`do_migrate_pages`).
fn steps(old: u64, new: u64) -> Vec<(u8, u8)> {
    let mut left = old;
    let mut steps = Vec::new();
    while left != 0 {
        let mut step = None;
        for from in (0..64_u8).filter(|node| left >> node & 1 != 0) {
            if old.count_ones() != new.count_ones() && new >> from & 1 != 0 {
                continue;
            }
            let to = remap(from, old, new);
            if to == from {
                continue;
            }
            step = Some((from, to));
            if left >> to & 1 == 0 {
                break;
            }
        }
        let Some((from, to)) = step else { break };
        left &= !(1 << from);
        steps.push((from, to));
    }
    steps
}

/// The n-th of the old nodes becomes the n-th of the new ones, in turn (`node_remap`).
fn remap(node: u8, old: u64, new: u64) -> u8 {
    let nth = (old & ((1 << node) - 1)).count_ones() % new.count_ones().max(1);
    let of_new = (0..64_u8).filter(|node| new >> node & 1 != 0);
    of_new.take(nth as usize + 1).last().unwrap_or(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_mapped_in_order_and_emptied_before_they_are_filled() {
        assert_eq!(steps(0b01, 0b10), [(0, 1)]);
        assert_eq!(steps(0b11, 0b10), [(0, 1)], "what is there stays");
        assert_eq!(steps(0b011, 0b110), [(1, 2), (0, 1)]);
        assert_eq!(steps(0b11, 0b11), []);
        assert_eq!(steps(0b111, 0b1_1000), [(0, 3), (1, 4), (2, 3)]);
        assert_eq!(steps(0, 1), []);
    }
}
