//! Events as text, in the canonical form of the format: what is printed reads back as the same event.

use std::fmt;

use super::{
    Action, AnonOrigin, Directive, Event, File, MapLine, Rss, Setting, Span, Touched, UffdChange,
    VmFlagNames, parse_at,
};
use crate::inspect::NAME_COLUMN;
use crate::replay::calls::Call;
use crate::replay::names;
use crate::replay::text;

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pid) = self.pid {
            write!(f, "{pid}  ")?;
        }
        write!(f, "{}", self.action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Call { call, outcome } => {
                write!(f, "{call} = {}", call.outcome_text(*outcome))
            }
            Action::Begun(call) => {
                let call = Call::Process(call.clone()).to_string();
                write!(f, "{} <unfinished ...>", call.strip_suffix(')').unwrap_or(&call))
            }
            Action::Signal(text) => write!(f, "--- {text} ---"),
            Action::Exited { status } => write!(f, "+++ exited with {status} +++"),
            Action::Killed(signal) => write!(f, "+++ killed by {signal} +++"),
            Action::Superseded { by } => write!(f, "+++ superseded by execve in pid {by} +++"),
            Action::Directive(directive) => write!(f, "{directive}"),
        }
    }
}

/// The word for a value.
fn word<T: PartialEq>(choices: &[(&'static str, T)], value: &T) -> &'static str {
    choices.iter().find(|(_, known)| known == value).map_or("?", |(word, _)| word)
}

impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Directive::Maps { range, lines } => {
                f.write_str("@maps")?;
                if let Some(range) = range {
                    write!(f, " {range}")?;
                }
                for line in lines {
                    write!(f, "\n{line}")?;
                }
                f.write_str("\n@end")
            }
            Directive::Touch { addr, kind, result } => {
                let kind = word(&parse_at::KINDS, kind);
                write!(f, "@touch {addr} {kind} = {result}")
            }
            Directive::Store { addr, byte } => write!(f, "@store {addr} {byte:#x}"),
            Directive::Load { addr, byte } => write!(f, "@load {addr} = {byte:#x}"),
            Directive::Flags { addr, flags } => write!(f, "@flags {addr} = {flags}"),
            Directive::Resident { addr, pages } => {
                write!(f, "@resident {addr}+{} =", pages.len())?;
                pages.iter().try_for_each(|page| write!(f, " {page}"))
            }
            Directive::Rss(rss) => write!(f, "@rss{rss}"),
            Directive::Setting(setting) => write!(f, "{setting}"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::File { fd, file } => match file {
                File::Same { fd: other, mode } => {
                    write!(f, "@file {fd} same={other} mode={}", word(&parse_at::MODES, mode))
                }
                File::New { kind, pages, mode, seals } => {
                    let kind = word(&parse_at::FILES, kind);
                    let (mode, seals) = (word(&parse_at::MODES, mode), text::hex(*seals));
                    write!(f, "@file {fd} kind={kind} pages={pages} mode={mode} seals={seals}")
                }
                File::Closed => write!(f, "@file {fd} kind=closed"),
            },
            Setting::Uffd { addr, pages, change } => match change {
                UffdChange::Unregister => write!(f, "@uffd unregister {addr}+{pages}"),
                UffdChange::Register(modes) => {
                    let set = parse_at::UFFD.iter().filter(|(_, mode)| modes.contains(*mode));
                    let names: Vec<_> = set.map(|(name, _)| *name).collect();
                    write!(f, "@uffd register {addr}+{pages} {}", names.join("|"))
                }
            },
            Setting::Limit { resource, value } => {
                let value = match *value {
                    u64::MAX => "RLIM64_INFINITY".to_owned(),
                    value => value.to_string(),
                };
                match names::RLIMIT.names.iter().find(|(known, _)| known == resource) {
                    Some((_, name)) => write!(f, "@limit {name} {value}"),
                    None => write!(f, "@limit {resource} {value}"),
                }
            }
            Setting::Sysctl { name, value } => write!(f, "@sysctl {name} {value}"),
            Setting::Capability { name, held } => {
                write!(f, "@cap {name} {}", word(&parse_at::HELD, held))
            }
            Setting::ThpOf(of_size) => write!(f, "@thp {of_size}"),
            Setting::Thp(mode) => write!(f, "@thp {}", word(&parse_at::THP, mode)),
            Setting::Personality(persona) => write!(f, "@personality {persona:#09x}"),
            Setting::MmapBase(addr) => write!(f, "@mmap_base {addr}"),
            Setting::Brk { start, current, data: None } => write!(f, "@brk {start} {current}"),
            Setting::Brk { start, current, data: Some(Span { start: from, end }) } => {
                write!(f, "@brk {start} {current} {:08x}-{:08x}", from.get(), end.get())
            }
        }
    }
}

impl fmt::Display for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&parse_at::TOUCHED, self))
    }
}

impl fmt::Display for Rss {
    /// The counters that are known, a space before each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters =
            [("anon", self.anon), ("file", self.file), ("shmem", self.shmem), ("swap", self.swap)];
        for (name, value) in counters {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08x}", self.start.get(), self.end.get())
    }
}

impl fmt::Display for VmFlagNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, [a, b]) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}{}", char::from(*a), char::from(*b))?;
        }
        Ok(())
    }
}

impl fmt::Display for MapLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: String = self.permissions.iter().map(|&letter| char::from(letter)).collect();
        let (major, minor) = self.device;
        let line = format!(
            "{} {letters} {:08x} {major:02x}:{minor:02x} {}",
            self.span, self.offset, self.inode
        );
        if self.name.is_empty() {
            f.write_str(&line)?;
        } else {
            let column = NAME_COLUMN - 1;
            write!(f, "{line:column$} {}", self.name)?;
        }
        let hidden = &self.hidden;
        let mut origin = Vec::new();
        origin.extend(hidden.anon.map(|anon| match anon {
            AnonOrigin::None => "anon=none".to_owned(),
            AnonOrigin::Own => "anon=own".to_owned(),
            AnonOrigin::Inherited(id) => format!("anon=inherited:{id}"),
        }));
        origin.extend(hidden.pgoff.map(|pgoff| format!("pgoff={pgoff}")));
        if let Some(flags) = &hidden.flags {
            write!(f, " ; {flags}")?;
        }
        if !origin.is_empty() {
            write!(f, " ; {}", origin.join(" "))?;
        }
        Ok(())
    }
}
