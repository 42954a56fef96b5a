//! Runs a trace against an executor and compares every result.
//!
//! ```text
//!             ┌ tasks      which process a line is about
//!   Reader ──>│ memory     a call: addresses translated, run, compared ──┐
//!             │ checks     an @ line                                     ├──> Executor
//!             └ this file  processes: begin, fork, exec, end ────────────┘
//! ```
//!
//! What the trace alone decides (pids, descriptors, identifiers) is told to the executor; what Linux's
//! memory management decides is compared with it.

mod addresses;
mod checks;
mod executor;
mod memory;
mod report;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::iter::Peekable;

pub use executor::{Answer, Cloned, Executor, Output, Program, Reply, Sharing, Task};
pub use report::{Mismatch, ReplayError, Report, Summary};

use self::tasks::{Known, Returns, Space, Tasks, Who};
use super::calls::{Call, Extent, FileCall, Outcome, Pointee, ProcessCall, Text};
use super::trace::{Action, Directive, Event, MapLine, Reader, TraceError};

/// How the addresses of the trace are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressMode {
    /// As they are: chosen addresses are compared.
    Exact,
    /// Translated to those that the executor chose for the same calls: for a trace of a randomized run.
    Relocated,
}

/// Runs the trace and tells each mismatch as it is found.
pub fn replay<E: Executor>(
    trace: Reader<'_>,
    executor: &mut E,
    addresses: AddressMode,
    mismatch: &mut dyn FnMut(Mismatch),
) -> Report<E::Error> {
    let mut engine = Engine {
        executor,
        addresses,
        mismatch,
        summary: Summary::default(),
        tasks: Tasks::default(),
        start: Start::Open,
        shm_sizes: HashMap::new(),
    };
    let ended = engine.run(trace.peekable()).err();
    Report { summary: engine.summary, ended }
}

/// Whether the starting state may still be told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// No call and no `@maps` so far.
    Open,
    /// Too late.
    Closed,
}

/// Where the trace is.
#[derive(Clone, Copy)]
struct Place {
    line: usize,
    task: Task,
}

/// A replay under way.
struct Engine<'a, E: Executor> {
    executor: &'a mut E,
    addresses: AddressMode,
    mismatch: &'a mut dyn FnMut(Mismatch),
    summary: Summary,
    tasks: Tasks,
    start: Start,
    /// Lengths of shared-memory segments, by identifier.
    shm_sizes: HashMap<i32, u64>,
}

type Events<'a> = Peekable<Reader<'a>>;

impl<E: Executor> Engine<'_, E> {
    fn run(&mut self, mut events: Events<'_>) -> Result<(), ReplayError<E::Error>> {
        let mut line = 0;
        while let Some(event) = events.next() {
            let event = event?;
            line = event.line;
            self.event(&event, &mut events)
                .map_err(|source| ReplayError::Executor { line, source })?;
        }
        for task in self.tasks.all() {
            self.end(task).map_err(|source| ReplayError::Executor { line, source })?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, events: &mut Events<'_>) -> Result<(), E::Error> {
        match &event.action {
            Action::Signal(_) => Ok(()),
            // The end of a task that the trace has not shown is no beginning of one.
            Action::Exited { .. } | Action::Killed(_) => match self.tasks.find(event.pid) {
                Some(task) => self.end(task),
                None => Ok(()),
            },
            Action::Superseded { by } => {
                let leader = event.pid.and_then(|pid| self.tasks.supersede(pid, *by));
                leader.map_or(Ok(()), |leader| self.end(leader))
            }
            Action::Begun(call) => {
                let task = self.task(event.pid, Returns::Other)?;
                self.start = Start::Closed;
                self.tasks.begin(task, call.clone_flags().unwrap_or(0));
                Ok(())
            }
            Action::Call { call, outcome } => self.call(event, call, *outcome, events),
            Action::Directive(directive) => {
                let task = self.task(event.pid, Returns::Other)?;
                let at = Place { line: event.line, task };
                if let Directive::Maps { lines, .. } = directive
                    && self.start == Start::Open
                {
                    self.start = Start::Closed;
                    self.imported(task, lines);
                    return self.executor.import(task, lines);
                }
                self.directive(at, directive)
            }
        }
    }

    fn call(
        &mut self,
        event: &Event,
        call: &Call,
        outcome: Outcome,
        events: &mut Events<'_>,
    ) -> Result<(), E::Error> {
        self.start = Start::Closed;
        self.summary.calls += 1;
        let makes_task = matches!(call, Call::Process(call) if call.clone_flags().is_some());
        let returns = if makes_task { Returns::Child } else { Returns::Other };
        let at = Place { line: event.line, task: self.task(event.pid, returns)? };
        match call {
            Call::Other(_) => {
                self.summary.skipped += 1;
                Ok(())
            }
            Call::Memory(call) => self.memory(at, call, outcome),
            Call::File(call) => self.file(at.task, call, outcome),
            Call::Process(call) => self.process(event, at.task, call, outcome, events),
        }
    }

    /// The task that a line is about, made where it is new.
    fn task(&mut self, pid: Option<u32>, returns: Returns) -> Result<Task, E::Error> {
        match self.tasks.who(pid, returns) {
            Who::Known(task) => Ok(task),
            Who::New(task) => {
                self.executor.create(task)?;
                Ok(task)
            }
            Who::Spawned { parent, child, cloned } => {
                self.executor.spawn(parent, child, cloned)?;
                Ok(child)
            }
        }
    }

    fn end(&mut self, task: Task) -> Result<(), E::Error> {
        self.tasks.remove(task);
        self.executor.exit(task)
    }

    fn file(&mut self, task: Task, call: &FileCall, outcome: Outcome) -> Result<(), E::Error> {
        match outcome {
            Outcome::Value(result) => {
                let reply = self.executor.file(task, call, result)?;
                self.count_unsupported(&reply);
            }
            // A failed call has changed nothing.
            Outcome::Failed(_) => {}
            Outcome::Unknown => self.summary.skipped += 1,
        }
        Ok(())
    }

    fn process(
        &mut self,
        event: &Event,
        task: Task,
        call: &ProcessCall,
        outcome: Outcome,
        events: &mut Events<'_>,
    ) -> Result<(), E::Error> {
        if let Some(flags) = call.clone_flags() {
            let child = match outcome {
                Outcome::Value(pid) => u32::try_from(pid).ok(),
                Outcome::Failed(_) | Outcome::Unknown => None,
            };
            return match self.tasks.returned(task, flags, child) {
                Some(Who::Spawned { parent, child, cloned }) => {
                    self.executor.spawn(parent, child, cloned)
                }
                _ => Ok(()),
            };
        }
        match (call, outcome) {
            (ProcessCall::Execve { path, argv, .. }, Outcome::Value(0)) => {
                let maps = events.next_if(|next| follows(next, event.pid));
                match maps.map(|next| next.map(|event| event.action)) {
                    Some(Ok(Action::Directive(Directive::Maps { lines, .. }))) => {
                        self.exec_mapped(task, &lines)
                    }
                    _ => self.exec_file(task, path, argv),
                }
            }
            // Tasks end where the trace says `+++ exited`, or with it.
            _ => Ok(()),
        }
    }

    fn exec_mapped(&mut self, task: Task, lines: &[MapLine]) -> Result<(), E::Error> {
        self.tasks.replace_space(task, Space::new(Known::All));
        self.imported(task, lines);
        let reply = self.executor.exec(task, Program::Mapped(lines))?;
        self.count_unsupported(&reply);
        Ok(())
    }

    fn exec_file(
        &mut self,
        task: Task,
        path: &Pointee<Text>,
        argv: &Pointee<Vec<Text>>,
    ) -> Result<(), E::Error> {
        let unread = Text { bytes: Vec::new(), extent: Extent::Cut };
        let program = Program::File {
            path: path.shown().unwrap_or(&unread),
            argv: argv.shown().map_or(&[], Vec::as_slice),
        };
        // Where a program was loaded is known only if addresses are those of the trace.
        let known = match (self.executor.exec(task, program)?, self.addresses) {
            (Reply::Is(()), AddressMode::Exact) => Known::All,
            _ => Known::Partly,
        };
        self.tasks.replace_space(task, Space::new(known));
        Ok(())
    }

    /// These lines are mapped where they say, with us as in the trace.
    fn imported(&mut self, task: Task, lines: &[MapLine]) {
        let Some(space) = self.tasks.space(task) else { return };
        for line in lines {
            let (start, end) = (line.span.start.get(), line.span.end.get());
            space.addresses.map(start, end - start, start);
            if line.name == "[heap]" {
                space.addresses.start_heap(start, start);
            }
        }
    }

    fn count_unsupported<T>(&mut self, reply: &Reply<T>) {
        if matches!(reply, Reply::Unsupported) {
            self.summary.skipped += 1;
        }
    }

    /// Counts what is left out.
    fn skip(&mut self, line: usize, call: impl FnOnce() -> String) {
        self.summary.skipped += 1;
        if log::log_enabled!(log::Level::Debug) {
            log::debug!("line {line}: skipped: {}", call());
        }
    }

    /// Counts a comparison, and tells it if it failed.
    fn compare(&mut self, line: usize, call: impl FnOnce() -> String, sides: Sides) {
        self.summary.checks += 1;
        let Sides::Different { expected, got } = sides else { return };
        self.summary.mismatches += 1;
        (self.mismatch)(Mismatch { line, call: call(), expected, got });
    }
}

/// Whether the next event is an `@maps` of all VMAs, of the same process.
fn follows(next: &Result<Event, TraceError>, pid: Option<u32>) -> bool {
    let Ok(next) = next else { return false };
    let maps = matches!(next.action, Action::Directive(Directive::Maps { range: None, .. }));
    maps && (next.pid == pid || next.pid.is_none())
}

/// What came of a comparison.
enum Sides {
    Equal,
    Different { expected: String, got: String },
}

impl Sides {
    fn of<T: PartialEq>(expected: &T, got: &T, text: impl Fn(&T) -> String) -> Self {
        if expected == got {
            return Sides::Equal;
        }
        Sides::Different { expected: text(expected), got: text(got) }
    }
}
