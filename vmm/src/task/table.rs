//! The process table: who there is, whose child it is, how it ended. Linux's rules of exit and wait
//! (`kernel/exit.c`), without threads, vCPUs or memory.
//!
//! ```text
//!   add ──> alive ── end ──┬──> zombie ── look, reaping ──> gone
//!                          └──> gone, where the parent ignores SIGCHLD
//!   its children, of either kind, become the first process's
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Weak};
use std::thread::JoinHandle;

use mm::space::Counters;
use nix::sys::signal::Signal;

use super::disposition::Sent;
use super::{Code, Process, Signals, Status, Usage};
use crate::kvm::Kicker;

/// The first process's number, as in a container.
pub(super) const FIRST: i32 = 1;
/// The highest number plus one (`kernel.pid_max` on a small machine).
const PID_MAX: i32 = 32_768;
/// Where numbers begin again after the highest (Linux's `RESERVED_PIDS`).
const PID_AGAIN: i32 = 300;

/// One process.
#[derive(Debug)]
pub(super) struct Member {
    /// Its parent; 0 for the first.
    pub(super) parent: i32,
    children: BTreeSet<i32>,
    /// Its process group.
    pub(super) group: i32,
    /// What its parent is sent at its end; 0 for nothing.
    pub(super) exit_signal: i32,
    /// What it does about signals.
    pub(super) signals: Arc<Signals>,
    /// How much memory it has.
    pub(super) counters: Arc<Counters>,
    /// What its thread waits at, when it waits for another process.
    pub(super) bell: Arc<Condvar>,
    state: State,
    /// What its children used that have been waited for.
    pub(super) reaped: Usage,
    /// It itself, once its thread runs and until it ends, for others to look at.
    pub(super) process: Weak<Process>,
    /// Its thread, once that runs and until it ends.
    pub(super) kicker: Option<Kicker>,
    /// Likewise; the first process's thread is its caller's.
    pub(super) thread: Option<JoinHandle<()>>,
    /// Whether its parent is held up until it ends (`CLONE_VFORK`).
    pub(super) holds_parent: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Alive,
    Zombie { status: Status, usage: Usage },
}

/// What a new process is to be.
#[derive(Debug)]
pub(super) struct Birth {
    /// Its parent.
    pub(super) parent: i32,
    /// What its parent is sent at its end.
    pub(super) exit_signal: i32,
    /// What it does about signals.
    pub(super) signals: Arc<Signals>,
    /// How much memory it has.
    pub(super) counters: Arc<Counters>,
    /// Whether its parent is held up until it ends.
    pub(super) holds_parent: bool,
}

/// Whose end is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Any child's.
    Any,
    /// This child's.
    Child(i32),
    /// Any child's of this process group.
    Group(i32),
}

/// Which children a wait looks at, by what they send their parent (`__WCLONE`, `__WALL`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kinds {
    /// Those that send `SIGCHLD`.
    Ordinary,
    /// Those that send something else or nothing.
    Clones,
    /// All.
    All,
}

/// What becomes of a child that has ended and is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taking {
    /// It is reaped.
    Reap,
    /// It can be waited for again (`WNOWAIT`).
    Leave,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Whose.
    pub which: Which,
    /// Of these kinds.
    pub kinds: Kinds,
    /// Ends (`WEXITED`), or only what never happens here: stops and continuations.
    pub ends: Ends,
    /// And then.
    pub taking: Taking,
}

/// Whether ends are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// They are.
    Wanted,
    /// They are not, though continuations of those that have ended would be (`WCONTINUED`).
    Continued,
    /// They are not: a zombie is as good as gone.
    Unwanted,
}

/// A child that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Its number.
    pub pid: i32,
    /// How.
    pub status: Status,
    /// What it and the children that it waited for used.
    pub usage: Usage,
}

/// What a wait finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// There is no such child: `ECHILD`.
    Nobody,
    /// There is, but it has not ended.
    NotYet,
    /// It has.
    Ended(Ended),
}

/// All processes.
#[derive(Debug, Default)]
pub(super) struct Table {
    members: BTreeMap<i32, Member>,
    last: i32,
    /// Threads of processes that have ended, to be joined.
    pub(super) ended: Vec<JoinHandle<()>>,
    /// Whether the first process has ended: nobody is born any more.
    pub(super) closing: bool,
}

impl Table {
    /// A new process; `None` where there are as many as there can be.
    pub(super) fn add(&mut self, birth: Birth) -> Option<i32> {
        let pid = self.free_pid()?;
        let group = self.members.get(&birth.parent).map_or(pid, |parent| parent.group);
        if let Some(parent) = self.members.get_mut(&birth.parent) {
            parent.children.insert(pid);
        }
        let member = Member {
            parent: birth.parent,
            children: BTreeSet::new(),
            group,
            exit_signal: birth.exit_signal,
            signals: birth.signals,
            counters: birth.counters,
            bell: Arc::new(Condvar::new()),
            state: State::Alive,
            reaped: Usage::default(),
            process: Weak::new(),
            kicker: None,
            thread: None,
            holds_parent: birth.holds_parent,
        };
        self.members.insert(pid, member);
        self.last = pid;
        Some(pid)
    }

    fn free_pid(&self) -> Option<i32> {
        let after = (self.last + 1).max(FIRST)..PID_MAX;
        after.chain(PID_AGAIN..PID_MAX).find(|pid| !self.members.contains_key(pid))
    }

    /// Takes back a process that has not run.
    pub(super) fn remove(&mut self, pid: i32) {
        let Some(member) = self.members.remove(&pid) else { return };
        if let Some(parent) = self.members.get_mut(&member.parent) {
            parent.children.remove(&pid);
        }
    }

    pub(super) fn get(&self, pid: i32) -> Option<&Member> {
        self.members.get(&pid)
    }

    pub(super) fn get_mut(&mut self, pid: i32) -> Option<&mut Member> {
        self.members.get_mut(&pid)
    }

    /// All numbers, zombies' included.
    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        self.members.keys().copied()
    }

    /// Those that have not ended.
    pub(super) fn alive(&self) -> impl Iterator<Item = (i32, &Member)> {
        let alive = self.members.iter().filter(|(_, member)| matches!(member.state, State::Alive));
        alive.map(|(&pid, member)| (pid, member))
    }

    /// A process ends (Linux's `exit_notify`): its children get another parent, its own parent is told.
    /// Nothing of it runs any more, and its memory is free.
    pub(super) fn end(&mut self, pid: i32, status: Status, usage: Usage) {
        let Some(member) = self.members.get_mut(&pid) else { return };
        member.kicker = None;
        self.ended.extend(member.thread.take());
        let mut whole = member.reaped;
        whole.add(usage);
        member.state = State::Zombie { status, usage: whole };
        member.holds_parent = false;
        for child in std::mem::take(&mut member.children) {
            self.adopt(child);
        }
        self.notify_parent(pid);
    }

    /// An orphan becomes the first process's child (`forget_original_parent`).
    fn adopt(&mut self, orphan: i32) {
        let Some(member) = self.members.get_mut(&orphan) else { return };
        member.parent = FIRST;
        member.exit_signal = Signal::SIGCHLD as i32;
        let is_zombie = matches!(member.state, State::Zombie { .. });
        if let Some(first) = self.members.get_mut(&FIRST) {
            first.children.insert(orphan);
        }
        if is_zombie {
            self.notify_parent(orphan);
        }
    }

    /// Tells the parent of a zombie (`do_notify_parent`); one that does not want to know has it reaped.
    fn notify_parent(&mut self, pid: i32) {
        let Some(member) = self.members.get(&pid) else { return };
        let (parent, exit_signal) = (member.parent, member.exit_signal);
        let Some(parent) = self.members.get(&parent) else { return };
        parent.bell.notify_all();
        let is_child_signal = exit_signal == Signal::SIGCHLD as i32;
        let reaped = is_child_signal && parent.signals.reaps_itself();
        if let Ok(signal) = Signal::try_from(exit_signal)
            && let Sent::Dies(_) = parent.signals.send(signal, Code::Child(self.cause(pid)))
        {
            parent.interrupt();
        }
        if reaped {
            self.remove(pid);
        }
    }

    fn cause(&self, pid: i32) -> i32 {
        match self.members.get(&pid).map(|member| member.state) {
            Some(State::Zombie { status, .. }) => status.cause(),
            _ => 0,
        }
    }

    /// What `parent` finds when it waits (`do_wait`).
    pub(super) fn look(&mut self, parent: i32, wanted: &Wanted) -> Look {
        let Some(waiting) = self.members.get(&parent) else { return Look::Nobody };
        let mut found = Look::Nobody;
        for &pid in &waiting.children {
            let Some(member) = self.members.get(&pid) else { continue };
            if !wanted.includes(pid, member) {
                continue;
            }
            match (member.state, wanted.ends) {
                (State::Zombie { status, usage }, Ends::Wanted) => {
                    found = Look::Ended(Ended { pid, status, usage });
                    break;
                }
                (State::Zombie { .. }, Ends::Unwanted) => {}
                (State::Alive, _) | (State::Zombie { .. }, Ends::Continued) => found = Look::NotYet,
            }
        }
        if let (Look::Ended(ended), Taking::Reap) = (found, wanted.taking) {
            self.remove(ended.pid);
            if let Some(waiting) = self.members.get_mut(&parent) {
                waiting.reaped.add(ended.usage);
            }
        }
        found
    }
}

impl Wanted {
    fn includes(&self, pid: i32, member: &Member) -> bool {
        let kind = match self.kinds {
            Kinds::All => true,
            Kinds::Ordinary => member.exit_signal == Signal::SIGCHLD as i32,
            Kinds::Clones => member.exit_signal != Signal::SIGCHLD as i32,
        };
        kind && match self.which {
            Which::Any => true,
            Which::Child(wanted) => wanted == pid,
            Which::Group(group) => group == member.group,
        }
    }
}

impl Member {
    /// Makes its thread look whether it is to die, wherever that waits or runs.
    pub(super) fn interrupt(&self) {
        self.bell.notify_all();
        if let Some(kicker) = self.kicker
            && let Err(error) = kicker.kick()
        {
            log::warn!("cannot interrupt a process: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::SignalAction;

    const CHILD: i32 = Signal::SIGCHLD as i32;
    const ANY: Wanted = Wanted {
        which: Which::Any,
        kinds: Kinds::Ordinary,
        ends: Ends::Wanted,
        taking: Taking::Reap,
    };

    fn born(table: &mut Table, parent: i32, exit_signal: i32) -> i32 {
        let signals = Arc::new(Signals::default());
        let counters = Arc::default();
        table.add(Birth { parent, exit_signal, signals, counters, holds_parent: false }).unwrap()
    }

    /// The first process and `children` of it.
    fn family(children: usize) -> Table {
        let mut table = Table::default();
        assert_eq!(born(&mut table, 0, 0), FIRST);
        for _ in 0..children {
            born(&mut table, FIRST, CHILD);
        }
        table
    }

    fn end(table: &mut Table, pid: i32, status: u8) {
        table.end(pid, Status::Exited(status), Usage { faults: 1, ..Usage::default() });
    }

    fn ended(look: Look) -> (i32, Status) {
        match look {
            Look::Ended(ended) => (ended.pid, ended.status),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_zombie_stays_until_it_is_waited_for_and_no_longer() {
        let mut table = family(1);
        assert_eq!(table.look(FIRST, &ANY), Look::NotYet);
        end(&mut table, 2, 7);
        let leave = Wanted { taking: Taking::Leave, ..ANY };
        assert_eq!(ended(table.look(FIRST, &leave)), (2, Status::Exited(7)));
        assert_eq!(ended(table.look(FIRST, &ANY)), (2, Status::Exited(7)));
        assert_eq!(table.look(FIRST, &ANY), Look::Nobody);
        assert_eq!(table.get(FIRST).unwrap().reaped.faults, 1);
    }

    #[test]
    fn a_wait_sees_only_what_it_asks_for() {
        let mut table = family(2);
        end(&mut table, 3, 0);
        let child = |pid| Wanted { which: Which::Child(pid), ..ANY };
        assert_eq!(table.look(FIRST, &child(2)), Look::NotYet);
        assert_eq!(table.look(FIRST, &child(4)), Look::Nobody);
        assert_eq!(table.look(2, &ANY), Look::Nobody);
        let group = |group| Wanted { which: Which::Group(group), ..ANY };
        assert_eq!(table.look(FIRST, &group(9)), Look::Nobody);
        assert_eq!(ended(table.look(FIRST, &group(FIRST))).0, 3);
    }

    #[test]
    fn a_child_that_sends_no_sigchld_is_waited_for_as_a_clone() {
        let mut table = family(0);
        let pid = born(&mut table, FIRST, 0);
        end(&mut table, pid, 0);
        assert_eq!(table.look(FIRST, &ANY), Look::Nobody);
        let clones = Wanted { kinds: Kinds::Clones, taking: Taking::Leave, ..ANY };
        assert_eq!(ended(table.look(FIRST, &clones)).0, pid);
        assert_eq!(ended(table.look(FIRST, &Wanted { kinds: Kinds::All, ..ANY })).0, pid);
    }

    #[test]
    fn a_zombie_is_gone_for_who_waits_for_stops_alone() {
        let mut table = family(1);
        let stops = Wanted { ends: Ends::Unwanted, ..ANY };
        assert_eq!(table.look(FIRST, &stops), Look::NotYet);
        end(&mut table, 2, 0);
        assert_eq!(table.look(FIRST, &stops), Look::Nobody);
        assert_eq!(table.look(FIRST, &Wanted { ends: Ends::Continued, ..ANY }), Look::NotYet);
    }

    #[test]
    fn orphans_dead_or_alive_become_the_first_processs_children() {
        let mut table = family(1);
        let (dead, alive) = (born(&mut table, 2, CHILD), born(&mut table, 2, 0));
        end(&mut table, dead, 5);
        end(&mut table, 2, 0);
        assert_eq!(table.get(alive).unwrap().parent, FIRST);
        let child = |pid| Wanted { which: Which::Child(pid), ..ANY };
        assert_eq!(ended(table.look(FIRST, &child(dead))).1, Status::Exited(5));
        // It sends SIGCHLD now, whatever it was to send its first parent.
        assert_eq!(table.look(FIRST, &child(alive)), Look::NotYet);
    }

    #[test]
    fn who_ignores_sigchld_has_no_zombies_nor_do_those_it_adopts() {
        let mut table = family(2);
        let ignore = SignalAction { handler: 1, ..SignalAction::default() };
        table.get(FIRST).unwrap().signals.set_action(CHILD, ignore);
        let orphan = born(&mut table, 2, CHILD);
        end(&mut table, orphan, 0);
        assert!(table.get(orphan).is_some(), "its own parent does not ignore it");
        end(&mut table, 2, 0);
        assert_eq!(table.look(FIRST, &ANY), Look::NotYet);
        end(&mut table, 3, 0);
        assert_eq!(table.look(FIRST, &ANY), Look::Nobody);
        assert_eq!(table.pids().collect::<Vec<_>>(), [FIRST]);
    }

    #[test]
    fn numbers_begin_again_past_the_highest_and_leave_out_those_in_use() {
        let mut table = family(0);
        table.last = PID_MAX - 2;
        assert_eq!(born(&mut table, FIRST, CHILD), PID_MAX - 1);
        assert_eq!(born(&mut table, FIRST, CHILD), PID_AGAIN);
        table.last = PID_MAX - 2;
        assert_eq!(born(&mut table, FIRST, CHILD), PID_AGAIN + 1);
    }

    #[test]
    fn a_parent_dies_of_what_its_child_sends_it_at_its_end() {
        let mut table = family(1);
        let grandchild = born(&mut table, 2, Signal::SIGUSR1 as i32);
        end(&mut table, grandchild, 0);
        let fatal = table.get(2).unwrap().signals.fatal().unwrap();
        assert_eq!(fatal.signal, Signal::SIGUSR1);
    }
}
