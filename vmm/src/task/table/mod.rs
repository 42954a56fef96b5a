//! The process table: who there is, whose child it is, how it ended. Linux's rules of exit and wait
//! (`kernel/exit.c`), without threads, vCPUs or memory.
//!
//! ```text
//!   add ──> alive ── end ──┬──> zombie ── look, reaping ──> gone
//!                          └──> gone, where the parent ignores SIGCHLD
//!   its children, of either kind, become the first process's
//!
//!   alive ── stop ──> told of once (WUNTRACED) ── go_on ──> told of once (WCONTINUED)
//! ```

mod wait;

pub(in crate::task) use wait::Look;
pub use wait::{Asked, Kinds, Taking, Told, Wanted, Which};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Weak};
use std::thread::JoinHandle;

use mm::space::Counters;

use crate::credentials::SharedCredentials;
use crate::kvm::Kicker;
use crate::task::pidfd::Ending;
use crate::task::{
    ChildChange, Info, Process, Scheduling, Sent, Signal, Signals, Status, To, Usage,
};

/// The first process's number, as in a container.
pub(in crate::task) const FIRST: i32 = 1;
/// The highest number plus one (`kernel.pid_max` on a small machine).
const PID_MAX: i32 = 32_768;
/// Where numbers begin again after the highest (Linux's `RESERVED_PIDS`).
const PID_AGAIN: i32 = 300;

/// One process.
#[derive(Debug)]
pub(in crate::task) struct Member {
    /// Its parent; 0 for the first.
    pub(in crate::task) parent: i32,
    children: BTreeSet<i32>,
    /// Its process group.
    pub(in crate::task) group: i32,
    /// Its session.
    pub(in crate::task) session: i32,
    /// Whether it has run execve(2): its parent cannot put it into another group any more.
    pub(in crate::task) has_executed: bool,
    /// Whether the first process is its parent because its own has ended.
    pub(in crate::task) is_adopted: bool,
    /// Which of all that ever were it is: numbers come again.
    pub(in crate::task) birth: u64,
    /// How it wants to be scheduled.
    pub(in crate::task) scheduling: Scheduling,
    /// Which CPU it has, once it runs.
    pub(in crate::task) cpu: u32,
    /// What it used before it had the program that it has, but for time.
    earlier: Usage,
    /// What its space had counted before it was its.
    base: Usage,
    /// What is told its end (pidfd_open(2)), if somebody wants to know.
    pub(in crate::task) ending: Option<Ending>,
    /// What its parent is sent at its end; 0 for nothing.
    pub(in crate::task) exit_signal: i32,
    /// What it does about signals.
    pub(in crate::task) signals: Arc<Signals>,
    /// How much memory it has.
    pub(in crate::task) counters: Arc<Counters>,
    /// Who it is and what it may do.
    pub(in crate::task) credentials: SharedCredentials,
    /// What its thread waits at, when it waits for another process.
    pub(in crate::task) bell: Arc<Condvar>,
    state: State,
    /// A stop or a continuation that no wait has told of.
    change: Option<Status>,
    /// What its children used that have been waited for.
    pub(in crate::task) reaped: Usage,
    /// It itself, once its thread runs and until it ends, for others to look at.
    pub(in crate::task) process: Weak<Process>,
    /// Its thread, once that runs and until it ends.
    pub(in crate::task) kicker: Option<Kicker>,
    /// Likewise; the first process's thread is its caller's.
    pub(in crate::task) thread: Option<JoinHandle<()>>,
    /// Whether its parent is held up until it ends (`CLONE_VFORK`).
    pub(in crate::task) holds_parent: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Alive,
    Zombie { status: Status, usage: Usage },
}

/// What a new process is to be.
#[derive(Debug)]
pub(in crate::task) struct Birth {
    /// Its parent.
    pub(in crate::task) parent: i32,
    /// What its parent is sent at its end.
    pub(in crate::task) exit_signal: i32,
    /// What it does about signals.
    pub(in crate::task) signals: Arc<Signals>,
    /// How much memory it has.
    pub(in crate::task) counters: Arc<Counters>,
    /// What its space has counted so far, if it is another's, too.
    pub(in crate::task) base: Usage,
    /// Who it is and what it may do.
    pub(in crate::task) credentials: SharedCredentials,
    /// Whether its parent is held up until it ends.
    pub(in crate::task) holds_parent: bool,
}

/// All processes.
#[derive(Debug, Default)]
pub(in crate::task) struct Table {
    members: BTreeMap<i32, Member>,
    last: i32,
    /// How many there ever were.
    births: u64,
    /// Threads of processes that have ended, to be joined.
    pub(in crate::task) ended: Vec<JoinHandle<()>>,
    /// Whether the first process has ended: nobody is born any more.
    pub(in crate::task) closing: bool,
}

impl Table {
    /// A new process; `None` where there are as many as there can be.
    pub(in crate::task) fn add(&mut self, birth: Birth) -> Option<i32> {
        let pid = self.free_pid()?;
        let parent = self.members.get(&birth.parent);
        let scheduling =
            parent.map_or(Scheduling::default(), |parent| parent.scheduling.inherited());
        self.births += 1;
        let (group, session) = parent.map_or((pid, pid), |parent| (parent.group, parent.session));
        if let Some(parent) = self.members.get_mut(&birth.parent) {
            parent.children.insert(pid);
        }
        let member = Member {
            parent: birth.parent,
            children: BTreeSet::new(),
            group,
            session,
            has_executed: false,
            is_adopted: false,
            birth: self.births,
            scheduling,
            cpu: 0,
            earlier: Usage::default(),
            base: birth.base,
            ending: None,
            exit_signal: birth.exit_signal,
            signals: birth.signals,
            counters: birth.counters,
            credentials: birth.credentials,
            bell: Arc::new(Condvar::new()),
            state: State::Alive,
            change: None,
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
        let is_free = |pid: &i32| !self.members.contains_key(pid) && !self.is_shared_number(*pid);
        after.chain(PID_AGAIN..PID_MAX).find(is_free)
    }

    /// Takes back a process that has not run.
    pub(in crate::task) fn remove(&mut self, pid: i32) {
        let Some(member) = self.members.remove(&pid) else { return };
        if let Some(parent) = self.members.get_mut(&member.parent) {
            parent.children.remove(&pid);
        }
    }

    pub(in crate::task) fn get(&self, pid: i32) -> Option<&Member> {
        self.members.get(&pid)
    }

    pub(in crate::task) fn get_mut(&mut self, pid: i32) -> Option<&mut Member> {
        self.members.get_mut(&pid)
    }

    /// All of them, zombies included.
    pub(in crate::task) fn members(&self) -> impl Iterator<Item = (i32, &Member)> {
        self.members.iter().map(|(&pid, member)| (pid, member))
    }

    /// All numbers, zombies' included.
    pub(in crate::task) fn pids(&self) -> impl Iterator<Item = i32> {
        self.members.keys().copied()
    }

    /// Those that have not ended.
    pub(in crate::task) fn alive(&self) -> impl Iterator<Item = (i32, &Member)> {
        let alive = self.members.iter().filter(|(_, member)| matches!(member.state, State::Alive));
        alive.map(|(&pid, member)| (pid, member))
    }

    /// A process ends (Linux's `exit_notify`): its children get another parent, its own parent is told.
    /// Nothing of it runs any more, and its memory is free.
    pub(in crate::task) fn end(&mut self, pid: i32, status: Status, usage: Usage) {
        let Some(member) = self.members.get_mut(&pid) else { return };
        member.kicker = None;
        if let Some(ending) = &member.ending {
            ending.tell();
        }
        self.ended.extend(member.thread.take());
        let mut whole = member.reaped;
        whole.add(usage);
        member.state = State::Zombie { status, usage: whole };
        member.holds_parent = false;
        let own = (member.group, member.session);
        let parent = member.parent;
        for child in std::mem::take(&mut member.children) {
            self.adopt(child);
            self.orphan(child, own, None);
        }
        if let Some(parent) = self.members.get(&parent) {
            self.orphan(pid, (parent.group, parent.session), Some(pid));
        }
        self.notify_parent(pid);
    }

    /// An orphan becomes the first process's child (`forget_original_parent`).
    fn adopt(&mut self, orphan: i32) {
        let Some(member) = self.members.get_mut(&orphan) else { return };
        member.parent = FIRST;
        member.is_adopted = true;
        member.exit_signal = Signal::CHLD.number();
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
        let State::Zombie { status, usage } = member.state else { return };
        let signal = Signal::new(member.exit_signal);
        let Some(parent) = self.members.get(&member.parent) else { return };
        parent.bell.notify_all();
        let reaped = signal == Some(Signal::CHLD) && parent.signals.reaps_itself();
        if let Some(signal) = signal {
            parent.told_of(signal, (pid, member.uid()), status, usage);
        }
        if reaped {
            self.remove(pid);
        }
    }

    /// A process has stopped.
    pub(in crate::task) fn stop(&mut self, pid: i32, signal: Signal) {
        self.change(pid, Status::Stopped(signal));
    }

    /// One that had stopped goes on.
    pub(in crate::task) fn go_on(&mut self, pid: i32) {
        self.change(pid, Status::Continued);
    }

    /// Tells a parent (`do_notify_parent_cldstop`).
    fn change(&mut self, pid: i32, status: Status) {
        let Some(member) = self.members.get_mut(&pid) else { return };
        member.change = Some(status);
        let (of, uid) = (member.parent, member.uid());
        if let Some(parent) = self.members.get(&of) {
            if parent.signals.hears_of_stops() {
                parent.told_of(Signal::CHLD, (pid, uid), status, Usage::default());
            }
            parent.bell.notify_all();
        }
    }
}

impl Member {
    /// What it has used of memory, `now` being what its space has counted.
    pub(in crate::task) fn earlier_and(&self, now: Usage) -> Usage {
        let mut whole = self.earlier;
        whole.add(Usage {
            faults: now.faults.saturating_sub(self.base.faults),
            major_faults: now.major_faults.saturating_sub(self.base.major_faults),
            ..now
        });
        whole
    }

    /// It has another space now, which has counted nothing; `used` is what it has used of memory up to now.
    pub(in crate::task) fn begin_space(&mut self, used: Usage) {
        (self.earlier, self.base) = (used, Usage::default());
    }

    /// Whether it has not ended.
    pub(in crate::task) fn is_alive(&self) -> bool {
        matches!(self.state, State::Alive)
    }

    /// Whose it is.
    fn uid(&self) -> u32 {
        self.credentials.get().uids.real
    }

    /// It is sent what has become of its child.
    fn told_of(&self, signal: Signal, (pid, uid): (i32, u32), status: Status, usage: Usage) {
        let (cause, number) = (status.cause(), status.number());
        let change = ChildChange { pid, uid, cause, status: number, ticks: usage.ticks() };
        let sent = self.signals.post_from_kernel(Info::child(signal, &change), To::Process);
        if sent != Sent::Nothing {
            self.interrupt();
        }
    }

    /// Makes its thread look at its signals, wherever that waits or runs.
    pub(in crate::task) fn interrupt(&self) {
        self.bell.notify_all();
        if let Some(kicker) = self.kicker
            && let Err(error) = kicker.kick()
        {
            log::warn!("cannot interrupt a process: {error}");
        }
    }
}

#[cfg(test)]
pub(in crate::task) mod tests;
