//! How processes end, and with the first one all.

use std::sync::{Arc, PoisonError};

use mm::addr::VirtAddr;
use mm::space::Counters;
use mm::userfault::Accessor;

use super::{Family, PATIENCE, kick_those_to_die};
use crate::task::process::{Process, sole};
use crate::task::table::{FIRST, Member, Table};
use crate::task::{Death, End, Info, SI_USER, Signal, Stats, Status, Task, TaskError, Usage};

impl Family {
    /// Ends a process that the calling thread ran to its end, but for the first one: everything it had is
    /// free before anybody can know.
    pub(in crate::task) fn bury(&self, task: Task, ended: Result<End, TaskError>) {
        let (vcpu, process, stats) = task.into_parts();
        let (pid, usage) = (process.pid, self.usage(&process));
        self.machine.give_back(vcpu);
        self.hide(pid);
        let left = self.leave(sole(process), &stats).map_err(TaskError::from);
        let status = match ended.and_then(|end| left.map(|()| end)) {
            Ok(end) => {
                if let End::Killed(death) = &end {
                    tell(pid, death);
                }
                Status::from(&end)
            }
            Err(error) => {
                self.fail(error);
                Status::Killed(Signal::KILL)
            }
        };
        self.end(pid, status, usage);
    }

    fn leave(&self, process: Process, stats: &Stats) -> Result<(), mm::error::Broken> {
        let Process { space, clear_at_exit, .. } = process;
        let clear = clear_at_exit.into_inner();
        if clear != 0 && space.users() > 1 {
            let at = VirtAddr::new(clear);
            // Nobody can be told if it cannot be written.
            let _ = space.write_for(at, &[0; 4], Accessor::Visitor);
            let word = space.look().word(at);
            word.into_iter().for_each(|word| _ = self.futexes.wake(word, 1, u32::MAX));
        }
        let mut totals = self.totals();
        totals.stats.add(stats);
        if space.users() == 1 {
            totals.faults.add(&space);
            drop(totals);
            space.put()?;
        } else {
            // With the lock, so that exactly one of several sees that it is the last.
            space.put()?;
        }
        Ok(())
    }

    /// A process has another program now: what the old one had is given up.
    pub(in crate::task) fn replaced(
        &self,
        old: Process,
        counters: Arc<Counters>,
    ) -> Result<(), mm::error::Broken> {
        let (pid, used) = (old.pid, self.memory_usage(&old));
        self.leave(old, &Stats::default())?;
        let mut table = self.lock();
        let Some(member) = table.get_mut(pid) else { return Ok(()) };
        member.counters = counters;
        member.begin_space(used);
        member.has_executed = true;
        let held = std::mem::take(&mut member.holds_parent);
        let parent = member.parent;
        if held && let Some(parent) = table.get(parent) {
            parent.bell.notify_all();
        }
        Ok(())
    }

    fn end(&self, pid: i32, status: Status, usage: Usage) {
        self.forget_timers(pid);
        let mut table = self.lock();
        let parent = table.get(pid).map(|member| member.parent);
        table.end(pid, status, usage);
        for told in [parent, table.closing.then_some(FIRST)].into_iter().flatten() {
            if let Some(member) = table.get(told) {
                member.bell.notify_all();
            }
        }
    }

    /// The machine cannot go on: everybody is to die.
    pub(in crate::task) fn fail(&self, error: TaskError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        kill_all(&mut self.lock());
    }

    /// What made everybody die, if something has.
    pub(in crate::task) fn take_failure(&self) -> Option<TaskError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the first process, which no longer runs, and with it all others. Afterwards no thread but the
    /// caller's is left, and no vCPU but the first's is taken.
    ///
    /// # Errors
    /// [`TaskError`] if the machine could not go on.
    pub fn close(&self) -> Result<(), TaskError> {
        let mut table = self.lock();
        table.closing = true;
        if let Some(first) = table.get_mut(FIRST) {
            first.kicker = None;
        }
        kill_all(&mut table);
        while table.alive().any(|(pid, _)| pid != FIRST) {
            let Some(bell) = table.get(FIRST).map(|first| Arc::clone(&first.bell)) else { break };
            let waited = bell.wait_timeout(table, PATIENCE);
            let timeout;
            (table, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                kick_those_to_die(&table);
            }
        }
        let threads = std::mem::take(&mut table.ended);
        drop(table);
        self.close_timers();
        for thread in threads {
            join(thread);
        }
        self.take_failure().map_or(Ok(()), Err)
    }

    /// Joins the threads of processes that have ended.
    pub(in crate::task) fn join_ended(&self) {
        let threads = std::mem::take(&mut self.lock().ended);
        for thread in threads {
            join(thread);
        }
    }
}

/// Says how a process was killed. Natively nobody would, but for the kernel when memory has run out.
fn tell(pid: i32, death: &Death) {
    if death.by.is_out_of_memory() {
        log::warn!("process {pid} was {death}");
    } else {
        log::info!("process {pid} was {death}");
    }
}

fn kill_all(table: &mut Table) {
    table.alive().map(|(_, member)| member).for_each(kill);
}

fn kill(member: &Member) {
    member.signals.doom(Info::from_process(Signal::KILL, SI_USER, 0));
    member.interrupt();
}

pub(in crate::task) fn join(thread: std::thread::JoinHandle<()>) {
    // A thread that panics ends the whole of mmvisor.
    let _ = thread.join();
}
