//! How a program was killed, as mmvisor says it.

use std::fmt;

use super::Info;

/// How a program was killed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Death {
    /// By what.
    pub by: Info,
    /// The address that it is about; 0 where there is none.
    pub address: u64,
    /// Where it was.
    pub rip: u64,
    /// What is mapped there.
    pub place: Place,
    /// Whether it has left a core file.
    pub core: Core,
}

/// Whether a process has left a core file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Core {
    /// It has.
    Dumped,
    /// It has not.
    None,
}

/// As strace(1) and shells say it.
impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Core::Dumped => " (core dumped)",
            Core::None => "",
        })
    }
}

/// Where an address lies, by lines of maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In this VMA.
    In(String),
    /// In none; these are next to it, at most one below and one above.
    Near(Vec<String>),
}

impl Death {
    /// The exit status a shell would show: 128 and the signal's number.
    #[must_use]
    pub fn status(&self) -> u8 {
        128 + u8::try_from(self.by.signal().number()).unwrap_or(0)
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (signal, code) = (self.by.signal(), self.by.code_name());
        let address = self.address;
        write!(f, "killed by {signal} ({code}) at address {address:#x}, rip {:#x}", self.rip)?;
        if self.by.is_out_of_memory() {
            write!(f, "; the guest's memory is full, a larger --mem may help")?;
        }
        match &self.place {
            Place::In(line) => write!(f, "; in {line}")?,
            Place::Near(lines) => match &lines[..] {
                [] => write!(f, "; nothing is mapped")?,
                [one] => write!(f, "; the nearest is {one}")?,
                lines => write!(f, "; between {}", lines.join(" and "))?,
            },
        }
        write!(f, "{}", self.core)
    }
}
