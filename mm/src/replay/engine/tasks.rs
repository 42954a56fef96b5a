//! Which task a line is about. strace names pids, but not always: not while there is one process, and a
//! child may run before the call that made it has returned.

use std::collections::{BTreeMap, HashMap, VecDeque};

use nix::libc;

use super::addresses::Addresses;
use super::executor::{Cloned, Sharing, Task};

/// Flags of clone(2).
const VM: u64 = libc::CLONE_VM as u64;
const FILES: u64 = libc::CLONE_FILES as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;

/// How much of an address space the trace has explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// All of it: it began empty, or with an `@maps`, or with a program that was loaded.
    All,
    /// Only what calls since then have shown.
    Partly,
}

/// An address space of the trace.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) addresses: Addresses,
    pub(super) known: Known,
}

impl Space {
    pub(super) fn new(known: Known) -> Self {
        Space { addresses: Addresses::default(), known }
    }

    /// The one place with us of a range; holes are in their place only where all is known.
    pub(super) fn whole(&self, start: u64, len: u64) -> Option<u64> {
        let whole = self.addresses.whole(start, len);
        match self.known {
            Known::All => whole.or_else(|| self.addresses.whole_with_holes(start, len)),
            Known::Partly => whole,
        }
    }
}

/// A call that makes a task and has not returned yet.
#[derive(Debug)]
struct Pending {
    parent: Task,
    flags: u64,
    /// The pid of the child, once it has shown itself.
    child: Option<u32>,
}

/// What to do before a line can be run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The task is known.
    Known(Task),
    /// It is new, and its parent is not in the trace.
    New(Task),
    /// It is new, made by a call that has not returned.
    Spawned { parent: Task, child: Task, cloned: Cloned },
}

/// All tasks that live.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    by_pid: HashMap<u32, Task>,
    /// The first task, as long as the trace has not named its pid.
    unnamed: Option<Task>,
    next: u32,
    /// Which address space each task has.
    space_of: BTreeMap<Task, usize>,
    spaces: HashMap<usize, Space>,
    next_space: usize,
    pending: VecDeque<Pending>,
}

impl Tasks {
    /// The task that a line with this pid is about. `returns` is whether the line is the return of a
    /// call that makes a task, which a child never begins with.
    pub(super) fn who(&mut self, pid: Option<u32>, returns: Returns) -> Who {
        let Some(pid) = pid else {
            // One that has no name, else the only one, else the oldest.
            let task = self.unnamed.or_else(|| self.space_of.keys().next().copied());
            return match task {
                Some(task) => Who::Known(task),
                None => {
                    let task = self.add(Space::new(Known::All));
                    self.unnamed = Some(task);
                    Who::New(task)
                }
            };
        };
        if let Some(task) = self.by_pid.get(&pid) {
            return Who::Known(*task);
        }
        if returns == Returns::Child
            && let Some(task) = self.unnamed.take()
        {
            self.by_pid.insert(pid, task);
            return Who::Known(task);
        }
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.child.is_none()) {
            pending.child = Some(pid);
            let (parent, flags) = (pending.parent, pending.flags);
            return self.spawn(parent, pid, flags);
        }
        if let Some(task) = self.unnamed.take() {
            self.by_pid.insert(pid, task);
            return Who::Known(task);
        }
        let task = self.add(Space::new(Known::All));
        self.by_pid.insert(pid, task);
        Who::New(task)
    }

    /// The task with this pid, if there is one.
    pub(super) fn find(&self, pid: Option<u32>) -> Option<Task> {
        match pid {
            Some(pid) => self.by_pid.get(&pid).copied(),
            None => self.unnamed.or_else(|| self.space_of.keys().next().copied()),
        }
    }

    /// A call that makes a task has begun.
    pub(super) fn begin(&mut self, parent: Task, flags: u64) {
        self.pending.push_back(Pending { parent, flags, child: None });
    }

    /// A call that makes a task has returned: the child, unless it has shown itself before.
    pub(super) fn returned(&mut self, parent: Task, flags: u64, pid: Option<u32>) -> Option<Who> {
        let own = self.pending.iter().position(|pending| pending.parent == parent);
        let begun = own.and_then(|index| self.pending.remove(index));
        let pid = pid?;
        let shown = begun.is_some_and(|begun| begun.child == Some(pid));
        (!shown).then(|| self.spawn(parent, pid, flags))
    }

    fn spawn(&mut self, parent: Task, pid: u32, flags: u64) -> Who {
        let sharing = |flag| if flags & flag == 0 { Sharing::Copied } else { Sharing::Shared };
        let cloned = Cloned { space: sharing(VM), files: sharing(FILES), process: sharing(THREAD) };
        let of_parent = self.space_of.get(&parent).copied();
        let child = match (cloned.space, of_parent) {
            (Sharing::Shared, Some(space)) => {
                let child = self.number();
                self.space_of.insert(child, space);
                child
            }
            (_, of_parent) => {
                let copy = of_parent.and_then(|space| self.spaces.get(&space)).cloned();
                self.add(copy.unwrap_or_else(|| Space::new(Known::Partly)))
            }
        };
        self.by_pid.insert(pid, child);
        Who::Spawned { parent, child, cloned }
    }

    fn number(&mut self) -> Task {
        let task = Task(self.next);
        self.next = self.next.wrapping_add(1);
        task
    }

    fn add(&mut self, space: Space) -> Task {
        let task = self.number();
        self.replace_space(task, space);
        task
    }

    /// The task has this address space from now on, alone.
    pub(super) fn replace_space(&mut self, task: Task, space: Space) {
        let old = self.space_of.insert(task, self.next_space);
        self.spaces.insert(self.next_space, space);
        self.next_space += 1;
        self.drop_unused(old);
    }

    fn drop_unused(&mut self, space: Option<usize>) {
        if let Some(space) = space
            && !self.space_of.values().any(|used| *used == space)
        {
            self.spaces.remove(&space);
        }
    }

    /// The task's address space.
    pub(super) fn space(&mut self, task: Task) -> Option<&mut Space> {
        self.spaces.get_mut(self.space_of.get(&task)?)
    }

    /// Whether two tasks have one address space.
    pub(super) fn share_space(&self, one: Task, other: Task) -> bool {
        self.space_of.get(&one) == self.space_of.get(&other)
    }

    /// The task has ended.
    pub(super) fn remove(&mut self, task: Task) {
        let space = self.space_of.remove(&task);
        self.drop_unused(space);
        self.by_pid.retain(|_, other| *other != task);
        self.pending.retain(|pending| pending.parent != task);
        if self.unnamed == Some(task) {
            self.unnamed = None;
        }
    }

    /// The task with the pid `by` has `pid` from now on; the task that had it is given.
    pub(super) fn supersede(&mut self, pid: u32, by: u32) -> Option<Task> {
        let leader = self.by_pid.remove(&pid);
        if let Some(task) = self.by_pid.remove(&by) {
            self.by_pid.insert(pid, task);
        }
        leader
    }

    /// All that live, in order.
    pub(super) fn all(&self) -> Vec<Task> {
        self.space_of.keys().copied().collect()
    }
}

/// What a line returns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Returns {
    /// A call that makes a task: the line is the parent's.
    Child,
    /// Anything else.
    Other,
}
