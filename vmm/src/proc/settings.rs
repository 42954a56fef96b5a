//! Settings of the machine as files (Linux's `kernel/sysctl.c`): a number that is read and written as text.

use std::fmt;
use std::sync::{Arc, Weak};

use mm::backing::FileMode;
use mm::error::{CallResult, Errno};
use mm::sysctl::{Overcommit, Sysctl};
use mm::system::System;

use crate::files::FileKind;
use crate::files::tree::{Made, MadeFile};
use crate::task::Family;

/// Bytes of a huge page.
const HUGE: u64 = 2 << 20;

/// A setting.
#[derive(Clone, Copy)]
pub(super) enum Setting {
    /// An `int` between two bounds (`proc_dointvec_minmax`).
    Int { least: i32, most: i32, get: fn(&Sysctl) -> i32, set: fn(&Sysctl, i32) },
    /// An `unsigned long` (`proc_doulongvec_minmax`).
    Long { get: fn(&Sysctl) -> u64, set: fn(&Sysctl, u64) },
    /// `nr_hugepages`: likewise.
    HugePages,
    /// An `int` that cannot be read: writing it has something done. Nothing here: the memory that it is about, page
    /// cache and the order of free pages, is the host's.
    Order { most: i32 },
}

/// The settings of `vm`.
pub(super) const VM: [(&str, Setting); 10] = [
    (
        "admin_reserve_kbytes",
        Setting::Long { get: Sysctl::admin_reserve_kbytes, set: Sysctl::set_admin_reserve_kbytes },
    ),
    ("compact_memory", Setting::Order { most: 1 }),
    ("drop_caches", Setting::Order { most: 4 }),
    (
        "max_map_count",
        Setting::Int {
            least: 0,
            most: i32::MAX,
            get: |sysctl| i32::try_from(sysctl.max_map_count()).unwrap_or(i32::MAX),
            set: |sysctl, count| sysctl.set_max_map_count(u64::from(count.unsigned_abs())),
        },
    ),
    ("mmap_min_addr", Setting::Long { get: Sysctl::mmap_min_addr, set: Sysctl::set_mmap_min_addr }),
    ("nr_hugepages", Setting::HugePages),
    (
        "overcommit_kbytes",
        Setting::Long { get: Sysctl::overcommit_kbytes, set: Sysctl::set_overcommit_kbytes },
    ),
    (
        "overcommit_memory",
        Setting::Int {
            least: 0,
            most: 2,
            get: |sysctl| match sysctl.overcommit() {
                Overcommit::Guess => 0,
                Overcommit::Always => 1,
                Overcommit::Never => 2,
            },
            set: |sysctl, mode| {
                sysctl.set_overcommit(match mode {
                    1 => Overcommit::Always,
                    2 => Overcommit::Never,
                    _ => Overcommit::Guess,
                });
            },
        },
    ),
    (
        "overcommit_ratio",
        Setting::Int {
            least: i32::MIN,
            most: i32::MAX,
            get: Sysctl::overcommit_ratio,
            set: Sysctl::set_overcommit_ratio,
        },
    ),
    (
        "user_reserve_kbytes",
        Setting::Long { get: Sysctl::user_reserve_kbytes, set: Sysctl::set_user_reserve_kbytes },
    ),
];

impl Setting {
    fn text(self, system: &System) -> String {
        match self {
            Setting::Int { get, .. } => format!("{}\n", get(&system.sysctl)),
            Setting::Long { get, .. } => format!("{}\n", get(&system.sysctl)),
            Setting::HugePages => {
                let pool = system.huge_pool(HUGE);
                format!("{}\n", pool.map_or(0, |pool| pool.stats().total))
            }
            Setting::Order { .. } => String::new(),
        }
    }

    fn set(self, system: &System, number: Number) -> CallResult<()> {
        let int = |least: i32, most: i32| {
            let value = i64::try_from(number.magnitude).map_err(|_| Errno::EINVAL)?;
            let value = i32::try_from(if number.negative { -value } else { value });
            value.ok().filter(|value| (least..=most).contains(value)).ok_or(Errno::EINVAL)
        };
        match self {
            Setting::Int { least, most, set, .. } => set(&system.sysctl, int(least, most)?),
            Setting::Long { .. } | Setting::HugePages if number.negative => {
                return Err(Errno::EINVAL.into());
            }
            Setting::Long { set, .. } => set(&system.sysctl, number.magnitude),
            Setting::HugePages => {
                // As many as there is memory for.
                if let Some(pool) = system.huge_pool(HUGE) {
                    pool.resize(number.magnitude)?;
                }
            }
            Setting::Order { most } => _ = int(1, most)?,
        }
        Ok(())
    }
}

/// A number as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Number {
    negative: bool,
    magnitude: u64,
}

/// The first number of a text, in C's way (octal after 0, hexadecimal after 0x), and how many bytes are done with then:
/// up to the next word. Source: Linux's `proc_get_long`.
///
/// # Errors
/// `EINVAL` there is none, something follows it at once, or it is too large.
fn first(text: &[u8]) -> Result<(Number, usize), Errno> {
    let spaces = |bytes: &[u8]| bytes.iter().take_while(|byte| is_space(**byte)).count();
    let start = spaces(text);
    let word = text[start..].split(|&byte| is_space(byte)).next().unwrap_or_default();
    let end = start + word.len();
    let (negative, digits) = match word.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    let digits = std::str::from_utf8(digits).map_err(|_| Errno::EINVAL)?;
    let (digits, base) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    if !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(Errno::EINVAL);
    }
    let magnitude = u64::from_str_radix(digits, base).map_err(|_| Errno::EINVAL)?;
    Ok((Number { negative, magnitude }, end + spaces(&text[end..])))
}

/// Between numbers.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n')
}

/// A setting's file.
#[derive(Clone)]
pub(super) struct SettingFile {
    pub(super) inode: u64,
    pub(super) setting: Setting,
    pub(super) family: Weak<Family>,
}

impl fmt::Debug for SettingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "setting {}", self.inode)
    }
}

impl SettingFile {
    fn system(&self) -> Result<Arc<System>, Errno> {
        let family = self.family.upgrade().ok_or(Errno::ENOENT)?;
        Ok(Arc::clone(family.machine().system()))
    }
}

impl Made for SettingFile {
    fn kind(&self) -> FileKind {
        FileKind::Regular
    }

    fn inode(&self) -> u64 {
        self.inode
    }

    fn permissions(&self) -> u32 {
        if matches!(self.setting, Setting::Order { .. }) { 0o200 } else { 0o644 }
    }

    /// Root is no exception (`sysctl_perm`).
    fn check_open(&self, mode: FileMode) -> Result<(), Errno> {
        let order = matches!(self.setting, Setting::Order { .. });
        if order && mode.contains(FileMode::READ) { Err(Errno::EACCES) } else { Ok(()) }
    }

    fn open(&self) -> Result<Arc<dyn MadeFile>, Errno> {
        Ok(Arc::new(self.clone()))
    }
}

impl MadeFile for SettingFile {
    /// All of it is at its beginning: who asks for less does not get the rest.
    fn read(&self, offset: u64, into: &mut [u8]) -> CallResult<usize> {
        let text = self.setting.text(&*self.system()?).into_bytes();
        let count = if offset == 0 { text.len().min(into.len()) } else { 0 };
        into[..count].copy_from_slice(&text[..count]);
        Ok(count)
    }

    /// Likewise. What is written elsewhere is forgotten.
    fn write(&self, offset: u64, bytes: &[u8]) -> CallResult<usize> {
        if offset != 0 {
            return Ok(bytes.len());
        }
        let (number, done) = first(bytes)?;
        self.setting.set(&*self.system()?, number)?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use mm::vma::limits::Limits;

    use super::*;

    /// What the host's kernel answers to `overcommit_ratio`, an `int`.
    #[test]
    fn a_number_is_read_as_linux_does() {
        for (text, value, done) in [
            ("7", 7, 1),
            ("8\n", 8, 2),
            (" 9", 9, 2),
            ("10 11", 10, 3),
            ("0x10", 16, 4),
            ("010", 8, 3),
            ("0", 0, 1),
            ("-1", -1, 2),
            ("5 x", 5, 2),
            ("7\t8", 7, 2),
        ] {
            let number = Number { negative: value < 0, magnitude: i64::unsigned_abs(value) };
            assert_eq!(first(text.as_bytes()), Ok((number, done)), "{text:?}");
        }
        let wrong = [
            "",
            "x",
            "1x",
            "\n",
            " ",
            "+5",
            "18446744073709551616",
            "8\0",
            "1,2",
            "0x",
            "08",
            "--1",
            "-+1",
        ];
        for text in wrong {
            assert_eq!(first(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
        }
    }

    #[test]
    fn a_setting_has_bounds_and_is_what_it_was_set_to() {
        let machine = mm::replay::SoftwareMachine::new(4096, Limits::default()).unwrap();
        let system = Arc::clone(machine.space.look().system());
        let named = |name| VM.iter().find(|(known, _)| *known == name).unwrap().1;
        let set = |name, text: &str| {
            let (number, _) = first(text.as_bytes()).unwrap();
            named(name).set(&system, number).is_ok()
        };
        for (name, good, bad) in [
            ("overcommit_memory", &["0", "2", "1"][..], &["3", "-1"][..]),
            ("overcommit_ratio", &["-1", "2147483647", "40"], &["2147483648", "-2147483649"]),
            ("max_map_count", &["0", "65530"], &["-1", "4294967296"]),
            ("overcommit_kbytes", &["18446744073709551615", "0"], &["-1"]),
            ("mmap_min_addr", &["18446744073709551615", "7"], &["-1"]),
            ("nr_hugepages", &["0"], &["-1"]),
        ] {
            for text in good {
                assert!(set(name, text), "{name} {text}");
                assert_eq!(named(name).text(&system).trim(), *text, "{name}");
            }
            assert!(bad.iter().all(|text| !set(name, text)), "{name}");
        }
        assert_eq!(
            ["1", "4", "0", "5"].map(|text| set("drop_caches", text)),
            [true, true, false, false]
        );
        // One takes the place of the other.
        assert!(set("overcommit_kbytes", "8192"));
        assert_eq!(named("overcommit_ratio").text(&system), "0\n");
        assert_eq!(system.sysctl.commit_limit(), 2048);
        assert!(set("overcommit_ratio", "10"));
        assert_eq!(named("overcommit_kbytes").text(&system), "0\n");
    }
}
