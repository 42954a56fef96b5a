//! What a wait looks for among the children, and finds (Linux's `do_wait`).

use super::{Member, State, Table};
use crate::task::{Signal, Status, Usage};

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
pub(in crate::task) enum Look {
    /// There is no such child: `ECHILD`.
    Nobody,
    /// There is, but there is nothing to tell.
    NotYet,
    /// There is something.
    Found(Told),
}

impl Table {
    /// What `parent` finds when it waits (`do_wait`).
    pub(in crate::task) fn look(&mut self, parent: i32, wanted: &Wanted) -> Look {
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

    fn asks_for(&self, change: Status) -> bool {
        match change {
            Status::Stopped(_) => self.stops == Asked::For,
            Status::Continued => self.continuations == Asked::For,
            Status::Exited(_) | Status::Killed(_) | Status::Dumped(_) => false,
        }
    }
}
