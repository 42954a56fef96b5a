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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Weak};
use std::thread::JoinHandle;

use mm::space::Counters;

use super::pidfd::Ending;
use super::{ChildChange, Info, Process, Sent, Signal, Signals, Status, To, Usage};
use crate::credentials::SharedCredentials;
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
    /// Its session.
    pub(super) session: i32,
    /// Whether it has run execve(2): its parent cannot put it into another group any more.
    pub(super) has_executed: bool,
    /// Whether the first process is its parent because its own has ended.
    pub(super) is_adopted: bool,
    /// Which of all that ever were it is: numbers come again.
    pub(super) birth: u64,
    /// How nice it is, from -20 to 19.
    pub(super) nice: i32,
    /// Which CPU it has, once it runs.
    pub(super) cpu: u32,
    /// What it used before it had the program that it has, but for time.
    earlier: Usage,
    /// What its space had counted before it was its.
    base: Usage,
    /// What is told its end (pidfd_open(2)), if somebody wants to know.
    pub(super) ending: Option<Ending>,
    /// What its parent is sent at its end; 0 for nothing.
    pub(super) exit_signal: i32,
    /// What it does about signals.
    pub(super) signals: Arc<Signals>,
    /// How much memory it has.
    pub(super) counters: Arc<Counters>,
    /// Who it is and what it may do.
    pub(super) credentials: SharedCredentials,
    /// What its thread waits at, when it waits for another process.
    pub(super) bell: Arc<Condvar>,
    state: State,
    /// A stop or a continuation that no wait has told of.
    change: Option<Status>,
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
    /// What its space has counted so far, if it is another's, too.
    pub(super) base: Usage,
    /// Who it is and what it may do.
    pub(super) credentials: SharedCredentials,
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
    /// Ends (`WEXITED`). Where they are not asked for, a zombie is as good as gone.
    pub ends: Asked,
    /// Stops (`WUNTRACED`).
    pub stops: Asked,
    /// Continuations (`WCONTINUED`).
    pub continuations: Asked,
    /// And then.
    pub taking: Taking,
}

/// Whether something is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It is.
    For,
    /// It is not.
    NotFor,
}

/// A child of which there is something to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Its number.
    pub pid: i32,
    /// Whose it is.
    pub uid: u32,
    /// What has become of it.
    pub status: Status,
    /// What it and the children that it waited for used.
    pub usage: Usage,
}

/// What a wait finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// There is no such child: `ECHILD`.
    Nobody,
    /// There is, but there is nothing to tell.
    NotYet,
    /// There is something.
    Found(Told),
}

/// All processes.
#[derive(Debug, Default)]
pub(super) struct Table {
    members: BTreeMap<i32, Member>,
    last: i32,
    /// How many there ever were.
    births: u64,
    /// Threads of processes that have ended, to be joined.
    pub(super) ended: Vec<JoinHandle<()>>,
    /// Whether the first process has ended: nobody is born any more.
    pub(super) closing: bool,
}

impl Table {
    /// A new process; `None` where there are as many as there can be.
    pub(super) fn add(&mut self, birth: Birth) -> Option<i32> {
        let pid = self.free_pid()?;
        let parent = self.members.get(&birth.parent);
        let nice = parent.map_or(0, |parent| parent.nice);
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
            nice,
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

    /// All of them, zombies included.
    pub(super) fn members(&self) -> impl Iterator<Item = (i32, &Member)> {
        self.members.iter().map(|(&pid, member)| (pid, member))
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
    pub(super) fn stop(&mut self, pid: i32, signal: Signal) {
        self.change(pid, Status::Stopped(signal));
    }

    /// One that had stopped goes on.
    pub(super) fn go_on(&mut self, pid: i32) {
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

    /// What `parent` finds when it waits (`do_wait`).
    pub(super) fn look(&mut self, parent: i32, wanted: &Wanted) -> Look {
        let Some(waiting) = self.members.get(&parent) else { return Look::Nobody };
        let mut found = Look::Nobody;
        for &pid in &waiting.children {
            let Some(member) = self.members.get(&pid) else { continue };
            if !wanted.includes(pid, member) {
                continue;
            }
            let uid = member.uid();
            match (member.state, wanted.ends) {
                (State::Zombie { status, usage }, Asked::For) => {
                    found = Look::Found(Told { pid, uid, status, usage });
                    break;
                }
                (State::Zombie { .. }, Asked::NotFor) => {
                    if wanted.continuations == Asked::For {
                        found = Look::NotYet;
                    }
                }
                (State::Alive, _) => {
                    match member.change.filter(|&change| wanted.asks_for(change)) {
                        Some(status) => {
                            found = Look::Found(Told { pid, uid, status, usage: member.reaped });
                            break;
                        }
                        None => found = Look::NotYet,
                    }
                }
            }
        }
        if let (Look::Found(told), Taking::Reap) = (found, wanted.taking) {
            self.take(parent, &told);
        }
        found
    }

    /// What has been told is not told again.
    fn take(&mut self, parent: i32, told: &Told) {
        let Some(member) = self.members.get_mut(&told.pid) else { return };
        if matches!(member.state, State::Alive) {
            member.change = None;
            return;
        }
        self.remove(told.pid);
        if let Some(waiting) = self.members.get_mut(&parent) {
            waiting.reaped.add(told.usage);
        }
    }
}

impl Wanted {
    fn includes(&self, pid: i32, member: &Member) -> bool {
        let kind = match self.kinds {
            Kinds::All => true,
            Kinds::Ordinary => member.exit_signal == Signal::CHLD.number(),
            Kinds::Clones => member.exit_signal != Signal::CHLD.number(),
        };
        kind && match self.which {
            Which::Any => true,
            Which::Child(wanted) => wanted == pid,
            Which::Group(group) => group == member.group,
        }
    }
}

impl Wanted {
    fn asks_for(&self, change: Status) -> bool {
        match change {
            Status::Stopped(_) => self.stops == Asked::For,
            Status::Continued => self.continuations == Asked::For,
            Status::Exited(_) | Status::Killed(_) | Status::Dumped(_) => false,
        }
    }
}

impl Member {
    /// What it has used of memory, `now` being what its space has counted.
    pub(super) fn earlier_and(&self, now: Usage) -> Usage {
        let mut whole = self.earlier;
        whole.add(Usage {
            faults: now.faults.saturating_sub(self.base.faults),
            major_faults: now.major_faults.saturating_sub(self.base.major_faults),
            ..now
        });
        whole
    }

    /// It has another space now, which has counted nothing; `used` is what it has used of memory up to now.
    pub(super) fn begin_space(&mut self, used: Usage) {
        (self.earlier, self.base) = (used, Usage::default());
    }

    /// Whether it has not ended.
    pub(super) fn is_alive(&self) -> bool {
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

    const CHILD: i32 = 17;
    const ANY: Wanted = Wanted {
        which: Which::Any,
        kinds: Kinds::Ordinary,
        ends: Asked::For,
        stops: Asked::NotFor,
        continuations: Asked::NotFor,
        taking: Taking::Reap,
    };

    fn born(table: &mut Table, parent: i32, exit_signal: i32) -> i32 {
        let signals = Arc::new(Signals::default());
        let counters = Arc::default();
        let (base, credentials) = (Usage::default(), SharedCredentials::default());
        let birth = Birth {
            parent,
            exit_signal,
            signals,
            counters,
            base,
            credentials,
            holds_parent: false,
        };
        table.add(birth).unwrap()
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
            Look::Found(told) => (told.pid, told.status),
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
        let stops = Wanted { ends: Asked::NotFor, stops: Asked::For, ..ANY };
        assert_eq!(table.look(FIRST, &stops), Look::NotYet);
        end(&mut table, 2, 0);
        assert_eq!(table.look(FIRST, &stops), Look::Nobody);
        assert_eq!(table.look(FIRST, &Wanted { continuations: Asked::For, ..stops }), Look::NotYet);
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
        table.get(FIRST).unwrap().signals.set_action(Signal::CHLD, SignalAction::IGNORE);
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
        let grandchild = born(&mut table, 2, Signal::USR1.number());
        end(&mut table, grandchild, 0);
        let fatal = table.get(2).unwrap().signals.fatal().unwrap();
        assert_eq!(fatal.signal(), Signal::USR1);
    }

    #[test]
    fn a_stop_and_a_continuation_are_told_once_and_only_to_who_asks() {
        let mut table = family(1);
        let all = Wanted { stops: Asked::For, continuations: Asked::For, ..ANY };
        table.stop(2, Signal::TSTP);
        assert_eq!(table.look(FIRST, &ANY), Look::NotYet);
        let leave = Wanted { taking: Taking::Leave, ..all };
        for wanted in [leave, all] {
            assert_eq!(ended(table.look(FIRST, &wanted)), (2, Status::Stopped(Signal::TSTP)));
        }
        assert_eq!(table.look(FIRST, &all), Look::NotYet);
        table.go_on(2);
        assert_eq!(ended(table.look(FIRST, &all)), (2, Status::Continued));
        end(&mut table, 2, 0);
        assert_eq!(ended(table.look(FIRST, &all)), (2, Status::Exited(0)));
    }

    #[test]
    fn a_parent_that_wants_no_word_of_stops_gets_no_signal_but_can_wait() {
        let mut table = family(1);
        let signals = Arc::clone(&table.get(FIRST).unwrap().signals);
        signals.set_blocked(Signal::CHLD.into());
        let quiet = SignalAction { handler: 7, flags: 1, ..SignalAction::default() };
        signals.set_action(Signal::CHLD, quiet);
        table.stop(2, Signal::STOP);
        assert!(signals.waiting().is_empty());
        signals.set_action(Signal::CHLD, SignalAction { flags: 0, ..quiet });
        table.go_on(2);
        assert_eq!(signals.waiting(), Signal::CHLD.into());
    }
}
