//! The names that strace gives to numbers: flags that are or-ed, values of which one is chosen, and
//! words that hold both. One table serves the printers (of traces, and of `mmvisor run --trace`) and
//! the parser.

use std::fmt;

mod errno;
mod files;
mod memory;
mod process;

pub use errno::{errno, errno_text, page_status};
pub use files::{F_SEAL, FCNTL, MFD, O, O_DESCRIPTOR, OPEN, UFFD, makes_file};
pub use memory::{
    IPC, MADV, MAP, MCL, MLOCK, MPOL, MPOL_F, MPOL_MF, MREMAP, MS, PROT, SHMAT, SHMGET,
};
pub use process::{
    CLONE, PERSONALITY, PR, PR_MDWE, PR_SET_MM, PR_SET_VMA, RLIMIT, SIGNAL, Signals, signal,
};

/// Pairs of a constant's value and its name, from the C library's headers.
macro_rules! names {
    ($($name:ident),* $(,)?) => { &[$((nix::libc::$name as u64, stringify!($name))),*] };
}
use names;

/// A number with its name.
pub type Named = (u64, &'static str);

/// What an argument's numbers are called.
pub trait Names: fmt::Debug + Sync {
    /// The value, as strace prints it.
    fn text(&self, value: u64) -> String;
    /// The number with this name.
    fn value(&self, name: &str) -> Option<u64>;
}

/// Names for the bits of an argument.
#[derive(Debug)]
pub struct FlagSet {
    /// What the names begin with, for `/* MAP_??? */`.
    pub prefix: &'static str,
    /// What zero is called; else it is `0`.
    pub zero: Option<&'static str>,
    /// Bits and their names, in the order in which strace prints them. One of several bits stands
    /// before those that are part of it.
    pub names: &'static [Named],
    /// Names that are understood and never printed.
    pub aliases: &'static [Named],
}

/// Names for the values of an argument.
#[derive(Debug)]
pub struct ChoiceSet {
    /// What the names begin with, for `/* MADV_??? */`.
    pub prefix: &'static str,
    /// Values and their names.
    pub names: &'static [Named],
}

/// Names for an argument that holds a choice in some of its bits and flags in the others:
///
/// ```text
///   31        26 25                  4 3    0
///  +------------+---------------------+------+
///  | huge size  |        flags        | kind |     mmap's flags
///  +------------+---------------------+------+
/// ```
#[derive(Debug)]
pub struct Layered {
    /// The choice, and the bits that hold it.
    pub kind: Option<(u64, &'static ChoiceSet)>,
    /// The flags.
    pub flags: &'static FlagSet,
    /// A number in the bits above: where they begin, and what that shift is called.
    pub above: Option<(u32, &'static str)>,
}

impl FlagSet {
    /// The names of the known bits, and the unknown bits.
    #[must_use]
    pub fn split(&self, value: u64) -> (Vec<String>, u64) {
        let mut rest = value;
        let mut names = Vec::new();
        for &(bits, name) in self.names {
            if rest & bits == bits {
                rest &= !bits;
                names.push(name.to_owned());
            }
        }
        (names, rest)
    }
}

impl Names for FlagSet {
    /// `PROT_READ|0x100`, `0x10 /* PROT_??? */`.
    fn text(&self, value: u64) -> String {
        let (mut names, rest) = self.split(value);
        if names.is_empty() {
            return match self.zero {
                Some(zero) if rest == 0 => zero.to_owned(),
                _ if rest == 0 => "0".to_owned(),
                _ => format!("{rest:#x} /* {}??? */", self.prefix),
            };
        }
        if rest != 0 {
            names.push(format!("{rest:#x}"));
        }
        names.join("|")
    }

    fn value(&self, name: &str) -> Option<u64> {
        let zero = self.zero.map(|zero| (0, zero));
        find(self.names, name).or_else(|| find(self.aliases, name)).or_else(|| {
            let (value, zero) = zero?;
            (zero == name).then_some(value)
        })
    }
}

impl Names for ChoiceSet {
    /// `MADV_FREE`, `0x5 /* MADV_??? */`.
    fn text(&self, value: u64) -> String {
        match self.names.iter().find(|(v, _)| *v == value) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("{value:#x} /* {}??? */", self.prefix),
        }
    }

    fn value(&self, name: &str) -> Option<u64> {
        find(self.names, name)
    }
}

impl Names for Layered {
    /// `MAP_PRIVATE|MAP_HUGETLB|21<<MAP_HUGE_SHIFT`.
    fn text(&self, value: u64) -> String {
        let below = self.above.map_or(u64::MAX, |(shift, _)| (1 << shift) - 1);
        let kind_mask = self.kind.map_or(0, |(mask, _)| mask);
        let kind = self.kind.map(|(mask, kind)| kind.text(value & mask & below));
        let above = self.above.filter(|(shift, _)| value >> shift != 0);
        let above = above.map(|(shift, name)| format!("{}<<{name}", value >> shift));
        let flags = value & below & !kind_mask;
        let flags = if flags == 0 && (kind.is_some() || above.is_some()) {
            Vec::new()
        } else if kind.is_some() {
            let (mut names, rest) = self.flags.split(flags);
            names.extend((rest != 0).then(|| format!("{rest:#x}")));
            names
        } else {
            vec![self.flags.text(flags)]
        };
        let parts: Vec<_> = kind.into_iter().chain(flags).chain(above).collect();
        parts.join("|")
    }

    fn value(&self, name: &str) -> Option<u64> {
        let shift = self.above.filter(|(_, shift)| *shift == name).map(|(shift, _)| shift.into());
        let kind = || self.kind.and_then(|(_, kind)| kind.value(name));
        shift.or_else(kind).or_else(|| self.flags.value(name))
    }
}

fn find(names: &[Named], name: &str) -> Option<u64> {
    names.iter().find(|(_, known)| *known == name).map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_printed_is_understood() {
        let sets: [&dyn Names; 27] = [
            &PROT,
            &MAP,
            &MREMAP,
            &MADV,
            &MS,
            &MLOCK,
            &MCL,
            &MPOL,
            &MPOL_F,
            &MPOL_MF,
            &IPC,
            &SHMAT,
            &SHMGET,
            &MFD,
            &OPEN,
            &O,
            &O_DESCRIPTOR,
            &FCNTL,
            &F_SEAL,
            &UFFD,
            &RLIMIT,
            &CLONE,
            &PERSONALITY,
            &PR,
            &PR_MDWE,
            &PR_SET_MM,
            &PR_SET_VMA,
        ];
        for set in sets {
            for bit in 0..32 {
                for value in [1 << bit, bit] {
                    let text = set.text(value);
                    for name in text.split('|').filter(|t| t.starts_with(char::is_alphabetic)) {
                        assert!(set.value(name).is_some(), "{name} of {text}");
                    }
                }
            }
        }
    }

    #[test]
    fn unknown_bits_and_values_are_numbers() {
        assert_eq!(PROT.text(0x100), "0x100 /* PROT_??? */");
        assert_eq!(PROT.text(0x101), "PROT_READ|0x100");
        assert_eq!(MADV.text(5), "0x5 /* MADV_??? */");
        assert_eq!(MAP.text(0x22 | 21 << 26), "MAP_PRIVATE|MAP_ANONYMOUS|21<<MAP_HUGE_SHIFT");
        assert_eq!(MAP.text(0x5), "0x5 /* MAP_??? */");
    }

    #[test]
    fn aliases_are_understood() {
        assert_eq!(MAP.value("MAP_ANON"), Some(0x20));
        assert_eq!(MAP.value("MAP_HUGE_SHIFT"), Some(26));
        assert_eq!(MAP.value("MAP_HUGE_2MB"), Some(21 << 26));
        assert_eq!(PROT.value("PROT_NONE"), Some(0));
        assert_eq!(PROT.value("PROT_ALL"), None);
    }
}
