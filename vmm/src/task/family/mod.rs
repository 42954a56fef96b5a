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

mod ends;
mod members;

pub(in crate::task) use ends::join;

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mm::space::SpaceUser;

use crate::credentials::SharedCredentials;
use crate::files::{Copies, Descriptors, Paths};
use crate::hypercall::Tracer;
use crate::kvm::{Kicker, install_kick_handler};
use crate::machine::{Machine, VcpuError};
use crate::task::futex::Futexes;
use crate::task::process::{Identity, Process};
use crate::task::rest::Interrupted;
use crate::task::table::{Birth, FIRST, Look, Table};
use crate::task::timers::Timers;
use crate::task::{
    CoreFiles, Info, Loaded, QueueFull, Queued, Sent, Signal, Signals, Stats, Task, TaskError,
    Timing, To, Told, Usage, Wanted,
};

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
    /// All whose real user it is.
    User(u32),
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
    pub(in crate::task) core_files: Option<CoreFiles>,
    table: Mutex<Table>,
    totals: Mutex<Totals>,
    /// Why the machine cannot go on; found by any thread, told by the first's.
    failure: Mutex<Option<TaskError>>,
    /// How many signals are queued for all of them.
    queued: Queued,
    pub(in crate::task) timers: Timers,
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

    pub(in crate::task) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What those that have ended came to.
    pub fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that a signal is for: their numbers, zombies' included.
    #[must_use]
    pub fn targets(&self, target: Target, sender: i32) -> Vec<i32> {
        let table = self.lock();
        let is_meant = |pid: &i32| match target {
            Target::Process(one) => one == *pid,
            Target::Group(group) => table.get(*pid).is_some_and(|member| member.group == group),
            Target::User(user) => {
                table.get(*pid).is_some_and(|member| member.credentials.get().uids.real == user)
            }
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
    pub(in crate::task) fn wait_for_release(&self, pid: i32, child: i32) {
        let dies = |signals: &Signals| signals.fatal().is_some();
        // Whoever is to die finds that as it goes on.
        let _ = self.wait_until(pid, dies, |table| {
            let held = table.get(child).is_some_and(|member| member.holds_parent);
            (!held).then_some(())
        });
    }

    /// `process`, which the calling thread runs, has stopped by `signal`: waits until it is continued, or is to
    /// die (`do_signal_stop`).
    pub(in crate::task) fn stop(&self, process: &Process, signal: Signal) {
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
    pub(in crate::task) fn show(&self, process: &Arc<Process>) {
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
    pub(in crate::task) fn enter(&self, pid: i32, cpu: u32) {
        if let Some(member) = self.lock().get_mut(pid) {
            member.cpu = cpu;
            member.kicker = Some(Kicker::of_this_thread());
        }
    }
}

fn is_anyone_to_die(table: &Table) -> bool {
    table.alive().any(|(_, member)| member.signals.fatal().is_some())
}

fn kick_those_to_die(table: &Table) {
    let doomed = table.alive().filter(|(_, member)| member.signals.fatal().is_some());
    doomed.for_each(|(_, member)| member.interrupt());
}
