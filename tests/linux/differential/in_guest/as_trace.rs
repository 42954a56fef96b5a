//! Acts and their answers as a trace, so that any executor that reads traces can be compared.

use std::fmt::Write;

use libtest_mimic::Failed;
use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::backing::FileMode;
use mm::error::Errno;
use mm::paging::AccessKind;
use mm::replay::calls::{
    Call, Extent, FileCall, MemoryCall as M, Outcome, Pointee, ProcessCall, Residency, Text,
};
use mm::replay::trace::{
    Action, Directive, Event, File, FileKind, Held, Hidden, MapLine, OpenMode, Setting, Span,
    Touched, UffdChange, UffdModes, VmFlagNames,
};

use super::super::act::{Act, Deed, Open, RECLAIM, huge_memfd_flags};
use super::super::model::{CAPABILITIES, Line, Model, Result, STREAMS, Start};
use super::super::run;
use super::{LOOKED_AT, sweep};

/// Process numbers in the trace begin here.
const FIRST_PID: u32 = 100;

/// Does the acts and the sweep in software, and writes down what came of them.
pub fn trace(start: &Start, acts: &[Act]) -> std::result::Result<String, Failed> {
    let mut model = Model::new(start)?;
    let mut trace = Trace::default();
    trace.begin(start);
    for act in acts {
        let result = model.perform(act)?;
        trace.act(act, &result);
        trace.vmas(act, &model);
    }
    trace.ends(&model);
    for act in sweep(&model) {
        if model.lines(act.process).is_empty() {
            continue;
        }
        let result = model.perform(&act)?;
        trace.act(&act, &result);
    }
    Ok(trace.0)
}

#[derive(Default)]
struct Trace(String);

impl Trace {
    fn line(&mut self, process: u8, action: Action) {
        let event = Event { line: 0, begun: 0, pid: Some(FIRST_PID + u32::from(process)), action };
        // A string takes everything.
        let _ = writeln!(self.0, "{event}");
    }

    fn at(&mut self, process: u8, directive: Directive) {
        self.line(process, Action::Directive(directive));
    }

    fn set(&mut self, process: u8, setting: Setting) {
        self.at(process, Directive::Setting(setting));
    }

    /// The state that every sequence begins with, as [`Model::on`] makes it.
    fn begin(&mut self, start: &Start) {
        self.at(0, Directive::Maps { range: None, lines: start.lines().to_vec() });
        for setting in start.settings() {
            self.set(0, setting);
        }
        for (fd, mode) in STREAMS {
            self.open(0, fd, FileKind::Device, 0, mode_of(mode));
        }
        let brk = VirtAddr::new(start.brk());
        let [from, end] = [start.data().start, start.data().end].map(VirtAddr::new);
        let data = Some(Span { start: from, end });
        self.set(0, Setting::Brk { start: brk, current: brk, data });
        self.set(0, Setting::Personality(start.personality()));
    }

    fn open(&mut self, process: u8, fd: i32, kind: FileKind, pages: u64, mode: OpenMode) {
        let file = File::New { kind, pages, mode, seals: 0 };
        self.set(process, Setting::File { fd, file });
    }

    fn act(&mut self, act: &Act, result: &Result) {
        let process = act.process;
        let addr = VirtAddr::new;
        match (&act.deed, result) {
            (Deed::Call(call), _) => {
                let call = Call::Memory(answered(call, result));
                self.line(process, Action::Call { call, outcome: outcome(result) });
            }
            // What it refuses changes nothing.
            (Deed::Truncate(..), Result::Errno(_)) => {}
            (&Deed::Truncate(fd, len), _) => {
                let call = Call::File(FileCall::Ftruncate { fd, len });
                self.line(process, Action::Call { call, outcome: outcome(result) });
            }
            (&Deed::Touch(at, kind), _) => self.touch(process, at, kind, result),
            (&Deed::Store(at, byte), Result::Done(_)) => {
                self.at(process, Directive::Store { addr: addr(at), byte });
            }
            (&Deed::Store(at, _), _) => self.touch(process, at, AccessKind::Write, result),
            (&Deed::Load(at), &Result::Done(byte)) => {
                self.at(process, Directive::Load { addr: addr(at), byte });
            }
            (&Deed::Load(at), _) => self.touch(process, at, AccessKind::Read, result),
            (&Deed::Open(fd, open), _) => match open {
                Open::Memfd(pages) => {
                    self.open(process, fd, FileKind::Memfd, pages, OpenMode::ReadWrite);
                }
                Open::HugeMemfd(log2) => {
                    let name =
                        Pointee::Shown(Text { bytes: b"trace".to_vec(), extent: Extent::Whole });
                    let create = FileCall::MemfdCreate { name, flags: huge_memfd_flags(log2) };
                    self.line(
                        process,
                        Action::Call { call: Call::File(create), outcome: outcome(result) },
                    );
                }
                Open::File(pages) => {
                    self.open(process, fd, FileKind::File, pages, OpenMode::ReadWrite);
                }
                Open::Directory => self.open(process, fd, FileKind::Dir, 1, OpenMode::Read),
                Open::Again(of, mode) => {
                    let mode = match mode {
                        0 => OpenMode::Read,
                        1 => OpenMode::Write,
                        _ => OpenMode::ReadWrite,
                    };
                    self.set(process, Setting::File { fd, file: File::Same { fd: of, mode } });
                }
            },
            (&Deed::Userfault(fd), _) => {
                self.open(process, fd, FileKind::Pipe, 0, OpenMode::Read);
            }
            // Sequences with these are not made into traces.
            (Deed::ServedUserfault(_) | Deed::Serve(..), _) => {}
            // A trace says what userfaultfd did, not what it refused.
            (Deed::Uffd(..), Result::Errno(_)) => {}
            (&Deed::Uffd(_, at, len, mode), _) => {
                let change = match mode {
                    0 => UffdChange::Unregister,
                    mode => {
                        let [bits, ..] = mode.to_le_bytes();
                        UffdChange::Register(UffdModes::from_bits_truncate(bits))
                    }
                };
                let pages = len.div_ceil(PAGE_SIZE);
                self.set(process, Setting::Uffd { addr: addr(at), pages, change });
            }
            (&Deed::DropCapabilities(dropped), _) => {
                for (bit, name, _) in CAPABILITIES {
                    if dropped >> bit & 1 == 1 {
                        let name = name.to_owned();
                        self.set(process, Setting::Capability { name, held: Held::No });
                    }
                }
            }
            (Deed::Reclaim, _) => {
                self.set(process, Setting::Sysctl { name: RECLAIM.to_owned(), value: 1 });
            }
            (&Deed::Fork(child), result) => {
                let outcome = match result {
                    Result::Value(_) => Outcome::Value((FIRST_PID + u32::from(child)).into()),
                    other => outcome(other),
                };
                let call = Call::Process(ProcessCall::Fork);
                self.line(process, Action::Call { call, outcome });
            }
            (Deed::Exit, _) => self.line(process, Action::Exited { status: 0 }),
        }
    }

    fn touch(&mut self, process: u8, at: u64, kind: AccessKind, result: &Result) {
        let result = match result {
            Result::Signal(11, 1) => Touched::MapErr,
            Result::Signal(11, _) => Touched::AccErr,
            Result::Signal(..) => Touched::BusErr,
            _ => Touched::Done,
        };
        self.at(process, Directive::Touch { addr: VirtAddr::new(at), kind, result });
    }

    /// The VMAs and what is resident, after a call.
    fn vmas(&mut self, act: &Act, model: &Model) {
        if !matches!(act.deed, Deed::Call(_)) {
            return;
        }
        let lines = model.lines(act.process).iter().map(map_line).collect();
        self.at(act.process, Directive::Maps { range: None, lines });
        for range in model.beginnings(act.process, LOOKED_AT) {
            if let Some(pages) = model.resident(act.process, range.clone()) {
                let addr = VirtAddr::new(range.start);
                self.at(act.process, Directive::Resident { addr, pages });
            }
        }
    }

    fn ends(&mut self, model: &Model) {
        for end in run::ends(model) {
            for (start, names) in end.flags {
                let names = names.split_whitespace().filter_map(|n| n.as_bytes().try_into().ok());
                let (addr, flags) = (VirtAddr::new(start), VmFlagNames(names.collect()));
                self.at(end.process, Directive::Flags { addr, flags });
            }
        }
    }
}

fn map_line(line: &Line) -> MapLine {
    let (start, end) = (VirtAddr::new(line.range.start), VirtAddr::new(line.range.end));
    MapLine {
        span: Span { start, end },
        permissions: line.permissions.as_bytes().try_into().unwrap(),
        offset: line.offset,
        device: (0, 0),
        inode: 0,
        name: String::new(),
        hidden: Hidden::default(),
    }
}

fn outcome(result: &Result) -> Outcome {
    match *result {
        Result::Value(value) => Outcome::Value(value),
        Result::Errno(number) | Result::Wrote(Err(number), _) => {
            Outcome::Failed(Errno::from_raw(number))
        }
        Result::Wrote(Ok(value), _) => Outcome::Value(value),
        Result::Resident(_) | Result::Done(_) => Outcome::Value(0),
        Result::Signal(..) => Outcome::Unknown,
    }
}

/// Where pointers lead whose content is not compared.
const SOMEWHERE: VirtAddr = VirtAddr::new(0x1000);

/// What a call that succeeded has written.
fn written(result: &Result) -> impl Iterator<Item = &[u8]> {
    let buffers = match result {
        Result::Wrote(Ok(_), buffers) => buffers.as_slice(),
        _ => &[],
    };
    buffers.iter().map(Vec::as_slice)
}

/// What was asked for, with the next of what was written for content.
fn shown<'a, T>(
    asked: &Pointee<T>,
    written: &mut impl Iterator<Item = &'a [u8]>,
    content: impl Fn(&[u8]) -> T,
) -> Pointee<T> {
    match asked {
        Pointee::Null => Pointee::Null,
        _ => written
            .next()
            .map_or(Pointee::Unread(SOMEWHERE), |bytes| Pointee::Shown(content(bytes))),
    }
}

/// The call with what it has written, as far as it is compared. Where it is not, its pointer leads
/// somewhere.
fn answered(call: &M, result: &Result) -> M {
    match call.clone() {
        M::Mincore { addr, len, .. } => {
            let vec = match result {
                Result::Resident(pages) => {
                    Pointee::Shown(Residency { pages: pages.clone(), extent: Extent::Whole })
                }
                _ => Pointee::Unread(SOMEWHERE),
            };
            M::Mincore { addr, len, vec }
        }
        M::GetMempolicy { mode, nodes, maxnode, addr, flags } => {
            let mut buffers = written(result);
            let int = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
            let mode = shown(&mode, &mut buffers, |bytes| int(bytes).into());
            let nodes = shown(&nodes, &mut buffers, |bytes| bytes.chunks(8).map(word).collect());
            M::GetMempolicy { mode, nodes, maxnode, addr, flags }
        }
        M::MovePages { pid, count, pages, nodes, status, flags } => {
            let int = |bytes: &[u8]| bytes.try_into().map_or(0, i32::from_le_bytes);
            let status =
                shown(&status, &mut written(result), |bytes| bytes.chunks(4).map(int).collect());
            M::MovePages { pid, count, pages, nodes, status, flags }
        }
        M::Prlimit { pid, resource, new, .. } => {
            M::Prlimit { pid, resource, new, old: Pointee::Unread(SOMEWHERE) }
        }
        call => call,
    }
}

fn mode_of(mode: FileMode) -> OpenMode {
    match (mode.contains(FileMode::READ), mode.contains(FileMode::WRITE)) {
        (true, true) => OpenMode::ReadWrite,
        (false, true) => OpenMode::Write,
        _ => OpenMode::Read,
    }
}
