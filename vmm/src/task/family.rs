//! The processes of one machine: their table behind its lock, waiting and waking, signals from one to
//! another, and their common end.
//!
//! The first process is to the others what a container's init is: orphans become its children, and when it
//! ends the others are killed. Unlike an init it is not immune to signals: it ends as it would natively.
//!
//! ```text
//!   a thread waits                 and is woken by
//!     for another process            what has become of that, or a signal: its bell (wait)
//!     for a stream, time or a signal a kick: `ppoll` lets it in at one point only (rest)
//!     in KVM_RUN                     a kick
//! ```
//!
//! A kick can still come too early for a thread that is about to block in a plain write; so whoever waits
//! for a process that is to die kicks it again.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mm::addr::VirtAddr;
use mm::error::Errno;
use mm::space::{Counters, PageClass, SpaceUser};
use mm::userfault::Accessor;

use super::futex::Futexes;
use super::process::{Identity, Process, sole};
use super::rest::Interrupted;
use super::table::{Birth, FIRST, Look, Member, Table};
use super::timers::Timers;
use super::{
    CoreFiles, Death, End, Info, Loaded, QueueFull, Queued, SI_USER, Sent, Signal, Signals, Stats,
    Status, Task, TaskError, Timing, To, Told, Usage, Wanted,
};
use crate::credentials::{Credentials, SharedCredentials};
use crate::files::{Copies, Descriptors, Paths};
use crate::hypercall::Tracer;
use crate::kvm::{Kicker, install_kick_handler};
use crate::machine::{Machine, VcpuError};

/// How long a process that is to die is given before it is kicked again.
const PATIENCE: Duration = Duration::from_millis(10);

/// Why the first process could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// It cannot begin.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Whom kill(2) is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// One process.
    Process(i32),
    /// A process group.
    Group(i32),
    /// All but the first and the sender.
    Others,
    /// All.
    All,
}

/// What all processes together came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// What those that have ended counted.
    pub stats: Stats,
    /// Faults in address spaces that have ended, by what they needed: as `FaultCount` has them.
    pub faults: FaultTotals,
    /// How many processes there were.
    pub processes: u64,
}

/// Faults resolved, by what they needed (`mm::space`'s `FaultCount`).
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "mm's FaultCount describes each")]
pub struct FaultTotals {
    pub zero: u64,
    pub backed: u64,
    pub copied: u64,
    pub handed_off: u64,
    pub swapped: u64,
    pub spurious: u64,
    pub stack_growth: u64,
    pub around: u64,
    /// The most pages that one space had.
    pub resident_peak: u64,
}

impl FaultTotals {
    /// Adds those of a space.
    pub fn add(&mut self, space: &SpaceUser) {
        let space = space.look();
        let (counters, get) = (space.counters(), |n: &AtomicU64| n.load(Ordering::Relaxed));
        self.zero += get(&counters.faults.zero);
        self.backed += get(&counters.faults.backed);
        self.copied += get(&counters.faults.copied);
        self.handed_off += get(&counters.faults.handed_off);
        self.swapped += get(&counters.faults.swapped);
        self.spurious += get(&counters.faults.spurious);
        self.stack_growth += get(&counters.faults.stack_growth);
        self.around += get(&counters.faults.around);
        self.resident_peak = self.resident_peak.max(counters.resident.peak());
    }
}

/// All processes of one machine.
#[derive(Debug)]
pub struct Family {
    machine: Arc<Machine>,
    tracer: Tracer,
    timing: Timing,
    /// Where core files go, if anywhere.
    pub(super) core_files: Option<CoreFiles>,
    table: Mutex<Table>,
    totals: Mutex<Totals>,
    /// Why the machine cannot go on; found by any thread, told by the first's.
    failure: Mutex<Option<TaskError>>,
    /// How many signals are queued for all of them.
    queued: Queued,
    pub(super) timers: Timers,
    /// Who waits for which word of memory.
    pub futexes: Futexes,
    /// Programs out of its memory that run.
    pub copies: Copies,
}

impl Family {
    /// Nobody yet, in this machine.
    ///
    /// # Errors
    /// The host's, if it refuses the signal that stops a vCPU.
    pub fn new(machine: Arc<Machine>, tracer: Tracer, timing: Timing) -> io::Result<Arc<Self>> {
        Family::with_core_files(machine, tracer, timing, None)
    }

    /// The same, with a place for core files.
    ///
    /// # Errors
    /// As [`new`](Family::new).
    pub fn with_core_files(
        machine: Arc<Machine>,
        tracer: Tracer,
        timing: Timing,
        core_files: Option<CoreFiles>,
    ) -> io::Result<Arc<Self>> {
        install_kick_handler()?;
        Ok(Arc::new(Family {
            machine,
            tracer,
            timing,
            core_files,
            table: Mutex::default(),
            totals: Mutex::default(),
            failure: Mutex::default(),
            queued: Queued::default(),
            timers: Timers::default(),
            futexes: Futexes::default(),
            copies: Copies::default(),
        }))
    }

    /// The first process, at its first instruction; to be run on the caller's thread, and followed by
    /// [`close`](Family::close).
    ///
    /// # Errors
    /// [`StartError`].
    pub fn first(
        self: &Arc<Self>,
        program: Loaded,
        files: Descriptors,
        paths: Paths,
        identity: Identity,
    ) -> Result<Task, StartError> {
        let vcpu = self.machine.take_vcpu()?;
        let signals = Arc::new(Signals::new(self.queued.clone()));
        let credentials = SharedCredentials::default();
        let birth = Birth {
            parent: 0,
            exit_signal: 0,
            signals: Arc::clone(&signals),
            counters: Arc::clone(program.space.look().counters()),
            base: Usage::default(),
            credentials: credentials.clone(),
            holds_parent: false,
        };
        self.lock().add(birth);
        let process = Arc::new(Process {
            family: Arc::clone(self),
            pid: FIRST,
            space: program.space,
            files: Arc::new(files),
            paths: Arc::new(paths),
            identity,
            signals,
            credentials,
            policy: Mutex::new(None),
            oom_adjustment: AtomicI32::new(0),
            recovery: AtomicU64::new(0),
            clear_at_exit: AtomicU64::new(0),
        });
        self.tracer.begin(&process.space);
        self.totals().processes += 1;
        Ok(Task::new(vcpu, process, program.entry, program.stack)?)
    }

    /// The machine that they are in.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Who writes down what they do.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Whether host time is taken.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What those that have ended came to.
    pub fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many processes there are, zombies included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lock().pids().count() as u64
    }

    /// A process's parent; 0 for the first one's.
    #[must_use]
    pub fn parent(&self, pid: i32) -> i32 {
        self.lock().get(pid).map_or(0, |member| member.parent)
    }

    /// A process's group; 0 where there is no such process, nor the zombie of one.
    #[must_use]
    pub fn group(&self, pid: i32) -> i32 {
        self.lock().get(pid).map_or(0, |member| member.group)
    }

    /// Whether there is such a process, or the zombie of one.
    #[must_use]
    pub fn has(&self, pid: i32) -> bool {
        self.lock().get(pid).is_some()
    }

    /// A process's session; likewise.
    #[must_use]
    pub fn session(&self, pid: i32) -> i32 {
        self.lock().get(pid).map_or(0, |member| member.session)
    }

    /// setpgid(2) on behalf of `caller`.
    ///
    /// # Errors
    /// In this order: `EINVAL`; `ESRCH` no such process; `EPERM` another session; `EACCES` it has run execve(2); `ESRCH` no
    /// child; `EPERM` it leads a session, or no such group.
    pub fn set_group(&self, caller: i32, pid: i32, group: i32) -> Result<(), Errno> {
        self.lock().set_group(caller, pid, group)
    }

    /// setsid(2).
    ///
    /// # Errors
    /// `EPERM` there is a group of its number.
    pub fn set_session(&self, pid: i32) -> Result<i32, Errno> {
        self.lock().set_session(pid)
    }

    /// Which CPU a process has; `None` where there is no such process.
    #[must_use]
    pub fn cpu(&self, pid: i32) -> Option<u32> {
        self.lock().get(pid).map(|member| member.cpu)
    }

    /// How nice the least nice of some processes is; `None` where there are none.
    #[must_use]
    pub fn nice(&self, target: Target, caller: i32) -> Option<i32> {
        let targets = self.targets(target, caller);
        let table = self.lock();
        targets.iter().filter_map(|&pid| table.get(pid)).map(|member| member.nice).min()
    }

    /// Has some processes be so nice; says whether there were any.
    pub fn set_nice(&self, target: Target, caller: i32, nice: i32) -> bool {
        let targets = self.targets(target, caller);
        let mut table = self.lock();
        for pid in &targets {
            if let Some(member) = table.get_mut(*pid) {
                member.nice = nice;
            }
        }
        !targets.is_empty()
    }

    /// Pages of each process that lives: its own, files', shared. What several share is counted for each.
    #[must_use]
    pub fn resident(&self) -> Vec<(i32, [u64; 3])> {
        let classes = [PageClass::Own, PageClass::File, PageClass::Shared];
        let table = self.lock();
        let of = |member: &Member| classes.map(|class| member.counters.resident.of(class));
        table.alive().map(|(pid, member)| (pid, of(member))).collect()
    }

    /// Who a process is and what it may do; `None` where there is no such process, nor the zombie of one.
    #[must_use]
    pub fn credentials(&self, pid: i32) -> Option<Arc<Credentials>> {
        self.lock().get(pid).map(|member| member.credentials.get())
    }

    /// What the children used that `pid` has waited for.
    #[must_use]
    pub fn children_usage(&self, pid: i32) -> Usage {
        self.lock().get(pid).map_or(Usage::default(), |member| member.reaped)
    }

    /// Those that a signal is for: their numbers, zombies' included.
    #[must_use]
    pub fn targets(&self, target: Target, sender: i32) -> Vec<i32> {
        let table = self.lock();
        let is_meant = |pid: &i32| match target {
            Target::Process(one) => one == *pid,
            Target::Group(group) => table.get(*pid).is_some_and(|member| member.group == group),
            Target::All => true,
            Target::Others => *pid != FIRST && *pid != sender,
        };
        table.pids().filter(is_meant).collect()
    }

    /// Sends a signal to a process; to one that has ended it is nothing. `limit` is the sender's
    /// `RLIMIT_SIGPENDING`.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn send(&self, pid: i32, info: Info, to: To, limit: u64) -> Result<(), QueueFull> {
        let table = self.lock();
        let Some(member) = table.get(pid) else { return Ok(()) };
        let sent = member.signals.post(info, to, limit)?;
        if sent != Sent::Nothing {
            member.interrupt();
        }
        if sent == Sent::Kills
            && let Some(parent) = table.get(member.parent)
        {
            // It may wait for this one: now with less patience.
            parent.bell.notify_all();
        }
        Ok(())
    }

    /// Waits until there is something to tell of a child of `pid`; `None` if there is no such child.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn wait(&self, pid: i32, wanted: &Wanted) -> Result<Option<Told>, Interrupted> {
        self.wait_until(pid, Signals::interrupts, |table| match table.look(pid, wanted) {
            Look::Nobody => Some(None),
            Look::NotYet => None,
            Look::Found(told) => Some(Some(told)),
        })
    }

    /// Looks for a child of `pid` of which there is something to tell, without waiting: `ECHILD` is an outer
    /// `None`, nothing to tell an inner one.
    #[must_use]
    pub fn poll(&self, pid: i32, wanted: &Wanted) -> Option<Option<Told>> {
        match self.lock().look(pid, wanted) {
            Look::Nobody => None,
            Look::NotYet => Some(None),
            Look::Found(told) => Some(Some(told)),
        }
    }

    /// Waits until `child` no longer holds its parent `pid` up (vfork(2)), or that is to die.
    pub(super) fn wait_for_release(&self, pid: i32, child: i32) {
        let dies = |signals: &Signals| signals.fatal().is_some();
        // Whoever is to die finds that as it goes on.
        let _ = self.wait_until(pid, dies, |table| {
            let held = table.get(child).is_some_and(|member| member.holds_parent);
            (!held).then_some(())
        });
    }

    /// `process`, which the calling thread runs, has stopped by `signal`: waits until it is continued, or is to
    /// die (`do_signal_stop`).
    pub(super) fn stop(&self, process: &Process, signal: Signal) {
        {
            let mut table = self.lock();
            // Nobody could continue it.
            if signal != Signal::STOP && table.is_orphaned(process.pid) {
                process.signals.go_on();
                return;
            }
            table.stop(process.pid, signal);
        }
        let dies = |signals: &Signals| signals.fatal().is_some();
        let goes_on = self.wait_until(process.pid, dies, |_| {
            let stopped = process.signals.is_stopped();
            (!stopped).then_some(())
        });
        if goes_on.is_ok() && process.signals.fatal().is_none() {
            self.lock().go_on(process.pid);
        }
    }

    /// Waits at the bell of `pid` until `ready` gives something, or its signals end the wait.
    fn wait_until<T>(
        &self,
        pid: i32,
        ends: impl Fn(&Signals) -> bool,
        mut ready: impl FnMut(&mut Table) -> Option<T>,
    ) -> Result<T, Interrupted> {
        let mut table = self.lock();
        loop {
            if let Some(value) = ready(&mut table) {
                return Ok(value);
            }
            let Some(member) = table.get(pid) else { return Err(Interrupted) };
            if ends(&member.signals) {
                return Err(Interrupted);
            }
            let (bell, signals) = (Arc::clone(&member.bell), Arc::clone(&member.signals));
            let _asleep = signals.asleep();
            table = if is_anyone_to_die(&table) {
                let (table, timeout) =
                    bell.wait_timeout(table, PATIENCE).unwrap_or_else(PoisonError::into_inner);
                if timeout.timed_out() {
                    kick_those_to_die(&table);
                }
                table
            } else {
                bell.wait(table).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// A process as others can look at it, as long as it is there.
    #[must_use]
    pub fn process(&self, pid: i32) -> Option<Weak<Process>> {
        self.lock().get(pid).map(|member| Weak::clone(&member.process))
    }

    /// The numbers of all, zombies included.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.lock().pids().collect()
    }

    /// Others can look at it from now on.
    pub(super) fn show(&self, process: &Arc<Process>) {
        if let Some(member) = self.lock().get_mut(process.pid) {
            member.process = Arc::downgrade(process);
        }
    }

    /// Others cannot find it any more.
    fn hide(&self, pid: i32) {
        if let Some(member) = self.lock().get_mut(pid) {
            member.process = Weak::new();
        }
    }

    /// The calling thread is the one that runs `pid` from now on, on this CPU.
    pub(super) fn enter(&self, pid: i32, cpu: u32) {
        if let Some(member) = self.lock().get_mut(pid) {
            member.cpu = cpu;
            member.kicker = Some(Kicker::of_this_thread());
        }
    }

    /// Ends a process that the calling thread ran to its end, but for the first one: everything it had is
    /// free before anybody can know.
    pub(super) fn bury(&self, task: Task, ended: Result<End, TaskError>) {
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
    pub(super) fn replaced(
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
    pub(super) fn fail(&self, error: TaskError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        kill_all(&mut self.lock());
    }

    /// What made everybody die, if something has.
    pub(super) fn take_failure(&self) -> Option<TaskError> {
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
    pub(super) fn join_ended(&self) {
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

fn is_anyone_to_die(table: &Table) -> bool {
    table.alive().any(|(_, member)| member.signals.fatal().is_some())
}

fn kick_those_to_die(table: &Table) {
    let doomed = table.alive().filter(|(_, member)| member.signals.fatal().is_some());
    doomed.for_each(|(_, member)| member.interrupt());
}

fn kill_all(table: &mut Table) {
    table.alive().map(|(_, member)| member).for_each(kill);
}

fn kill(member: &Member) {
    member.signals.doom(Info::from_process(Signal::KILL, SI_USER, 0));
    member.interrupt();
}

pub(super) fn join(thread: std::thread::JoinHandle<()>) {
    // A thread that panics ends the whole of mmvisor.
    let _ = thread.join();
}
