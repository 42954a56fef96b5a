//! `--trace`: each hypercall as strace prints it, each fault as an `@touch` line of the trace format.
//! `--record`: the same after the starting state, so that it can be replayed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use mm::addr::VirtAddr;
use mm::error::{AccessError, Errno};
use mm::paging::AccessKind;
use mm::replay::trace::{Directive, Touched};
use mm::replay::{all_vmas, starting_state};
use mm::space::SharedSpace;
use mm::userfault::Accessor;

use super::Answer;
use super::decode::{Call, Line};
use super::history::History;
use crate::task::{Death, End, Info};

/// Where the trace goes.
#[derive(Debug)]
pub enum TraceTarget<'a> {
    /// Nowhere.
    Off,
    /// To standard error.
    Stderr,
    /// To a file, which is replaced.
    File(&'a Path),
    /// To a file, which is replaced, in such a way that it can be replayed.
    Recording(&'a Path),
}

/// Writes a trace. A write that fails ends the trace, not the program.
#[derive(Debug)]
pub struct Tracer {
    /// None where nothing is traced.
    output: Option<Mutex<Output>>,
    purpose: Purpose,
    /// Whether there has been more than one process, so that lines say whose they are.
    several: AtomicBool,
    history: History,
}

/// What a trace is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// To be read by a person: everything is in it.
    Reading,
    /// To be replayed: it begins with the starting state, and calls that mmvisor does not serve, though
    /// Linux does, are comments.
    Replay,
}

#[derive(Debug)]
enum Output {
    Stderr,
    File(BufWriter<File>),
    Failed,
}

impl Tracer {
    /// Opens the target. What becomes of these pages is told too, as comments.
    ///
    /// # Errors
    /// The host's, when the file cannot be made.
    pub fn new(target: &TraceTarget<'_>, pages: &[VirtAddr]) -> io::Result<Self> {
        let create = |path| File::create(path).map(|file| Output::File(BufWriter::new(file)));
        let (output, purpose) = match target {
            TraceTarget::Off => (None, Purpose::Reading),
            TraceTarget::Stderr => (Some(Output::Stderr), Purpose::Reading),
            TraceTarget::File(path) => (Some(create(path)?), Purpose::Reading),
            TraceTarget::Recording(path) => (Some(create(path)?), Purpose::Replay),
        };
        let several = AtomicBool::new(false);
        Ok(Tracer { output: output.map(Mutex::new), purpose, several, history: History::of(pages) })
    }

    /// Begins the trace of a program that is loaded and has not run yet.
    pub fn begin(&self, space: &SharedSpace) {
        if self.purpose == Purpose::Replay {
            for line in starting_state(&space.look()) {
                self.print(None, &line.to_string());
            }
        }
    }

    /// From now on there is more than one process, or has been.
    pub fn several(&self) {
        self.several.store(true, Ordering::Relaxed);
    }

    /// Notes that a call begins; what its arguments point to is read now.
    #[must_use]
    pub fn enter(&self, call: Call, space: &SharedSpace) -> Option<Line> {
        self.output.as_ref()?;
        Some(Line::enter(call, &|addr, bytes| {
            space.read_for(addr, bytes, Accessor::Visitor).is_ok()
        }))
    }

    /// Prints the call of process `pid` with its answer.
    pub fn leave(&self, pid: i32, line: Option<Line>, answer: &Answer, space: &SharedSpace) {
        let Some(line) = line else { return };
        let read = |addr: VirtAddr, bytes: &mut [u8]| {
            space.read_for(addr, bytes, Accessor::Visitor).is_ok()
        };
        let text = match (answer.rax(), answer) {
            (Some(rax), _) => line.leave(rax, &read),
            (None, Answer::Interrupted(how)) => format!("{} {how}", line.never_returns(&read)),
            (None, _) => line.never_returns(&read),
        };
        if self.purpose == Purpose::Replay && matches!(answer, Answer::Error(Errno::ENOSYS)) {
            self.print(None, &format!("# not served: {text}"));
        } else {
            self.print(Some(pid), &text);
        }
        self.pages(pid, space);
    }

    /// Prints what has become of the pages that are followed.
    fn pages(&self, pid: i32, space: &SharedSpace) {
        for line in self.history.changes(pid, space) {
            self.print(None, &line);
        }
    }

    /// Prints a fault of process `pid` and what became of it.
    pub fn fault(
        &self,
        pid: i32,
        addr: VirtAddr,
        kind: AccessKind,
        resolved: &Result<(), AccessError>,
        space: &SharedSpace,
    ) {
        if self.output.is_none() {
            return;
        }
        let result = match resolved {
            Ok(()) => Some(Touched::Done),
            Err(AccessError::Fault(fault)) => Touched::by(*fault),
            Err(AccessError::Broken(_)) => None,
        };
        if let Some(result) = result {
            self.print(Some(pid), &Directive::Touch { addr, kind, result }.to_string());
        }
        self.pages(pid, space);
    }

    /// Prints a signal for which process `pid` has a handler called.
    pub fn signal(&self, pid: i32, info: &Info) {
        if self.output.is_some() {
            self.print(Some(pid), &format!("--- {} {info} ---", info.signal()));
        }
    }

    /// Prints how process `pid` ended, for a replay after the VMAs that it had, and writes the trace out.
    pub fn end(&self, pid: i32, end: &End, space: &SharedSpace) {
        if self.output.is_none() {
            return;
        }
        if self.purpose == Purpose::Replay {
            self.print(Some(pid), &all_vmas(&space.look()).to_string());
        }
        match end {
            End::Exited(status) => {
                self.print(Some(pid), &format!("+++ exited with {status} +++"));
            }
            End::Killed(Death { by, core, .. }) => {
                let signal = by.signal();
                self.print(Some(pid), &format!("--- {signal} {by} ---"));
                self.print(Some(pid), &format!("+++ killed by {signal}{core} +++"));
            }
        }
        self.history.forget(pid);
        self.with_output(|output| match output {
            Output::File(file) => file.flush(),
            Output::Stderr | Output::Failed => Ok(()),
        });
    }

    /// Prints a line of process `pid`, which it names where there are several, as `strace -f` does.
    fn print(&self, pid: Option<i32>, line: &str) {
        let prefix = match pid {
            Some(pid) if self.several.load(Ordering::Relaxed) => format!("[pid {pid:>5}] "),
            _ => String::new(),
        };
        self.with_output(|output| match output {
            Output::Stderr => writeln!(io::stderr().lock(), "{prefix}{line}"),
            Output::File(file) => writeln!(file, "{prefix}{line}"),
            Output::Failed => Ok(()),
        });
    }

    fn with_output(&self, write: impl FnOnce(&mut Output) -> io::Result<()>) {
        let Some(output) = &self.output else { return };
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = write(&mut output) {
            log::warn!("the trace ends here: {error}");
            *output = Output::Failed;
        }
    }
}
