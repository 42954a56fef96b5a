//! The `@` lines: conditions are passed on, the others are compared.

use super::{AddressMode, Engine, Executor, Place, Reply, Sides};
use crate::addr::VirtAddr;
use crate::replay::trace::{Directive, MapLine, Rss, Setting, Span, Touched};

impl<E: Executor> Engine<'_, E> {
    pub(super) fn directive(&mut self, at: Place, line: &Directive) -> Result<(), E::Error> {
        let sides = match line {
            Directive::Setting(setting) => return self.setting(at, setting),
            Directive::Maps { range, lines } => self.maps(at, *range, lines)?,
            Directive::Touch { addr, kind, result } => match self.ours(at, *addr) {
                Some(addr) => self
                    .executor
                    .touch(at.task, addr, *kind)?
                    .map(|got| Sides::of(result, &got, Touched::to_string)),
                None => Reply::Unsupported,
            },
            Directive::Store { addr, byte } => match self.ours(at, *addr) {
                Some(addr) => self
                    .executor
                    .store(at.task, addr, *byte)?
                    .map(|got| Sides::of(&Touched::Done, &got, Touched::to_string)),
                None => Reply::Unsupported,
            },
            Directive::Load { addr, byte } => match self.ours(at, *addr) {
                Some(addr) => self.executor.load(at.task, addr)?.map(|got| {
                    Sides::of(&Ok(*byte), &got, |side| match side {
                        Ok(byte) => format!("{byte:#x}"),
                        Err(signal) => signal.to_string(),
                    })
                }),
                None => Reply::Unsupported,
            },
            Directive::Flags { addr, flags } => match self.ours(at, *addr) {
                Some(addr) => self.executor.vm_flags(at.task, addr)?.map(|got| {
                    let expected = Some(flags.without_soft_dirty());
                    let got = got.map(|flags| flags.without_soft_dirty());
                    Sides::of(&expected, &got, |side| match side {
                        Some(flags) => flags.to_string(),
                        None => "no VMA".to_owned(),
                    })
                }),
                None => Reply::Unsupported,
            },
            Directive::Resident { addr, pages } => match self.ours(at, *addr) {
                Some(addr) => {
                    let got = self.executor.resident(at.task, addr, pages.len() as u64)?;
                    got.map(|got| {
                        Sides::of(&Ok(pages.clone()), &got, |side| match side {
                            Ok(pages) => {
                                pages.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                            }
                            Err(errno) => format!("{errno:?}"),
                        })
                    })
                }
                None => Reply::Unsupported,
            },
            Directive::Rss(rss) => self.executor.rss(at.task)?.map(|got| compare_rss(rss, &got)),
        };
        match sides {
            Reply::Is(sides) => self.compare(at.line, || checked(line), sides),
            Reply::Unsupported => self.skip(at.line, || checked(line)),
        }
        Ok(())
    }

    fn setting(&mut self, at: Place, setting: &Setting) -> Result<(), E::Error> {
        let moved = match setting {
            Setting::Uffd { addr, pages, change } => {
                let addr = self.ours(at, *addr);
                addr.map(|addr| Setting::Uffd { addr, pages: *pages, change: *change })
            }
            other => Some(other.clone()),
        };
        let reply = match moved {
            Some(setting) => self.executor.configure(at.task, &setting)?,
            None => Reply::Unsupported,
        };
        self.count_unsupported(&reply);
        Ok(())
    }

    /// Where an address of the trace is with us.
    fn ours(&mut self, at: Place, addr: VirtAddr) -> Option<VirtAddr> {
        if self.addresses == AddressMode::Exact {
            return Some(addr);
        }
        self.tasks.space(at.task)?.whole(addr.get(), 1).map(VirtAddr::new)
    }

    /// All VMAs, or those in the range: their addresses, permissions and offset. Relocated VMAs have
    /// other neighbours, so that they merge otherwise: then there is nothing to compare.
    fn maps(
        &mut self,
        at: Place,
        range: Option<Span>,
        expected: &[MapLine],
    ) -> Result<Reply<Sides>, E::Error> {
        if self.addresses == AddressMode::Relocated {
            return Ok(Reply::Unsupported);
        }
        let inside = |line: &&MapLine| {
            range.is_none_or(|range| line.span.start < range.end && range.start < line.span.end)
        };
        Ok(self.executor.maps(at.task)?.map(|got| {
            let mut expected = expected.iter().filter(is_user).filter(inside);
            let mut got = got.iter().filter(is_user).filter(inside);
            loop {
                let (expected, got) = (expected.next(), got.next());
                if expected.is_none() && got.is_none() {
                    return Sides::Equal;
                }
                if expected.map(compared) != got.map(compared) {
                    let text = |line: Option<&MapLine>| {
                        line.map_or_else(|| "no further VMA".to_owned(), shown)
                    };
                    return Sides::Different { expected: text(expected), got: text(got) };
                }
            }
        }))
    }
}

impl<T> Reply<T> {
    /// Of what is there, something else.
    pub(super) fn map<U>(self, to: impl FnOnce(T) -> U) -> Reply<U> {
        match self {
            Reply::Is(value) => Reply::Is(to(value)),
            Reply::Unsupported => Reply::Unsupported,
        }
    }
}

/// Whether a line is of the user half: `[vsyscall]` is not.
fn is_user(line: &&MapLine) -> bool {
    line.span.start < VirtAddr::TASK_END
}

/// What of a line is compared.
fn compared(line: &MapLine) -> (Span, [u8; 4], u64) {
    (line.span, line.permissions, line.offset)
}

fn shown(line: &MapLine) -> String {
    let permissions = String::from_utf8_lossy(&line.permissions);
    format!("{} {permissions} {:08x}", line.span, line.offset)
}

/// The counters that both know.
fn compare_rss(expected: &Rss, got: &Rss) -> Sides {
    let both = |ours: Option<u64>, other: Option<u64>| ours.filter(|_| other.is_some());
    let common = |one: &Rss, other: &Rss| Rss {
        anon: both(one.anon, other.anon),
        file: both(one.file, other.file),
        shmem: both(one.shmem, other.shmem),
        swap: both(one.swap, other.swap),
    };
    Sides::of(&common(expected, got), &common(got, expected), |rss| {
        rss.to_string().trim().to_owned()
    })
}

/// The line without its result.
fn checked(line: &Directive) -> String {
    match line {
        Directive::Maps { range: Some(range), .. } => format!("@maps {range}"),
        Directive::Maps { range: None, .. } => "@maps".to_owned(),
        Directive::Rss(_) => "@rss".to_owned(),
        other => {
            let text = other.to_string();
            text.split_once(" =").map_or(text.as_str(), |(before, _)| before).to_owned()
        }
    }
}
